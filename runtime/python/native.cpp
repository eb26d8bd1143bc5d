// ingot.runtime._native: handles of the C ABI as Python objects. ingot/runtime/*.py is what people see.

#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/unique_ptr.h>
#include <nanobind/stl/vector.h>

#include <memory>
#include <optional>
#include <tuple>
#include <vector>

#include "convert.h"
#include "device_tensor.h"

namespace nb = nanobind;
using ingot::python::Borrowed;
using ingot::python::Check;

namespace {

template <auto kFree>
struct Free {
  template <typename Handle>
  void operator()(Handle* handle) const {
    kFree(handle);
  }
};

class Artifact {
 public:
  explicit Artifact(const std::string& path) {
    ingot_artifact* handle = nullptr;
    {
      nb::gil_scoped_release release;
      status_ = ingot_artifact_open(path.c_str(), &handle);
    }
    Check(status_);
    handle_.reset(handle);
  }

  nb::str Manifest() const {
    const char* json = nullptr;
    size_t size = 0;
    Check(ingot_artifact_manifest(handle_.get(), &json, &size));
    return nb::str(json, size);
  }

  void Verify() const {
    ingot_status status;
    {
      nb::gil_scoped_release release;
      status = ingot_artifact_verify(handle_.get());
    }
    Check(status);
  }

  std::string BestTarget() const {
    const char* name = nullptr;
    Check(ingot_artifact_best_target(handle_.get(), &name));
    return name;
  }

  std::tuple<const void*, size_t> Segment(size_t index) const {
    const void* data = nullptr;
    size_t size = 0;
    Check(ingot_artifact_segment(handle_.get(), index, &data, &size));
    return {data, size};
  }

 private:
  ingot_status status_ = INGOT_OK;
  std::unique_ptr<ingot_artifact, Free<ingot_artifact_free>> handle_;
};

// (name, dtype, shape), the shape's extents being integers or names.
nb::tuple InfoTuple(const ingot_tensor_info& info) {
  nb::list shape;
  for (int32_t i = 0; i < info.ndim; ++i) {
    if (info.shape[i] >= 0) {
      shape.append(info.shape[i]);
    } else {
      shape.append(info.dims[i]);
    }
  }
  return nb::make_tuple(info.name, ingot::python::DTypeName(info.dtype), nb::tuple(shape));
}

class Model {
 public:
  Model(const std::string& path, int32_t threads, const std::optional<std::string>& target, bool verify, int32_t gpu) {
    const ingot_load_options options{sizeof(ingot_load_options), threads, verify ? 1 : 0,
                                     target ? target->c_str() : nullptr, gpu};
    ingot_model* handle = nullptr;
    ingot_status status;
    {
      nb::gil_scoped_release release;
      status = ingot_model_load(path.c_str(), &options, &handle);
    }
    Check(status);
    handle_.reset(handle);
    Check(ingot_model_device(handle, &device));
    Read(ingot_model_num_inputs, ingot_model_input, inputs);
    Read(ingot_model_num_outputs, ingot_model_output, outputs);
    Read(
        ingot_model_num_states,
        [this](const ingot_model* model, size_t index, ingot_tensor_info* info) {
          return ingot_model_state(model, index, info, &kinds.emplace_back());
        },
        states);
  }

  ingot_model* handle() const { return handle_.get(); }

  nb::tuple Device() const { return nb::make_tuple(static_cast<int>(device.device_type), device.device_id); }

  nb::str Manifest() const {
    const char* json = nullptr;
    size_t size = 0;
    Check(ingot_model_manifest(handle(), &json, &size));
    return nb::str(json, size);
  }

  nb::tuple Target() const {
    const char* name = nullptr;
    int32_t threads = 0;
    Check(ingot_model_target(handle(), &name, &threads));
    return nb::make_tuple(name, threads);
  }

  size_t Memory(const std::vector<int64_t>& dims) const {
    size_t bytes = 0;
    Check(ingot_model_memory(handle(), dims.data(), dims.size(), &bytes));
    return bytes;
  }

