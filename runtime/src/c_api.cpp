// The C ABI over the classes; states are in c_api_states.cpp.

#include "c_api.h"

#include <algorithm>
#include <cstring>
#include <iterator>
#include <string>

#include "kernel_list.h"
#include "machine.h"
#include "measure.h"

struct ingot_artifact {
  explicit ingot_artifact(const char* path) : artifact(path) { artifact.CloseDescriptor(); }
  ingot::Artifact artifact;
};

ingot_model::ingot_model(const char* path, const ingot::LoadOptions& options)
    : model(std::make_shared<ingot::Model>(path, options)) {
  const auto point = [](const auto& infos, std::vector<std::vector<const char*>>& dims) {
    for (const ingot::TensorInfo& info : infos) {
      auto& names = dims.emplace_back();
      for (const std::string& name : info.dims) names.push_back(name.c_str());
    }
  };
  point(model->artifact().inputs(), input_dims);
  point(model->artifact().outputs(), output_dims);
  point(model->artifact().states(), state_dims);
}

namespace {

using ingot::Fail;
using ingot::c_api::Guard;
using ingot::c_api::Need;
using ingot::c_api::NeedMemory;
using ingot::c_api::WithSession;

thread_local std::string t_last_error;

ingot_tensor_info Info(const std::vector<ingot::TensorInfo>& infos, const std::vector<std::vector<const char*>>& dims,
                       size_t index, const char* what) {
  if (index >= infos.size())
    Fail(INGOT_ERROR_INVALID_ARGUMENT, "there is no ", std::string_view(what), " ", index, "; the model has ",
         infos.size());
  return ingot::c_api::Info(infos[index], dims[index]);
}

ingot::LoadOptions ReadOptions(const ingot_load_options* given) {
  ingot::LoadOptions options;
  if (given == nullptr) return options;
  // A caller that was compiled with an older header gives a shorter struct; what it does not have keeps its default.
  ingot_load_options known{};
  if (given->struct_size < sizeof(size_t) || given->struct_size > 4096) {
    Fail(INGOT_ERROR_INVALID_ARGUMENT, "options->struct_size is ", given->struct_size,
         "; set it to sizeof(ingot_load_options)");
  }
  std::memcpy(&known, given, std::min(given->struct_size, sizeof known));
  options.threads = known.threads;
  options.verify = known.verify != 0;
  if (known.target != nullptr) options.target = known.target;
  options.device = known.device;
  return options;
}

constexpr const char* kStatusNames[] = {
    "INGOT_OK",
    "INGOT_ERROR_INVALID_ARGUMENT",
    "INGOT_ERROR_FILE",
    "INGOT_ERROR_ARTIFACT",
    "INGOT_ERROR_VERSION",
    "INGOT_ERROR_TARGET",
    "INGOT_ERROR_INPUT",
    "INGOT_ERROR_MEMORY",
    "INGOT_ERROR_EXECUTION",
    "INGOT_ERROR_BUSY",
    "INGOT_ERROR_INTERNAL",
};

}  // namespace

ingot_status ingot::c_api::Report(ingot_status status, const char* message) noexcept {
  try {
    t_last_error = message;
  } catch (const std::bad_alloc&) {
    t_last_error.clear();  // the status alone has to do
  }
  return status;
}

const char* ingot_last_error(void) { return t_last_error.c_str(); }

const char* ingot_status_name(ingot_status status) {
  const auto index = static_cast<size_t>(status);
  return index < std::size(kStatusNames) ? kStatusNames[index] : "INGOT_UNKNOWN_STATUS";
}

const char* ingot_version(void) { return INGOT_VERSION; }

ingot_status ingot_artifact_open(const char* path, ingot_artifact** out) {
  return Guard([&] {
    Need(out, "out");
    *out = new ingot_artifact(&Need(path, "path"));
  });
}

void ingot_artifact_free(ingot_artifact* artifact) { delete artifact; }

ingot_status ingot_artifact_manifest(const ingot_artifact* artifact, const char** json, size_t* size) {
  return Guard([&] {
    const std::string_view manifest = Need(artifact, "artifact").artifact.manifest();
    Need(json, "json") = manifest.data();
    if (size != nullptr) *size = manifest.size();
  });
}

