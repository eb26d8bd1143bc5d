// What this machine's memory and arithmetic reach: the roofline that results are compared with.
#pragma once

#include <cstdint>

namespace ingot {

double MeasureBandwidth(int32_t threads);  // 10^9 bytes read in a second
double MeasureFma(int32_t threads);        // 10^9 floating-point operations (f32) in a second
double MeasureInt8(int32_t threads);       // 10^9 operations of byte products in a second

}  // namespace ingot
