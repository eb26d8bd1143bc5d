// The indices of elements that are not zero (ONNX NonZero, numpy.nonzero), in row-major order.
//
// inputs   input: any type that has a zero [d0, …, d(r-1)]
// outputs  int64 [r, n]: row i holds the n elements' indices along axis i
#pragma once

#include "kernel.h"

namespace ingot {
void Nonzero(KernelContext& context);
}
