#include "cpu/attention/operands.h"

#include <algorithm>
#include <cmath>

#include "cpu/attention/attention.h"

namespace ingot::attention {
namespace {

static_assert(kMostSize == kMostAttentionSize);

constexpr int64_t kNoBound = int64_t{1} << 60;

// The places of inputs (attention.h).
enum Input : size_t { kQ, kK, kV, kMask, kLengths, kSlopes, kSinks, kKeyScales, kValueScales, kPages, kRing, kSinkQ };

std::string TypeText(const DLTensor& tensor) { return Text(DTypeText(tensor.dtype), " ", ShapeText(tensor)); }

bool IsFloat(const DLTensor& tensor) { return tensor.dtype.code == kDLFloat && tensor.dtype.bits == 32; }

bool HasShape(const DLTensor& tensor, std::initializer_list<int64_t> shape) {
  return std::ranges::equal(ShapeOf(tensor), shape);
}

Element ElementOf(const DLTensor& tensor, std::string_view name, Element more) {
  if (IsFloat(tensor)) return Element::kFloat;
  if (tensor.dtype.code == kDLFloat && tensor.dtype.bits == 16) return Element::kHalf;
  if (tensor.dtype.code == kDLBfloat && tensor.dtype.bits == 16) return Element::kBfloat;
  if (more == Element::kBool && tensor.dtype.code == kDLBool && tensor.dtype.bits == 8) return Element::kBool;
  if (more == Element::kInt8 && tensor.dtype.code == kDLInt && tensor.dtype.bits == 8) return Element::kInt8;
  FailKernel("attention takes ", name, " of float32, float16",
             more == Element::kBool   ? ", bfloat16 or bool"
             : more == Element::kInt8 ? ", bfloat16 or int8"
                                      : " or bfloat16",
             ", not ", DTypeText(tensor.dtype));
}

// An element of a tensor of int64 or int32.
int64_t IntegerAt(const DLTensor& tensor, size_t i) {
  return tensor.dtype.bits == 64 ? Data<const int64_t>(tensor)[i] : Data<const int32_t>(tensor)[i];
}

bool IsInteger(const DLTensor& tensor) {
  return tensor.dtype.code == kDLInt && (tensor.dtype.bits == 64 || tensor.dtype.bits == 32);
}

// Extents of a tensor, whatever its layout.
struct Extents {
  int64_t batch, sequence, head, size;
};

class Reader {
 public:
  explicit Reader(KernelContext& context) : context_(context) {}

  Problem Read() {
    ReadTensors();
    ReadSinkQueries();
    ReadMask();
    problem_.slopes = ReadHeads(kSlopes, "slopes");
    problem_.sinks = ReadHeads(kSinks, "sinks");
    problem_.k_scales = ReadScales(kKeyScales, "K", problem_.k);
    problem_.v_scales = ReadScales(kValueScales, "V", problem_.v);
    const auto ints = context_.ints();
    problem_.left = Bound(ints[4], "left");
    problem_.right = Bound(ints[5], "right");
    problem_.sink_keys = ints[7];
    if (ints[7] < 0) FailKernel("sink_keys is ", ints[7], "; it can be 0 or more");
    problem_.sink_keys = std::min(ints[7], problem_.keys);
    ReadSequences(ints[6] != 0);
    CheckPages();
    problem_.scale = static_cast<float>(context_.floats()[0]);
    problem_.softcap = static_cast<float>(context_.floats()[1]);
    if (!std::isfinite(problem_.scale) || !(problem_.softcap >= 0) || std::isinf(problem_.softcap))
      FailKernel("attention with scale ", problem_.scale, " and softcap ", problem_.softcap, " is not defined");
    return problem_;
  }