ingot_status ingot_artifact_verify(const ingot_artifact* artifact) {
  return Guard([&] { Need(artifact, "artifact").artifact.Verify(); });
}

ingot_status ingot_artifact_segment(const ingot_artifact* artifact, size_t index, const void** data, size_t* size) {
  return Guard([&] {
    const auto& segments = Need(artifact, "artifact").artifact.segments();
    if (index >= segments.size())
      Fail(INGOT_ERROR_INVALID_ARGUMENT, "there is no segment ", index, "; the artifact has ", segments.size());
    Need(size, "size");
    Need(data, "data") = segments[index].bytes.data();
    *size = segments[index].bytes.size();
  });
}

ingot_status ingot_artifact_best_target(const ingot_artifact* artifact, const char** name) {
  return Guard([&] { Need(name, "name") = Need(artifact, "artifact").artifact.ChooseTarget("").name.c_str(); });
}

ingot_status ingot_model_load(const char* path, const ingot_load_options* options, ingot_model** out) {
  return Guard([&] {
    Need(out, "out");
    *out = new ingot_model(&Need(path, "path"), ReadOptions(options));
  });
}

void ingot_model_free(ingot_model* model) { delete model; }

ingot_status ingot_model_num_inputs(const ingot_model* model, size_t* count) {
  return Guard([&] { Need(count, "count") = Need(model, "model").model->artifact().inputs().size(); });
}

ingot_status ingot_model_num_outputs(const ingot_model* model, size_t* count) {
  return Guard([&] { Need(count, "count") = Need(model, "model").model->artifact().outputs().size(); });
}

ingot_status ingot_model_input(const ingot_model* model, size_t index, ingot_tensor_info* out) {
  return Guard([&] {
    const ingot_model& handle = Need(model, "model");
    Need(out, "out") = Info(handle.model->artifact().inputs(), handle.input_dims, index, "input");
  });
}

ingot_status ingot_model_output(const ingot_model* model, size_t index, ingot_tensor_info* out) {
  return Guard([&] {
    const ingot_model& handle = Need(model, "model");
    Need(out, "out") = Info(handle.model->artifact().outputs(), handle.output_dims, index, "output");
  });
}

ingot_status ingot_model_manifest(const ingot_model* model, const char** json, size_t* size) {
  return Guard([&] {
    const std::string_view manifest = Need(model, "model").model->artifact().manifest();
    Need(json, "json") = manifest.data();
    if (size != nullptr) *size = manifest.size();
  });
}

ingot_status ingot_model_target(const ingot_model* model, const char** name, int32_t* threads) {
  return Guard([&] {
    const ingot_model& handle = Need(model, "model");
    if (name != nullptr) *name = handle.model->target().c_str();
    if (threads != nullptr) *threads = handle.model->pool().threads();
  });
}

ingot_status ingot_model_device(const ingot_model* model, DLDevice* out) {
  return Guard([&] { Need(out, "out") = Need(model, "model").model->dlpack(); });
}

ingot_status ingot_model_memory(const ingot_model* model, const int64_t* dims, size_t num_dims, size_t* bytes) {
  return Guard([&] {
    const ingot_model& handle = Need(model, "model");
    if (num_dims > 0) Need(dims, "dims");
    Need(bytes, "bytes") = handle.model->ArenaBytes({dims, num_dims});
  });
}

ingot_status ingot_session_create(ingot_model* model, ingot_session** out) {
  return Guard([&] {
    Need(out, "out");
    *out = new ingot_session(Need(model, "model").model);
  });
}

void ingot_session_free(ingot_session* session) { delete session; }

ingot_status ingot_session_set_input(ingot_session* handle, size_t index, const DLTensor* tensor) {
  return WithSession(handle, [&](ingot::Session& session) { session.SetInput(index, Need(tensor, "tensor")); });
}

ingot_status ingot_session_bind_output(ingot_session* handle, size_t index, const DLTensor* tensor) {
  return WithSession(handle, [&](ingot::Session& session) { session.BindOutput(index, tensor); });
}

ingot_status ingot_session_run(ingot_session* handle) {
  return WithSession(handle, [](ingot::Session& session) { session.Run(); });
}

