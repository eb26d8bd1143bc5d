#include "cpu/recurrent/cells.h"
#include "simd/vector_avx512.h"

namespace ingot::recurrent {
namespace {

struct Machine {
  using Wide = simd::Avx512;
  using Units = simd::Avx2;
};

}  // namespace

StepFunctions StepsAvx512() { return StepsOf<Machine>(); }

}  // namespace ingot::recurrent
