#include "cpu/quantized_matmul/neon.h"

namespace ingot::quantized_matmul {

constinit const Path kPathNeon = Implementation<NeonEngine, NeonEngine, NeonLanes>::kPath;

}  // namespace ingot::quantized_matmul
