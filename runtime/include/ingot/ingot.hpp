// Ingot for C++20: RAII over the C ABI of ingot.h. Header only; errors are exceptions. SPDX-License-Identifier:
// Apache-2.0
//
//   ingot::Model model("resnet50.ingot");
//   ingot::Session session(model);
//   session.set_input("x", ingot::tensor(std::span(pixels), shape));
//   session.run();
//   std::span<const float> y = session.output<float>("y");
#ifndef INGOT_INGOT_HPP_
#define INGOT_INGOT_HPP_

#include <ingot/ingot.h>

#include <complex>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace ingot {

// What a function of the C ABI reported.
class Error : public std::runtime_error {
 public:
  Error(ingot_status status, const std::string& message) : std::runtime_error(message), status_(status) {}
  ingot_status status() const noexcept { return status_; }

 private:
  ingot_status status_;
};

inline void check(ingot_status status) {
  if (status != INGOT_OK) throw Error(status, ingot_last_error());
}

// The DLPack type of a C++ type.
template <typename T>
constexpr DLDataType dtype_of() {
  using U = std::remove_cv_t<T>;
  constexpr auto bits = static_cast<uint8_t>(8 * sizeof(U));
  if constexpr (std::same_as<U, bool>) {
    return {kDLBool, 8, 1};
  } else if constexpr (std::same_as<U, ingot_string>) {
    return {INGOT_STRING_CODE, INGOT_STRING_BITS, 1};
  } else if constexpr (std::floating_point<U>) {
    return {kDLFloat, bits, 1};
  } else if constexpr (std::same_as<U, std::complex<float>> || std::same_as<U, std::complex<double>>) {
    return {kDLComplex, bits, 1};
  } else {
    static_assert(std::integral<U>, "this type has no DLPack type: make the DLTensor by hand");
    return {std::signed_integral<U> ? kDLInt : kDLUInt, bits, 1};
  }
}

// The number of elements of a shape.
inline int64_t element_count(std::span<const int64_t> shape) {
  int64_t count = 1;
  for (const int64_t extent : shape) count *= extent;
  return count;
}
inline std::span<const int64_t> shape_of(const DLTensor& tensor) {
  return {tensor.shape, static_cast<size_t>(tensor.ndim)};
}

// A C-contiguous tensor on the CPU that borrows its bytes and its shape, both of which have to outlive it.
inline DLTensor tensor(std::span<std::byte> bytes, std::span<const int64_t> shape, DLDataType dtype) {
  if (static_cast<size_t>(element_count(shape)) * ((dtype.bits + 7u) / 8u) != bytes.size()) {
    throw std::invalid_argument("the shape is not that of the elements");
  }
  DLTensor result{};
  result.data = bytes.data();
  result.device = {kDLCPU, 0};
  result.ndim = static_cast<int32_t>(shape.size());
  result.dtype = dtype;
  result.shape = const_cast<int64_t*>(shape.data());
  return result;
}
template <typename T>
DLTensor tensor(std::span<T> elements, std::span<const int64_t> shape) {
  auto* bytes = const_cast<std::byte*>(reinterpret_cast<const std::byte*>(elements.data()));
  return tensor(std::span(bytes, elements.size_bytes()), shape, dtype_of<T>());
}

// The elements of a tensor, whose type has to be T.
template <typename T>
std::span<T> elements(const DLTensor& tensor) {
  const DLDataType expected = dtype_of<T>();
  if (tensor.dtype.code != expected.code || tensor.dtype.bits != expected.bits || tensor.dtype.lanes != 1) {
    throw std::invalid_argument("the tensor's elements are of another type");
  }
  auto* data = reinterpret_cast<T*>(static_cast<std::byte*>(tensor.data) + tensor.byte_offset);
  return {data, static_cast<size_t>(element_count(shape_of(tensor)))};
}

// One input or output of a model. It lives as long as the model.
struct TensorInfo {
  std::string_view name;
  DLDataType dtype;
  std::span<const int64_t> shape;     // -1 for a symbolic extent
  std::span<const char* const> dims;  // names or expressions of extents
};

// A state of a model: what a session remembers from run to run.
struct StateInfo : TensorInfo {
  ingot_state_kind kind;
};

// An output that was taken out of its session; it owns its memory.
struct TensorDeleter {
  void operator()(DLManagedTensorVersioned* managed) const { managed->deleter(managed); }
};
using OwnedTensor = std::unique_ptr<DLManagedTensorVersioned, TensorDeleter>;

