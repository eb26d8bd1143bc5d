// Where the steps of a cache go.
#pragma once

#include <cstdint>

#include "cuda/kernel.h"
#include "cuda/report.h"

namespace ingot::cuda {

struct Slots {
  int64_t capacity;
  int64_t sinks;
  bool circular;
  const void* first;  // [batches], nullptr: 0
  bool long_first;    // int64 rather than int32
  FaultPlace faults;

  // The slot of a batch's step, or -1 if it is not written: it has none, which is reported, or a later one of `steps`
  // takes its place in the ring.
  __device__ int64_t operator()(int64_t batch, int64_t step, int64_t steps) const {
    int64_t start = 0;
    if (first != nullptr)
      start = long_first ? static_cast<const int64_t*>(first)[batch] : static_cast<const int32_t*>(first)[batch];
    const int64_t position = start + step;
    if (start < 0) {
      Report(faults, FaultKind::kBeforeFirst, batch, start);
      return -1;
    }
    if (!circular) {
      if (position < capacity) return position;
      Report(faults, FaultKind::kFull, batch, start, steps, capacity);
      return -1;
    }
    if (position < sinks) return position;
    const int64_t turning = capacity - sinks;
    return step + turning < steps ? -1 : sinks + (position - sinks) % turning;
  }
};

// Throws for a ring that has no slots for `steps`.
inline void CheckRing(const Slots& slots, int64_t steps) {
  if (slots.circular && (slots.sinks < 0 || slots.sinks >= slots.capacity) && steps > 0)
    FailKernel(slots.sinks, " of ", slots.capacity, " slots stay, so that none is left for a ring");
}

}  // namespace ingot::cuda
