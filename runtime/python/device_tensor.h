// An output on a GPU as a Python object that speaks DLPack.
#pragma once

#include <ingot/ingot.h>
#include <nanobind/nanobind.h>

#include <memory>

namespace ingot::python {

class DeviceTensor {
 public:
  // Takes the tensor over.
  explicit DeviceTensor(DLManagedTensorVersioned* managed);

  nanobind::tuple Shape() const;
  const char* DType() const;
  nanobind::tuple DLPackDevice() const;
  // A capsule that shares the memory; the consumer's stream waits for the run that computes it.
  nanobind::object DLPack(nanobind::object stream, nanobind::object max_version, nanobind::object dl_device,
                          nanobind::object copy) const;
  // A copy on the CPU.
  nanobind::object Numpy() const;

 private:
  std::shared_ptr<DLManagedTensorVersioned> managed_;
};

void DefineDeviceTensor(nanobind::module_& module);

}  // namespace ingot::python