struct LoadOptions {
  int32_t threads = 0;      // for one run, the caller's included; 0: one for each core
  bool verify = false;      // check the weights' checksums too
  std::string target = {};  // a target's name; "": the best
  int32_t device = 0;       // the GPU for a CUDA target
};

// A loaded model: immutable, to be used from any thread.
class Model {
 public:
  explicit Model(const std::string& path, const LoadOptions& options = {}) {
    const ingot_load_options given{sizeof(ingot_load_options), options.threads, options.verify ? 1 : 0,
                                   options.target.empty() ? nullptr : options.target.c_str(), options.device};
    ingot_model* model = nullptr;
    check(ingot_model_load(path.c_str(), &given, &model));
    handle_.reset(model);
  }

  std::vector<TensorInfo> inputs() const { return infos(ingot_model_num_inputs, ingot_model_input); }
  std::vector<TensorInfo> outputs() const { return infos(ingot_model_num_outputs, ingot_model_output); }
  std::vector<StateInfo> states() const {
    std::vector<ingot_state_kind> kinds;
    const std::vector<TensorInfo> tensors =
        infos(ingot_model_num_states, [&](const ingot_model* model, size_t index, ingot_tensor_info* out) {
          return ingot_model_state(model, index, out, &kinds.emplace_back());
        });
    std::vector<StateInfo> result;
    for (size_t i = 0; i < tensors.size(); ++i) result.push_back({tensors[i], kinds[i]});
    return result;
  }

  std::string_view manifest() const {
    const char* json = nullptr;
    size_t size = 0;
    check(ingot_model_manifest(handle(), &json, &size));
    return {json, size};
  }

  std::string_view target() const {
    const char* name = nullptr;
    check(ingot_model_target(handle(), &name, nullptr));
    return name;
  }

  int32_t threads() const {
    int32_t threads = 0;
    check(ingot_model_target(handle(), nullptr, &threads));
    return threads;
  }

  // Where it runs: {kDLCPU, 0} or {kDLCUDA, number}.
  DLDevice device() const {
    DLDevice device{};
    check(ingot_model_device(handle(), &device));
    return device;
  }

  // Bytes of scratch memory of one run when the symbolic dimensions, in the manifest's order, have these extents.
  size_t memory(std::span<const int64_t> dims) const {
    size_t bytes = 0;
    check(ingot_model_memory(handle(), dims.data(), dims.size(), &bytes));
    return bytes;
  }

  ingot_model* handle() const { return handle_.get(); }

 private:
  struct Free {
    void operator()(ingot_model* model) const { ingot_model_free(model); }
  };

  template <typename Count, typename Get>
  std::vector<TensorInfo> infos(Count count, Get get) const {
    size_t size = 0;
    check(count(handle(), &size));
    std::vector<TensorInfo> result;
    for (size_t i = 0; i < size; ++i) {
      ingot_tensor_info info{};
      check(get(handle(), i, &info));
      const auto ndim = static_cast<size_t>(info.ndim);
      result.push_back({info.name, info.dtype, {info.shape, ndim}, {info.dims, ndim}});
    }
    return result;
  }

  std::unique_ptr<ingot_model, Free> handle_;
};

// Inputs, outputs and scratch memory; for one thread at a time. It keeps what it needs of the model alive.
class Session {
 public:
  explicit Session(const Model& model) {
    for (const TensorInfo& info : model.inputs()) inputs_.emplace_back(info.name);
    for (const TensorInfo& info : model.outputs()) outputs_.emplace_back(info.name);
    for (const StateInfo& info : model.states()) states_.emplace_back(info.name);
    ingot_session* session = nullptr;
    check(ingot_session_create(model.handle(), &session));
    handle_.reset(session);
  }

  // Borrows the tensor's elements until the next run has returned; they stay set for later runs.
  void set_input(std::string_view name, const DLTensor& tensor) {
    check(ingot_session_set_input(handle(), index(inputs_, name, "input"), &tensor));
  }

  // Has later runs write an output into the tensor's memory.
  void bind_output(std::string_view name, const DLTensor& tensor) {
    check(ingot_session_bind_output(handle(), index(outputs_, name, "output"), &tensor));
  }
  void unbind_output(std::string_view name) {
    check(ingot_session_bind_output(handle(), index(outputs_, name, "output"), nullptr));
  }

