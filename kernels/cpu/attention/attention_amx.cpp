#include "cpu/attention/matrices.h"

namespace ingot::attention {
namespace {

// A type of this file alone: templates over it cannot be the ones that the linker keeps for machines without AMX.
struct Lanes : simd::Avx512 {};

}  // namespace

void RunUnitAmx(const Problem& problem, const Unit& unit, const Scratch& scratch, Phase phase) {
  const auto is = [](const Tensor& tensor, Element element) { return tensor.element == element; };
  const bool exact = is(problem.q, Element::kBfloat) && is(problem.k, Element::kBfloat);
  const bool direct = unit.end_row - unit.first_row <= kMostDirectRows && problem.k.feature == 1;
  const bool fits = (exact || problem.rounds) && problem.k_scales.data == nullptr;
  if (phase == Phase::kFinish || direct || !fits) return RunUnitAvx512(problem, unit, scratch, phase);
  Problem scaled = problem;
  scaled.scale = FactorsOf(problem).queries * (problem.softcap > 0 ? problem.softcap : 1);
  StartUnit<Lanes>(scaled, unit, scratch);
  RoundQueries<Lanes>(problem, scratch.queries, scratch.padded_rows);
  if (scratch.sink_q != scratch.queries && unit.first_key < problem.sink_keys)
    RoundQueries<Lanes>(problem, scratch.sink_q, scratch.padded_rows);
  {
    const simd::Matrices registers;
    RunMatrices<Lanes>(problem, unit, scratch);
  }
  if (phase == Phase::kWhole) FinishUnit<Lanes>(problem, unit, scratch);
}

}  // namespace ingot::attention
