// A copy of a tensor in which elements, by their index along one axis, are updated (ONNX ScatterElements).
//
// inputs   data: any type [d0, …, d(r-1)]; indices: int64 or int32 [i0, …, i(r-1)], ia <= da off the axis; updates: as
// indices ints     axis: of 0 … r-1; reduction: 0 none (the last update of an element wins), 1 add, 2 mul, 3 min, 4 max
// outputs  as data
// errors   an index outside [-d, d) of the axis
#pragma once

#include "kernel.h"

namespace ingot {
void ScatterElements(KernelContext& context);
}
