// The largest or smallest elements along an axis (ONNX TopK), the best first; of equal ones the first. NaN counts as
// larger than all numbers.
//
// inputs   input: numbers [d0, …, d(r-1)]
// ints     axis: of 0 … r-1; largest: 0 or 1; sorted: not needed, results always are
// outputs  values: as the input, but with extent k along the axis, which the program states; indices (optional): int64,
// as values errors   k larger than the axis
#pragma once

#include "kernel.h"

namespace ingot {
void TopK(KernelContext& context);
}
