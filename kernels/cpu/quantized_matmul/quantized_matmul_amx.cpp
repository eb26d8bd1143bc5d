#include "cpu/quantized_matmul/avx512.h"
#include "cpu/quantized_matmul/matrices.h"

namespace ingot::quantized_matmul {
namespace {

// Fewer rows leave most of a register unused, and take the time that weights take to read.
constexpr int64_t kLeastRows = 9;
// Scaling the sums of shorter runs takes longer than what matrices save, and that of short ones if rows are few.
constexpr int64_t kLeastRun = 32;
constexpr int64_t kLeastRowsByRun = 28 * 32;
// Rows that share what is read of the weights, and panels that share what is read of these rows: behind the
// second-level cache, of 2 MiB on these machines, reading takes as long as multiplying. It holds the sums in float, 1
// MiB, and a chunk of the rows, 512 KiB.
constexpr int64_t kRows = 512;
constexpr int64_t kPanels = 32;

// Types of this file alone: templates over them cannot be the ones that the linker keeps for machines without AMX.
struct Lanes : simd::Avx512 {};
struct Bytes : Avx512Bytes {};

void Quantize(const Problem& problem, const Scratch& scratch, int64_t first, int64_t end) {
  for (int64_t row = first; row < end; row += kMatrixRows)
    QuantizeMatrixTile<Lanes>(problem, scratch, row, Least(end - row, kMatrixRows));
}

void Multiply(const Problem& problem, const Scratch& scratch, const Unit& unit) {
  const int64_t rows = unit.end_row - unit.first_row;
  const int64_t panels = unit.end_panel - unit.first_panel;
  __builtin_memset(scratch.sums, 0, static_cast<size_t>(panels * rows * kPanel) * sizeof(float));
  switch (problem.codes) {
    case Codes::kBytes:
      MultiplyMatrices<Lanes, Bytes, Codes::kBytes>(problem, scratch, unit);
      break;
    case Codes::kNibbles:
      MultiplyMatrices<Lanes, Bytes, Codes::kNibbles>(problem, scratch, unit);
      break;
    case Codes::kTable:
      MultiplyMatrices<Lanes, Bytes, Codes::kTable>(problem, scratch, unit);
      break;
  }
  Finish<Lanes>(problem, unit, scratch.sums);
}

constexpr IntegerTraits kTraits = {kMatrixRows, kChunk, sizeof(int8_t), kRows, kPanels, kMatrixDepth};

}  // namespace

constinit const Path kPathAmx = {kTraits,          kTraits,    Quantize,  Multiply,
                                 &kPathAvx512Vnni, kLeastRows, kLeastRun, kLeastRowsByRun};

}  // namespace ingot::quantized_matmul
