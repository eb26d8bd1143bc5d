// How tiles of X and W come into stages of shared memory, with cp.async, in pieces of 16 bytes.
#pragma once

#include "cuda/matmul/problem.h"
#include "cuda/ptx.h"

namespace ingot {
namespace device {

// The place of a piece in a tile of rows of kRowBytes, such that eight rows of one piece lie in different banks.
template <int kRowBytes>
__device__ __forceinline__ int PiecePlace(int row, int piece) {
  const int turn = kRowBytes == 64 ? (row >> 1) & 3 : row & 7;
  return row * kRowBytes + 16 * (piece ^ turn);
}

// Copies rows of K of a matrix: thread i always the same piece of every (threads / pieces)th row of shared memory. Of
// kSpread neighbours in the matrix, row j goes to the j-th of kSpread parts of the tile: so what threads read at one
// time lies side by side, if each takes all of these neighbours.
template <typename Shape, int kRows, int kSpread = 1>
struct RowLoader {
  static constexpr int kStride = Shape::kThreads / Shape::kPieces;
  static constexpr int kPart = kRows / kSpread;
  static constexpr int kStep = kSpread == 1 ? kStride : kStride / kPart;  // in the matrix
  static_assert(kSpread == 1 || kStride % kPart == 0);
  const char* from;  // of the thread's first row and piece
  int64_t pitch;
  int rows;    // how many there are, from the thread's first one on
  int pieces;  // how many of K are left, from the thread's first one on

  __device__ __forceinline__ RowLoader(const char* matrix, int64_t row_pitch, int first_row, int row_count,
                                       int first_piece, int piece_count) {
    const int place = static_cast<int>(threadIdx.x) / Shape::kPieces;
    const int row = kSpread == 1 ? place : place % kPart * kSpread + place / kPart;
    const int piece = static_cast<int>(threadIdx.x) % Shape::kPieces;
    const bool any = first_row + row < row_count && first_piece + piece < piece_count;
    from = any ? matrix + (first_row + row) * row_pitch + (first_piece + piece) * 16 : matrix;
    pitch = row_pitch;
    rows = any ? row_count - first_row - row : 0;
    pieces = piece_count - first_piece - piece;
  }

  __device__ __forceinline__ void Load(uint32_t shared) {
    const int place = static_cast<int>(threadIdx.x) / Shape::kPieces;
    const int piece = static_cast<int>(threadIdx.x) % Shape::kPieces;
#pragma unroll
    for (int i = 0; i < kRows / kStride; ++i) {
      const bool valid = i * kStep < rows && pieces > 0;
      ptx::CopyAsyncFill<16>(shared + PiecePlace<Shape::kRowBytes>(place + i * kStride, piece),
                             valid ? from + i * kStep * pitch : from, valid ? 16 : 0);
    }
  }
  __device__ __forceinline__ void Advance() {
    pieces -= Shape::kPieces;
    if (pieces > 0) from += Shape::kRowBytes;
  }
};

// Copies k rows of N: W [k, n] of 2 or 4 bytes. Those of 2 lie as ldmatrix reads them without conflicts; of 4 bytes a
// thread reads eight columns, two pieces, which lie half a row apart: what threads read at one time is side by side.
template <typename Shape, int kBytes>
struct ColumnLoader {
  static constexpr int kPieces = Shape::kColumns * kBytes / 16;
  static constexpr int kDepth = Shape::kRowBytes / kBytes;
  static constexpr int kStride = Shape::kThreads / kPieces;
  static_assert((kBytes == 2 || kBytes == 4) && kDepth % kStride == 0 && kPieces % 8 == 0);
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
    const int turned = kBytes == 2 ? piece ^ (row & 7) : piece % 2 * (kPieces / 2) + piece / 2;
    return row * kPieces * 16 + 16 * turned;
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

// Both operands of a tile, stage by stage: elements of kBytes. kSpread: of rows of W.
template <typename Shape, OperandMode kMode, int kBytes, int kSpread = 1>
struct TileLoader {
  using X = std::conditional_t<kMode == OperandMode::kConvolution, PixelLoader<Shape, kBytes>,
                               RowLoader<Shape, Shape::kRows>>;
  using W = std::conditional_t<kMode == OperandMode::kRowsOfN, ColumnLoader<Shape, kBytes>,
                               RowLoader<Shape, Shape::kColumns, kSpread>>;
  X x;
  W w;

  static __device__ __forceinline__ X MakeX(const MatmulProblem& p, int matrix, int row, int first) {
    const char* const from = static_cast<const char*>(p.x) + matrix * p.x_matrix;
    if constexpr (kMode == OperandMode::kConvolution) {
      return X(p, from, row, first * (16 / kBytes));
    } else {
      return X(from, p.x_pitch, row, p.m, first, p.k * kBytes / 16);
    }
  }
  static __device__ __forceinline__ W MakeW(const MatmulProblem& p, int matrix, int column, int first) {
    const char* const from = static_cast<const char*>(p.w) + matrix * p.w_matrix;
    if constexpr (kMode == OperandMode::kRowsOfN) {
      return W(from, p.w_pitch, column * kBytes / 16, static_cast<int>(p.w_pitch / 16), first * (16 / kBytes),
               p.w_depth);
    } else {
      return W(from, p.w_pitch, column, p.n, first, p.k * kBytes / 16);
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

}  // namespace device
}  // namespace ingot
