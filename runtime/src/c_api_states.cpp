// The C ABI of what a session remembers.

#include "c_api.h"

using ingot::Fail;
using ingot::StateInfo;
using ingot::c_api::Guard;
using ingot::c_api::Need;
using ingot::c_api::NeedMemory;
using ingot::c_api::WithSession;

ingot_status ingot_model_num_states(const ingot_model* model, size_t* count) {
  return Guard([&] { Need(count, "count") = Need(model, "model").model->artifact().states().size(); });
}

ingot_status ingot_model_state(const ingot_model* model, size_t index, ingot_tensor_info* out, ingot_state_kind* kind) {
  return Guard([&] {
    const ingot_model& handle = Need(model, "model");
    const auto& states = handle.model->artifact().states();
    if (index >= states.size())
      Fail(INGOT_ERROR_INVALID_ARGUMENT, "there is no state ", index, "; the model has ", states.size());
    const StateInfo& state = states[index];
    if (out != nullptr) *out = ingot::c_api::Info(state, handle.state_dims[index]);
    if (kind == nullptr) return;
    const bool cache = state.kind == StateInfo::Kind::kCache;
    *kind = !cache ? INGOT_STATE_CARRY : state.ring ? INGOT_STATE_RING : INGOT_STATE_CACHE;
  });
}

ingot_status ingot_session_set_dimension(ingot_session* handle, const char* name, int64_t extent) {
  return WithSession(handle,
                     [&](ingot::Session& session) { session.states().SetDimension(&Need(name, "name"), extent); });
}

ingot_status ingot_session_select_rows(ingot_session* handle, int64_t first, int64_t count) {
  return WithSession(handle, [&](ingot::Session& session) { session.states().SelectRows(first, count); });
}

ingot_status ingot_session_reset(ingot_session* handle, int64_t row) {
  return WithSession(handle, [&](ingot::Session& session) { session.states().Reset(row); });
}

ingot_status ingot_session_truncate(ingot_session* handle, int64_t row, int64_t length) {
  return WithSession(handle, [&](ingot::Session& session) { session.states().Truncate(row, length); });
}

ingot_status ingot_session_copy_row(ingot_session* handle, int64_t from, int64_t to) {
  return WithSession(handle, [&](ingot::Session& session) { session.states().CopyRow(from, to); });
}

ingot_status ingot_session_fork(const ingot_session* handle, ingot_session** out) {
  return WithSession(handle, [&](ingot::Session& session) {
    Need(out, "out");
    auto fork = std::make_unique<ingot_session>(session.model());
    fork->session.states().CopyFrom(session.states());
    *out = fork.release();
  });
}

ingot_status ingot_session_save_states(const ingot_session* handle, const char* path) {
  return WithSession(handle, [&](ingot::Session& session) { session.states().Save(&Need(path, "path")); });
}

ingot_status ingot_session_load_states(ingot_session* handle, const char* path) {
  return WithSession(handle, [&](ingot::Session& session) { session.states().Load(&Need(path, "path")); });
}

ingot_status ingot_session_read_state(ingot_session* handle, size_t index, void* data, size_t num_bytes) {
  return WithSession(handle, [&](ingot::Session& session) {
    NeedMemory(data, num_bytes);
    session.states().Read(index, data, num_bytes);
  });
}

ingot_status ingot_session_write_state(ingot_session* handle, size_t index, const void* data, size_t num_bytes) {
  return WithSession(handle, [&](ingot::Session& session) {
    NeedMemory(data, num_bytes);
    session.states().Write(index, data, num_bytes);
  });
}

ingot_status ingot_session_state(ingot_session* handle, size_t index, const DLTensor** out) {
  return WithSession(handle, [&](ingot::Session& session) { Need(out, "out") = &session.states().Tensor(index); });
}
