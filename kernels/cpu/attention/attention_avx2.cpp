#include "cpu/attention/run_unit.h"
#include "simd/vector_avx2.h"

namespace ingot::attention {

void RunUnitAvx2(const Problem& problem, const Unit& unit, const Scratch& scratch, Phase phase) {
  RunUnit<Tiles<Tile<simd::Avx2, 6, 2>>>(problem, unit, scratch, phase);
}

}  // namespace ingot::attention
