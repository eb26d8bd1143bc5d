// What kernels of products and convolutions are told, besides the epilogue.
#pragma once

#include <cstdint>

namespace ingot {

// Which matrices of X and W make matrix i of the result: i is a number whose digits, the last one first, have these
// extents, and a digit moves X and W on by these many matrices (0 where the operand is broadcast).
struct BatchSteps {
  static constexpr int kDigits = 4;
  int extents[kDigits] = {1, 1, 1, 1};
  int x[kDigits] = {};
  int w[kDigits] = {};
};

// The geometry of a convolution, seen by one group.
struct ConvolutionSteps {
  int height = 1, width = 1;          // of X
  int out_height = 1, out_width = 1;  // of Y
  int kernel_width = 1;
  int stride_h = 1, stride_w = 1;
  int top = 0, left = 0;
  int dilation_h = 1, dilation_w = 1;
  int channels = 0;      // of a group
  uint32_t outside = 0;  // four numbers of 8 bits that X is where it has no pixels
};

// Products of `matrices` pairs of X [m, k] and W [n, k] or [k, n]; for a convolution X's rows are gathered: row r is
// output pixel r, and k counts kernel positions with the group's channels innermost.
struct MatmulProblem {
  const void* x = nullptr;
  const void* w = nullptr;
  int m = 0, n = 0, k = 0;
  int64_t x_pitch = 0, w_pitch = 0;    // bytes from row to row, or from pixel to pixel; multiples of 16
  int w_depth = 0;                     // rows of W [k, n], which may be fewer than k: X is 0 there
  int64_t x_matrix = 0, w_matrix = 0;  // bytes from matrix to matrix, or from group to group
  int matrices = 1;
  BatchSteps batch;
  int tiles_m = 0, tiles_n = 0;
  int slices = 1;                   // of K; slice i writes matrix i * matrices + ...
  int slice_steps = 0;              // how many of the kernel's steps of K a slice has
  const float* x_blocks = nullptr;  // [m, blocks of 128 k], for kBlock
  const float* w_blocks = nullptr;  // [blocks of 128 n, blocks of 128 k]
  ConvolutionSteps convolution;
};

enum class OperandMode { kRowsOfK, kRowsOfN, kConvolution, kBlockScales };

}  // namespace ingot
