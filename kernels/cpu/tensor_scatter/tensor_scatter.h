// Writes steps into a cache: ONNX TensorScatter, and what updates a state in place.
//
// Inputs
//   0  cache   [B, ..., C, ...], C its extent on the axis of steps
//   1  update  [B, ..., S, ...] of the cache's type, or float32 for a cache of float16 or bfloat16, to which it is
//              rounded (to nearest, ties to even)
//   2  first, optional  int64 or int32 [B]: where each batch's steps start; 0 without
// Output
//   0  the cache with the steps in place. If it is the cache's own memory, nothing else is touched.
//
// ints: the axis; circular; sinks. Step s of batch b goes to slot p = first[b] + s. With circular, slots past `sinks`
// are a ring: p >= sinks goes to sinks + (p - sinks) mod (C - sinks). Otherwise a step past the last slot is an error,
// and nothing is written.
#pragma once

#include "kernel.h"

namespace ingot {

void TensorScatter(KernelContext& context);

}  // namespace ingot
