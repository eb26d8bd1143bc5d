// Running sums or products along an axis (ONNX CumSum, CumProd). float16 and bfloat16 accumulate in float32.
//
// inputs   input: any type with arithmetic
// ints     axis; product: 1 multiplies, 0 adds; exclusive: 1 leaves the element itself out; reverse: 1 starts at the
// end outputs  the input's type and shape
#pragma once

#include "kernel.h"

namespace ingot {
void Cumulate(KernelContext& context);
}
