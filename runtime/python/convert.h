// Python arrays to tensors of the C ABI and back, without copies.
#pragma once

#include <ingot/ingot.h>
#include <nanobind/nanobind.h>

#include <string>
#include <vector>

namespace ingot::python {

namespace nb = nanobind;

// Raises the exception of ingot.errors that a status stands for, with the library's last message.
[[noreturn]] void Raise(ingot_status status);
[[noreturn]] void RaiseInputError(const std::string& message);
inline void Check(ingot_status status) {
  if (status != INGOT_OK) Raise(status);
}

// Looks the exceptions up; once, when the module is imported.
void LoadErrors();

// The name of a type as NumPy and ml_dtypes call it.
const char* DTypeName(DLDataType dtype);

// Bytes of a contiguous tensor.
size_t ByteCount(const DLTensor& tensor);

// Where a model runs, for tensors that are handed to it: its device, and the stream that reads them there.
struct Place {
  DLDevice device{kDLCPU, 0};
  void* stream = nullptr;
};

// A tensor that borrows a Python object's memory, and keeps it alive: through the buffer protocol, or DLPack. Of
// strings it borrows the UTF-8 that each str keeps of itself.
class Borrowed {
 public:
  Borrowed() = default;
  ~Borrowed() { Release(); }
  Borrowed(const Borrowed&) = delete;
  Borrowed& operator=(const Borrowed&) = delete;

  // `what` and `name` say which tensor it is, in messages. `expected` tells what bytes mean that NumPy has no type for.
  void Set(nb::handle object, const char* what, const char* name, DLDataType expected, bool writable,
           const Place& place);
  void Release();
  const DLTensor& tensor() const { return tensor_; }

 private:
  bool SetBuffer(nb::handle object, const std::string& subject, DLDataType expected, bool writable);
  void SetDLPack(nb::handle object, const std::string& subject, bool writable, const Place& place);
  void SetStrings(nb::handle object, const std::string& subject, bool writable);

  DLTensor tensor_{};
  std::vector<int64_t> strides_;
  std::vector<int64_t> shape_;         // of strings
  std::vector<ingot_string> strings_;  // which point into `elements_`
  nb::object elements_;                // a list of str or bytes
  Py_buffer view_{};
  nb::object capsule_;
};

// A NumPy array of a tensor's memory, which `owner` keeps alive.
nb::object ViewAsNumpy(const DLTensor& tensor, nb::handle owner);

// A NumPy array that owns a taken output, or a DeviceTensor if it is on a GPU.
nb::object ToPython(DLManagedTensorVersioned* managed);

}  // namespace ingot::python
