// Products of float32 with up to eight rows of X by multiply-adds of float32, bound by reading W [n, k] once.
#pragma once

#include "cuda/matmul/epilogue.h"
#include "cuda/matmul/tiles.h"

namespace ingot {

constexpr int kFmaMatvecRows = 8;

namespace device {

// Adds up kCount sums of each lane over the warp, at most 32: sums[0] becomes that with number LaneSum(kCount), which
// 32 / kCount lanes have.
template <int kCount>
__device__ __forceinline__ void AddLanes(float (&sums)[kCount]) {
  static_assert(kCount <= 32);
  const int lane = static_cast<int>(threadIdx.x) % 32;
  int count = kCount;
#pragma unroll
  for (int bit = 16; bit > 0; bit /= 2) {
    if (count == 1) {
      sums[0] += __shfl_xor_sync(0xffffffff, sums[0], bit);
      continue;
    }
    count /= 2;
    const bool upper = (lane & bit) != 0;  // keeps the upper half, and gives away the lower one
#pragma unroll
    for (int i = 0; i < kCount / 2; ++i) {
      if (i >= count) break;
      const float given = upper ? sums[i] : sums[i + count];
      sums[i] = (upper ? sums[i + count] : sums[i]) + __shfl_xor_sync(0xffffffff, given, bit);
    }
  }
}
template <int kCount>
__device__ __forceinline__ int LaneSum() {
  return static_cast<int>(threadIdx.x) % 32 * kCount / 32;
}

}  // namespace device

// Grid: groups of eight columns times matrices. A warp has kColumns of these: a block's warps take turns with them, and
// those with the same ones share K. Shared memory: warps times kRows kColumns floats.
template <int kRows, int kColumns>
__global__ void __launch_bounds__(512, 1)
    FmaMatvecKernel(const __grid_constant__ MatmulProblem p, const __grid_constant__ Epilogue e) {
  constexpr int kSums = kRows * kColumns;
  constexpr int kGroups = kEight / kColumns;
  INGOT_DYNAMIC_SHARED(float, shared);
  const int warps = static_cast<int>(blockDim.x) / 32;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int pieces = p.k / 4;
  const int matrix = static_cast<int>(blockIdx.x) / p.tiles_n;
  const int first_column = (static_cast<int>(blockIdx.x) - matrix * p.tiles_n) * kEight;
  const int column = first_column + warp % kGroups * kColumns;
  int x_matrix;
  int w_matrix;
  device::FindMatrices(p.batch, matrix, x_matrix, w_matrix);
  // Rows and columns past the last ones read it: their sums are not written.
  const char* x[kRows];
  const char* w[kColumns];
#pragma unroll
  for (int i = 0; i < kRows; ++i)
    x[i] = static_cast<const char*>(p.x) + x_matrix * p.x_matrix + (i < p.m ? i : p.m - 1) * p.x_pitch;
#pragma unroll
  for (int i = 0; i < kColumns; ++i)
    w[i] =
        static_cast<const char*>(p.w) + w_matrix * p.w_matrix + (column + i < p.n ? column + i : p.n - 1) * p.w_pitch;
  ptx::GridLaunchDependents();
  ptx::GridDependencyWait();

  float sums[kSums] = {};
  for (int piece = warp / kGroups * 32 + lane; piece < pieces; piece += warps / kGroups * 32) {
    const int64_t at = static_cast<int64_t>(piece) * 16;
    uint4 b[kColumns];
#pragma unroll
    for (int j = 0; j < kColumns; ++j) b[j] = ptx::LoadOnce(w[j] + at);
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      const uint4 a = ptx::LoadReadOnly(x[i] + at);
#pragma unroll
      for (int j = 0; j < kColumns; ++j) {
        float& sum = sums[i * kColumns + j];
        sum = fmaf(__uint_as_float(a.x), __uint_as_float(b[j].x), sum);
        sum = fmaf(__uint_as_float(a.y), __uint_as_float(b[j].y), sum);
        sum = fmaf(__uint_as_float(a.z), __uint_as_float(b[j].z), sum);
        sum = fmaf(__uint_as_float(a.w), __uint_as_float(b[j].w), sum);
      }
    }
  }

  device::AddLanes<kSums>(sums);
  shared[warp * kSums + device::LaneSum<kSums>()] = sums[0];
  __syncthreads();
  const int row = static_cast<int>(threadIdx.x);
  if (row >= kRows) return;
  float v[kEight] = {};
  for (int i = 0; i < warps; i += kGroups) {
#pragma unroll
    for (int j = 0; j < kEight; ++j) v[j] += shared[(i + j / kColumns) * kSums + row * kColumns + j % kColumns];
  }
  device::StoreEight(e, matrix, row, first_column, v);
}

}  // namespace ingot
