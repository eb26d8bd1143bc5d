// Determinants (ONNX Det), by elimination with pivots, in double.
//
// inputs   input: floats [..., n, n]
// outputs  as input [...]
#pragma once

#include "kernel.h"

namespace ingot {
void Det(KernelContext& context);
}
