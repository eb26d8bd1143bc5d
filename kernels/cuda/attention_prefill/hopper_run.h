// The host's part of Hopper's path: tensor maps, tiles, the launch.
#pragma once

#include <algorithm>

#include "cuda/attention_prefill/hopper.h"
#include "cuda/attention_prefill/paths.h"
#include "cuda/attention_prefill/scores.h"
#include "cuda/tensor_map.h"

namespace ingot::cuda::prefill {

// What the keys and values may take of the second-level cache (50 MiB), so that tiles of the same heads find them
// there.
constexpr int64_t kCacheBytes = int64_t{32} << 20;

template <typename T>
CUtensorMap MapOf(const AttentionTensor& tensor, int64_t batches, int64_t heads, int64_t sequence, int64_t size,
                  uint32_t rows) {
  const auto bytes = [](int64_t stride) { return static_cast<uint64_t>(stride) * 2; };
  const uint64_t extents[] = {static_cast<uint64_t>(size), static_cast<uint64_t>(sequence),
                              static_cast<uint64_t>(heads), static_cast<uint64_t>(batches)};
  const uint64_t strides[] = {bytes(tensor.sequence), bytes(tensor.head), bytes(tensor.batch)};
  const uint32_t box[] = {T::kPanel, rows, 1, 1};
  constexpr bool kHalf = std::is_same_v<typename T::Element, __half>;
  return MakeTensorMap(kHalf ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16 : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, tensor.data, extents,
                       strides, box, T::kPanel == 64 ? ptx::Swizzle::k128 : ptx::Swizzle::k64);
}

template <typename T>
void LaunchHopper(const AttentionProblem& problem, CudaContext& context, bool counted) {
  const int64_t heads = problem.kv_heads * problem.group;
  HopperParameters p{};
  p.q = MapOf<T>(problem.q, problem.batches, heads, problem.queries, problem.size, 64);
  p.k = MapOf<T>(problem.k, problem.batches, problem.kv_heads, problem.keys, problem.size, T::kKeys);
  p.v = MapOf<T>(problem.v, problem.batches, problem.kv_heads, problem.keys, problem.value_size, T::kKeys);
  p.o = MapOf<T>(problem.o, problem.batches, heads, problem.queries, problem.value_size, 64);
  p.bounds = BoundsOf(problem);
  p.heads = static_cast<int32_t>(heads);
  p.group = static_cast<int32_t>(problem.group);
  p.rows = T::kRows;
  p.row_blocks = static_cast<int32_t>((problem.queries + T::kRows - 1) / T::kRows);
  p.all_heads = static_cast<int32_t>(problem.batches * heads);
  const int64_t head_bytes = problem.keys * (problem.size + problem.value_size) * 2;
  p.section = static_cast<int32_t>(
      std::min<int64_t>(p.all_heads, std::max<int64_t>(1, kCacheBytes / head_bytes) * problem.group));
  p.tiles = p.all_heads * p.row_blocks;
  SetScores(problem, p);
  p.sinks = problem.sinks;
  const auto blocks = static_cast<uint32_t>(std::min(p.tiles, context.multiprocessors()));
  if (counted && static_cast<int32_t>(blocks) < p.tiles) {
    p.counter = context.DeviceScratch<int32_t>(size_t{1});
    CudaContext::Check(cudaMemsetAsync(p.counter, 0, sizeof(int32_t), context.stream()), "attention: cudaMemsetAsync");
  }
  CudaContext::Check(Launch(HopperPrefill<T>, dim3(blocks), dim3(T::kThreads), T::kSharedBytes, context.stream(), p),
                     "attention: launch");
}

// Other tiles than the chosen ones, bfloat16's alone. False: none of this number.
template <typename Element>
bool RunHopperVariant(const AttentionProblem& problem, CudaContext& context, int64_t variant) {
  const int64_t size = std::max(problem.size, problem.value_size);
  const auto run = [&]<typename T>(T, bool counted) {
    LaunchHopper<T>(problem, context, counted);
    return true;
  };
  if constexpr (std::is_same_v<Element, __nv_bfloat16>) {
    if (size <= 64) {
      if (variant == 1) return run(HopperTile<Element, 64, 128, 2, 2, true, true>{}, true);
      if (variant == 2) return run(HopperTile<Element, 64, 128, 3, 2, true, false>{}, true);
      if (variant == 3) return run(HopperTile<Element, 64, 176, 2, 2, true, true>{}, true);
      if (variant == 4) return run(HopperTile<Element, 64, 128, 2, 2, true, true, true>{}, true);
    } else if (size > 96 && size <= 128) {
      if (variant == 1) return run(HopperTile<Element, 128, 128, 2, 2, true, true, true>{}, true);
      if (variant == 2) return run(HopperTile<Element, 128, 128, 2, 2, true, true>{}, false);
      if (variant == 3) return run(HopperTile<Element, 128, 128, 2, 2, true, false>{}, true);
      if (variant == 4) return run(HopperTile<Element, 128, 176, 2, 2, false, true>{}, true);
      if (variant == 5) return run(HopperTile<Element, 128, 80, 3, 2, true, true>{}, true);
      if (variant == 6) return run(HopperTile<Element, 128, 128, 2, 2, true, false, true>{}, true);
    } else if (size > 128) {
      if (variant == 1) return run(HopperTile<Element, 256, 80, 2, 2, false, false>{}, true);
      if (variant == 2) return run(HopperTile<Element, 256, 64, 2, 2, false, true>{}, true);
    }
  }
  return false;
}

// Sizes up to kSize are padded to it. Registers and shared memory decide what is possible (-Xptxas -v): for a thread S
// takes kKeys / 2 registers, P half of that and O kSize / 2, of 240 with two warpgroups and 160 with three.
template <typename Element>
void RunHopper(const AttentionProblem& problem, CudaContext& context, int64_t variant) {
  const int64_t size = std::max(problem.size, problem.value_size);
  if (variant != 0 && RunHopperVariant<Element>(problem, context, variant)) return;
  if (size <= 64) return LaunchHopper<HopperTile<Element, 64, 128, 3, 2, true, true>>(problem, context, true);
  if (size <= 96) return LaunchHopper<HopperTile<Element, 96, 128, 2, 2, true, true>>(problem, context, true);
  if (size <= 128) return LaunchHopper<HopperTile<Element, 128, 128, 2, 2, true, true>>(problem, context, true);
  return LaunchHopper<HopperTile<Element, 256, 80, 2, 2, false, true>>(problem, context, true);
}

}  // namespace ingot::cuda::prefill
