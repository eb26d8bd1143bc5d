#include "cpu/quantized_matmul/avx2.h"

namespace ingot::quantized_matmul {

constinit const Path kPathAvx2 = Implementation<Avx2Nibbles, Avx2Words, Avx2Lanes>::kPath;

}  // namespace ingot::quantized_matmul
