// Picks boxes by score, leaving out those that overlap one picked before too much (ONNX NonMaxSuppression).
//
// inputs   boxes: float32 [b, n, 4]; scores: float32 [b, c, n]; then, all optional and of one element:
//          max_output_boxes_per_class: int64, 0 by default; iou_threshold: float32, 0 by default; score_threshold:
//          float32
// ints     center_point_box: 0 [y1, x1, y2, x2], any two opposite corners; 1 [x_center, y_center, width, height]
// outputs  int64 [m, 3]: batch, class, box; by batch and class, the highest score first, of equal ones the first box
//
// A box is left out if its intersection over union with a picked one is above iou_threshold, or its score is not above
// score_threshold.
#pragma once

#include "kernel.h"

namespace ingot {
void NonMaxSuppression(KernelContext& context);
}
