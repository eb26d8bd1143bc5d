// Keys in parts: each part leaves a state and an unfinished output for every row, and a second kernel puts them
// together.
#pragma once

#include <algorithm>

#include "cuda/attention/keys.h"
#include "cuda/kernel.h"

namespace ingot::cuda {

struct Parts {
  int32_t count;
  State* states;   // [batches, kv_heads, count, rows], nullptr with one part, which writes O itself
  float* outputs;  // [batches, kv_heads, count, rows, value_size]: sums of 2^(score - max) V
};

__device__ inline int64_t PartRow(const AttentionProblem& problem, const Parts& parts, int64_t batch, int64_t kv_head,
                                  int64_t part, int64_t row) {
  return ((batch * problem.kv_heads + kv_head) * parts.count + part) * problem.queries * problem.group + row;
}

// The keys of a span in tiles of kKeys: pinned ones first.
template <int kKeys>
struct Tiles {
  Span span;
  int32_t pinned, count;  // tiles

  __device__ explicit Tiles(const Span& keys)
      : span(keys),
        pinned((keys.pinned + kKeys - 1) / kKeys),
        count(pinned + (keys.end - keys.begin + kKeys - 1) / kKeys) {}
  __device__ int32_t First(int32_t tile) const {
    return tile < pinned ? tile * kKeys : span.begin + (tile - pinned) * kKeys;
  }
  __device__ int32_t End(int32_t tile) const { return tile < pinned ? span.pinned : span.end; }
};

// The tiles of a part: a multiple of `step`, so that the warps of a block have as many each.
struct TileRange {
  int32_t begin, end;
};

__device__ inline TileRange RangeOf(int32_t tiles, int32_t part, int32_t parts, int32_t step) {
  const int32_t each = (tiles + parts * step - 1) / (parts * step) * step;
  const int64_t begin = int64_t{part} * each;
  return {static_cast<int32_t>(begin < tiles ? begin : tiles),
          static_cast<int32_t>(begin + each < tiles ? begin + each : tiles)};
}

// The most keys that a row sees, as far as can be known without the data.
inline int64_t MostVisibleKeys(const AttentionProblem& problem) {
  if (problem.left >= problem.keys) return problem.keys;
  return std::min(problem.keys, problem.left + problem.queries + problem.sink_keys);
}

// How many parts fill the GPU: `blocks` blocks for each part, `slots` of which run at a time. A part has a multiple of
// `step` keys, two steps at least.
int32_t PartsFor(int64_t blocks, int64_t slots, int64_t keys, int64_t step);

// Memory for the parts.
Parts AllocateParts(const AttentionProblem& problem, int32_t count, CudaContext& context);

// Writes O from the parts.
void CombineParts(const AttentionProblem& problem, const Parts& parts, CudaContext& context);

}  // namespace ingot::cuda