 private:
  static Tensor ReadTensor(const DLTensor& tensor, std::string_view name, int64_t layout, bool is_key, Element more,
                           Extents& extents) {
    if (tensor.ndim != 4) FailKernel(name, " has 4 axes, not ", ShapeText(tensor));
    const auto shape = ShapeOf(tensor);
    const Element element = ElementOf(tensor, name, more);
    std::byte* data = Data<std::byte>(tensor);
    switch (static_cast<AttentionLayout>(layout)) {
      case AttentionLayout::kSequenceFirst:
        extents = {shape[0], shape[1], shape[2], shape[3]};
        return {data, element, shape[1] * shape[2] * shape[3], shape[2] * shape[3], shape[3], 1};
      case AttentionLayout::kHeadFirst:
        extents = {shape[0], shape[2], shape[1], shape[3]};
        return {data, element, shape[1] * shape[2] * shape[3], shape[3], shape[2] * shape[3], 1};
      case AttentionLayout::kTransposed:
        if (!is_key) break;
        extents = {shape[0], shape[3], shape[1], shape[2]};
        return {data, element, shape[1] * shape[2] * shape[3], 1, shape[2] * shape[3], shape[3]};
      case AttentionLayout::kBatchSecond:
        extents = {shape[1], shape[0], shape[2], shape[3]};
        return {data, element, shape[2] * shape[3], shape[1] * shape[2] * shape[3], shape[3], 1};
    }
    FailKernel(name, " has no layout ", layout);
  }

  void ReadTensors() {
    const auto ints = context_.ints();
    const DLTensor* tensors[] = {&context_.Input(kQ), &context_.Input(kK), &context_.Input(kV), &context_.Output(0)};
    Extents q, k, v, o;
    problem_.q = ReadTensor(*tensors[0], "Q", ints[0], false, Element::kFloat, q);
    problem_.k = ReadTensor(*tensors[1], "K", ints[1], true, Element::kInt8, k);
    problem_.v = ReadTensor(*tensors[2], "V", ints[2], false, Element::kInt8, v);
    problem_.o = ReadTensor(*tensors[3], "O", ints[3], false, Element::kFloat, o);
    pages_ = context_.OptionalInput(kPages);
    const bool groups = k.head == 0 ? q.head == 0 : q.head % k.head == 0;
    if ((pages_ == nullptr && k.batch != q.batch) || v.batch != k.batch || o.batch != q.batch ||
        v.sequence != k.sequence || o.sequence != q.sequence || v.head != k.head || o.head != q.head ||
        k.size != q.size || o.size != v.size || !groups || problem_.q.element != problem_.o.element ||
        problem_.k.element != problem_.v.element)
      FailKernel("attention of Q ", TypeText(*tensors[0]), ", K ", TypeText(*tensors[1]), ", V ", TypeText(*tensors[2]),
                 " to O ", TypeText(*tensors[3]), " with layouts ", ints[0], ", ", ints[1], ", ", ints[2], ", ",
                 ints[3], " does not fit together");
    if (q.size > kMostSize || v.size > kMostSize)
      FailKernel("attention takes heads of at most ", kMostSize, " elements, not ", std::max(q.size, v.size));
    problem_.batches = q.batch;
    problem_.queries = q.sequence;
    problem_.keys = k.sequence;
    problem_.kv_heads = k.head;
    problem_.group = k.head == 0 ? 0 : q.head / k.head;
    problem_.size = q.size;
    problem_.value_size = v.size;
    pools_ = k.batch;
    slots_ = k.sequence;
    if (pages_ == nullptr) return;
    if (pages_->dtype.code != kDLInt || pages_->dtype.bits != 32 || pages_->ndim != 2 ||
        pages_->shape[0] != problem_.batches)
      FailKernel("pages are int32 [", problem_.batches, ", most pages of a batch], not ", TypeText(*pages_));
    problem_.table = Data<const int32_t>(*pages_);
    problem_.table_row = pages_->shape[1];
    problem_.page_size = slots_;
    problem_.keys = problem_.table_row * slots_;
  }

