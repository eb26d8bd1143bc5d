// Rows of scores in the registers of a warp's threads, in the layout of mma and wgmma: of 16 rows, lane l has rows l /
// 4 (`0`) and l / 4 + 8 (`1`); element e of its array is of row (e / 2) % 2, column 8 (e / 4) + 2 (l % 4) + e % 2.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <type_traits>

#include "cuda/attention_prefill/bounds.h"
#include "cuda/ptx.h"

namespace ingot::cuda::prefill {

constexpr float kInfinity = __builtin_huge_valf();
constexpr float kMostFloat = 3.4028234664e38f;
constexpr float kLog2E = 1.4426950408889634f;
constexpr uint32_t kAllLanes = 0xFFFFFFFFu;

__device__ inline float QuadMax(float x) {
  x = fmaxf(x, __shfl_xor_sync(kAllLanes, x, 1));
  return fmaxf(x, __shfl_xor_sync(kAllLanes, x, 2));
}
__device__ inline float QuadSum(float x) {
  x += __shfl_xor_sync(kAllLanes, x, 1);
  return x + __shfl_xor_sync(kAllLanes, x, 2);
}

template <typename Element>
__device__ inline uint32_t PackPair(float low, float high) {
  if constexpr (std::is_same_v<Element, __half>) {
    return ptx::PackHalf(low, high);
  } else {
    return ptx::PackBFloat16(low, high);
  }
}

// Scores as the first operand of the next product.
template <typename Element, int kCount>
__device__ inline void Pack(const float (&s)[kCount], uint32_t (&weights)[kCount / 2]) {
#pragma unroll
  for (int i = 0; i < kCount / 2; ++i) weights[i] = PackPair<Element>(s[2 * i], s[2 * i + 1]);
}

// Which columns of a thread's two rows count.
class RowMask {
 public:
  // The position of the warpgroup's (or warps') first query, and the thread's number in it: every warp has 16 rows.
  __device__ RowMask(const Bounds& bounds, int32_t position, int32_t length, int thread, int rows = 64) {
    const int32_t own = position + thread / 32 * 16 + thread % 32 / 4;
    const int32_t column = 2 * (thread % 4);
    for (int i = 0; i < 2; ++i) {
      first_[i] = bounds.First(own + 8 * i) - column;
      last_[i] = bounds.Last(own + 8 * i, length) - column;
    }
    pinned_ = bounds.pinned - column;
    all_last_ = bounds.Last(position, length);
    all_first_ = bounds.First(position + rows - 1);
    all_pinned_ = bounds.pinned;
  }

  // Whether any of the rows does not see all of keys [key, key + width).
  __device__ bool Cuts(int32_t key, int32_t width) const {
    return all_last_ < key + width - 1 || (all_first_ > key && all_pinned_ < key + width);
  }

  template <int kCount>
  __device__ void Apply(float (&s)[kCount], int32_t key) const {
    const int32_t first[2] = {first_[0] - key, first_[1] - key}, last[2] = {last_[0] - key, last_[1] - key};
    const int32_t pinned = pinned_ - key;
#pragma unroll
    for (int e = 0; e < kCount; ++e) {
      const int32_t column = e / 4 * 8 + e % 2;
      const int row = e / 2 % 2;
      if ((column < first[row] && column >= pinned) || column > last[row]) s[e] = -kInfinity;
    }
  }

 private:
  int32_t first_[2], last_[2], pinned_;
  int32_t all_first_, all_last_, all_pinned_;
};

// The running softmax of a thread's two rows. A score s counts 2^(scale s).
template <int kCount>
class RowSoftmax {
 public:
  __device__ void Begin(float scale, float cap_in, float cap_out) {
    scale_ = scale;
    cap_in_ = cap_in;
    cap_out_ = cap_out;
    most_[0] = most_[1] = -kInfinity;
    sum_[0] = sum_[1] = 0;
  }

  __device__ void Cap(float (&s)[kCount]) const {
    if (cap_out_ == 0) return;
#pragma unroll
    for (int e = 0; e < kCount; ++e) s[e] = cap_out_ - __fdividef(2 * cap_out_, 1 + ptx::Exp2(cap_in_ * s[e]));
  }

