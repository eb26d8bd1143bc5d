#include "cpu/recurrent/cells.h"
#include "simd/vector_avx2.h"

namespace ingot::recurrent {
namespace {

struct Machine {
  using Wide = simd::Avx2;
  using Units = simd::Avx2;
};

}  // namespace

void StepAvx2(const Step<float>& step) { RunStep<Machine>(step); }

}  // namespace ingot::recurrent
