// How fast products of signed or unsigned bytes are multiplied and added up: the peak of quantized kernels.
#pragma once

#include <cstdint>

namespace ingot {

// Multiplies bytes for about a millisecond on the calling thread with the fastest instruction that this machine has;
// returns the operations done, two for each product that is added up.
double MultiplyBytes();

}  // namespace ingot
