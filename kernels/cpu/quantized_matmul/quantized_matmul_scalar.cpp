#include "cpu/quantized_matmul/portable.h"

namespace ingot::quantized_matmul {

constinit const Path kPathScalar = Implementation<PortableEngine, PortableEngine, PortableLanes>::kPath;

}  // namespace ingot::quantized_matmul
