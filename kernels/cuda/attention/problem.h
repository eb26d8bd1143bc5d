// A call of `attention` (cpu/attention/attention.h has its contract) as its kernels take it: plain numbers and
// addresses on the device. The row `attention` fills it and hands it to the first of its kernels that takes it.
#pragma once

#include <cstdint>

namespace ingot::cuda {

enum class AttentionElement : int32_t { kFloat, kHalf, kBfloat, kInt8, kFp8, kBool };  // kFp8: e4m3

// A tensor of [batch, sequence, head, size], by its strides in elements. The size's stride is 1, but for K's in
// AttentionLayout::kTransposed.
struct AttentionTensor {
  const void* data;
  AttentionElement element;
  int64_t batch, sequence, head, size;
};

// A mask, broadcast: a stride of 0 where its extent is 1.
struct AttentionMask {
  const void* data;  // nullptr: none
  AttentionElement element;
  int64_t batch, head, query, key;
};

constexpr int64_t kUnbounded = int64_t{1} << 60;

struct AttentionProblem {
  AttentionTensor q, k, v;  // with pages, the batches of K and V are pages
  AttentionTensor o;        // written to
  int64_t batches, queries, keys;
  int64_t kv_heads, group;   // group: how many heads of queries read one head of keys
  int64_t size, value_size;  // of a head of Q and K; of V and O

  float scale;
  float softcap;        // 0: none
  int64_t left, right;  // kUnbounded: no bound
  bool at_end;          // the last query stands at the last key; otherwise the first at 0
  int64_t sink_keys;    // 0 to keys; seen however far behind

  const void* lengths;  // [batches], nullptr: all have `keys`. What is below 0 or beyond `keys` counts as the nearest
  bool long_lengths;    // int64 rather than int32

  AttentionMask mask;
  const float* slopes;  // [heads of queries], or nullptr
  const float* sinks;   // [heads of queries], or nullptr
  const void* sink_q;   // like q, in its place for the first sink_keys keys, or nullptr

  const float* k_scales;  // of 8-bit caches, or nullptr
  const float* v_scales;
  int64_t scales_batch, scales_sequence, scales_head;  // their strides

  const int32_t* pages;  // [batches, page_row], or nullptr
  int64_t page_row, page_size;
  int64_t pool_pages;  // how many K and V have

  const void* ring;  // [batches, 2] position and slot of the oldest key, or nullptr
  bool long_ring;    // int64 rather than int32
};

}  // namespace ingot::cuda
