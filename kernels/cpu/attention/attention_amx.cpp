#include "cpu/attention/direct_matrices.h"

namespace ingot::attention {
namespace {

// A type of this file alone: templates over it cannot be the ones that the linker keeps for machines without AMX.
struct Lanes : simd::Avx512 {};

// Up to so many rows, vectors multiply floats in less time than it takes to take keys and values apart.
constexpr int64_t kMostRowsOfVectors = 64;

}  // namespace

void RunUnitAmx(const Problem& problem, const Unit& unit, const Scratch& scratch, Phase phase) {
  const auto bfloat = [](const Tensor& tensor) { return tensor.element == Element::kBfloat; };
  const bool exact = bfloat(problem.q) && bfloat(problem.k);  // O is of Q's type, V of K's
  const int64_t rows = unit.end_row - unit.first_row;
  const bool direct = rows <= kMostDirectRows && problem.k.feature == 1;
  const auto finish = [&](const Unit& part, const Scratch& own) { FinishUnit<Lanes>(problem, part, own); };
  if (direct && exact && phase != Phase::kFinish && FewRowsByMatrices<Lanes>::Takes(problem)) {
    FewRowsByMatrices<Lanes>(problem, unit, scratch).Run();
    if (phase == Phase::kWhole) ForHeads(problem, unit, scratch, finish);
    return;
  }
  const bool few = direct || (rows <= kMostRowsOfVectors && !exact && !problem.rounds);
  if (phase == Phase::kFinish || few || problem.k_scales.data != nullptr || problem.size == 0)
    return RunUnitAvx512(problem, unit, scratch, phase);
  const bool computed = exact || problem.rounds ? ComputeByMatrices<Lanes, 1>(problem, unit, scratch)
                                                : ComputeByMatrices<Lanes, 3>(problem, unit, scratch);
  if (!computed) return RunUnitAvx512(problem, unit, scratch, phase);
  if (phase == Phase::kWhole) FinishUnit<Lanes>(problem, unit, scratch);
}

}  // namespace ingot::attention
