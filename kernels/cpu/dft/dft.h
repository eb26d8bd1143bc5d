// Discrete Fourier transform along an axis (ONNX DFT, STFT), of any length, computed in double.
//
// The last axis holds real and imaginary parts: its extent is 2, or 1 for real numbers.
//
// inputs   input: floats [..., m, ..., 1 or 2]
// dims     n: the length of the transform. The input is cut to it, or continued by zeros.
// ints     axis; inverse: 1 for the inverse, divided by n; onesided: 1 for the first n / 2 + 1 frequencies only, as
//          results of a transform of real numbers, or as the input of an inverse that gives real numbers
// outputs  as input [..., n or n / 2 + 1, ..., 2], or [..., n, ..., 1] from a one-sided inverse; the program states it
#pragma once

#include "kernel.h"

namespace ingot {
void Dft(KernelContext& context);
}
