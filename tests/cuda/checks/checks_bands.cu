#include "checks.h"
#include "cuda/bands.h"
#include "cuda/launch.h"

namespace ingot {
namespace {

__global__ void BandsKernel(int rows, int columns, int band, int* places) {
  for (int i = static_cast<int>(threadIdx.x); i < rows * columns; i += static_cast<int>(blockDim.x)) {
    const device::TilePlace place = device::FindInBands(i, rows, columns, band);
    places[2 * i] = place.row;
    places[2 * i + 1] = place.column;
  }
}

}  // namespace

void CheckBands(CudaContext& context) {
  const auto number = [&](size_t i) { return static_cast<int>(context.ints()[i]); };
  const int rows = number(0);
  const int columns = number(1);
  const int band = number(2);
  CudaContext::Check(
      Launch(BandsKernel, dim3(1), dim3(64), 0, context.stream(), rows, columns, band, Data<int>(context.Output(0))),
      "check_bands");
}

}  // namespace ingot
