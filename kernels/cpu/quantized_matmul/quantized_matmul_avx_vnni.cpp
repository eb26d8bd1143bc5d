#include "cpu/quantized_matmul/avx_vnni.h"

namespace ingot::quantized_matmul {

constinit const Path kPathAvxVnni = Implementation<AvxVnniEngine<8>, AvxVnniEngine<128>, Avx2Lanes>::kPath;

}  // namespace ingot::quantized_matmul
