// A copy of a tensor in which slices, by tuples of indices, are updated (ONNX ScatterND).
//
// inputs   data: any type [d0, …, d(r-1)]; indices: int64 or int32 [i…, k], k <= r; updates: [i…, dk, …, d(r-1)]
// ints     reduction: 0 none (the last update of a slice wins), 1 add, 2 mul, 3 min, 4 max
// outputs  as data
// errors   an index outside [-d, d)
#pragma once

#include "kernel.h"

namespace ingot {
void ScatterNd(KernelContext& context);
}