  // The first block: scores become weights.
  __device__ void Start(float (&s)[kCount]) {
    Greatest(s, most_);
    sum_[0] = sum_[1] = 0;
    Weights(s);
  }

  // Another block. Weights are relative to the greatest score so far, or to one that is at most 2^kSlack times smaller:
  // then what has been summed need not be scaled, and with many keys it rarely is.
  __device__ void Step(float (&s)[kCount]) {
    float most[2];
    Greatest(s, most);
    const float before[2] = {most_[0], most_[1]}, sum[2] = {sum_[0], sum_[1]};
    const bool grew = (most[0] - most_[0]) * scale_ > kSlack || (most[1] - most_[1]) * scale_ > kSlack;
    rescale_ = __any_sync(kAllLanes, grew);
    if (rescale_) {
      most_[0] = fmaxf(most_[0], most[0]);
      most_[1] = fmaxf(most_[1], most[1]);
    }
    sum_[0] = sum_[1] = 0;
    Weights(s);
    if (rescale_) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        factor_[i] = most_[i] == -kInfinity ? 1.0f : ptx::Exp2((before[i] - most_[i]) * scale_);
        sum_[i] = fmaf(sum[i], factor_[i], sum_[i]);
      }
    } else {
      sum_[0] += sum[0];
      sum_[1] += sum[1];
    }
  }

  // After Step: sums of values so far become relative to the same score.
  template <int kSums>
  __device__ void Rescale(float (&o)[kSums]) const {
    if (!rescale_) return;
#pragma unroll
    for (int e = 0; e < kSums; ++e) o[e] *= factor_[e / 2 % 2];
  }

  // One more score, `sink` as an exponent of 2, which belongs to no key. Before Finish.
  template <int kSums>
  __device__ void Sink(float sink, float (&o)[kSums]) {
    float factor[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const float most = fmaxf(most_[i] * scale_, sink);
      factor[i] = most_[i] == -kInfinity ? 0.0f : ptx::Exp2(most_[i] * scale_ - most);
      sum_[i] *= factor[i];
      if (threadIdx.x % 4 == 0 && sink != -kInfinity)
        sum_[i] += ptx::Exp2(sink - most);  // a row's sums are added over four lanes
    }
#pragma unroll
    for (int e = 0; e < kSums; ++e) o[e] *= factor[e / 2 % 2];
  }

  template <int kSums>
  __device__ void Finish(float (&o)[kSums]) {
    float inverse[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const float sum = QuadSum(sum_[i]);
      inverse[i] = sum == 0 ? 0.0f : ptx::Reciprocal(sum);
    }
#pragma unroll
    for (int e = 0; e < kSums; ++e) o[e] *= inverse[e / 2 % 2];
  }

 private:
  static constexpr float kSlack = 8;

  __device__ static void Greatest(const float (&s)[kCount], float (&most)[2]) {
    most[0] = s[0];
    most[1] = s[2];
#pragma unroll
    for (int e = 1; e < kCount; ++e) most[e / 2 % 2] = fmaxf(most[e / 2 % 2], s[e]);
    most[0] = QuadMax(most[0]);
    most[1] = QuadMax(most[1]);
  }

  __device__ void Weights(float (&s)[kCount]) {
    // A row that has seen no key has weights of 2^-inf.
    const float shift[2] = {most_[0] == -kInfinity ? 0.0f : most_[0] * scale_,
                            most_[1] == -kInfinity ? 0.0f : most_[1] * scale_};
#pragma unroll
    for (int e = 0; e < kCount; ++e) {
      s[e] = ptx::Exp2(fmaf(s[e], scale_, -shift[e / 2 % 2]));
      sum_[e / 2 % 2] += s[e];
    }
  }

  float scale_, cap_in_, cap_out_;
  float most_[2], sum_[2], factor_[2];
  bool rescale_ = false;
};

}  // namespace ingot::cuda::prefill
