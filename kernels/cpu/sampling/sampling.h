// Choosing the next tokens, as cuda/sampling/sampling.h says: the numbers of the same logits give the same tokens but
// for the rounding of e^x.
//
// inputs   logits: float32 [..., V]; numbers: float32 [...]; settings: float32 [..., 4]
// ints, floats   not needed: settings are each row's own
// outputs  tokens: int64 [...]
#pragma once

#include "kernel.h"

namespace ingot {
void Sample(KernelContext& context);
}
