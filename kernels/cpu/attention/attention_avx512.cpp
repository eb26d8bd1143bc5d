#include "cpu/attention/run_unit.h"
#include "simd/vector_avx512.h"

namespace ingot::attention {

// Four vectors of columns: 10 loads for 24 multiply-adds, where two by 12 rows take 14. A core that is shared with
// another hardware thread makes a tenth more of them.
void RunUnitAvx512(const Problem& problem, const Unit& unit, const Scratch& scratch, Phase phase) {
  RunUnit<Tiles<Tile<simd::Avx512, 6, 4>, Tile<simd::Avx512, 12, 2>>>(problem, unit, scratch, phase);
}

}  // namespace ingot::attention
