// What attention asks of its tensors and attributes on every device: a call, read as far as that goes without the
// tensors' data.
#pragma once

#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <string>
#include <string_view>

#include "cpu/attention/attention.h"
#include "kernel.h"

namespace ingot::attention {

constexpr int64_t kNoBound = int64_t{1} << 60;  // of `left` and `right`

// A tensor of [batch, sequence, head, size], by its strides in elements. Element is a device's enumeration: kFloat,
// kHalf, kBfloat, kInt8, kBool, and kFp8 where caches may be of float8_e4m3fn.
template <typename Element>
struct Operand {
  std::byte* data;
  Element element;
  int64_t batch, sequence, head, size;
};

// A mask, broadcast: a stride of 0 where its extent is 1.
template <typename Element>
struct CallMask {
  std::byte* data;  // nullptr: none
  Element element;
  int64_t batch, head, query, key;
};

template <typename Element>
struct Call {
  Operand<Element> q, k, v, o;  // with pages, the batches of K and V are pages
  CallMask<Element> mask;
  int64_t batches, queries, keys;
  int64_t kv_heads, group;   // group: how many heads of queries read one head of keys
  int64_t size, value_size;  // of a head of Q and K; of V and O
  int64_t pools, slots;      // the first two extents of K and V
  const float *slopes, *sinks, *k_scales, *v_scales;
  std::byte* sink_q;
  const DLTensor *lengths, *pages, *ring;
  int64_t left, right;
  bool at_end, rounds;
  int64_t sink_keys;
  float scale, softcap;
};

template <typename Element>
class CallReader {
 public:
  explicit CallReader(KernelContext& context) : context_(context) {}

  Call<Element> Read() {
    ReadTensors();
    ReadSinkQueries();
    ReadMask();
    call_.slopes = ReadHeads(kSlopes, "slopes");
    call_.sinks = ReadHeads(kSinks, "sinks");
    call_.k_scales = ReadScales(kKeyScales, "K");
    call_.v_scales = ReadScales(kValueScales, "V");
    if ((call_.k_scales == nullptr) != (call_.v_scales == nullptr)) FailKernel("K and V have scales both or neither");
    const auto ints = context_.ints();
    call_.left = Bound(ints[4], "left");
    call_.right = Bound(ints[5], "right");
    if (ints[6] < 0 || ints[6] > (kAtEnd | kRoundsOperands)) FailKernel("attention has no flags ", ints[6]);
    call_.at_end = (ints[6] & kAtEnd) != 0;
    call_.rounds = (ints[6] & kRoundsOperands) != 0;
    if (ints[7] < 0) FailKernel("sink_keys is ", ints[7], "; it can be 0 or more");
    call_.sink_keys = std::min(ints[7], call_.keys);
    call_.lengths = ReadIntegers(kLengths, "lengths are", {call_.batches});
    call_.ring = ReadIntegers(kRing, "a ring is", {call_.batches, 2});
    if (call_.ring != nullptr && call_.pages != nullptr) FailKernel("keys are in pages or in a ring, not in both");
    call_.scale = static_cast<float>(context_.floats()[0]);
    call_.softcap = static_cast<float>(context_.floats()[1]);
    if (!std::isfinite(call_.scale) || !(call_.softcap >= 0) || std::isinf(call_.softcap))
      FailKernel("attention with scale ", call_.scale, " and softcap ", call_.softcap, " is not defined");
    return call_;
  }

 private:
  // The places of inputs (attention.h).
  enum Input : size_t { kQ, kK, kV, kMask, kLengths, kSlopes, kSinks, kKeyScales, kValueScales, kPages, kRing, kSinkQ };
  enum class Use : uint8_t { kQuery, kCache, kMask };
  static constexpr bool kTakesFp8 = requires { Element::kFp8; };

  // Extents of a tensor, whatever its layout.
  struct Extents {
    int64_t batch, sequence, head, size;
  };

