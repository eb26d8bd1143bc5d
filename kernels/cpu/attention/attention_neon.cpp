#include "cpu/attention/run_unit.h"
#include "simd/vector_neon.h"

namespace ingot::attention {

void RunUnitNeon(const Problem& problem, const Unit& unit, const Scratch& scratch, Phase phase) {
  RunUnit<Tiles<Tile<simd::Neon, 6, 4>>>(problem, unit, scratch, phase);
}

}  // namespace ingot::attention
