// What Hopper's path is told, and the order of its tiles.
#pragma once

#include <cuda.h>

#include <cstdint>

#include "cuda/attention_prefill/bounds.h"

namespace ingot::cuda::prefill {

struct HopperCoordinates {
  int32_t batch, head, query;
};

struct HopperParameters {
  CUtensorMap q, k, v, o;  // [batch, head, sequence, column], the columns first
  Bounds bounds;
  int32_t heads, group;  // heads of queries; of how many the keys are one head's
  int32_t rows;          // queries of a tile
  int32_t row_blocks;    // tiles of a head
  int32_t all_heads;     // of all batches
  int32_t section;       // so many heads' keys and values stay in the second-level cache while their tiles are done
  int32_t tiles;
  const float* sinks;  // AttentionProblem's
  int32_t* counter;    // tiles that have been taken beyond each block's first; nullptr: blocks take turns

  float scale;  // of a score as an exponent of 2, once it has been capped
  float cap_in,
      cap_out;  // cap: s becomes cap_out - 2 cap_out / (1 + 2^(cap_in s)), which is a tanh; cap_out is 0 for none

  // Tiles of a section of heads come one after another, those with most keys (the last queries) first, and all heads in
  // turn.
  __device__ HopperCoordinates At(int32_t index) const {
    const int32_t full = section * row_blocks;
    const int32_t start = index / full * section;
    const int32_t heads_here = all_heads - start < section ? all_heads - start : section;
    const int32_t rest = index % full;
    const int32_t head = start + rest % heads_here;
    return {head / heads, head % heads, (row_blocks - 1 - rest / heads_here) * rows};
  }

  // The block's next tile after `index`, its tile number `round`. Without a counter, blocks go there and back, which
  // evens out that tiles shrink.
  __device__ int32_t Next(int32_t index, uint32_t round) const {
    const auto blocks = static_cast<int32_t>(gridDim.x);
    if (counter != nullptr) return blocks + atomicAdd(counter, 1);
    const auto block = static_cast<int32_t>(blockIdx.x);
    return index + 1 + 2 * ((round & 1) == 0 ? blocks - 1 - block : block);
  }
};

}  // namespace ingot::cuda::prefill
