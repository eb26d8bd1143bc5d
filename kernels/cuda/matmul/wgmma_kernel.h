// Products on Hopper: one warp brings tiles by TMA, warpgroups multiply them by wgmma out of shared memory and write
// their sums while the next tiles are on their way. Blocks stay for as many tiles as there are.
#pragma once

#include <type_traits>

#include "cuda/matmul/epilogue.h"
#include "cuda/matmul/tiles.h"

namespace ingot {

// A tile of 64 rows for each of the multiplying warpgroups by kColumns. A stage holds 128 bytes of K.
template <typename Type_, OperandMode kMode_, int kConsumers_, int kColumns_, int kStages_>
struct WgmmaTile {
  using Type = Type_;
  using Sum = typename ptx::WgmmaType<Type>::Sum;
  static constexpr OperandMode kMode = kMode_;
  static constexpr int kConsumers = kConsumers_, kColumns = kColumns_, kStages = kStages_;
  static constexpr int kRows = 64 * kConsumers;
  static constexpr int kRowBytes = 128;
  static constexpr int kDepth = kRowBytes / static_cast<int>(sizeof(Type));  // of a stage, in numbers
  static constexpr int kThreads = 128 * (1 + kConsumers);
  // Of a multiprocessor. Scales of blocks take sums and parts of sums, more registers than two blocks have.
  static constexpr int kBlocks = kConsumers == 1 && kMode != OperandMode::kBlockScales ? 2 : 1;
  static constexpr int kPass = 4;  // of the epilogue
  static constexpr int kXBytes = kRows * kRowBytes, kWBytes = kColumns * kRowBytes;
  static constexpr int kStageBytes = kXBytes + kWBytes;
  static constexpr int kWarpStageBytes = 4 * device::kWarpStage<kPass>;
  static constexpr int kShared = kStages * kStageBytes + 4 * kConsumers * kWarpStageBytes + 2 * kStages * 8;
  static_assert(kShared * kBlocks <= 227 * 1024);
  static_assert(kColumns % 64 == 0 && kColumns <= 256 && kConsumers <= 2);
  static_assert(kMode != OperandMode::kRowsOfN || sizeof(Type) == 2);
  static_assert(kMode != OperandMode::kBlockScales || (sizeof(Type) == 1 && kColumns <= 128));
};

namespace device {

struct Ring {  // the stages, in turn
  int stage = 0;
  uint32_t parity = 0;
  template <int kStages>
  __device__ __forceinline__ void Next() {
    if (++stage == kStages) {
      stage = 0;
      parity ^= 1;
    }
  }
};

struct Unit {
  Tile tile;
  int slice, first_step, steps;
};

template <typename Shape>
__device__ __forceinline__ Unit FindUnit(const MatmulProblem& p, int index) {
  Unit unit;
  unit.slice = index % p.slices;
  unit.tile = FindTile<16>(p, index / p.slices);
  unit.first_step = unit.slice * p.slice_steps;
  const int left = (p.k + Shape::kDepth - 1) / Shape::kDepth - unit.first_step;
  unit.steps = left < p.slice_steps ? left : p.slice_steps;
  return unit;
}

#if INGOT_HOPPER
template <typename Shape>
__device__ __forceinline__ void BringTiles(const MatmulProblem& p, const CUtensorMap* x_map, const CUtensorMap* w_map,
                                           uint32_t stages, uint32_t full, uint32_t empty, int units) {
  Ring ring;
  for (int index = static_cast<int>(blockIdx.x); index < units; index += static_cast<int>(gridDim.x)) {
    const Unit unit = FindUnit<Shape>(p, index);
    int x_matrix;
    int w_matrix;
    FindMatrices(p.batch, unit.tile.matrix, x_matrix, w_matrix);
    const int row = unit.tile.row * Shape::kRows;
    const int column = unit.tile.column * Shape::kColumns;
    for (int step = 0; step < unit.steps; ++step) {
      const uint32_t stage = stages + ring.stage * Shape::kStageBytes;
      const uint32_t barrier = full + ring.stage * 8;
      const int k = (unit.first_step + step) * Shape::kDepth;
      ptx::BarrierWait(empty + ring.stage * 8, ring.parity ^ 1);
      ptx::BarrierArriveExpect(barrier, Shape::kStageBytes);
      ptx::TensorLoad(stage, x_map, barrier, k, row, x_matrix);
      if constexpr (Shape::kMode == OperandMode::kRowsOfN) {
#pragma unroll
        for (int i = 0; i < Shape::kColumns / 64; ++i) {
          ptx::TensorLoad(stage + Shape::kXBytes + i * 64 * Shape::kRowBytes, w_map, barrier, column + 64 * i, k,
                          w_matrix);
        }
      } else {
        ptx::TensorLoad(stage + Shape::kXBytes, w_map, barrier, k, column, w_matrix);
      }
      ring.Next<Shape::kStages>();
    }
  }
}

// Starts the products of one stage: sums += X W, or = where `accumulate` is 0.
template <typename Shape>
__device__ __forceinline__ void StartProducts(typename Shape::Sum (&sums)[Shape::kColumns / 2], uint32_t x, uint32_t w,
                                              int accumulate) {
  constexpr bool kTransposed = Shape::kMode == OperandMode::kRowsOfN;
  ptx::WgmmaFence();
#pragma unroll
  for (int part = 0; part < Shape::kRowBytes / 32; ++part) {
    const uint64_t rows = ptx::MatrixDescriptor(x + 32 * part, 16, 1024, ptx::Swizzle::k128);
    const uint64_t columns = kTransposed
                                 ? ptx::MatrixDescriptor(w + 16 * 128 * part, 64 * 128, 1024, ptx::Swizzle::k128)
                                 : ptx::MatrixDescriptor(w + 32 * part, 16, 1024, ptx::Swizzle::k128);
    ptx::Wgmma<typename Shape::Type, Shape::kColumns, 0, kTransposed ? 1 : 0>(sums, rows, columns,
                                                                              part == 0 ? accumulate : 1);
  }
  ptx::WgmmaCommit();
}

// The scales of a thread's two rows, read one step ahead.
struct BlockScales {
  const float* upper;
  const float* lower;
  const float* w;
  float next_upper, next_lower, next_w;

