// Independent random numbers (ONNX RandomNormal, RandomUniform and their Like forms), by a counter: element i depends
// on the seed and on i alone, so that runs repeat and threads do not matter.
//
// inputs   (optional, not read: the tensor whose shape the output has)
// ints     seed
// floats   normal: mean, scale (the standard deviation); uniform: low, high
// outputs  float16, bfloat16, float32 or float64, of the shape that the program states
#pragma once

#include "kernel.h"

namespace ingot {
void RandomNormal(KernelContext& context);
void RandomUniform(KernelContext& context);
}  // namespace ingot
