// Class probabilities from the decisions of a support vector machine between pairs of classes (ONNX SVMClassifier):
// each decision becomes a probability by a logistic function, and pairs are coupled as Wu, Lin and Weng (2004) do, as
// in LIBSVM.
//
// inputs   decisions: float32 [n, k (k - 1) / 2], of (0, 1), (0, 2) … (1, 2) …; a, b: float32 [k (k - 1) / 2]
// outputs  float32 [n, k]
#pragma once

#include "kernel.h"

namespace ingot {
void SvmProbabilities(KernelContext& context);
}
