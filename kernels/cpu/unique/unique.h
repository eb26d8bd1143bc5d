// The different elements, or slices along an axis, of a tensor (ONNX Unique). NaNs count as equal, and come last.
//
// inputs   input: numbers [d0, …, d(r-1)]
// ints     axis: of 0 … r-1, or -1 to take the input as flat; sorted: 1 ascending (slices lexicographically), 0 by
// first occurrence outputs  values: the input with m slices along the axis, [m] for the flat input; then, all optional
// and int64:
//          indices [m]: where each occurs first; inverse_indices [n]: which value each of the n elements or slices is;
//          counts [m]: how often each occurs
#pragma once

#include "kernel.h"

namespace ingot {
void Unique(KernelContext& context);
}
