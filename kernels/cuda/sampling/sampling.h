// Choosing the next tokens on a GPU, as python/ingot/generate/sampling.py does behind its penalties.
//
// Inputs
//   0  logits              [..., V]  float32, float16 or bfloat16; NaN and -inf are never chosen, unless nothing else
//   is there: then 0 is 1  numbers, optional   float32 [...]: a uniform random number of [0, 1) for each row; not
//   needed at temperature 0 2  settings, optional  float32 [..., 4]: temperature, top k, top p and min p of each row,
//   in place of those below
// Outputs
//   0  tokens              int64 [...]
//   1  log probabilities, optional  float32 [...]: of the tokens, before temperature and filters
//
// ints: top k (0: all). floats: temperature (below 1e-20: the first of the largest logits), top p, min p.
//
// Tokens are ordered from the likeliest, equally likely ones by number. Of the first k, with weights e^((logit -
// largest) / temperature), the fewest are kept whose weights reach p of their sum, and of those the ones that weigh at
// least min p. The token is the one in which the running sum passes the random number times the sum. Weights below
// e^-64 count as 0, and logits closer than 2^-26 x temperature as equal. Sums are of integers, so that the same numbers
// give the same tokens.
#pragma once

#include "cuda/kernel.h"

namespace ingot {

void Sample(CudaContext& context);

}  // namespace ingot
