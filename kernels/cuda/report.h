// How device code says that data are not what it takes: it goes on without them, and the session fails when it has
// waited.
#pragma once

#include "cuda/fault_place.h"
#include "cuda/launch.h"

namespace ingot {

// The first report of all is kept.
__device__ inline void Report(const FaultPlace& place, FaultKind kind, int64_t a, int64_t b, int64_t c = 0,
                              int64_t d = 0) {
  if (place.where == nullptr) return;
  auto* const first = reinterpret_cast<unsigned long long*>(&place.where->step);
  if (atomicCAS(first, 0ull, static_cast<unsigned long long>(place.step)) != 0) return;
  place.where->fault = {kind, {a, b, c, d}};
}

}  // namespace ingot
