// A unit from start to end, for one instruction set.
#pragma once

#include "cpu/attention/direct.h"
#include "cpu/attention/packed.h"

namespace ingot::attention {

template <typename Tiles>
INGOT_INLINE void RunUnit(const Problem& problem, const Unit& unit, const Scratch& scratch, Phase phase) {
  using V = typename Tiles::V;
  const auto start = [&](const Unit& part, const Scratch& own)
                         __attribute__((always_inline)) { StartUnit<V>(problem, part, own); };
  const auto finish = [&](const Unit& part, const Scratch& own)
                          __attribute__((always_inline)) { FinishUnit<V>(problem, part, own); };
  if (phase == Phase::kFinish) return ForHeads(problem, unit, scratch, finish);
  ForHeads(problem, unit, scratch, start);
  const bool direct = unit.end_row - unit.first_row <= kMostDirectRows && problem.k.feature == 1;
  if (!direct) {
    RunPacked<Tiles>(problem, unit, scratch);
  } else {
    WithCacheType(problem.k.element,
                  [&]<typename T>(T*) __attribute__((always_inline)) { RunDirect<V, T>(problem, unit, scratch); });
  }
  if (phase == Phase::kWhole) ForHeads(problem, unit, scratch, finish);
}

}  // namespace ingot::attention
