// Builtin steps (docs/format.md, "Program"), and how steps read the tensors that steer them.
#pragma once

#include "device.h"
#include "frame.h"

namespace ingot {

void RunBuiltin(Frame& frame, const Step& step, const TensorMemory& memory);

// The only element of a bool tensor. On a GPU, reading waits for it.
bool ReadCondition(const Frame& frame, const Step& step, int32_t value, const TensorMemory& memory);
// The only element of an int64 tensor.
int64_t ReadCount(const Frame& frame, const Step& step, int32_t value, const TensorMemory& memory);

// A value of a frame, to hand to a function.
TensorRef Ref(Frame& frame, int32_t value);

// "node conv1 (Conv)", or the step's name: how messages start.
std::string Place(const Step& step);

}  // namespace ingot
