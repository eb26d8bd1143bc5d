#include <algorithm>
#include <cmath>

#include "cpu/attention/attention.h"
#include "cuda/attention/operands.h"

namespace ingot::cuda {
namespace {

// The places of inputs (cpu/attention/attention.h).
enum Input : size_t { kQ, kK, kV, kMask, kLengths, kSlopes, kSinks, kKeyScales, kValueScales, kPages, kRing, kSinkQ };

// Keys of a batch are 32-bit numbers.
constexpr int64_t kMostKeys = int64_t{1} << 30;

std::string TypeText(const DLTensor& tensor) { return Text(DTypeText(tensor.dtype), " ", ShapeText(tensor)); }

bool Is(const DLTensor& tensor, DLDataTypeCode code, uint8_t bits) {
  return tensor.dtype.code == code && tensor.dtype.bits == bits && tensor.dtype.lanes == 1;
}

bool IsFloat(const DLTensor& tensor) { return Is(tensor, kDLFloat, 32); }
bool IsInteger(const DLTensor& tensor) { return Is(tensor, kDLInt, 64) || Is(tensor, kDLInt, 32); }

bool HasShape(const DLTensor& tensor, std::initializer_list<int64_t> shape) {
  return std::ranges::equal(ShapeOf(tensor), shape);
}

enum class Use : uint8_t { kQuery, kCache, kMask };

AttentionElement ElementOf(const DLTensor& tensor, std::string_view name, Use use) {
  if (IsFloat(tensor)) return AttentionElement::kFloat;
  if (Is(tensor, kDLFloat, 16)) return AttentionElement::kHalf;
  if (Is(tensor, kDLBfloat, 16)) return AttentionElement::kBfloat;
  if (use == Use::kMask && Is(tensor, kDLBool, 8)) return AttentionElement::kBool;
  if (use == Use::kCache && Is(tensor, kDLInt, 8)) return AttentionElement::kInt8;
  if (use == Use::kCache && Is(tensor, kDLFloat8_e4m3fn, 8)) return AttentionElement::kFp8;
  FailKernel("attention takes ", name, " of float32, float16",
             use == Use::kMask    ? ", bfloat16 or bool"
             : use == Use::kCache ? ", bfloat16, int8 or float8_e4m3fn"
                                  : " or bfloat16",
             ", not ", DTypeText(tensor.dtype));
}

// Extents of a tensor, whatever its layout.
struct Extents {
  int64_t batch, sequence, head, size;
};

AttentionTensor ReadTensor(const DLTensor& tensor, std::string_view name, int64_t layout, Use use, Extents& extents) {
  if (tensor.ndim != 4) FailKernel(name, " has 4 axes, not ", ShapeText(tensor));
  const int64_t* shape = tensor.shape;
  const AttentionElement element = ElementOf(tensor, name, use);
  const void* data = Data<const std::byte>(tensor);
  switch (static_cast<AttentionLayout>(layout)) {
    case AttentionLayout::kSequenceFirst:
      extents = {shape[0], shape[1], shape[2], shape[3]};
      return {data, element, shape[1] * shape[2] * shape[3], shape[2] * shape[3], shape[3], 1};
    case AttentionLayout::kHeadFirst:
      extents = {shape[0], shape[2], shape[1], shape[3]};
      return {data, element, shape[1] * shape[2] * shape[3], shape[3], shape[2] * shape[3], 1};
    case AttentionLayout::kTransposed:
      if (name != "K") break;
      extents = {shape[0], shape[3], shape[1], shape[2]};
      return {data, element, shape[1] * shape[2] * shape[3], 1, shape[2] * shape[3], shape[3]};
    case AttentionLayout::kBatchSecond:
      extents = {shape[1], shape[0], shape[2], shape[3]};
      return {data, element, shape[2] * shape[3], shape[1] * shape[2] * shape[3], shape[3], 1};
  }
  FailKernel(name, " has no layout ", layout);
}

class Reader {
 public:
  explicit Reader(CudaContext& context) : context_(context) {}