  void ReadSinkQueries() {
    const DLTensor* given = context_.OptionalInput(kSinkQ);
    if (given == nullptr) return;
    const DLTensor& q = context_.Input(kQ);
    if (given->dtype != q.dtype || !std::ranges::equal(ShapeOf(*given), ShapeOf(q)))
      FailKernel("sink queries are ", TypeText(q), " like Q, not ", TypeText(*given));
    problem_.sink_q = problem_.q;
    problem_.sink_q.data = Data<std::byte>(*given);
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
    const Element element = ElementOf(*mask, "a mask", Element::kBool);
    problem_.mask = {Data<std::byte>(*mask), element, strides[0], strides[1], strides[2], strides[3]};
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

  Tensor ReadScales(Input input, std::string_view name, const Tensor& tensor) const {
    const DLTensor* given = context_.OptionalInput(input);
    if ((given != nullptr) != (tensor.element == Element::kInt8))
      FailKernel(name, given == nullptr ? " of int8 needs scales" : " has scales, which go with int8 alone");
    if (given == nullptr) return {};
    if (!IsFloat(*given) || !HasShape(*given, {pools_, slots_, problem_.kv_heads}))
      FailKernel("scales of ", name, " are float32 [", pools_, ", ", slots_, ", ", problem_.kv_heads, "], not ",
                 TypeText(*given));
    return {Data<std::byte>(*given), Element::kFloat, slots_ * problem_.kv_heads, problem_.kv_heads, 1, 0};
  }

  void ReadSequences(bool at_end) {
    const DLTensor* lengths = context_.OptionalInput(kLengths);
    const DLTensor* ring = context_.OptionalInput(kRing);
    if (lengths != nullptr && (!IsInteger(*lengths) || !HasShape(*lengths, {problem_.batches})))
      FailKernel("lengths are int64 or int32 [", problem_.batches, "], not ", TypeText(*lengths));
    if (ring != nullptr && (!IsInteger(*ring) || !HasShape(*ring, {problem_.batches, 2})))
      FailKernel("a ring is int64 or int32 [", problem_.batches, ", 2], not ", TypeText(*ring));
    if (ring != nullptr && pages_ != nullptr) FailKernel("keys are in pages or in a ring, not in both");
    const auto sequences = context_.Scratch<Sequence>(static_cast<size_t>(problem_.batches));
    problem_.sequences = sequences.data();
    const int64_t pinned = problem_.sink_keys;
    for (size_t i = 0; i < sequences.size(); ++i) {
      const int64_t length = lengths == nullptr ? problem_.keys : IntegerAt(*lengths, i);
      if (length < 0 || length > problem_.keys)
        FailKernel("a key length of ", length, " is not of 0 to ", problem_.keys);
      Sequence& sequence = sequences[i] = {length, 0, 0, 0};
      if (ring != nullptr && length > pinned) ReadRing(IntegerAt(*ring, 2 * i), IntegerAt(*ring, 2 * i + 1), sequence);
      if (at_end) sequence.query = length + sequence.shift - problem_.queries;
      problem_.most_keys = std::max(problem_.most_keys, length);
    }
  }

  void ReadRing(int64_t position, int64_t slot, Sequence& sequence) const {
    const int64_t pinned = problem_.sink_keys;
    if (position < pinned || position > kNoBound)
      FailKernel("the oldest key of a ring stands at ", position, ", which is not of ", pinned, " to 2^60");
    if (slot < pinned || slot >= problem_.keys)
      FailKernel("the oldest key of a ring lies in slot ", slot, ", which is not of ", pinned, " to ",
                 problem_.keys - 1);
    sequence.shift = position - pinned;
    sequence.turn = slot - pinned;
  }

  void CheckPages() const {
    for (int64_t b = 0; pages_ != nullptr && b < problem_.batches; ++b) {
      const int64_t length = problem_.sequences[b].length;
      for (int64_t i = 0; i * problem_.page_size < length; ++i) {
        const int32_t page = problem_.table[b * problem_.table_row + i];
        if (page < 0 || page >= pools_)
          FailKernel("page ", i, " of batch ", b, " is ", page, ", which is not of 0 to ", pools_ - 1);
      }
    }
  }

  static int64_t Bound(int64_t bound, std::string_view name) {
    if (bound < -1) FailKernel(name, " is ", bound, "; it can be -1 or more");
    return bound == -1 ? kNoBound : std::min(bound, kNoBound);
  }

  KernelContext& context_;
  Problem problem_{};
  const DLTensor* pages_ = nullptr;
  int64_t pools_ = 0, slots_ = 0;  // the first two extents of K and V
};

}  // namespace

Problem ReadProblem(KernelContext& context) { return Reader(context).Read(); }

}  // namespace ingot::attention
