// Products and convolutions by mma.sync, from compute capability 8.0 on: tiles of X and W go through several stages of
// shared memory with cp.async, fragments are read by ldmatrix, sums stay in registers.
#pragma once

#include "cuda/matmul/epilogue.h"
#include "cuda/matmul/math.h"
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

// The place of a piece in a tile of rows of kRowBytes, such that eight rows of one piece lie in different banks.
template <int kRowBytes>
__device__ __forceinline__ int PiecePlace(int row, int piece) {
  const int turn = kRowBytes == 64 ? (row >> 1) & 3 : row & 7;
  return row * kRowBytes + 16 * (piece ^ turn);
}

// Copies rows of K of a matrix: thread i always the same piece of every (threads / pieces)th row.
template <typename Shape, int kRows>
struct RowLoader {
  static constexpr int kStride = Shape::kThreads / Shape::kPieces;
  const char* from;  // of the thread's first row and piece
  int64_t pitch;
  int rows;    // how many there are, from the thread's first one on
  int pieces;  // how many of K are left, from the thread's first one on

  __device__ __forceinline__ RowLoader(const char* matrix, int64_t row_pitch, int first_row, int row_count,
                                       int first_piece, int piece_count) {
    const int row = static_cast<int>(threadIdx.x) / Shape::kPieces;
    const int piece = static_cast<int>(threadIdx.x) % Shape::kPieces;
    const bool any = first_row + row < row_count && first_piece + piece < piece_count;
    from = any ? matrix + (first_row + row) * row_pitch + (first_piece + piece) * 16 : matrix;
    pitch = row_pitch;
    rows = any ? row_count - first_row - row : 0;
    pieces = piece_count - first_piece - piece;
  }

  __device__ __forceinline__ void Load(uint32_t shared) {
    const int row = static_cast<int>(threadIdx.x) / Shape::kPieces;
    const int piece = static_cast<int>(threadIdx.x) % Shape::kPieces;
#pragma unroll
    for (int i = 0; i < kRows / kStride; ++i) {
      const bool valid = i * kStride < rows && pieces > 0;
      ptx::CopyAsyncFill<16>(shared + PiecePlace<Shape::kRowBytes>(row + i * kStride, piece),
                             valid ? from + i * kStride * pitch : from, valid ? 16 : 0);
    }
  }
  __device__ __forceinline__ void Advance() {
    pieces -= Shape::kPieces;
    if (pieces > 0) from += Shape::kRowBytes;
  }
};

// Copies k rows of N: W [k, n]. A tile's rows are 2 kColumns bytes.
template <typename Shape>
struct ColumnLoader {
  static constexpr int kPieces = Shape::kColumns / 8;
  static constexpr int kDepth = Shape::kRowBytes / 2;
  static constexpr int kStride = Shape::kThreads / kPieces;
  static_assert(kDepth % kStride == 0 && kPieces % 8 == 0);
  const char* matrix;
  const char* from;
  int64_t pitch;
  int depth;  // how many k are left, from the thread's first one on
  bool valid;

  __device__ __forceinline__ ColumnLoader(const char* w, int64_t row_pitch, int first_piece, int piece_count,
                                          int first_k, int k) {
    const int row = static_cast<int>(threadIdx.x) / kPieces;
    const int piece = static_cast<int>(threadIdx.x) % kPieces;
    matrix = w;
    pitch = row_pitch;
    depth = k - first_k - row;
    valid = first_piece + piece < piece_count;
    from = w + (first_k + row) * row_pitch + (first_piece + piece) * 16;
  }

  static __device__ __forceinline__ int Place(int row, int piece) {
    return row * kPieces * 16 + 16 * (piece ^ (row & 7));
  }

  __device__ __forceinline__ void Load(uint32_t shared) {
    const int row = static_cast<int>(threadIdx.x) / kPieces;
    const int piece = static_cast<int>(threadIdx.x) % kPieces;
#pragma unroll
    for (int i = 0; i < kDepth / kStride; ++i) {
      const bool some = valid && i * kStride < depth;
      ptx::CopyAsyncFill<16>(shared + Place(row + i * kStride, piece), some ? from + i * kStride * pitch : matrix,
                             some ? 16 : 0);
    }
  }
  __device__ __forceinline__ void Advance() {
    depth -= kDepth;
    from += kDepth * pitch;
  }
};

// Gathers the pixels under the kernel: rows of X are pixels of Y.
template <typename Shape, int kBytes>
struct PixelLoader {
  static constexpr int kStride = Shape::kThreads / Shape::kPieces;
  static constexpr int kCount = Shape::kRows / kStride;
  static constexpr int kDepth = Shape::kRowBytes / kBytes;
  static constexpr int kNever = -(1 << 29);
  const char* x;
  int64_t pitch;
  int corner[kCount];  // the pixel under the kernel's first position, which may lie outside
  int y0[kCount], x0[kCount];
  int kernel_y, kernel_x, channel;  // of the thread's piece
  int left;                         // k that are left, from the thread's first one on