  std::vector<ingot_tensor_info> inputs;
  std::vector<ingot_tensor_info> outputs;
  std::vector<ingot_tensor_info> states;
  std::vector<ingot_state_kind> kinds;  // of states
  DLDevice device{};

 private:
  template <typename Count, typename Get>
  void Read(Count count, Get get, std::vector<ingot_tensor_info>& infos) {
    size_t n = 0;
    Check(count(handle(), &n));
    infos.resize(n);
    for (size_t i = 0; i < n; ++i) Check(get(handle(), i, &infos[i]));
  }

  std::unique_ptr<ingot_model, Free<ingot_model_free>> handle_;
};

class Session {
 public:
  explicit Session(nb::object model, ingot_session* handle = nullptr)
      : model_(std::move(model)),
        inputs_(this->model().inputs.size()),
        bound_(this->model().outputs.size()),
        handle_(handle) {
    if (handle_ != nullptr) return;
    Check(ingot_session_create(this->model().handle(), &handle));
    handle_.reset(handle);
  }

  void SetInput(size_t index, nb::handle object) {
    if (index >= inputs_.size()) throw nb::index_error();
    const ingot_tensor_info& info = model().inputs[index];
    inputs_[index].Set(object, "input", info.name, info.dtype, false, Where());
    Check(ingot_session_set_input(handle_.get(), index, &inputs_[index].tensor()));
  }

  void BindOutput(size_t index, nb::handle object) {
    if (index >= bound_.size()) throw nb::index_error();
    if (object.is_none()) {
      Check(ingot_session_bind_output(handle_.get(), index, nullptr));
      bound_[index].Release();
      return;
    }
    const ingot_tensor_info& info = model().outputs[index];
    bound_[index].Set(object, "output", info.name, info.dtype, true, Where());
    Check(ingot_session_bind_output(handle_.get(), index, &bound_[index].tensor()));
  }

  void Run() {
    ingot_status status;
    {
      nb::gil_scoped_release release;
      status = ingot_session_run(handle_.get());
    }
    Check(status);
  }

  nb::object Take(size_t index) {
    DLManagedTensorVersioned* managed = nullptr;
    Check(ingot_session_take_output(handle_.get(), index, &managed));
    return ingot::python::ToPython(managed);
  }

  // All of a run in one call: inputs in order, outputs in order. Inputs are let go of when it returns.
  nb::list RunOnce(nb::list inputs, bool on_gpu) {
    const struct Releaser {
      Session& session;
      ~Releaser() {
        for (Borrowed& input : session.inputs_) input.Release();
      }
    } releaser{*this};
    for (size_t i = 0; i < bound_.size(); ++i) SetOutputDevice(i, on_gpu);
    for (size_t i = 0; i < inputs_.size(); ++i) SetInput(i, inputs[i]);
    Run();
    nb::list outputs;
    for (size_t i = 0; i < bound_.size(); ++i) outputs.append(Take(i));
    return outputs;
  }

  void SetOutputDevice(size_t index, bool on_gpu) {
    const DLDevice device = on_gpu ? DLDevice{kDLCUDA, model().device.device_id} : DLDevice{kDLCPU, 0};
    Check(ingot_session_set_output_device(handle_.get(), index, device));
  }
  void SetStream(uintptr_t stream) { Check(ingot_session_set_stream(handle_.get(), reinterpret_cast<void*>(stream))); }
  uintptr_t Stream() const { return reinterpret_cast<uintptr_t>(Where().stream); }
  void Synchronize() {
    ingot_status status;
    {
      nb::gil_scoped_release release;
      status = ingot_session_synchronize(handle_.get());
    }
    Check(status);
  }
  nb::tuple Graphs() const {
    int64_t captured = 0;
    int64_t replayed = 0;
    const char* reason = nullptr;
    Check(ingot_session_graphs(handle_.get(), &captured, &replayed, &reason));
    return nb::make_tuple(captured, replayed, reason);
  }

