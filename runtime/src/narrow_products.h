// How fast narrow numbers are multiplied and added up: the peaks of kernels that multiply them.
#pragma once

#include <cstdint>

namespace ingot {

// Multiply signed or unsigned bytes, or bfloat16, for about a millisecond on the calling thread with the fastest
// instruction that this machine has and INGOT_ISA allows; return the operations done, two for each product that is
// added up. 0 is what bfloat16 has no instructions for.
double MultiplyBytes();
double MultiplyBfloats();

}  // namespace ingot