  __device__ __forceinline__ PixelLoader(const MatmulProblem& p, const char* group, int first_row, int first_k) {
    const ConvolutionSteps& c = p.convolution;
    x = group;
    pitch = p.x_pitch;
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      const int row = first_row + static_cast<int>(threadIdx.x) / Shape::kPieces + i * kStride;
      const int image = row / (c.out_height * c.out_width);
      const int pixel = row - image * (c.out_height * c.out_width);
      const int out_y = pixel / c.out_width;
      const int out_x = pixel - out_y * c.out_width;
      y0[i] = row < p.m ? out_y * c.stride_h - c.top : kNever;
      x0[i] = out_x * c.stride_w - c.left;
      corner[i] = row < p.m ? (image * c.height + y0[i]) * c.width + x0[i] : 0;
    }
    const int k = first_k + static_cast<int>(threadIdx.x) % Shape::kPieces * (16 / kBytes);
    const int position = k / c.channels;
    channel = k - position * c.channels;
    kernel_y = position / c.kernel_width;
    kernel_x = position - kernel_y * c.kernel_width;
    left = p.k - k;
  }

  __device__ __forceinline__ void Load(const MatmulProblem& p, uint32_t shared) {
    const ConvolutionSteps& c = p.convolution;
    const int row = static_cast<int>(threadIdx.x) / Shape::kPieces;
    const int piece = static_cast<int>(threadIdx.x) % Shape::kPieces;
    const int dy = kernel_y * c.dilation_h;
    const int dx = kernel_x * c.dilation_w;
    const int move = dy * c.width + dx;
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      const bool valid = left > 0 && static_cast<unsigned>(y0[i] + dy) < static_cast<unsigned>(c.height) &&
                         static_cast<unsigned>(x0[i] + dx) < static_cast<unsigned>(c.width);
      const char* const from = valid ? x + (corner[i] + move) * pitch + channel * kBytes : x;
      const uint32_t to = shared + PiecePlace<Shape::kRowBytes>(row + i * kStride, piece);
      if constexpr (kBytes == 1) {
        // What stands for 0 may be another code. Nothing reads the stage before the barrier behind which X arrives too.
        if (!valid && c.outside != 0) {
          ptx::StoreShared128(to, make_uint4(c.outside, c.outside, c.outside, c.outside));
          continue;
        }
      }
      ptx::CopyAsyncFill<16>(to, from, valid ? 16 : 0);
    }
  }
  __device__ __forceinline__ void Advance(const MatmulProblem& p) {
    const ConvolutionSteps& c = p.convolution;
    left -= kDepth;
    channel += kDepth;
    while (channel >= c.channels) {
      channel -= c.channels;
      if (++kernel_x == c.kernel_width) {
        kernel_x = 0;
        ++kernel_y;
      }
    }
  }
};

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
        ptx::LoadMatrixTransposed4(
            w[i][0], w[i][1], w[i + 1][0], w[i + 1][1],
            weights + ColumnLoader<Shape>::Place(16 * part + lane % 16, (column + 8 * i) / 8 + lane / 16));
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

// Both operands of a tile, stage by stage.
template <typename Math, typename Shape, OperandMode kMode>
struct TileLoader {
  using X = std::conditional_t<kMode == OperandMode::kConvolution, PixelLoader<Shape, Math::kBytes>,
                               RowLoader<Shape, Shape::kRows>>;
  using W = std::conditional_t<kMode == OperandMode::kRowsOfN, ColumnLoader<Shape>, RowLoader<Shape, Shape::kColumns>>;
  X x;
  W w;

  static __device__ __forceinline__ X MakeX(const MatmulProblem& p, int matrix, int row, int first) {
    const char* const from = static_cast<const char*>(p.x) + matrix * p.x_matrix;
    if constexpr (kMode == OperandMode::kConvolution) {
      return X(p, from, row, first * (16 / Math::kBytes));
    } else {
      return X(from, p.x_pitch, row, p.m, first, p.k * Math::kBytes / 16);
    }
  }
  static __device__ __forceinline__ W MakeW(const MatmulProblem& p, int matrix, int column, int first) {
    const char* const from = static_cast<const char*>(p.w) + matrix * p.w_matrix;
    if constexpr (kMode == OperandMode::kRowsOfN) {
      return W(from, p.w_pitch, column / 8, static_cast<int>(p.w_pitch / 16), first * 8, p.w_depth);
    } else {
      return W(from, p.w_pitch, column, p.n, first, p.k * Math::kBytes / 16);
    }
  }

  // From piece `first` of K on.
  __device__ __forceinline__ TileLoader(const MatmulProblem& p, int x_matrix, int w_matrix, int row, int column,
                                        int first)
      : x(MakeX(p, x_matrix, row, first)), w(MakeW(p, w_matrix, column, first)) {}

  __device__ __forceinline__ void Load(const MatmulProblem& p, uint32_t stage) {
    if constexpr (kMode == OperandMode::kConvolution) {
      x.Load(p, stage);
      x.Advance(p);
    } else {
      x.Load(stage);
      x.Advance();
    }
    w.Load(stage + Shape::kXBytes);
    w.Advance();
  }
};

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

  device::TileLoader<Math, Shape, kMode> loader(p, x_matrix, w_matrix, row, column, first_step * Shape::kPieces);
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
