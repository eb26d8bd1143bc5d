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

// How many sums there are in shared memory: those of each warp.
constexpr int MatvecShared(int warps, int fragments) { return warps * 8 * fragments * (kMatvecColumns + 1); }

namespace device {

// What a thread reads of W and X for 16 columns of Y: rows `group` and `group + 8` of W, from piece `pair` on.
struct MatvecOperands {
  const char* upper;
  const char* lower;
  const char* x;
  bool has_upper, has_lower;
  int matrix, column;

  __device__ __forceinline__ MatvecOperands(const MatmulProblem& p, int unit, int group, int pair) {
    matrix = unit / p.tiles_n;
    column = (unit - matrix * p.tiles_n) * kMatvecColumns;
    int x_matrix;
    int w_matrix;
    FindMatrices(p.batch, matrix, x_matrix, w_matrix);
    const char* const w = static_cast<const char*>(p.w) + w_matrix * p.w_matrix + 16 * pair;
    has_upper = column + group < p.n;
    has_lower = column + group + 8 < p.n;
    upper = w + (has_upper ? column + group : 0) * p.w_pitch;
    lower = w + (has_lower ? column + group + 8 : 0) * p.w_pitch;
    x = static_cast<const char*>(p.x) + x_matrix * p.x_matrix + 16 * pair;
  }

  // W's segments of 64 bytes from `first` on. There are `left` pieces of 16 bytes from this thread's first one on.
  template <int kSegments>
  __device__ __forceinline__ void Load(uint4 (&a)[kSegments][2], int first, int left) const {
    const uint4 zero = make_uint4(0, 0, 0, 0);
#pragma unroll
    for (int i = 0; i < kSegments; ++i) {
      const bool some = 4 * (first + i) < left;
      const int64_t at = static_cast<int64_t>(first + i) * 64;
      a[i][0] = some && has_upper ? ptx::LoadOnce(upper + at) : zero;
      a[i][1] = some && has_lower ? ptx::LoadOnce(lower + at) : zero;
    }
  }
};

}  // namespace device

// Grid: as many blocks as run at one time, or as there are units: groups of 16 columns times matrices. A block's warps
// share K. Loads of W are always under way: the next ones start before the products of the last, also from one unit to
// the next. Rows of X: up to 8 kFragments.
template <typename Math, int kFragments, bool kBlockScales>
__global__ void __launch_bounds__(32 * kMatvecMostWarps, 1)
    MatvecKernel(const __grid_constant__ MatmulProblem p, const __grid_constant__ Epilogue e) {
  using Sum = typename Math::Sum;
  // Of 64 bytes, that a warp reads at a time: as many as registers hold.
  constexpr int kSegments = kFragments == 4 || (kFragments == 2 && kBlockScales) ? 2 : 4;
  INGOT_DYNAMIC_SHARED(Sum, shared);
  const int warps = static_cast<int>(blockDim.x) / 32;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int group = static_cast<int>(threadIdx.x) % 32 / 4;
  const int pair = static_cast<int>(threadIdx.x) % 4;
  const int pieces = p.k * Math::kBytes / 16;
  const int units = p.tiles_n * p.matrices;
  const uint4 zero = make_uint4(0, 0, 0, 0);
  ptx::GridLaunchDependents();
  ptx::GridDependencyWait();

  device::MatvecOperands operands(p, static_cast<int>(blockIdx.x), group, pair);
  uint4 next[kSegments][2];
  operands.Load(next, warp * kSegments, pieces - pair);
  for (int unit = static_cast<int>(blockIdx.x); unit < units; unit += static_cast<int>(gridDim.x)) {
    const int matrix = operands.matrix;
    const int column = operands.column;
    const char* const x = operands.x;
    Sum sums[kFragments][4] = {};
    for (int first = warp * kSegments; 4 * first < pieces; first += warps * kSegments) {
      uint4 a[kSegments][2];
      uint4 b[kSegments][kFragments];
#pragma unroll
      for (int i = 0; i < kSegments; ++i) a[i][0] = next[i][0], a[i][1] = next[i][1];
      operands.Load(next, first + warps * kSegments, pieces - pair);
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

    if (unit + static_cast<int>(gridDim.x) < units) {
      operands = device::MatvecOperands(p, unit + static_cast<int>(gridDim.x), group, pair);
      operands.Load(next, warp * kSegments, pieces - pair);
    }

    // A fragment's rows are columns of Y.
    constexpr int kPitch = kMatvecColumns + 1;
    Sum* const mine = shared + warp * 8 * kFragments * kPitch;
#pragma unroll
    for (int j = 0; j < kFragments; ++j) {
      Sum* const to = mine + (8 * j + 2 * pair) * kPitch + group;
      to[0] = sums[j][0];
      to[kPitch] = sums[j][1];
      to[8] = sums[j][2];
      to[kPitch + 8] = sums[j][3];
    }
    __syncthreads();
    for (int i = static_cast<int>(threadIdx.x); i < 2 * p.m; i += static_cast<int>(blockDim.x)) {
      const Sum* const from = shared + (i / 2) * kPitch + i % 2 * 8;
      Sum all[kEight] = {};
      for (int j = 0; j < warps; ++j) {
#pragma unroll
        for (int c = 0; c < kEight; ++c) all[c] += from[j * 8 * kFragments * kPitch + c];
      }
      float v[kEight];
#pragma unroll
      for (int c = 0; c < kEight; ++c) v[c] = device::SumBits(all[c]);
      device::StoreEight<kKindOfSums<Sum, Math::kBytes>>(e, matrix, i / 2, column + i % 2 * 8, v);
    }
    __syncthreads();  // the sums can be replaced
  }
}

}  // namespace ingot
