// How blocks find their part of the result.
#pragma once

#include "cuda/bands.h"
#include "cuda/matmul/problem.h"
#include "cuda/ptx.h"

namespace ingot::device {

struct Tile {
  int matrix, row, column;  // in tiles
};

// Tile `index` of all matrices, in bands of kRows rows of tiles.
template <int kRows>
__device__ __forceinline__ Tile FindTile(const MatmulProblem& p, int index) {
  const int tiles = p.tiles_m * p.tiles_n;
  const int matrix = index / tiles;
  const TilePlace place = FindInBands(index - matrix * tiles, p.tiles_m, p.tiles_n, kRows);
  return {matrix, place.row, place.column};
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
