#include "cpu/attention/matrices.h"

namespace ingot::attention {
namespace {

// A type of this file alone: templates over it cannot be the ones that the linker keeps for machines without AMX.
struct Lanes : simd::Avx512 {};

}  // namespace

void RunUnitAmx(const Problem& problem, const Unit& unit, const Scratch& scratch, Phase phase) {
  const auto bfloat = [](const Tensor& tensor) { return tensor.element == Element::kBfloat; };
  const bool direct = unit.end_row - unit.first_row <= kMostDirectRows && problem.k.feature == 1;
  if (phase == Phase::kFinish || direct || problem.k_scales.data != nullptr || problem.size == 0)
    return RunUnitAvx512(problem, unit, scratch, phase);
  const bool exact = bfloat(problem.q) && bfloat(problem.k) && bfloat(problem.v);
  const bool computed = problem.rounds || (exact && bfloat(problem.o))
                            ? ComputeByMatrices<Lanes, Exact{1, 1, 1}>(problem, unit, scratch)
                        : exact ? ComputeByMatrices<Lanes, Exact{1, 3, 1}>(problem, unit, scratch)
                                : ComputeByMatrices<Lanes, Exact{3, 3, 3}>(problem, unit, scratch);
  if (!computed) return RunUnitAvx512(problem, unit, scratch, phase);
  if (phase == Phase::kWhole) FinishUnit<Lanes>(problem, unit, scratch);
}

}  // namespace ingot::attention
