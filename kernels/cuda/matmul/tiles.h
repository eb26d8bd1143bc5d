// How blocks find their part of the result.
#pragma once

#include "cuda/matmul/problem.h"
#include "cuda/ptx.h"

namespace ingot::device {

struct Tile {
  int matrix, row, column;  // in tiles
};

// Tiles in the order in which they are computed: kRows rows of tiles are gone through column by column, so that the
// blocks that run at one time share rows of X and columns of W in the second-level cache.
template <int kRows>
__device__ __forceinline__ Tile FindTile(const MatmulProblem& p, int index) {
  const int tiles = p.tiles_m * p.tiles_n;
  Tile tile;
  tile.matrix = index / tiles;
  index -= tile.matrix * tiles;
  const int band = index / (kRows * p.tiles_n);
  index -= band * kRows * p.tiles_n;
  const int rows = p.tiles_m - band * kRows < kRows ? p.tiles_m - band * kRows : kRows;
  tile.column = index / rows;
  tile.row = band * kRows + index - tile.column * rows;
  return tile;
}

// The places of matrix i's operands among the matrices of X and W.
__device__ __forceinline__ void FindMatrices(const BatchSteps& batch, int index, int& x, int& w) {
  x = 0;
  w = 0;
  if (index == 0) return;
#pragma unroll
  for (int i = 0; i < BatchSteps::kDigits; ++i) {
    const int digit = index % batch.extents[i];
    index /= batch.extents[i];
    x += digit * batch.x[i];
    w += digit * batch.w[i];
  }
}

}  // namespace ingot::device
