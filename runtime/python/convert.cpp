#include "convert.h"

#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <iterator>
#include <optional>
#include <string_view>

#include "device_tensor.h"

namespace ingot::python {
namespace {

// In the order of ingot_status.
constexpr const char* kErrors[] = {
    "IngotError", "InputError",       "FileError",      "ArtifactError", "VersionError",  "TargetError",
    "InputError", "OutOfMemoryError", "ExecutionError", "BusyError",     "InternalError",
};
PyObject* g_errors[std::size(kErrors)];

struct TypeRow {
  const char* name;
  DLDataType type;
  // How NumPy holds it where it has no such type itself: ml_dtypes' arrays are viewed as this, and back.
  DLDataType stored;
};

constexpr DLDataType Type(int code, int bits) { return {static_cast<uint8_t>(code), static_cast<uint8_t>(bits), 1}; }
constexpr DLDataType kInt8 = Type(kDLInt, 8);
constexpr DLDataType kUInt8 = Type(kDLUInt, 8);
constexpr DLDataType kUInt16 = Type(kDLUInt, 16);

constexpr TypeRow kExtended[] = {
    {"bfloat16", Type(kDLBfloat, 16), kUInt16},
    {"float8_e4m3fn", Type(kDLFloat8_e4m3fn, 8), kUInt8},
    {"float8_e5m2", Type(kDLFloat8_e5m2, 8), kUInt8},
    {"float8_e4m3fnuz", Type(kDLFloat8_e4m3fnuz, 8), kUInt8},
    {"float8_e5m2fnuz", Type(kDLFloat8_e5m2fnuz, 8), kUInt8},
    {"float8_e8m0fnu", Type(kDLFloat8_e8m0fnu, 8), kUInt8},
    {"float4_e2m1fn", Type(kDLFloat4_e2m1fn, 4), kUInt8},
    {"int4", Type(kDLInt, 4), kInt8},
    {"uint4", Type(kDLUInt, 4), kUInt8},
    {"int2", Type(kDLInt, 2), kInt8},
    {"uint2", Type(kDLUInt, 2), kUInt8},
};

bool Same(DLDataType a, DLDataType b) { return a.code == b.code && a.bits == b.bits && a.lanes == b.lanes; }

const TypeRow* FindExtended(DLDataType type) {
  for (const TypeRow& row : kExtended) {
    if (Same(row.type, type)) return &row;
  }
  return nullptr;
}

std::string ErrorText() {
  nb::python_error error;
  return error.what();
}

// The type that a buffer's format stands for (PEP 3118); lanes 0 if it is none of the library's.
DLDataType FormatType(const char* format, Py_ssize_t bytes) {
  const int bits = static_cast<int>(bytes * 8);
  std::string_view code = format == nullptr ? "B" : format;
  if (code.starts_with('<') || code.starts_with('=') || code.starts_with('@')) code.remove_prefix(1);
  if (code == "Zf" || code == "Zd") return Type(kDLComplex, bits);
  if (code.size() == 1) {
    if (code == "?") return Type(kDLBool, 8);
    if (std::string_view("bhilqn").find(code) != std::string_view::npos) return Type(kDLInt, bits);
    if (std::string_view("BHILQN").find(code) != std::string_view::npos) return Type(kDLUInt, bits);
    if (std::string_view("efd").find(code) != std::string_view::npos) return Type(kDLFloat, bits);
  }
  return {0, 0, 0};
}

// A function of ingot.runtime._arrays, looked up once.
template <size_t kSize>
struct Name {
  constexpr Name(const char (&text)[kSize]) { std::copy_n(text, kSize, value); }  // NOLINT: converts on purpose
  char value[kSize];
};
template <Name kName>
nb::handle Helper() {
  static PyObject* function = nb::module_::import_("ingot.runtime._arrays").attr(kName.value).ptr();
  return function;
}

bool IsString(DLDataType type) { return type.code == INGOT_STRING_CODE && type.bits == INGOT_STRING_BITS; }

// A str's or bytes' text, which lives as long as it; nothing for any other object.
std::optional<ingot_string> TextOf(PyObject* object) {
  if (PyBytes_Check(object))
    return ingot_string{PyBytes_AS_STRING(object), static_cast<size_t>(PyBytes_GET_SIZE(object))};
  if (!PyUnicode_Check(object)) return std::nullopt;
  Py_ssize_t size = 0;
  const char* data = PyUnicode_AsUTF8AndSize(object, &size);
  if (data == nullptr) throw nb::python_error();  // a lone surrogate
  return ingot_string{data, static_cast<size_t>(size)};
}

nb::object StringsToNumpy(const DLTensor& tensor) {
  size_t count = 1;
  nb::list shape;
  for (int32_t i = 0; i < tensor.ndim; ++i) {
    count *= static_cast<size_t>(tensor.shape[i]);
    shape.append(tensor.shape[i]);
  }
  nb::list elements;
  const auto* strings = static_cast<const ingot_string*>(tensor.data);
  for (size_t i = 0; i < count; ++i) elements.append(nb::str(strings[i].data, strings[i].size));
  return Helper<"from_strings">()(elements, shape);
}

}  // namespace

void LoadErrors() {
  const nb::module_ errors = nb::module_::import_("ingot.errors");
  for (size_t i = 0; i < std::size(kErrors); ++i) g_errors[i] = nb::object(errors.attr(kErrors[i])).release().ptr();
}

void Raise(ingot_status status) {
  PyErr_SetString(g_errors[static_cast<size_t>(status) < std::size(g_errors) ? status : 0], ingot_last_error());
  throw nb::python_error();
}

void RaiseInputError(const std::string& message) {
  PyErr_SetString(g_errors[INGOT_ERROR_INPUT], message.c_str());
  throw nb::python_error();
}

const char* DTypeName(DLDataType dtype) {
  if (const TypeRow* row = FindExtended(dtype)) return row->name;
  if (IsString(dtype)) return "string";
  const bool wide = dtype.bits == 64;
  switch (dtype.code) {
    case kDLBool:
      return "bool";
    case kDLInt:
      return dtype.bits == 8 ? "int8" : dtype.bits == 16 ? "int16" : wide ? "int64" : "int32";
    case kDLUInt:
      return dtype.bits == 8 ? "uint8" : dtype.bits == 16 ? "uint16" : wide ? "uint64" : "uint32";
    case kDLFloat:
      return dtype.bits == 16 ? "float16" : wide ? "float64" : "float32";
    default:
      return wide ? "complex64" : "complex128";
  }
}

void Borrowed::Release() {
  if (view_.obj != nullptr) PyBuffer_Release(&view_);
  capsule_.reset();
  elements_.reset();
}

void Borrowed::Set(nb::handle object, const char* what, const char* name, DLDataType expected, bool writable,
                   const Place& place) {
  Release();
  const std::string subject = std::string(what) + " '" + name + "'";
  if (IsString(expected)) {
    SetStrings(object, subject, writable);
    return;
  }
  if (SetBuffer(object, subject, expected, writable)) return;
  if (nb::hasattr(object, "__dlpack__")) {
    SetDLPack(object, subject, writable, place);
    return;
  }
  RaiseInputError(subject + " is of type " + nb::type_name(object.type()).c_str() +
                  "; expected a NumPy array, or anything with __dlpack__");
}

bool Borrowed::SetBuffer(nb::handle object, const std::string& subject, DLDataType expected, bool writable) {
  if (!PyObject_CheckBuffer(object.ptr())) return false;
  nb::object stored = nb::borrow(object);
  const TypeRow* extended = FindExtended(expected);
  if (extended != nullptr) stored = Helper<"to_stored">()(object, extended->name, subject);
  const int flags = PyBUF_STRIDES | PyBUF_FORMAT | (writable ? PyBUF_WRITABLE : 0);
  if (PyObject_GetBuffer(stored.ptr(), &view_, flags) != 0)
    RaiseInputError(subject + " cannot be used: " + ErrorText());
  const DLDataType found = FormatType(view_.format, view_.itemsize);
  if (found.lanes == 0) {
    const std::string format = view_.format;
    RaiseInputError(subject + " has elements of format '" + format +
                    "', which is not a type of the library's on this machine");
  }
  static_assert(sizeof(Py_ssize_t) == sizeof(int64_t));
  strides_.resize(static_cast<size_t>(view_.ndim));
  for (size_t i = 0; i < strides_.size(); ++i) {
    strides_[i] = view_.strides[i] / view_.itemsize;
    // A stride that is no number of elements is not contiguous, and DLPack cannot say it.
    if (view_.strides[i] % view_.itemsize != 0)
      RaiseInputError(subject + " is not C-contiguous; use numpy.ascontiguousarray");
  }
  tensor_ = {view_.buf,
             {kDLCPU, 0},
             view_.ndim,
             extended != nullptr ? extended->type : found,
             reinterpret_cast<int64_t*>(view_.shape),
             strides_.data(),
             0};
  return true;
}

void Borrowed::SetDLPack(nb::handle object, const std::string& subject, bool writable, const Place& place) {
  const nb::object device = object.attr("__dlpack_device__")();
  const auto device_type = nb::cast<int>(device[0]);
  const auto device_id = nb::cast<int>(device[1]);
  const bool on_gpu = device_type == kDLCUDA || device_type == kDLCUDAManaged;
  const bool on_cpu = device_type == kDLCPU || device_type == kDLCUDAHost;
  if (!on_cpu && !(on_gpu && place.device.device_type == kDLCUDA)) {
    const std::string found =
        on_gpu ? "GPU " + std::to_string(device_id)
               : "device " + std::to_string(device_type) + ":" + std::to_string(device_id) + " (DLPack)";
    RaiseInputError(subject + " is on " + found + ", the model is on " +
                    (place.device.device_type == kDLCUDA ? "a GPU" : "the CPU") + "; copy it to the CPU first");
  }
  // The producer's work on it comes before what is put on this stream.
  const nb::object stream = on_gpu ? nb::object(nb::int_(reinterpret_cast<uintptr_t>(place.stream))) : nb::none();
  try {
    try {
      const auto version = nb::make_tuple(DLPACK_MAJOR_VERSION, DLPACK_MINOR_VERSION);
      capsule_ = on_gpu ? object.attr("__dlpack__")(nb::arg("stream") = stream, nb::arg("max_version") = version)
                        : object.attr("__dlpack__")(nb::arg("max_version") = version);
    } catch (nb::python_error& error) {
      if (!error.matches(PyExc_TypeError)) throw;
      // A producer from before DLPack 1.0.
      capsule_ = on_gpu ? object.attr("__dlpack__")(nb::arg("stream") = stream) : object.attr("__dlpack__")();
    }
  } catch (nb::python_error& error) {
    RaiseInputError(subject + " cannot be used: " + error.what());
  }
  bool read_only = false;
  if (PyCapsule_IsValid(capsule_.ptr(), "dltensor_versioned")) {
    const auto* managed =
        static_cast<DLManagedTensorVersioned*>(PyCapsule_GetPointer(capsule_.ptr(), "dltensor_versioned"));
    if (managed->version.major != DLPACK_MAJOR_VERSION) RaiseInputError(subject + " speaks another version of DLPack");
    tensor_ = managed->dl_tensor;
    read_only = (managed->flags & DLPACK_FLAG_BITMASK_READ_ONLY) != 0;
  } else if (PyCapsule_IsValid(capsule_.ptr(), "dltensor")) {
    tensor_ = static_cast<DLManagedTensor*>(PyCapsule_GetPointer(capsule_.ptr(), "dltensor"))->dl_tensor;
  } else {
    RaiseInputError(subject + " did not give a DLPack capsule");
  }
  if (writable && read_only) RaiseInputError(subject + " is read-only");
}

void Borrowed::SetStrings(nb::handle object, const std::string& subject, bool writable) {
  if (writable) RaiseInputError(subject + " holds strings, whose size no caller can know: it cannot be bound");
  const nb::object given = Helper<"to_strings">()(object, subject);
  elements_ = given[0];
  shape_ = nb::cast<std::vector<int64_t>>(given[1]);
  const auto count = static_cast<size_t>(PyList_GET_SIZE(elements_.ptr()));
  strings_.resize(count);
  for (size_t i = 0; i < count; ++i) {
    PyObject* element = PyList_GET_ITEM(elements_.ptr(), static_cast<Py_ssize_t>(i));
    std::optional<ingot_string> text;
    try {
      text = TextOf(element);
    } catch (nb::python_error& error) {
      RaiseInputError(subject + ": element " + std::to_string(i) + " cannot be written in UTF-8: " + error.what());
    }
    if (!text) {
      RaiseInputError(subject + ": element " + std::to_string(i) + " is of type " +
                      nb::type_name(nb::handle(element).type()).c_str() + "; the elements are str");
    }
    strings_[i] = *text;
  }
  tensor_ = {strings_.data(),
             {kDLCPU, 0},
             static_cast<int32_t>(shape_.size()),
             {INGOT_STRING_CODE, INGOT_STRING_BITS, 1},
             shape_.data(),
             nullptr,
             0};
}

size_t ByteCount(const DLTensor& tensor) {
  size_t bytes = (tensor.dtype.bits + 7u) / 8u;
  for (int32_t i = 0; i < tensor.ndim; ++i) bytes *= static_cast<size_t>(tensor.shape[i]);
  return bytes;
}

nb::object ToPython(DLManagedTensorVersioned* managed) {
  if (managed->dl_tensor.device.device_type != kDLCPU) return nb::cast(DeviceTensor(managed));
  const nb::capsule owner(managed, [](void* p) noexcept {
    auto* self = static_cast<DLManagedTensorVersioned*>(p);
    self->deleter(self);
  });
  const DLTensor& tensor = managed->dl_tensor;
  return IsString(tensor.dtype) ? StringsToNumpy(tensor) : ViewAsNumpy(tensor, owner);
}

nb::object ViewAsNumpy(const DLTensor& tensor, nb::handle owner) {
  const TypeRow* extended = FindExtended(tensor.dtype);
  const DLDataType type = extended != nullptr ? extended->stored : tensor.dtype;
  const nb::dlpack::dtype dtype{type.code, type.bits, type.lanes};
  nb::ndarray<nb::numpy> array(tensor.data, static_cast<size_t>(tensor.ndim),
                               reinterpret_cast<const size_t*>(tensor.shape), owner, nullptr, dtype);
  nb::object result = nb::cast(array, nb::rv_policy::reference);
  return extended != nullptr ? nb::object(Helper<"from_stored">()(result, extended->name)) : result;
}

}  // namespace ingot::python
