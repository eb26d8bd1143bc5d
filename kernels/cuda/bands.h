// The order in which tiles of a result are computed.
#pragma once

#include <cuda_runtime.h>

namespace ingot::device {

struct TilePlace {
  int row, column;  // in tiles
};

// Tile `index` of rows x columns: bands of `band` rows of tiles are gone through one after the other, each column by
// column, so that the blocks that run at one time share rows of X and columns of W in the second-level cache.
__device__ __forceinline__ TilePlace FindInBands(int index, int rows, int columns, int band) {
  const int first = index / (band * columns) * band;
  index -= first * columns;
  const int height = rows - first < band ? rows - first : band;
  const int column = index / height;
  return {first + index - column * height, column};
}

}  // namespace ingot::device
