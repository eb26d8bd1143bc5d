// What a call of the kernel is given, checked.
#pragma once

#include "cpu/attention/unit.h"
#include "kernel.h"

namespace ingot::attention {

// The problem that a call's tensors and attributes describe. Fails with what does not fit.
Problem ReadProblem(KernelContext& context);

}  // namespace ingot::attention