  AttentionProblem Read() {
    ReadTensors();
    ReadMask();
    problem_.slopes = ReadHeads(kSlopes, "slopes");
    problem_.sinks = ReadHeads(kSinks, "sinks");
    ReadSinkQueries();
    ReadScales();
    const auto ints = context_.ints();
    problem_.left = Bound(ints[4], "left");
    problem_.right = Bound(ints[5], "right");
    problem_.at_end = ints[6] != 0;
    if (ints[7] < 0) FailKernel("sink_keys is ", ints[7], "; it can be 0 or more");
    problem_.sink_keys = std::min(ints[7], problem_.keys);
    ReadSequences();
    problem_.scale = static_cast<float>(context_.floats()[0]);
    problem_.softcap = static_cast<float>(context_.floats()[1]);
    if (!std::isfinite(problem_.scale) || !(problem_.softcap >= 0) || std::isinf(problem_.softcap))
      FailKernel("attention with scale ", problem_.scale, " and softcap ", problem_.softcap, " is not defined");
    return problem_;
  }

 private:
  void ReadTensors() {
    const auto ints = context_.ints();
    const DLTensor* tensors[] = {&context_.Input(kQ), &context_.Input(kK), &context_.Input(kV), &context_.Output(0)};
    Extents q{}, k{}, v{}, o{};
    problem_.q = ReadTensor(*tensors[0], "Q", ints[0], Use::kQuery, q);
    problem_.k = ReadTensor(*tensors[1], "K", ints[1], Use::kCache, k);
    problem_.v = ReadTensor(*tensors[2], "V", ints[2], Use::kCache, v);
    problem_.o = ReadTensor(*tensors[3], "O", ints[3], Use::kQuery, o);
    const DLTensor* pages = context_.OptionalInput(kPages);
    const bool groups = k.head == 0 ? q.head == 0 : q.head % k.head == 0;
    if ((pages == nullptr && k.batch != q.batch) || v.batch != k.batch || o.batch != q.batch ||
        v.sequence != k.sequence || o.sequence != q.sequence || v.head != k.head || o.head != q.head ||
        k.size != q.size || o.size != v.size || !groups || problem_.q.element != problem_.o.element ||
        problem_.k.element != problem_.v.element)
      FailKernel("attention of Q ", TypeText(*tensors[0]), ", K ", TypeText(*tensors[1]), ", V ", TypeText(*tensors[2]),
                 " to O ", TypeText(*tensors[3]), " with layouts ", ints[0], ", ", ints[1], ", ", ints[2], ", ",
                 ints[3], " does not fit together");
    if (q.size > kMostAttentionSize || v.size > kMostAttentionSize)
      FailKernel("attention takes heads of at most ", kMostAttentionSize, " elements, not ", std::max(q.size, v.size));
    problem_.batches = q.batch;
    problem_.queries = q.sequence;
    problem_.keys = k.sequence;
    problem_.kv_heads = k.head;
    problem_.group = k.head == 0 ? 0 : q.head / k.head;
    problem_.size = q.size;
    problem_.value_size = v.size;
    pools_ = k.batch;
    slots_ = k.sequence;
    if (pages != nullptr) {
      if (!Is(*pages, kDLInt, 32) || pages->ndim != 2 || pages->shape[0] != problem_.batches)
        FailKernel("pages are int32 [", problem_.batches, ", most pages of a batch], not ", TypeText(*pages));
      problem_.pages = Data<const int32_t>(*pages);
      problem_.page_row = pages->shape[1];
      problem_.page_size = slots_;
      problem_.pool_pages = pools_;
      problem_.keys = pools_ == 0 ? 0 : problem_.page_row * slots_;
    }
    if (std::max(problem_.keys, problem_.queries) > kMostKeys)
      FailKernel("attention takes at most ", kMostKeys, " keys and queries, not ",
                 std::max(problem_.keys, problem_.queries));
  }

  void ReadMask() {
    const DLTensor* mask = context_.OptionalInput(kMask);
    if (mask == nullptr) return;
    const int64_t extents[] = {problem_.batches, problem_.kv_heads * problem_.group, problem_.queries, problem_.keys};
    int64_t strides[4] = {};
    bool fits = mask->ndim <= 4;
    int64_t stride = 1;
    for (int32_t i = 1; fits && i <= mask->ndim; ++i) {
      const int64_t extent = mask->shape[mask->ndim - i];
      fits = extent == 1 || extent == extents[4 - i];
      strides[4 - i] = extent == 1 ? 0 : stride;
      stride *= extent;
    }
    if (!fits)
      FailKernel("a mask of shape ", ShapeText(*mask), " cannot be broadcast to ",
                 ShapeText(std::span<const int64_t>(extents)));
    const AttentionElement element = ElementOf(*mask, "a mask", Use::kMask);
    problem_.mask = {Data<const std::byte>(*mask), element, strides[0], strides[1], strides[2], strides[3]};
  }