  static std::string TypeText(const DLTensor& tensor) { return Text(DTypeText(tensor.dtype), " ", ShapeText(tensor)); }

  static bool Is(const DLTensor& tensor, uint8_t code, int bits) {
    return tensor.dtype.code == code && tensor.dtype.bits == bits && tensor.dtype.lanes == 1;
  }

  static bool HasShape(const DLTensor& tensor, std::initializer_list<int64_t> shape) {
    return std::ranges::equal(ShapeOf(tensor), shape);
  }

  static Element ElementOf(const DLTensor& tensor, std::string_view name, Use use) {
    if (Is(tensor, kDLFloat, 32)) return Element::kFloat;
    if (Is(tensor, kDLFloat, 16)) return Element::kHalf;
    if (Is(tensor, kDLBfloat, 16)) return Element::kBfloat;
    if (use == Use::kMask && Is(tensor, kDLBool, 8)) return Element::kBool;
    if (use == Use::kCache && Is(tensor, kDLInt, 8)) return Element::kInt8;
    if constexpr (kTakesFp8) {
      if (use == Use::kCache && Is(tensor, kDLFloat8_e4m3fn, 8)) return Element::kFp8;
    }
    FailKernel("attention takes ", name, " of float32, float16",
               use == Use::kMask    ? ", bfloat16 or bool"
               : use == Use::kQuery ? " or bfloat16"
               : kTakesFp8          ? ", bfloat16, int8 or float8_e4m3fn"
                                    : ", bfloat16 or int8",
               ", not ", DTypeText(tensor.dtype));
  }

