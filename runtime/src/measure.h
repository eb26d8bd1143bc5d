// What this machine's memory and arithmetic reach: the roofline that results are compared with. Each function works
// again and again for so many seconds, at least once, and returns the best rate.
#pragma once

#include <cstdint>

namespace ingot {

double MeasureBandwidth(int32_t threads, double seconds);  // 10^9 bytes read in a second
double MeasureFma(int32_t threads, double seconds);        // 10^9 floating-point operations (f32) in a second
double MeasureInt8(int32_t threads, double seconds);       // 10^9 operations of byte products in a second

}  // namespace ingot
