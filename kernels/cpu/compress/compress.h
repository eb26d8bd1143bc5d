// The slices of a tensor for which a condition holds (ONNX Compress, numpy.compress).
//
// inputs   input: any type [d0, …, d(r-1)]; condition: bool [n], n at most the extent of the axis
// ints     axis: of 0 … r-1, or -1 to take the input as flat
// outputs  the input with m slices along the axis; [m] for the flat input
#pragma once

#include "kernel.h"

namespace ingot {
void Compress(KernelContext& context);
}
