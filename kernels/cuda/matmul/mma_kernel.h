// Products and convolutions by mma.sync, from compute capability 8.0 on: tiles of X and W go through several stages of
// shared memory with cp.async, fragments are read by ldmatrix, sums stay in registers.
#pragma once

#include "cuda/matmul/epilogue.h"
#include "cuda/matmul/math.h"
#include "cuda/matmul/tile_loader.h"
#include "cuda/matmul/tiles.h"

namespace ingot {

// A tile of rows x columns by warps_m x warps_n warps. A stage holds row_bytes of K.
template <int kRows_, int kColumns_, int kWarpsM_, int kWarpsN_, int kRowBytes_, int kStages_>
struct MmaTile {
  static constexpr int kRows = kRows_, kColumns = kColumns_, kWarpsM = kWarpsM_, kWarpsN = kWarpsN_;
  static constexpr int kRowBytes = kRowBytes_, kStages = kStages_;
  static constexpr int kThreads = 32 * kWarpsM * kWarpsN;
  static constexpr int kPieces = kRowBytes / 16;         // of a row
  static constexpr int kPass = 4;                        // of the epilogue
  static constexpr int kBlocksM = kRows / kWarpsM / 16;  // fragments of a warp
  static constexpr int kBlocksN = kColumns / kWarpsN / 8;
  static constexpr int kXBytes = kRows * kRowBytes, kWBytes = kColumns * kRowBytes;
  static constexpr int kStageBytes = kXBytes + kWBytes;
  static constexpr int kEpilogueBytes = 4 * kWarpsM * kWarpsN * device::kWarpStage<kPass>;
  static constexpr int kShared = kStages * kStageBytes > kEpilogueBytes ? kStages * kStageBytes : kEpilogueBytes;
  static_assert(kRowBytes == 64 || kRowBytes == 128);
  static_assert(kBlocksM * 16 * kWarpsM == kRows && kBlocksN * 8 * kWarpsN == kColumns && kBlocksN % kPass == 0);
  static_assert(kRows * kPieces % kThreads == 0 && kColumns * kPieces % kThreads == 0);
};

namespace device {

// Fragments of 32 bytes of K, and their products.
template <typename Math, typename Shape, OperandMode kMode>
struct WarpFragments {
  uint32_t x[Shape::kBlocksM][4];
  uint32_t w[Shape::kBlocksN][2];

  // `part` counts 32 bytes of K in the stage; (row, column) is the warp's place in the tile.
  __device__ __forceinline__ void Load(uint32_t stage, int part, int row, int column) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
    for (int i = 0; i < Shape::kBlocksM; ++i) {
      ptx::LoadMatrix4(x[i][0], x[i][1], x[i][2], x[i][3],
                       stage + PiecePlace<Shape::kRowBytes>(row + 16 * i + lane % 16, 2 * part + lane / 16));
    }
    const uint32_t weights = stage + Shape::kXBytes;
#pragma unroll
    for (int i = 0; i < Shape::kBlocksN; i += 2) {
      if constexpr (kMode == OperandMode::kRowsOfN) {
        ptx::LoadMatrixTransposed4(w[i][0], w[i][1], w[i + 1][0], w[i + 1][1],
                                   weights + ColumnLoader<Shape, Math::kBytes>::Place(
                                                 16 * part + lane % 16, (column + 8 * i) / 8 + lane / 16));
      } else {
        ptx::LoadMatrix4(
            w[i][0], w[i][1], w[i + 1][0], w[i + 1][1],
            weights + PiecePlace<Shape::kRowBytes>(column + 8 * i + lane / 16 * 8 + lane % 8, 2 * part + lane / 8 % 2));
      }
    }
  }

  __device__ __forceinline__ void Multiply(typename Math::Sum (&sums)[Shape::kBlocksM][Shape::kBlocksN][4]) const {
#pragma unroll
    for (int i = 0; i < Shape::kBlocksM; ++i) {
#pragma unroll
      for (int j = 0; j < Shape::kBlocksN; ++j) Math::Mma(sums[i][j], x[i], w[j]);
    }
  }
};

template <typename Math, typename Shape, OperandMode kMode>
__device__ __forceinline__ void MultiplyStage(typename Math::Sum (&sums)[Shape::kBlocksM][Shape::kBlocksN][4],
                                              uint32_t stage, int row, int column) {
  constexpr int kParts = Shape::kRowBytes / 32;
  WarpFragments<Math, Shape, kMode> fragments[2];
  fragments[0].Load(stage, 0, row, column);
#pragma unroll
  for (int part = 0; part < kParts; ++part) {
    if (part + 1 < kParts) fragments[(part + 1) % 2].Load(stage, part + 1, row, column);
    fragments[part % 2].Multiply(sums);
  }
}

// Adds sums of 128 k to those of all, each times the scales of its row and of its columns.
template <typename Shape>
__device__ __forceinline__ void AddScaled(const MatmulProblem& p, int block, int row, int column,
                                          const float (&part)[Shape::kBlocksM][Shape::kBlocksN][4],
                                          float (&sums)[Shape::kBlocksM][Shape::kBlocksN][4]) {
  const int blocks = (p.k + 127) / 128;
  const int group = static_cast<int>(threadIdx.x) % 32 / 4;
  // A warp's columns lie in one block of 128: tiles are aligned to their size, which divides 128.
  const int last = (p.n + 127) / 128 - 1;
  const float w = p.w_blocks[(column / 128 < last ? column / 128 : last) * blocks + block];
#pragma unroll
  for (int i = 0; i < Shape::kBlocksM; ++i) {
    const int upper = row + 16 * i + group;
    const float x0 = upper < p.m ? w * p.x_blocks[static_cast<int64_t>(upper) * blocks + block] : 0.0f;
    const float x1 = upper + 8 < p.m ? w * p.x_blocks[static_cast<int64_t>(upper + 8) * blocks + block] : 0.0f;
#pragma unroll
    for (int j = 0; j < Shape::kBlocksN; ++j) {
      sums[i][j][0] += x0 * part[i][j][0];
      sums[i][j][1] += x0 * part[i][j][1];
      sums[i][j][2] += x1 * part[i][j][2];
      sums[i][j][3] += x1 * part[i][j][3];
    }
  }
}

}  // namespace device

