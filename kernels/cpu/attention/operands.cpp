#include "cpu/attention/operands.h"

#include <algorithm>

#include "cpu/attention/checks.h"

namespace ingot::attention {
namespace {

static_assert(kMostSize == kMostAttentionSize);

// An element of a tensor of int64 or int32.
int64_t IntegerAt(const DLTensor& tensor, size_t i) {
  return tensor.dtype.bits == 64 ? Data<const int64_t>(tensor)[i] : Data<const int32_t>(tensor)[i];
}

Tensor TensorOf(const Operand<Element>& operand) {
  return {operand.data, operand.element, operand.batch, operand.sequence, operand.head, operand.size};
}

// What depends on data is read too: lengths, rings and pages.
class Reader {
 public:
  explicit Reader(KernelContext& context) : context_(context), call_(CallReader<Element>(context).Read()) {}

  Problem Read() {
    problem_.q = TensorOf(call_.q);
    problem_.k = TensorOf(call_.k);
    problem_.v = TensorOf(call_.v);
    problem_.o = TensorOf(call_.o);
    if (call_.sink_q != nullptr) {
      problem_.sink_q = problem_.q;
      problem_.sink_q.data = call_.sink_q;
    }
    problem_.k_scales = ScalesOf(call_.k_scales);
    problem_.v_scales = ScalesOf(call_.v_scales);
    const auto& mask = call_.mask;
    if (mask.data != nullptr) problem_.mask = {mask.data, mask.element, mask.batch, mask.head, mask.query, mask.key};
    problem_.slopes = call_.slopes;
    problem_.sinks = call_.sinks;
    problem_.batches = call_.batches;
    problem_.queries = call_.queries;
    problem_.keys = call_.keys;
    problem_.kv_heads = call_.kv_heads;
    problem_.group = call_.group;
    problem_.size = call_.size;
    problem_.value_size = call_.value_size;
    problem_.left = call_.left;
    problem_.right = call_.right;
    problem_.sink_keys = call_.sink_keys;
    problem_.scale = call_.scale;
    problem_.softcap = call_.softcap;
    problem_.rounds = call_.rounds;
    if (call_.pages != nullptr) {
      problem_.table = Data<const int32_t>(*call_.pages);
      problem_.table_row = call_.pages->shape[1];
      problem_.page_size = call_.slots;
    }
    ReadSequences();
    CheckPages();
    return problem_;
  }

 private:
  Tensor ScalesOf(const float* scales) const {
    if (scales == nullptr) return {};
    auto* data = reinterpret_cast<std::byte*>(const_cast<float*>(scales));
    return {data, Element::kFloat, call_.slots * call_.kv_heads, call_.kv_heads, 1, 0};
  }

  void ReadSequences() {
    const auto sequences = context_.Scratch<Sequence>(static_cast<size_t>(problem_.batches));
    problem_.sequences = sequences.data();
    const DLTensor* ring = call_.ring;
    for (size_t i = 0; i < sequences.size(); ++i) {
      const int64_t length = call_.lengths == nullptr ? problem_.keys : IntegerAt(*call_.lengths, i);
      if (length < 0 || length > problem_.keys)
        FailKernel("a key length of ", length, " is not of 0 to ", problem_.keys);
      Sequence& sequence = sequences[i] = {length, 0, 0, 0};
      if (ring != nullptr && length > problem_.sink_keys)
        ReadRing(IntegerAt(*ring, 2 * i), IntegerAt(*ring, 2 * i + 1), sequence);
      if (call_.at_end) sequence.query = length + sequence.shift - problem_.queries;
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
    for (int64_t b = 0; call_.pages != nullptr && b < problem_.batches; ++b) {
      const int64_t length = problem_.sequences[b].length;
      for (int64_t i = 0; i * problem_.page_size < length; ++i) {
        const int32_t page = problem_.table[b * problem_.table_row + i];
        if (page < 0 || page >= call_.pools)
          FailKernel("page ", i, " of batch ", b, " is ", page, ", which is not of 0 to ", call_.pools - 1);
      }
    }
  }

  KernelContext& context_;
  const Call<Element> call_;
  Problem problem_{};
};

}  // namespace

Problem ReadProblem(KernelContext& context) { return Reader(context).Read(); }

}  // namespace ingot::attention
