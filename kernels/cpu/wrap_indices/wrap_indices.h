// Makes indices non-negative and checks them.
//
// inputs   indices: int64 or int32 [...]
// dims     extent: of the axis that they index
// outputs  int64 [...]: an index i < 0 becomes i + extent
// errors   an index outside [-extent, extent); for CheckIndices, also a negative one
#pragma once

#include "kernel.h"

namespace ingot {
void WrapIndices(KernelContext& context);
void CheckIndices(KernelContext& context);
}  // namespace ingot