  // A number for each head of queries, or nullptr.
  const float* ReadHeads(Input input, std::string_view name) const {
    const DLTensor* given = context_.OptionalInput(input);
    if (given == nullptr) return nullptr;
    const int64_t heads = problem_.kv_heads * problem_.group;
    if (!IsFloat(*given) || !HasShape(*given, {heads}))
      FailKernel(name, " are float32 [", heads, "], not ", TypeText(*given));
    return Data<const float>(*given);
  }

  void ReadSinkQueries() {
    const DLTensor* given = context_.OptionalInput(kSinkQ);
    if (given == nullptr) return;
    const DLTensor& q = context_.Input(kQ);
    if (!Is(*given, static_cast<DLDataTypeCode>(q.dtype.code), q.dtype.bits) ||
        !std::ranges::equal(ShapeOf(*given), ShapeOf(q)))
      FailKernel("sink queries are ", TypeText(q), " like Q, not ", TypeText(*given));
    problem_.sink_q = Data<const std::byte>(*given);
  }

  void ReadScales() {
    problem_.k_scales = ReadScalesOf(kKeyScales, "K");
    problem_.v_scales = ReadScalesOf(kValueScales, "V");
    if ((problem_.k_scales == nullptr) != (problem_.v_scales == nullptr))
      FailKernel("K and V have scales both or neither");
    problem_.scales_batch = slots_ * problem_.kv_heads;
    problem_.scales_sequence = problem_.kv_heads;
    problem_.scales_head = 1;
  }

  const float* ReadScalesOf(Input input, std::string_view name) const {
    const DLTensor* given = context_.OptionalInput(input);
    const AttentionElement element = problem_.k.element;
    if (given == nullptr && element == AttentionElement::kInt8) FailKernel(name, " of int8 needs scales");
    if (given == nullptr) return nullptr;
    if (element != AttentionElement::kInt8 && element != AttentionElement::kFp8)
      FailKernel(name, " has scales, which go with int8 and float8_e4m3fn alone");
    if (!IsFloat(*given) || !HasShape(*given, {pools_, slots_, problem_.kv_heads}))
      FailKernel("scales of ", name, " are float32 [", pools_, ", ", slots_, ", ", problem_.kv_heads, "], not ",
                 TypeText(*given));
    return Data<const float>(*given);
  }

  void ReadSequences() {
    const DLTensor* lengths = context_.OptionalInput(kLengths);
    const DLTensor* ring = context_.OptionalInput(kRing);
    if (lengths != nullptr) {
      if (!IsInteger(*lengths) || !HasShape(*lengths, {problem_.batches}))
        FailKernel("lengths are int64 or int32 [", problem_.batches, "], not ", TypeText(*lengths));
      problem_.lengths = Data<const std::byte>(*lengths);
      problem_.long_lengths = lengths->dtype.bits == 64;
    }
    if (ring != nullptr) {
      if (!IsInteger(*ring) || !HasShape(*ring, {problem_.batches, 2}))
        FailKernel("a ring is int64 or int32 [", problem_.batches, ", 2], not ", TypeText(*ring));
      if (problem_.pages != nullptr) FailKernel("keys are in pages or in a ring, not in both");
      problem_.ring = Data<const std::byte>(*ring);
      problem_.long_ring = ring->dtype.bits == 64;
    }
  }

  static int64_t Bound(int64_t bound, std::string_view name) {
    if (bound < -1) FailKernel(name, " is ", bound, "; it can be -1 or more");
    return bound == -1 ? kUnbounded : std::min(bound, kUnbounded);
  }

  CudaContext& context_;
  AttentionProblem problem_{};
  int64_t pools_ = 0, slots_ = 0;  // the first two extents of K and V
};

}  // namespace

AttentionProblem ReadAttention(CudaContext& context) { return Reader(context).Read(); }

}  // namespace ingot::cuda