  __device__ __forceinline__ BlockScales(const MatmulProblem& p, int row, int column, int first) {
    const int blocks = (p.k + 127) / 128;
    const int last = (p.n + 127) / 128 - 1;
    // Rows past the last one read its scales: their sums are not written.
    upper = p.x_blocks + static_cast<int64_t>(row < p.m ? row : p.m - 1) * blocks + first;
    lower = p.x_blocks + static_cast<int64_t>(row + 8 < p.m ? row + 8 : p.m - 1) * blocks + first;
    w = p.w_blocks + static_cast<int64_t>(column / 128 < last ? column / 128 : last) * blocks + first;
    Read(0);
  }
  __device__ __forceinline__ void Read(int step) {
    next_upper = upper[step];
    next_lower = lower[step];
    next_w = w[step];
  }
};

template <typename Shape>
__device__ __forceinline__ void MultiplyTiles(const MatmulProblem& p, const Epilogue& e, uint32_t stages,
                                              float* warp_stages, uint32_t full, uint32_t empty, int units) {
  using Sum = typename Shape::Sum;
  const int consumer = static_cast<int>(threadIdx.x) / 128 - 1;
  const int warp = static_cast<int>(threadIdx.x) / 32 % 4;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  float* const warp_stage = warp_stages + (consumer * 4 + warp) * kWarpStage<Shape::kPass>;
  const uint32_t x_offset = consumer * 64 * Shape::kRowBytes;
  Ring ring;
  for (int index = static_cast<int>(blockIdx.x); index < units; index += static_cast<int>(gridDim.x)) {
    const Unit unit = FindUnit<Shape>(p, index);
    const int row = unit.tile.row * Shape::kRows + consumer * 64 + warp * 16;
    const int column = unit.tile.column * Shape::kColumns;
    Sum sums[Shape::kColumns / 2];
    if constexpr (Shape::kMode == OperandMode::kBlockScales) {
#pragma unroll
      for (int i = 0; i < Shape::kColumns / 2; ++i) sums[i] = 0;
      BlockScales scales(p, row + lane / 4, column, unit.first_step);
      for (int step = 0; step < unit.steps; ++step) {
        const float upper = scales.next_upper * scales.next_w;
        const float lower = scales.next_lower * scales.next_w;
        if (step + 1 < unit.steps) scales.Read(step + 1);
        const uint32_t stage = stages + ring.stage * Shape::kStageBytes;
        Sum part[Shape::kColumns / 2];
        ptx::BarrierWait(full + ring.stage * 8, ring.parity);
        StartProducts<Shape>(part, stage + x_offset, stage + Shape::kXBytes, 0);
        ptx::WgmmaWait<0>();
        ptx::WgmmaPin(part);
        if (lane == 0) ptx::BarrierArrive(empty + ring.stage * 8);
        ring.Next<Shape::kStages>();
#pragma unroll
        for (int i = 0; i < Shape::kColumns / 8; ++i) {
          sums[4 * i] += upper * part[4 * i];
          sums[4 * i + 1] += upper * part[4 * i + 1];
          sums[4 * i + 2] += lower * part[4 * i + 2];
          sums[4 * i + 3] += lower * part[4 * i + 3];
        }
      }
    } else {
      uint32_t previous = 0;
      for (int step = 0; step < unit.steps; ++step) {
        const uint32_t stage = stages + ring.stage * Shape::kStageBytes;
        ptx::BarrierWait(full + ring.stage * 8, ring.parity);
        StartProducts<Shape>(sums, stage + x_offset, stage + Shape::kXBytes, step > 0);
        if (step > 0) {
          ptx::WgmmaWait<1>();  // the products of the step before are done with their stage
          if (lane == 0) ptx::BarrierArrive(previous);
        }
        previous = empty + ring.stage * 8;
        ring.Next<Shape::kStages>();
      }
      ptx::WgmmaWait<0>();
      ptx::WgmmaPin(sums);
      if (lane == 0) ptx::BarrierArrive(previous);
    }
    constexpr SumKind kSums = kKindOfSums<Sum, sizeof(typename Shape::Type)>;
    StoreWarpRows<Shape::kPass, Shape::kColumns / 8, kSums>(e, unit.slice * p.matrices + unit.tile.matrix, row, column,
                                                            sums, warp_stage);
  }
}
#endif

}  // namespace device

// Grid: as many blocks as run at one time, or as there are units: tiles times matrices times slices.
template <typename Shape>
__global__ void __launch_bounds__(Shape::kThreads, Shape::kBlocks)
    WgmmaKernel(const __grid_constant__ CUtensorMap x_map, const __grid_constant__ CUtensorMap w_map,
                const __grid_constant__ MatmulProblem p, const __grid_constant__ Epilogue e) {
#if INGOT_HOPPER
  INGOT_DYNAMIC_SHARED(unsigned char, shared);
  const uint32_t stages = ptx::SharedAddress(shared);
  constexpr int kWarpStages = Shape::kStages * Shape::kStageBytes;
  const uint32_t full = stages + kWarpStages + 4 * Shape::kConsumers * Shape::kWarpStageBytes;
  const uint32_t empty = full + 8 * Shape::kStages;
  const int units = p.tiles_m * p.tiles_n * p.matrices * p.slices;
  if (threadIdx.x == 0) {
    ptx::PrefetchTensorMap(&x_map);
    ptx::PrefetchTensorMap(&w_map);
    for (int i = 0; i < Shape::kStages; ++i) {
      ptx::BarrierInit(full + 8 * i, 1);
      ptx::BarrierInit(empty + 8 * i, 4 * Shape::kConsumers);  // a lane of each multiplying warp
    }
    ptx::FenceBarrierInit();
  }
  __syncthreads();
  ptx::GridLaunchDependents();
  ptx::GridDependencyWait();
  if (threadIdx.x < 128) {
    if constexpr (Shape::kConsumers == 2) ptx::SetMaxRegistersDown<40>();
    if (threadIdx.x == 0) device::BringTiles<Shape>(p, &x_map, &w_map, stages, full, empty, units);
  } else {
    if constexpr (Shape::kConsumers == 2) ptx::SetMaxRegistersUp<232>();
    device::MultiplyTiles<Shape>(p, e, stages, reinterpret_cast<float*>(shared + kWarpStages), full, empty, units);
  }
#endif
}

}  // namespace ingot
