// Slices of a tensor by tuples of indices (ONNX GatherND).
//
// inputs   data: any type [B…, d0, …, d(r-1)]; indices: int64 or int32 [B…, i…, k], 1 <= k <= r
// ints     batch_dims: how many leading extents B… data and indices share
// outputs  [B…, i…, dk, …, d(r-1)]
// errors   an index outside [-d, d)
#pragma once

#include "kernel.h"

namespace ingot {
void GatherNd(KernelContext& context);
}
