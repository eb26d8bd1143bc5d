// Which keys a query sees, and a block of queries.
#pragma once

#include <cstdint>

#include "cuda/attention/keys.h"
#include "cuda/launch.h"

namespace ingot::cuda::prefill {

// Queries and keys are at most this many, a ring's shift is clipped to it, and bounds are clipped to kFarthest, so that
// positions and their sums are 32-bit numbers.
constexpr int64_t kMostPositions = int64_t{1} << 28;
constexpr int32_t kFarthest = int32_t{1} << 29;

struct Bounds {
  int32_t queries, keys;  // extents
  int32_t left, right;    // at most kFarthest, which is no bound
  int32_t pinned;         // so many of the first keys are seen however far behind
  int32_t at_end;
  int32_t long_lengths;
  const void* lengths;  // [batches], or nullptr

  __device__ int32_t Length(int32_t batch) const {
    if (lengths == nullptr) return keys;
    const int64_t length =
        long_lengths ? static_cast<const int64_t*>(lengths)[batch] : static_cast<const int32_t*>(lengths)[batch];
    return static_cast<int32_t>(length < 0 ? 0 : length > keys ? keys : length);
  }
  // Of query i: its position less i.
  __device__ int32_t Offset(int32_t length) const { return at_end ? length - queries : 0; }
  // The last and the first key that a query at a position sees. Without keys, last < first.
  __device__ int32_t Last(int32_t position, int32_t length) const {
    const int32_t last = position + right;
    return last < length - 1 ? last : length - 1;
  }
  // But for pinned keys.
  __device__ int32_t First(int32_t position) const { return position > left ? position - left : 0; }
};

// The blocks of keys that a tile of queries needs: those of pinned keys, then those from `begin` on.
struct KeyBlocks {
  int32_t pinned, begin, count;

  // The first key of a block of `width`.
  __device__ int32_t Key(int32_t block, int32_t width) const {
    return block < pinned ? block * width : begin + (block - pinned) * width;
  }
};

// Of queries [query, query + rows). `apart`: no block has pinned keys and others; the others' positions are less by
// `shift` than they say, those of queries included.
__device__ inline KeyBlocks BlocksOf(const Bounds& bounds, int32_t query, int32_t rows, int32_t length, int32_t offset,
                                     int32_t width, bool apart = false, int32_t shift = 0) {
  const int32_t bottom = (query + rows < bounds.queries ? query + rows : bounds.queries) - 1 + offset;
  const int32_t last = bounds.Last(bottom, length);
  const int32_t first = bounds.First(query + offset);
  const int32_t last_pinned = bounds.Last(bottom + shift, length < bounds.pinned ? length : bounds.pinned);
  const int32_t pinned = last_pinned < 0 ? 0 : last_pinned / width + 1;
  if (!apart && last >= 0 && first <= pinned * width) return {0, 0, last / width + 1};
  const int32_t begin = apart && first < bounds.pinned ? bounds.pinned : first;
  return {pinned, begin, pinned + (last < begin ? 0 : (last - begin) / width + 1)};
}

}  // namespace ingot::cuda::prefill
