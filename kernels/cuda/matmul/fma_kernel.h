// Products and convolutions of float32 by multiply-adds of float32, as exact as float32 is: tiles of X and W go through
// stages of shared memory with cp.async, a thread has the sums of eight rows by eight neighbouring columns in
// registers.
//
// Tensor cores, which have no float32, would need three products of TF32 for one, and more instructions to divide
// operands into two TF32 numbers than there are multiply-adds to save.
#pragma once

#include "cuda/matmul/epilogue.h"
#include "cuda/matmul/tile_loader.h"
#include "cuda/matmul/tiles.h"

namespace ingot {

// A tile of rows x columns: warps of 32 rows by 64 columns. A stage holds 16 k.
template <int kRows_, int kColumns_>
struct FmaTile {
  static constexpr int kRows = kRows_, kColumns = kColumns_;
  static constexpr int kRowBytes = 64, kDepth = 16, kStages = 3;
  static constexpr int kPieces = kRowBytes / 16;  // of a row
  static constexpr int kWarpsN = kColumns / 64;
  static constexpr int kThreads = kRows / 32 * kWarpsN * 32;
  static constexpr int kBlocks = 512 / kThreads;  // at one time: a thread has up to 128 registers
  static constexpr int kXBytes = kRows * kRowBytes, kWBytes = kColumns * kRowBytes;
  static constexpr int kStageBytes = kXBytes + kWBytes;
  static constexpr int kShared = kStages * kStageBytes;
  static_assert(kShared >= kThreads * 4 * kEight * 4);  // StoreSums
  static constexpr int kRowStep = kRows / kEight;       // between the rows of a thread
  static constexpr int kColumnGroups = kColumns / kEight;
  static_assert(kRows % 32 == 0 && kColumns % 64 == 0);
};

namespace device {

// Where a thread's sums are in a tile: rows row + i kRowStep, columns 8 group to 8 group + 7. Neighbouring lanes have
// the same rows, and lanes two apart the same columns: so 16 lanes' reads of 16 bytes are one access of shared memory.
template <typename Shape>
struct FmaPlace {
  int row, group;
  // In a stage: the first piece of the thread's first row, and of its first column of W [n, k]. Others are at these
  // places, exclusive or 16 times their number.
  int x, w;
  __device__ __forceinline__ FmaPlace() {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const int warp = static_cast<int>(threadIdx.x) / 32;
    row = warp / Shape::kWarpsN * 4 + (lane >> 1 & 1) + (lane >> 4) * 2;
    group = warp % Shape::kWarpsN * 8 + (lane & 1) + (lane >> 2 & 3) * 2;
    x = PiecePlace<Shape::kRowBytes>(row, 0);
    w = Shape::kXBytes + PiecePlace<Shape::kRowBytes>(group, 0);
  }
};

__device__ __forceinline__ float Nth(const float4& v, int i) {
  return i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w;
}

// Adds the products of a stage.
template <typename Shape, OperandMode kMode>
__device__ __forceinline__ void MultiplyAdd(float (&sums)[kEight][kEight], const unsigned char* stage,
                                            const FmaPlace<Shape>& place) {
  const auto four = [](const unsigned char* at) { return *reinterpret_cast<const float4*>(at); };
  // Rows that are a multiple of 8 apart have their pieces at the same places.
  static_assert(Shape::kRowStep == 4 || Shape::kRowStep % 8 == 0);
  static_assert(Shape::kColumnGroups % 8 == 0);
#pragma unroll 1  // more would keep more of X under way than there are registers
  for (int piece = 0; piece < Shape::kPieces; ++piece) {
    float4 x[kEight];
#pragma unroll
    for (int i = 0; i < kEight; ++i) {
      const int turned = Shape::kRowStep == 4 && i % 2 == 1 ? piece ^ 2 : piece;
      x[i] = four(stage + (place.x ^ 16 * turned) + i * Shape::kRowStep * Shape::kRowBytes);
    }
    if constexpr (kMode == OperandMode::kRowsOfN) {
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        const unsigned char* const at =
            stage + Shape::kXBytes + 16 * place.group + (4 * piece + k) * Shape::kColumns * 4;
        const float4 w[2] = {four(at), four(at + Shape::kColumns * 2)};
#pragma unroll
        for (int j = 0; j < kEight; ++j) {
#pragma unroll
          for (int i = 0; i < kEight; ++i) sums[i][j] = fmaf(Nth(x[i], k), Nth(w[j / 4], j % 4), sums[i][j]);
        }
      }
    } else {
      const unsigned char* const at = stage + (place.w ^ 16 * piece);
      float4 next = four(at);
#pragma unroll
      for (int j = 0; j < kEight; ++j) {
        const float4 w = next;
        if (j + 1 < kEight) next = four(at + (j + 1) * Shape::kColumnGroups * Shape::kRowBytes);
#pragma unroll
        for (int k = 0; k < 4; ++k) {
#pragma unroll
          for (int i = 0; i < kEight; ++i) sums[i][j] = fmaf(Nth(x[i], k), Nth(w, k), sums[i][j]);
        }
      }
    }
  }
}

// Finishes and writes a thread's sums, four rows at a time, which go by way of shared memory that is the thread's own:
// so that there is one copy of the code for a row.
template <typename Shape>
__device__ __forceinline__ void StoreSums(const Epilogue& e, int matrix, int row, int column,
                                          const float (&sums)[kEight][kEight], unsigned char* shared) {
  float4* const mine = reinterpret_cast<float4*>(shared) + threadIdx.x;
#pragma unroll 1
  for (int half = 0; half < 2; ++half) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      float v[kEight];
#pragma unroll
      for (int j = 0; j < kEight; ++j) v[j] = half == 0 ? sums[i][j] : sums[i + 4][j];
      mine[2 * i * Shape::kThreads] = make_float4(v[0], v[1], v[2], v[3]);
      mine[(2 * i + 1) * Shape::kThreads] = make_float4(v[4], v[5], v[6], v[7]);
    }
#pragma unroll 1
    for (int i = 0; i < 4; ++i) {
      const float4 low = mine[2 * i * Shape::kThreads];
      const float4 high = mine[(2 * i + 1) * Shape::kThreads];
      float v[kEight] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
      StoreEight(e, matrix, row + (4 * half + i) * Shape::kRowStep, column, v);
    }
  }
}

}  // namespace device

