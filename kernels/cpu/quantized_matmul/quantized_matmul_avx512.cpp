#include "cpu/quantized_matmul/avx512.h"

namespace ingot::quantized_matmul {

constinit const Path kPathAvx512 = Implementation<Avx512Nibbles, Avx512Words, Avx2Lanes>::kPath;

}  // namespace ingot::quantized_matmul
