// Which kernels this library has and this machine can run.
#pragma once

#include <string>

namespace ingot {

// ingot_kernels' JSON.
std::string KernelsJson();

}  // namespace ingot