// Grid: tiles times matrices, by slices.
template <typename Math, typename Shape, OperandMode kMode>
__global__ void __launch_bounds__(Shape::kThreads)
    MmaKernel(const __grid_constant__ MatmulProblem p, const __grid_constant__ Epilogue e) {
  using Sum = typename Math::Sum;
  static_assert(kMode != OperandMode::kBlockScales || Shape::kRowBytes == 128 * Math::kBytes);
  INGOT_DYNAMIC_SHARED(unsigned char, shared);
  const uint32_t base = ptx::SharedAddress(shared);
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int warp_row = warp / Shape::kWarpsN * (Shape::kRows / Shape::kWarpsM);
  const int warp_column = warp % Shape::kWarpsN * (Shape::kColumns / Shape::kWarpsN);
  const int slice = static_cast<int>(blockIdx.y);

  const device::Tile tile = device::FindTile<8>(p, static_cast<int>(blockIdx.x));
  const int row = tile.row * Shape::kRows;
  const int column = tile.column * Shape::kColumns;
  int x_matrix;
  int w_matrix;
  if constexpr (kMode == OperandMode::kConvolution) {
    x_matrix = w_matrix = tile.matrix;
  } else {
    device::FindMatrices(p.batch, tile.matrix, x_matrix, w_matrix);
  }

  const int total_steps = (p.k * Math::kBytes + Shape::kRowBytes - 1) / Shape::kRowBytes;
  const int first_step = slice * p.slice_steps;
  const int steps = total_steps - first_step < p.slice_steps ? total_steps - first_step : p.slice_steps;

  device::TileLoader<Shape, kMode, Math::kBytes> loader(p, x_matrix, w_matrix, row, column,
                                                        first_step * Shape::kPieces);
#pragma unroll
  for (int stage = 0; stage < Shape::kStages - 1; ++stage) {
    if (stage < steps) loader.Load(p, base + stage * Shape::kStageBytes);
    ptx::CopyAsyncCommit();
  }

  Sum sums[Shape::kBlocksM][Shape::kBlocksN][4] = {};
  int read = 0;
  int write = Shape::kStages - 1;
  for (int step = 0; step < steps; ++step) {
    ptx::CopyAsyncWait<Shape::kStages - 2>();
    __syncthreads();
    if (step + Shape::kStages - 1 < steps) loader.Load(p, base + write * Shape::kStageBytes);
    ptx::CopyAsyncCommit();
    const uint32_t stage = base + read * Shape::kStageBytes;
    if constexpr (kMode == OperandMode::kBlockScales) {
      Sum part[Shape::kBlocksM][Shape::kBlocksN][4] = {};
      device::MultiplyStage<Math, Shape, kMode>(part, stage, warp_row, warp_column);
      device::AddScaled<Shape>(p, first_step + step, row + warp_row, column + warp_column, part, sums);
    } else {
      device::MultiplyStage<Math, Shape, kMode>(sums, stage, warp_row, warp_column);
    }
    read = read + 1 == Shape::kStages ? 0 : read + 1;
    write = write + 1 == Shape::kStages ? 0 : write + 1;
  }

  ptx::CopyAsyncWait<0>();
  __syncthreads();  // stages become the epilogue's memory
  float* const warp_stage = reinterpret_cast<float*>(shared) + warp * device::kWarpStage<Shape::kPass>;
#pragma unroll
  for (int i = 0; i < Shape::kBlocksM; ++i) {
    device::StoreWarpRows<Shape::kPass, Shape::kBlocksN, kKindOfSums<Sum, Math::kBytes>>(
        e, slice * p.matrices + tile.matrix, row + warp_row + 16 * i, column + warp_column,
        reinterpret_cast<const Sum(&)[4 * Shape::kBlocksN]>(sums[i]), warp_stage);
  }
}

}  // namespace ingot