  void SetDimension(const std::string& name, int64_t extent) {
    Check(ingot_session_set_dimension(handle_.get(), name.c_str(), extent));
  }
  void SelectRows(int64_t first, int64_t count) { Check(ingot_session_select_rows(handle_.get(), first, count)); }
  void Reset(int64_t row) { Check(ingot_session_reset(handle_.get(), row)); }
  void Truncate(int64_t row, int64_t length) { Check(ingot_session_truncate(handle_.get(), row, length)); }
  void CopyRow(int64_t from, int64_t to) { Check(ingot_session_copy_row(handle_.get(), from, to)); }
  void SaveStates(const std::string& path) const { Check(ingot_session_save_states(handle_.get(), path.c_str())); }
  void LoadStates(const std::string& path) { Check(ingot_session_load_states(handle_.get(), path.c_str())); }

  std::unique_ptr<Session> Fork() const {
    ingot_session* fork = nullptr;
    Check(ingot_session_fork(handle_.get(), &fork));
    return std::make_unique<Session>(model_, fork);
  }

  // The memory of a state, until the next call.
  nb::object State(nb::handle self, size_t index) {
    const DLTensor* tensor = nullptr;
    Check(ingot_session_state(handle_.get(), index, &tensor));
    return ingot::python::ViewAsNumpy(*tensor, self);
  }

  // A copy of a state on the CPU.
  nb::object ReadState(size_t index) {
    const DLTensor* tensor = nullptr;
    Check(ingot_session_state(handle_.get(), index, &tensor));
    DLTensor host = *tensor;
    const size_t bytes = ingot::python::ByteCount(host);
    auto* data = new std::byte[bytes + 1];
    const nb::capsule owner(data, [](void* p) noexcept { delete[] static_cast<std::byte*>(p); });
    Check(ingot_session_read_state(handle_.get(), index, data, bytes));
    host.data = data;
    host.device = {kDLCPU, 0};
    return ingot::python::ViewAsNumpy(host, owner);
  }
  // `array` is C-contiguous.
  void WriteState(size_t index, nb::handle array) {
    if (index >= model().states.size()) throw nb::index_error();
    const ingot_tensor_info& info = model().states[index];
    Borrowed given;
    given.Set(array, "state", info.name, info.dtype, false, {});
    Check(
        ingot_session_write_state(handle_.get(), index, given.tensor().data, ingot::python::ByteCount(given.tensor())));
  }

  void SetProfiling(bool enabled) { Check(ingot_session_set_profiling(handle_.get(), enabled ? 1 : 0)); }

  std::tuple<std::vector<int64_t>, int64_t> Profile() const {
    size_t needed = 0;
    int64_t runs = 0;
    Check(ingot_session_profile(handle_.get(), nullptr, 0, &needed, &runs));
    std::vector<int64_t> nanoseconds(needed);
    Check(ingot_session_profile(handle_.get(), nanoseconds.data(), needed, &needed, &runs));
    return {std::move(nanoseconds), runs};
  }

 private:
  const Model& model() const { return *nb::inst_ptr<Model>(model_); }
  ingot::python::Place Where() const {
    ingot::python::Place place{model().device, nullptr};
    if (place.device.device_type == kDLCUDA) Check(ingot_session_stream(handle_.get(), &place.stream));
    return place;
  }

  nb::object model_;
  std::vector<Borrowed> inputs_;  // what the library borrows, kept alive
  std::vector<Borrowed> bound_;
  std::unique_ptr<ingot_session, Free<ingot_session_free>> handle_;
};

template <typename Measure>
nb::tuple Measured(Measure measure, int32_t threads, double seconds) {
  ingot_rate rate{};
  ingot_status status;
  {
    nb::gil_scoped_release release;
    status = measure(threads, seconds, &rate);
  }
  Check(status);
  return nb::make_tuple(rate.best, rate.median);
}

nb::list InfoList(const std::vector<ingot_tensor_info>& infos) {
  nb::list list;
  for (const ingot_tensor_info& info : infos) list.append(InfoTuple(info));
  return list;
}

}  // namespace

