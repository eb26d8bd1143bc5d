#include <algorithm>
#include <array>
#include <cmath>

#include "cuda/matmul/prepare.h"
#include "cuda/matmul/products.h"

namespace ingot {
namespace {

// A row of the table of paths with tiles. `efficiency` is the share of the instruction's rate that the inner loop of a
// multiprocessor full of such tiles reaches.
struct TilePath {
  ProductPath path;
  int rows, columns;
  double efficiency;
  bool hopper;
};

constexpr std::array<TilePath, 7> kTilePaths = {{
    {ProductPath::kMma128x128, 128, 128, 0.85, false},
    {ProductPath::kMma128x64, 128, 64, 0.7, false},
    {ProductPath::kMma64x64, 64, 64, 0.55, false},
    {ProductPath::kWgmma128x256, 128, 256, 0.85, true},
    {ProductPath::kWgmma128x128, 128, 128, 0.7, true},
    {ProductPath::kWgmma64x128, 64, 128, 0.5, true},
    {ProductPath::kFma32x128, 32, 128, 0.5, false},
}};

constexpr int kMostSlices = 32;
constexpr double kBytesPerCycle = 20;      // of device memory, for each multiprocessor
constexpr double kStartCycles = 2000;      // of a kernel
constexpr double kTileCycles = 1500;       // of a tile besides its products: the first loads, the epilogue
constexpr double kSlicesCycles = 3500;     // of a second kernel that adds up slices
constexpr int64_t kLeastSliceBytes = 512;  // of K in a slice

double DivideUp(double a, double b) { return std::ceil(a / b); }

bool IsMatvec(const ProductKernels& kernels, const ProductSituation& s) {
  return (s.mode == OperandMode::kRowsOfK || s.mode == OperandMode::kBlockScales) && s.m <= kernels.matvec_rows;
}

bool IsPossible(const ProductKernels& kernels, const ProductSituation& s, const TilePath& row) {
  if (row.hopper) {
    return kernels.wgmma_rate > 0 && s.capability == 90 && s.k > 0 && s.mode != OperandMode::kConvolution &&
           (s.mode != OperandMode::kBlockScales || row.columns <= 128);
  }
  if (row.path == ProductPath::kFma32x128) return kernels.fma;
  return s.mode != OperandMode::kBlockScales || row.columns <= 64;
}

double MatvecCycles(const ProductKernels& kernels, const ProductSituation& s) {
  const double bytes =
      static_cast<double>(s.n) * static_cast<double>(s.k) * kernels.bytes * static_cast<double>(s.matrices);
  return kStartCycles + bytes / (kBytesPerCycle * s.multiprocessors) * (s.m > 16 ? 1.3 : 1.0);
}

double TileCycles(const ProductKernels& kernels, const ProductSituation& s, const TilePath& row, int slices) {
  const double k = DivideUp(static_cast<double>(s.k), slices);
  const double tiles = DivideUp(static_cast<double>(s.m), row.rows) * DivideUp(static_cast<double>(s.n), row.columns) *
                       static_cast<double>(s.matrices) * slices;
  const double rate = row.hopper ? kernels.wgmma_rate : kernels.mma_rate;
  const double tile = row.rows * row.columns * k / (rate * row.efficiency) + kTileCycles;
  const double compute = DivideUp(tiles, s.multiprocessors) * tile;
  const double operands =
      static_cast<double>(s.m + s.n) * static_cast<double>(s.k) * static_cast<double>(s.matrices) * kernels.bytes;
  const double memory = operands / (kBytesPerCycle * s.multiprocessors);
  double cycles = kStartCycles + std::max(compute, memory);
  if (slices > 1) {
    // Partial sums are written and read as float32; most of them stay in the second-level cache.
    const double sums =
        8.0 * static_cast<double>(s.m) * static_cast<double>(s.n) * static_cast<double>(s.matrices) * slices;
    cycles += kSlicesCycles + sums / (2 * kBytesPerCycle * s.multiprocessors);
  }
  return cycles;
}

int MostSlices(const ProductKernels& kernels, const ProductSituation& s) {
  const int64_t parts = s.k * kernels.bytes / kLeastSliceBytes;
  return static_cast<int>(std::clamp<int64_t>(parts, 1, kMostSlices));
}

}  // namespace

ProductPlan ChooseProductPlan(std::string_view kernel, const ProductKernels& kernels, const ProductSituation& s,
                              int64_t forced) {
  if (forced < 0) FailKernel(kernel, " has no variant ", forced);
  const ProductPath path = static_cast<ProductPath>(forced % 100);
  const int forced_slices = static_cast<int>(std::min<int64_t>(forced / 100, kMostSlices));
  ProductPlan best{ProductPath::kChosen, 1};
  double best_cycles = 0;
  const auto offer = [&](ProductPath candidate, int slices, double cycles) {
    if (best.path == ProductPath::kChosen || cycles < best_cycles) best = {candidate, slices}, best_cycles = cycles;
  };
  if (IsMatvec(kernels, s) && (path == ProductPath::kChosen || path == ProductPath::kMatvec)) {
    offer(ProductPath::kMatvec, 1, MatvecCycles(kernels, s));
  }
  for (const TilePath& row : kTilePaths) {
    if (!IsPossible(kernels, s, row) || (path != ProductPath::kChosen && path != row.path)) continue;
    const int most = forced_slices > 0 ? forced_slices : MostSlices(kernels, s);
    for (int slices = forced_slices > 0 ? forced_slices : 1; slices <= most; ++slices) {
      offer(row.path, slices, TileCycles(kernels, s, row, slices));
    }
  }
  if (best.path == ProductPath::kChosen) {
    FailKernel(kernel, ": variant ", forced, " does not compute products of ", s.m, " rows with ", s.n,
               " columns on compute capability ", s.capability / 10, ".", s.capability % 10,
               "; variant 0 chooses one that does");
  }
  return best;
}

namespace {

// Runs start(slices' epilogue) and then, with more than one slice, the kernel that adds them up.
template <typename Start>
void WithSlices(CudaContext& context, std::string_view kernel, int slices, const MatmulProblem& p, const Epilogue& e,
                const Start& start) {
  if (slices == 1) {
    CudaContext::Check(start(1, e), kernel);
    return;
  }
  const int pitch = (p.n + kEight - 1) / kEight * kEight;
  const size_t count = static_cast<size_t>(slices) * static_cast<size_t>(p.matrices) * static_cast<size_t>(p.m) *
                       static_cast<size_t>(pitch);
  float* const partial = context.DeviceScratch<float>(count);
  CudaContext::Check(start(slices, PartialSums(partial, p.m, pitch)), kernel);
  CudaContext::Check(AddSlices(partial, slices, p.matrices, pitch, e, context.stream()), kernel);
}

// Slices that are not empty: a kernel divides its steps of `step_bytes` of K evenly.
int WholeSlices(int slices, const MatmulProblem& p, int bytes, int step_bytes) {
  const int64_t steps = (static_cast<int64_t>(p.k) * bytes + step_bytes - 1) / step_bytes;
  const int64_t each = std::max<int64_t>((steps + slices - 1) / slices, 1);
  return static_cast<int>(std::max<int64_t>((steps + each - 1) / each, 1));
}

}  // namespace

void RunMma(CudaContext& context, std::string_view kernel, const ProductKernels& kernels, StartMma start_mma,
            OperandMode mode, const ProductPlan& plan, const MatmulProblem& p, const Epilogue& e) {
  // All tiles' steps are of 128 bytes or of half of that: slices of 128 bytes have no empty one with either.
  const int slices = WholeSlices(plan.slices, p, kernels.bytes, 128);
  WithSlices(context, kernel, slices, p, e, [&](int count, const Epilogue& epilogue) {
    return start_mma(mode, plan.path, count, p, epilogue, context.stream());
  });
}

void RunProducts(CudaContext& context, std::string_view kernel, const ProductKernels& kernels, OperandMode mode,
                 const MatmulProblem& p, const Epilogue& e, int64_t forced) {
  const ProductSituation situation{mode, p.m, p.n, p.k, p.matrices, context.capability(), context.multiprocessors()};
  const ProductPlan plan = ChooseProductPlan(kernel, kernels, situation, forced);
  switch (plan.path) {
    case ProductPath::kMatvec:
      CudaContext::Check(
          kernels.start_matvec(mode == OperandMode::kBlockScales, p, e, context.multiprocessors(), context.stream()),
          kernel);
      return;
    case ProductPath::kWgmma128x256:
    case ProductPath::kWgmma128x128:
    case ProductPath::kWgmma64x128:
      WithSlices(context, kernel, WholeSlices(plan.slices, p, kernels.bytes, 128), p, e,
                 [&](int count, const Epilogue& epilogue) {
                   return kernels.start_wgmma(mode, plan.path, count, p, epilogue, context.multiprocessors(),
                                              context.stream());
                 });
      return;
    default:
      RunMma(context, kernel, kernels, kernels.start_mma, mode, plan, p, e);
  }
}

}  // namespace ingot
