#include "cpu/attention/run_unit.h"

namespace ingot::attention {

void RunUnitScalar(const Problem& problem, const Unit& unit, const Scratch& scratch, Phase phase) {
  RunUnit<Tiles<Tile<simd::Portable, 4, 2>>>(problem, unit, scratch, phase);
}

}  // namespace ingot::attention