  void run() { check(ingot_session_run(handle())); }

  // An output of the last run, borrowed until the next one.
  const DLTensor& output(std::string_view name) const {
    const DLTensor* tensor = nullptr;
    check(ingot_session_output(handle(), index(outputs_, name, "output"), &tensor));
    return *tensor;
  }
  template <typename T>
  std::span<const T> output(std::string_view name) const {
    return elements<const T>(output(name));
  }

  // An output of the last run, which the caller owns from now on.
  OwnedTensor take_output(std::string_view name) {
    DLManagedTensorVersioned* managed = nullptr;
    check(ingot_session_take_output(handle(), index(outputs_, name, "output"), &managed));
    return OwnedTensor(managed);
  }

  // ---- States. Rows are axis 0 of all of them.

  // The extent of a symbolic dimension of the states, such as the capacity of caches, before the first run.
  void set_dimension(const std::string& name, int64_t extent) {
    check(ingot_session_set_dimension(handle(), name.c_str(), extent));
  }
  // Later runs see only these rows; count 0: all again.
  void select_rows(int64_t first, int64_t count) { check(ingot_session_select_rows(handle(), first, count)); }
  // Forgets everything, or what one row holds.
  void reset(int64_t row = -1) { check(ingot_session_reset(handle(), row)); }
  // Keeps the first steps of caches, in all rows or in one.
  void truncate(int64_t length, int64_t row = -1) { check(ingot_session_truncate(handle(), row, length)); }
  void copy_row(int64_t from, int64_t to) { check(ingot_session_copy_row(handle(), from, to)); }
  // A session that remembers the same. Inputs and outputs are not copied.
  Session fork() const {
    Session copy;
    copy.inputs_ = inputs_;
    copy.outputs_ = outputs_;
    copy.states_ = states_;
    ingot_session* session = nullptr;
    check(ingot_session_fork(handle(), &session));
    copy.handle_.reset(session);
    return copy;
  }
  void save_states(const std::string& path) const { check(ingot_session_save_states(handle(), path.c_str())); }
  void load_states(const std::string& path) { check(ingot_session_load_states(handle(), path.c_str())); }

  // A state, all rows, borrowed until the next call on this session; a CUDA model's is on its GPU.
  const DLTensor& state(std::string_view name) {
    const DLTensor* tensor = nullptr;
    check(ingot_session_state(handle(), index(states_, name, "state"), &tensor));
    return *tensor;
  }
  // Copies a state, all rows, from the session and back, wherever the model runs. `elements` has to have its size.
  template <typename T>
  void read_state(std::string_view name, std::span<T> elements) {
    check(ingot_session_read_state(handle(), index(states_, name, "state"), elements.data(), elements.size_bytes()));
  }
  template <typename T>
  void write_state(std::string_view name, std::span<T> elements) {
    check(ingot_session_write_state(handle(), index(states_, name, "state"), elements.data(), elements.size_bytes()));
  }

  // ---- GPUs

  // A cudaStream_t of the caller's, which outlives its use here; nullptr: the session's own.
  void set_stream(void* stream) { check(ingot_session_set_stream(handle(), stream)); }
  void* stream() const {
    void* stream = nullptr;
    check(ingot_session_stream(handle(), &stream));
    return stream;
  }
  void synchronize() { check(ingot_session_synchronize(handle())); }
  // Where later runs give an output: {kDLCPU, 0}, or the model's device.
  void set_output_device(std::string_view name, DLDevice device) {
    check(ingot_session_set_output_device(handle(), index(outputs_, name, "output"), device));
  }

  ingot_session* handle() const { return handle_.get(); }

 private:
  Session() = default;  // for fork

  struct Free {
    void operator()(ingot_session* session) const { ingot_session_free(session); }
  };

  static size_t index(const std::vector<std::string>& names, std::string_view name, const char* what) {
    for (size_t i = 0; i < names.size(); ++i) {
      if (names[i] == name) return i;
    }
    std::string message = "there is no " + std::string(what) + " '" + std::string(name) + "'; the model has";
    for (const std::string& known : names) message += " '" + known + "'";
    throw Error(INGOT_ERROR_INVALID_ARGUMENT, message);
  }

  std::vector<std::string> inputs_;
  std::vector<std::string> outputs_;
  std::vector<std::string> states_;
  std::unique_ptr<ingot_session, Free> handle_;
};

}  // namespace ingot

#endif  // INGOT_INGOT_HPP_
