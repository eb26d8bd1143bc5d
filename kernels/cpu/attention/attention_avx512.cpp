#include "cpu/attention/run_unit.h"
#include "simd/vector_avx512.h"

namespace ingot::attention {

void RunUnitAvx512(const Problem& problem, const Unit& unit, const Scratch& scratch, Phase phase) {
  RunUnit<Tile<simd::Avx512, 12, 2>>(problem, unit, scratch, phase);
}

}  // namespace ingot::attention
