// PTX instructions as functions, one each, in namespace ingot::ptx. All inline assembly of the CUDA kernels is in the
// ptx_*.h files that this one includes; the emulator has functions of the same names (emulator/ptx_*.h), so that
// kernels run on a CPU in tests. A new instruction goes into both.
//
// Addresses in shared memory are 32-bit numbers, which SharedAddress gives. What needs a newer GPU than the code is
// compiled for traps.
#pragma once

#include <cuda.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>

#include <cstdint>

#include "launch.h"
#include "swizzle.h"

#define INGOT_PTX __device__ __forceinline__

namespace ingot::ptx {

struct Tf32 {};  // the element type of products that round float to 10 bits of mantissa

}  // namespace ingot::ptx

#if defined(INGOT_EMULATE)
#include "emulator/ptx_barrier.h"
#include "emulator/ptx_copy.h"
#include "emulator/ptx_math.h"
#include "emulator/ptx_mma.h"
#else
#include "ptx_barrier.h"
#include "ptx_copy.h"
#include "ptx_math.h"
#include "ptx_mma.h"
#endif
#include "ptx_wgmma.h"
