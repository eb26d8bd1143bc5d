// A unit from start to end, for one instruction set.
#pragma once

#include "cpu/attention/direct.h"
#include "cpu/attention/packed.h"

namespace ingot::attention {

template <typename Tile>
INGOT_INLINE void RunUnit(const Problem& problem, const Unit& unit, const Scratch& scratch, Phase phase) {
  using V = typename Tile::V;
  if (phase == Phase::kFinish) return FinishUnit<V>(problem, unit, scratch);
  StartUnit<V>(problem, unit, scratch);
  const bool direct = unit.end_row - unit.first_row <= kMostDirectRows && problem.k.feature == 1;
  if (!direct) {
    RunPacked<Tile>(problem, unit, scratch);
  } else {
    WithCacheType(problem.k.element,
                  [&]<typename T>(T*) __attribute__((always_inline)) { RunDirect<V, T>(problem, unit, scratch); });
  }
  if (phase == Phase::kWhole) FinishUnit<V>(problem, unit, scratch);
}

}  // namespace ingot::attention
