#include "device_tensor.h"

#include <vector>

#include "convert.h"

namespace ingot::python {
namespace {

// The legacy default stream, as DLPack and CUDA number it: what a consumer means that names none.
constexpr uintptr_t kLegacyStream = 1;

[[noreturn]] void RaiseBufferError(const char* message) {
  PyErr_SetString(PyExc_BufferError, message);
  throw nb::python_error();
}

// What a capsule holds: another view of the memory that `owner` has.
template <typename Managed>
struct Export {
  Managed managed{};
  std::shared_ptr<DLManagedTensorVersioned> owner;
};

template <typename Managed>
Managed* MakeExport(const std::shared_ptr<DLManagedTensorVersioned>& owner) {
  auto* made = new Export<Managed>;
  made->owner = owner;
  made->managed.dl_tensor = owner->dl_tensor;
  made->managed.manager_ctx = made;
  made->managed.deleter = [](Managed* self) { delete static_cast<Export<Managed>*>(self->manager_ctx); };
  return &made->managed;
}

// A capsule that nobody consumed frees what it holds.
template <typename Managed>
nb::object MakeCapsule(Managed* managed, const char* name) {
  PyObject* capsule = PyCapsule_New(managed, name, [](PyObject* self) {
    const char* current = PyCapsule_GetName(self);
    const bool unused = current != nullptr && std::string_view(current).starts_with("dltensor");
    if (!unused) return;
    auto* held = static_cast<Managed*>(PyCapsule_GetPointer(self, current));
    held->deleter(held);
  });
  if (capsule == nullptr) {
    managed->deleter(managed);
    throw nb::python_error();
  }
  return nb::steal(capsule);
}

}  // namespace

DeviceTensor::DeviceTensor(DLManagedTensorVersioned* managed)
    : managed_(managed, [](DLManagedTensorVersioned* self) { self->deleter(self); }) {}

nb::tuple DeviceTensor::Shape() const {
  nb::list shape;
  for (int32_t i = 0; i < managed_->dl_tensor.ndim; ++i) shape.append(managed_->dl_tensor.shape[i]);
  return nb::tuple(shape);
}

const char* DeviceTensor::DType() const { return DTypeName(managed_->dl_tensor.dtype); }

nb::tuple DeviceTensor::DLPackDevice() const {
  return nb::make_tuple(static_cast<int>(managed_->dl_tensor.device.device_type), managed_->dl_tensor.device.device_id);
}

nb::object DeviceTensor::DLPack(nb::object stream, nb::object max_version, nb::object dl_device,
                                nb::object copy) const {
  if (!copy.is_none() && nb::cast<bool>(copy)) RaiseBufferError("an output is handed over, not copied");
  if (!dl_device.is_none() && !dl_device.equal(DLPackDevice()))
    RaiseBufferError("an output is handed over where it is; numpy() copies it to the CPU");
  const int64_t given = stream.is_none() ? static_cast<int64_t>(kLegacyStream) : nb::cast<int64_t>(stream);
  if (given != -1)  // the consumer waits itself
    Check(ingot_output_wait(managed_.get(), reinterpret_cast<void*>(static_cast<uintptr_t>(given))));
  if (!max_version.is_none() && nb::cast<int>(max_version[0]) >= 1) {
    auto* managed = MakeExport<DLManagedTensorVersioned>(managed_);
    managed->version = managed_->version;
    managed->flags = managed_->flags;
    return MakeCapsule(managed, "dltensor_versioned");
  }
  return MakeCapsule(MakeExport<DLManagedTensor>(managed_), "dltensor");
}

nb::object DeviceTensor::Numpy() const {
  DLTensor host = managed_->dl_tensor;
  const size_t bytes = ByteCount(host);
  auto* data = new std::byte[bytes + 1];
  const nb::capsule owner(data, [](void* p) noexcept { delete[] static_cast<std::byte*>(p); });
  ingot_status status;
  {
    nb::gil_scoped_release release;
    status = ingot_output_read(managed_.get(), data, bytes);
  }
  Check(status);
  host.data = data;
  host.byte_offset = 0;
  host.device = {kDLCPU, 0};
  return ViewAsNumpy(host, owner);
}

void DefineDeviceTensor(nb::module_& module) {
  nb::class_<DeviceTensor>(module, "DeviceTensor",
                           "An output on a GPU. Anything that speaks DLPack takes it without a copy: "
                           "``torch.from_dlpack(tensor)``.")
      .def_prop_ro("shape", &DeviceTensor::Shape)
      .def_prop_ro("dtype", &DeviceTensor::DType)
      .def("__dlpack__", &DeviceTensor::DLPack, nb::kw_only(), nb::arg("stream").none() = nb::none(),
           nb::arg("max_version").none() = nb::none(), nb::arg("dl_device").none() = nb::none(),
           nb::arg("copy").none() = nb::none())
      .def("__dlpack_device__", &DeviceTensor::DLPackDevice)
      .def("numpy", &DeviceTensor::Numpy, "A copy on the CPU, which waits for the run that computes it.");
}

}  // namespace ingot::python
