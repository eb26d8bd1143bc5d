// Attention on a GPU: inputs, output, ints, floats and meaning are those of the CPU kernel (cpu/attention/attention.h),
// and
//
// - K and V may also be float8_e4m3fn, with scales or without;
// - ints may have a ninth entry, for measurements: which variant of a kernel runs (0: the one that is chosen);
// - what depends on data cannot be refused on a GPU, and is taken as the nearest that makes sense: a length below 0 or
//   beyond the keys, a ring's position below its pinned keys or a slot outside the ring, a page that does not exist.
//
// Three kernels serve it. Many queries of 16 bits whose keys are not in pages go to attention_prefill; keys and values
// of 16 or 8 bits whose rows are multiples of 16 bytes go to attention_decode, with any number of queries, and are
// split over keys where queries are few; everything else, as masks of few queries, goes to the general kernel
// (general.h). Products of 16 bits are those of tensor cores: what a query of float32 and its probabilities do not fit
// into is multiplied a second time, so that no more than 2^-15 of it is lost.
#pragma once

#include "cuda/kernel.h"

namespace ingot {

void Attention(CudaContext& context);

}  // namespace ingot
