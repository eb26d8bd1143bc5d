// What the files of the C ABI share: the handles, and one wrapper that turns exceptions into statuses.
#pragma once

#include <ingot/ingot.h>

#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <vector>

#include "artifact.h"
#include "error.h"
#include "model.h"
#include "session.h"

struct ingot_model {
  ingot_model(const char* path, const ingot::LoadOptions& options);

  std::shared_ptr<ingot::Model> model;
  std::vector<std::vector<const char*>> input_dims;
  std::vector<std::vector<const char*>> output_dims;
  std::vector<std::vector<const char*>> state_dims;
};

struct ingot_session {
  explicit ingot_session(std::shared_ptr<ingot::Model> model) : session(std::move(model)) {}
  mutable ingot::Session session;
};

namespace ingot::c_api {

// Keeps the message for ingot_last_error.
ingot_status Report(ingot_status status, const char* message) noexcept;

template <typename Body>
ingot_status Guard(Body&& body) noexcept {
  try {
    body();
    return INGOT_OK;
  } catch (const ingot::Error& error) {
    return Report(error.status(), error.what());
  } catch (const std::bad_alloc&) {
    return Report(INGOT_ERROR_MEMORY, "memory ran out");
  } catch (const std::length_error&) {
    return Report(INGOT_ERROR_MEMORY, "a size is beyond what memory can hold");
  } catch (const std::exception& error) {
    return Report(INGOT_ERROR_INTERNAL, error.what());
  } catch (...) {
    return Report(INGOT_ERROR_INTERNAL, "an unknown exception");
  }
}

// The target of a pointer argument.
template <typename T>
T& Need(T* pointer, const char* name) {
  if (pointer == nullptr) Fail(INGOT_ERROR_INVALID_ARGUMENT, std::string_view(name), " is NULL");
  return *pointer;
}

inline void NeedMemory(const void* data, size_t bytes) {
  if (bytes > 0 && data == nullptr) Fail(INGOT_ERROR_INVALID_ARGUMENT, "data is NULL");
}

// What a caller sees of a tensor whose extents have these names.
inline ingot_tensor_info Info(const TensorInfo& info, const std::vector<const char*>& dims) {
  return {info.name.c_str(), info.dtype->type, static_cast<int32_t>(info.shape.size()), info.shape.data(), dims.data()};
}

// Runs `body` on a session that no other thread uses.
template <typename Body>
ingot_status WithSession(const ingot_session* handle, Body&& body) noexcept {
  return Guard([&] {
    Session& session = Need(handle, "session").session;
    const Session::Use use(session);
    body(session);
  });
}

}  // namespace ingot::c_api