NB_MODULE(_native, m) {
  ingot::python::LoadErrors();
  ingot::python::DefineDeviceTensor(m);

  nb::class_<Artifact>(m, "Artifact")
      .def(nb::init<const std::string&>(), nb::arg("path"))
      .def("manifest", &Artifact::Manifest)
      .def("verify", &Artifact::Verify)
      .def("best_target", &Artifact::BestTarget)
      .def("segment", [](nb::handle self, size_t index) {
        const auto [data, size] = nb::inst_ptr<Artifact>(self)->Segment(index);
        return nb::ndarray<nb::memview, const uint8_t, nb::ndim<1>>(data, {size}, self);
      });

  nb::class_<Model>(m, "Model")
      .def(nb::init<const std::string&, int32_t, const std::optional<std::string>&, bool, int32_t>(), nb::arg("path"),
           nb::arg("threads"), nb::arg("target").none(), nb::arg("verify"), nb::arg("gpu") = 0)
      .def("device", &Model::Device)
      .def("manifest", &Model::Manifest)
      .def("target", &Model::Target)
      .def("memory", &Model::Memory)
      .def("inputs", [](const Model& model) { return InfoList(model.inputs); })
      .def("outputs", [](const Model& model) { return InfoList(model.outputs); })
      .def("states", [](const Model& model) {
        static constexpr const char* kKinds[] = {"carry", "cache", "ring"};
        nb::list list;
        for (size_t i = 0; i < model.states.size(); ++i)
          list.append(nb::make_tuple(InfoTuple(model.states[i]), kKinds[model.kinds[i]]));
        return list;
      });

  nb::class_<Session>(m, "Session")
      .def("__init__", [](Session* self, nb::handle_t<Model> model) { new (self) Session(nb::borrow(model)); })
      .def("set_input", &Session::SetInput)
      .def("bind_output", &Session::BindOutput, nb::arg("index"), nb::arg("array").none())
      .def("run", &Session::Run)
      .def("run_once", &Session::RunOnce, nb::arg("inputs"), nb::arg("on_gpu") = false)
      .def("set_output_device", &Session::SetOutputDevice)
      .def("set_stream", &Session::SetStream)
      .def("stream", &Session::Stream)
      .def("synchronize", &Session::Synchronize)
      .def("graphs", &Session::Graphs)
      .def("read_state", &Session::ReadState)
      .def("write_state", &Session::WriteState)
      .def("take", &Session::Take)
      .def("set_dimension", &Session::SetDimension)
      .def("select_rows", &Session::SelectRows)
      .def("reset", &Session::Reset)
      .def("truncate", &Session::Truncate)
      .def("copy_row", &Session::CopyRow)
      .def("save_states", &Session::SaveStates)
      .def("load_states", &Session::LoadStates)
      .def("fork", [](const Session& session) { return session.Fork(); })
      .def("state", [](nb::handle self, size_t index) { return nb::inst_ptr<Session>(self)->State(self, index); })
      .def("set_profiling", &Session::SetProfiling)
      .def("profile", &Session::Profile);

  m.def("machine", [] {
    const char* json = nullptr;
    Check(ingot_machine(&json));
    return json;
  });
  m.def("measure_bandwidth",
        [](int32_t threads, double seconds) { return Measured(ingot_measure_bandwidth, threads, seconds); });
  m.def("measure_fma", [](int32_t threads, double seconds) { return Measured(ingot_measure_fma, threads, seconds); });
  m.def("measure_bf16", [](int32_t threads, double seconds) { return Measured(ingot_measure_bf16, threads, seconds); });
  m.def("measure_int8", [](int32_t threads, double seconds) { return Measured(ingot_measure_int8, threads, seconds); });
  m.def("kernels", [] {
    const char* json = nullptr;
    Check(ingot_kernels(&json));
    return json;
  });
  m.def("version", [] { return ingot_version(); });
}