  static Operand<Element> ReadTensor(const DLTensor& tensor, std::string_view name, int64_t layout, Use use,
                                     Extents& extents) {
    if (tensor.ndim != 4) FailKernel(name, " has 4 axes, not ", ShapeText(tensor));
    const int64_t* shape = tensor.shape;
    const Element element = ElementOf(tensor, name, use);
    std::byte* data = Data<std::byte>(tensor);
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

  void ReadTensors() {
    const auto ints = context_.ints();
    const DLTensor* tensors[] = {&context_.Input(kQ), &context_.Input(kK), &context_.Input(kV), &context_.Output(0)};
    Extents q{}, k{}, v{}, o{};
    call_.q = ReadTensor(*tensors[0], "Q", ints[0], Use::kQuery, q);
    call_.k = ReadTensor(*tensors[1], "K", ints[1], Use::kCache, k);
    call_.v = ReadTensor(*tensors[2], "V", ints[2], Use::kCache, v);
    call_.o = ReadTensor(*tensors[3], "O", ints[3], Use::kQuery, o);
    call_.pages = context_.OptionalInput(kPages);
    const bool groups = k.head == 0 ? q.head == 0 : q.head % k.head == 0;
    if ((call_.pages == nullptr && k.batch != q.batch) || v.batch != k.batch || o.batch != q.batch ||
        v.sequence != k.sequence || o.sequence != q.sequence || v.head != k.head || o.head != q.head ||
        k.size != q.size || o.size != v.size || !groups || call_.q.element != call_.o.element ||
        call_.k.element != call_.v.element)
      FailKernel("attention of Q ", TypeText(*tensors[0]), ", K ", TypeText(*tensors[1]), ", V ", TypeText(*tensors[2]),
                 " to O ", TypeText(*tensors[3]), " with layouts ", ints[0], ", ", ints[1], ", ", ints[2], ", ",
                 ints[3], " does not fit together");
    if (q.size > kMostAttentionSize || v.size > kMostAttentionSize)
      FailKernel("attention takes heads of at most ", kMostAttentionSize, " elements, not ", std::max(q.size, v.size));
    call_.batches = q.batch;
    call_.queries = q.sequence;
    call_.keys = k.sequence;
    call_.kv_heads = k.head;
    call_.group = k.head == 0 ? 0 : q.head / k.head;
    call_.size = q.size;
    call_.value_size = v.size;
    call_.pools = k.batch;
    call_.slots = k.sequence;
    if (call_.pages == nullptr) return;
    if (!Is(*call_.pages, kDLInt, 32) || call_.pages->ndim != 2 || call_.pages->shape[0] != call_.batches)
      FailKernel("pages are int32 [", call_.batches, ", most pages of a batch], not ", TypeText(*call_.pages));
    call_.keys = call_.pages->shape[1] * call_.slots;
  }

  void ReadSinkQueries() {
    const DLTensor* given = context_.OptionalInput(kSinkQ);
    if (given == nullptr) return;
    const DLTensor& q = context_.Input(kQ);
    if (given->dtype != q.dtype || !std::ranges::equal(ShapeOf(*given), ShapeOf(q)))
      FailKernel("sink queries are ", TypeText(q), " like Q, not ", TypeText(*given));
    call_.sink_q = Data<std::byte>(*given);
  }

  void ReadMask() {
    const DLTensor* mask = context_.OptionalInput(kMask);
    if (mask == nullptr) return;
    const int64_t extents[] = {call_.batches, call_.kv_heads * call_.group, call_.queries, call_.keys};
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
    const Element element = ElementOf(*mask, "a mask", Use::kMask);
    call_.mask = {Data<std::byte>(*mask), element, strides[0], strides[1], strides[2], strides[3]};
  }

  // A number for each head of queries, or nullptr.
  const float* ReadHeads(Input input, std::string_view name) const {
    const DLTensor* given = context_.OptionalInput(input);
    if (given == nullptr) return nullptr;
    const int64_t heads = call_.kv_heads * call_.group;
    if (!Is(*given, kDLFloat, 32) || !HasShape(*given, {heads}))
      FailKernel(name, " are float32 [", heads, "], not ", TypeText(*given));
    return Data<const float>(*given);
  }

  // The scales of a cache, a number for each head of each slot, or nullptr.
  const float* ReadScales(Input input, std::string_view name) const {
    const DLTensor* given = context_.OptionalInput(input);
    const bool is_int8 = call_.k.element == Element::kInt8;
    if (given == nullptr && is_int8) FailKernel(name, " of int8 needs scales");
    if (given == nullptr) return nullptr;
    bool takes = is_int8;
    if constexpr (kTakesFp8) takes |= call_.k.element == Element::kFp8;
    if (!takes) FailKernel(name, " has scales, which go with int8", kTakesFp8 ? " and float8_e4m3fn alone" : " alone");
    const std::initializer_list<int64_t> shape{call_.pools, call_.slots,
                                               call_.kv_heads};  // nvcc loses these braces within a call
    if (!Is(*given, kDLFloat, 32) || !HasShape(*given, shape))
      FailKernel("scales of ", name, " are float32 [", call_.pools, ", ", call_.slots, ", ", call_.kv_heads, "], not ",
                 TypeText(*given));
    return Data<const float>(*given);
  }

  const DLTensor* ReadIntegers(Input input, std::string_view what, std::initializer_list<int64_t> shape) const {
    const DLTensor* given = context_.OptionalInput(input);
    const bool fits =
        given == nullptr || ((Is(*given, kDLInt, 64) || Is(*given, kDLInt, 32)) && HasShape(*given, shape));
    if (!fits)
      FailKernel(what, " int64 or int32 ", ShapeText(std::span(shape.begin(), shape.size())), ", not ",
                 TypeText(*given));
    return given;
  }

  static int64_t Bound(int64_t bound, std::string_view name) {
    if (bound < -1) FailKernel(name, " is ", bound, "; it can be -1 or more");
    return bound == -1 ? kNoBound : std::min(bound, kNoBound);
  }

  KernelContext& context_;
  Call<Element> call_{};
};

}  // namespace ingot::attention
