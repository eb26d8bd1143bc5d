// Products with few rows of X, which are bound by reading W [n, k] once.
//
// W is the first operand of mma: 16 of its rows by 32 bytes of K at a time go from global memory straight into
// registers, and eight rows of X are the second. In both a thread reads 16 bytes where a fragment wants two times 8
// that are not neighbours: that exchanges places in K, in the same way for both operands, which does not change sums.
#pragma once

#include "cuda/matmul/epilogue.h"
#include "cuda/matmul/math.h"
#include "cuda/matmul/tiles.h"

namespace ingot {

constexpr int kMatvecColumns = 16;  // of Y, in a block
constexpr int kMatvecMostWarps = 16;

// Floats of shared memory: sums of each warp.
constexpr int MatvecShared(int warps, int fragments) { return warps * 8 * fragments * (kMatvecColumns + 1); }

// Grid: blocks of 16 columns times matrices. A block's warps share K. Rows of X: up to 8 kFragments.
template <typename Math, int kFragments, bool kBlockScales>
__global__ void __launch_bounds__(32 * kMatvecMostWarps, 1)
    MatvecKernel(const __grid_constant__ MatmulProblem p, const __grid_constant__ Epilogue e) {
  using Sum = typename Math::Sum;
  constexpr int kSegments = kFragments == 4 ? 2 : 4;  // of 64 bytes, that a warp reads at a time
  INGOT_DYNAMIC_SHARED(float, shared);
  const int warps = static_cast<int>(blockDim.x) / 32;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int group = static_cast<int>(threadIdx.x) % 32 / 4;
  const int pair = static_cast<int>(threadIdx.x) % 4;
  const int matrix = static_cast<int>(blockIdx.x) / p.tiles_n;
  const int column = (static_cast<int>(blockIdx.x) - matrix * p.tiles_n) * kMatvecColumns;
  int x_matrix;
  int w_matrix;
  device::FindMatrices(p.batch, matrix, x_matrix, w_matrix);

  const int pieces = p.k * Math::kBytes / 16;
  const char* const w = static_cast<const char*>(p.w) + w_matrix * p.w_matrix + 16 * pair;
  const char* const x = static_cast<const char*>(p.x) + x_matrix * p.x_matrix + 16 * pair;
  const bool upper = column + group < p.n;
  const bool lower = column + group + 8 < p.n;
  const char* const w_upper = w + (upper ? column + group : 0) * p.w_pitch;
  const char* const w_lower = w + (lower ? column + group + 8 : 0) * p.w_pitch;
  const uint4 zero = make_uint4(0, 0, 0, 0);

  Sum sums[kFragments][4] = {};
  for (int first = warp * kSegments; 4 * first < pieces; first += warps * kSegments) {
    uint4 a[kSegments][2];
    uint4 b[kSegments][kFragments];
#pragma unroll
    for (int i = 0; i < kSegments; ++i) {
      const bool some = 4 * (first + i) + pair < pieces;
      const int64_t at = static_cast<int64_t>(first + i) * 64;
      a[i][0] = some && upper ? ptx::LoadOnce(w_upper + at) : zero;
      a[i][1] = some && lower ? ptx::LoadOnce(w_lower + at) : zero;
    }
#pragma unroll
    for (int i = 0; i < kSegments; ++i) {
      const bool some = 4 * (first + i) + pair < pieces;
      const int64_t at = static_cast<int64_t>(first + i) * 64;
#pragma unroll
      for (int j = 0; j < kFragments; ++j) {
        const int row = 8 * j + group;
        b[i][j] = some && row < p.m ? ptx::LoadReadOnly(x + row * p.x_pitch + at) : zero;
      }
    }
    Sum part[kFragments][4] = {};
#pragma unroll
    for (int i = 0; i < kSegments; ++i) {
      const uint32_t left[4] = {a[i][0].x, a[i][1].x, a[i][0].y, a[i][1].y};
      const uint32_t right[4] = {a[i][0].z, a[i][1].z, a[i][0].w, a[i][1].w};
#pragma unroll
      for (int j = 0; j < kFragments; ++j) {
        const uint32_t left_x[2] = {b[i][j].x, b[i][j].y};
        const uint32_t right_x[2] = {b[i][j].z, b[i][j].w};
        if constexpr (kBlockScales) {
          Math::Mma(part[j], left, left_x);
          Math::Mma(part[j], right, right_x);
        } else {
          Math::Mma(sums[j], left, left_x);
          Math::Mma(sums[j], right, right_x);
        }
      }
      if constexpr (kBlockScales) {
        if (i % 2 == 1) {  // 128 k
          const int blocks = (p.k + 127) / 128;
          const int block = (first + i) / 2;
          if (block < blocks) {
            const float scale = p.w_blocks[static_cast<int64_t>(column / 128) * blocks + block];
#pragma unroll
            for (int j = 0; j < kFragments; ++j) {
              const int row = 8 * j + 2 * pair;
              const float x0 = row < p.m ? scale * p.x_blocks[static_cast<int64_t>(row) * blocks + block] : 0.0f;
              const float x1 =
                  row + 1 < p.m ? scale * p.x_blocks[static_cast<int64_t>(row + 1) * blocks + block] : 0.0f;
              sums[j][0] += x0 * part[j][0];
              sums[j][1] += x1 * part[j][1];
              sums[j][2] += x0 * part[j][2];
              sums[j][3] += x1 * part[j][3];
            }
          }
#pragma unroll
          for (int j = 0; j < kFragments; ++j) part[j][0] = part[j][1] = part[j][2] = part[j][3] = 0;
        }
      }
    }
  }

  // A fragment's rows are columns of Y.
  constexpr int kPitch = kMatvecColumns + 1;
  float* const mine = shared + warp * 8 * kFragments * kPitch;
#pragma unroll
  for (int j = 0; j < kFragments; ++j) {
    float* const to = mine + (8 * j + 2 * pair) * kPitch + group;
    to[0] = static_cast<float>(sums[j][0]);
    to[kPitch] = static_cast<float>(sums[j][1]);
    to[8] = static_cast<float>(sums[j][2]);
    to[kPitch + 8] = static_cast<float>(sums[j][3]);
  }
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < 2 * p.m; i += static_cast<int>(blockDim.x)) {
    const float* const from = shared + (i / 2) * kPitch + i % 2 * 8;
    float v[kEight] = {};
    for (int j = 0; j < warps; ++j) {
#pragma unroll
      for (int c = 0; c < kEight; ++c) v[c] += from[j * 8 * kFragments * kPitch + c];
    }
    device::StoreEight(e, matrix, i / 2, column + i % 2 * 8, v);
  }
}

}  // namespace ingot