// Grid: tiles times matrices, by slices.
template <typename Shape, OperandMode kMode>
__global__ void __launch_bounds__(Shape::kThreads, Shape::kBlocks)
    FmaKernel(const __grid_constant__ MatmulProblem p, const __grid_constant__ Epilogue e) {
  INGOT_DYNAMIC_SHARED(unsigned char, shared);
  const uint32_t base = ptx::SharedAddress(shared);
  const int slice = static_cast<int>(blockIdx.y);
  const device::Tile tile = device::FindTile<8>(p, static_cast<int>(blockIdx.x));
  const int row = tile.row * Shape::kRows;
  const int column = tile.column * Shape::kColumns;
  int x_matrix = tile.matrix;
  int w_matrix = tile.matrix;
  if constexpr (kMode != OperandMode::kConvolution) device::FindMatrices(p.batch, tile.matrix, x_matrix, w_matrix);

  const int total_steps = (p.k + Shape::kDepth - 1) / Shape::kDepth;
  const int first_step = slice * p.slice_steps;
  const int steps = total_steps - first_step < p.slice_steps ? total_steps - first_step : p.slice_steps;
  // A thread reads eight neighbours of W.
  device::TileLoader<Shape, kMode, 4, kEight> loader(p, x_matrix, w_matrix, row, column, first_step * Shape::kPieces);
#pragma unroll
  for (int stage = 0; stage < Shape::kStages - 1; ++stage) {
    if (stage < steps) loader.Load(p, base + stage * Shape::kStageBytes);
    ptx::CopyAsyncCommit();
  }

  const device::FmaPlace<Shape> place;
  float sums[kEight][kEight] = {};
  int read = 0;
  int write = Shape::kStages - 1;
  for (int step = 0; step < steps; ++step) {
    ptx::CopyAsyncWait<Shape::kStages - 2>();
    __syncthreads();
    if (step + Shape::kStages - 1 < steps) loader.Load(p, base + write * Shape::kStageBytes);
    ptx::CopyAsyncCommit();
    device::MultiplyAdd<Shape, kMode>(sums, shared + read * Shape::kStageBytes, place);
    read = read + 1 == Shape::kStages ? 0 : read + 1;
    write = write + 1 == Shape::kStages ? 0 : write + 1;
  }
  ptx::CopyAsyncWait<0>();
  __syncthreads();  // stages become the epilogue's memory
  device::StoreSums<Shape>(e, slice * p.matrices + tile.matrix, row + place.row, column + kEight * place.group, sums,
                           shared);
}

}  // namespace ingot
