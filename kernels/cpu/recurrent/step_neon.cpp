#include "cpu/recurrent/cells.h"
#include "simd/vector_neon.h"

namespace ingot::recurrent {
namespace {

struct Machine {
  using Wide = simd::Neon;
  using Units = simd::Neon;
};

}  // namespace

StepFunctions StepsNeon() { return StepsOf<Machine>(); }

}  // namespace ingot::recurrent
