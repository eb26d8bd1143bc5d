// Bytes that travel to the GPU as a kernel's parameter.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>

#include "device_library.h"

namespace ingot::cuda {

// Writes up to kMostStored bytes.
cudaError_t Store(void* to, const void* from, size_t bytes, cudaStream_t stream);

}  // namespace ingot::cuda
