#include "cpu/recurrent/cells.h"
#include "simd/vector_avx2.h"

namespace ingot::recurrent {
namespace {

struct Machine {
  using Wide = simd::Avx2;
  using Units = simd::Avx2;
};

}  // namespace

StepFunctions StepsAvx2() { return StepsOf<Machine>(); }

}  // namespace ingot::recurrent
