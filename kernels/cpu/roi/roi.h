// Pooling of regions of feature maps (ONNX RoiAlign and MaxRoiPool).
//
// RoiAlign
// inputs   features: floats [n, c, h, w]; regions: as features [r, 4], (x1, y1, x2, y2); batch: int64 [r]
// ints     samples along each side of a bin, 0 for as many as it has elements; half_pixel: 0 or 1; maximum: 0 mean, 1
// max floats   spatial_scale outputs  as features [r, c, ph, pw], which the program states
//
// MaxRoiPool
// inputs   features: floats [n, c, h, w]; regions: as features [r, 5], (batch, x1, y1, x2, y2)
// floats   spatial_scale
// outputs  as features [r, c, ph, pw], which the program states
//
// errors   a batch index that is out of range; a region that is not finite or absurdly large
#pragma once

#include "kernel.h"

namespace ingot {
void RoiAlign(KernelContext& context);
void MaxRoiPool(KernelContext& context);
}  // namespace ingot