ingot_status ingot_session_output(const ingot_session* handle, size_t index, const DLTensor** out) {
  return WithSession(handle, [&](ingot::Session& session) { Need(out, "out") = &session.Output(index); });
}

ingot_status ingot_session_take_output(ingot_session* handle, size_t index, DLManagedTensorVersioned** out) {
  return WithSession(handle, [&](ingot::Session& session) {
    Need(out, "out");
    *out = session.TakeOutput(index);
  });
}

ingot_status ingot_session_set_profiling(ingot_session* handle, int32_t enabled) {
  return WithSession(handle, [&](ingot::Session& session) { session.SetProfiling(enabled != 0); });
}

ingot_status ingot_session_profile(const ingot_session* handle, int64_t* nanoseconds, size_t num_steps, size_t* needed,
                                   int64_t* runs) {
  return WithSession(handle, [&](ingot::Session& session) {
    const ingot::Profile& profile = session.profile();
    if (needed != nullptr) *needed = profile.nanoseconds.size();
    if (runs != nullptr) *runs = profile.runs;
    const size_t count = std::min(num_steps, profile.nanoseconds.size());
    if (count > 0) std::memcpy(&Need(nanoseconds, "nanoseconds"), profile.nanoseconds.data(), count * sizeof(int64_t));
  });
}

ingot_status ingot_session_set_stream(ingot_session* handle, void* stream) {
  return WithSession(handle, [&](ingot::Session& session) { session.SetStream(stream); });
}

ingot_status ingot_session_stream(const ingot_session* handle, void** stream) {
  return WithSession(handle, [&](ingot::Session& session) { Need(stream, "stream") = session.Stream(); });
}

ingot_status ingot_session_synchronize(ingot_session* handle) {
  return WithSession(handle, [](ingot::Session& session) { session.Synchronize(); });
}

ingot_status ingot_session_set_output_device(ingot_session* handle, size_t index, DLDevice device) {
  return WithSession(handle, [&](ingot::Session& session) { session.SetOutputDevice(index, device); });
}

ingot_status ingot_output_wait(DLManagedTensorVersioned* output, void* stream) {
  return Guard([&] { ingot::AwaitOutput(&Need(output, "output"), stream); });
}

ingot_status ingot_output_read(const DLManagedTensorVersioned* output, void* data, size_t num_bytes) {
  return Guard([&] {
    NeedMemory(data, num_bytes);
    ingot::ReadOutput(Need(output, "output"), data, num_bytes);
  });
}

ingot_status ingot_session_graphs(const ingot_session* handle, int64_t* captured, int64_t* replayed,
                                  const char** reason) {
  return WithSession(handle, [&](ingot::Session& session) {
    const ingot::GraphCounts& counts = session.graphs();
    if (captured != nullptr) *captured = counts.captured;
    if (replayed != nullptr) *replayed = counts.replayed;
    if (reason != nullptr) *reason = counts.reason.c_str();
  });
}

ingot_status ingot_machine(const char** json) {
  return Guard([&] { Need(json, "json") = ingot::MachineJson().c_str(); });
}

ingot_status ingot_measure_bandwidth(int32_t threads, double seconds, ingot_rate* rate) {
  return Guard([&] { Need(rate, "rate") = ingot::MeasureBandwidth(threads, seconds); });
}

ingot_status ingot_measure_fma(int32_t threads, double seconds, ingot_rate* rate) {
  return Guard([&] { Need(rate, "rate") = ingot::MeasureFma(threads, seconds); });
}

ingot_status ingot_measure_bf16(int32_t threads, double seconds, ingot_rate* rate) {
  return Guard([&] { Need(rate, "rate") = ingot::MeasureBf16(threads, seconds); });
}

ingot_status ingot_measure_int8(int32_t threads, double seconds, ingot_rate* rate) {
  return Guard([&] { Need(rate, "rate") = ingot::MeasureInt8(threads, seconds); });
}

ingot_status ingot_kernels(const char** json) {
  return Guard([&] {
    thread_local std::string found;
    const char*& out = Need(json, "json");
    found = ingot::KernelsJson();
    out = found.c_str();
  });
}
