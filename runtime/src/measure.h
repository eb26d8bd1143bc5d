// What this machine's memory and arithmetic reach: the roofline that results are compared with. Each function works
// again and again for so many seconds, at least once, with instructions that INGOT_ISA allows.
#pragma once

#include <cstdint>

#include "ingot/ingot.h"

namespace ingot {

ingot_rate MeasureBandwidth(int32_t threads, double seconds);  // 10^9 bytes read in a second
ingot_rate MeasureFma(int32_t threads, double seconds);        // 10^9 floating-point operations (f32) in a second
ingot_rate MeasureBf16(int32_t threads, double seconds);       // 10^9 operations of bfloat16 products in a second
ingot_rate MeasureInt8(int32_t threads, double seconds);       // 10^9 operations of byte products in a second

}  // namespace ingot
