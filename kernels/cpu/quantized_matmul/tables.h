// The numbers of formats whose codes are looked up.
#pragma once

#include <cstdint>

namespace ingot::quantized_matmul {

struct Table {
  float floats[16];
  int8_t bytes[16];
  float unit;  // floats are about bytes * unit
};

// OCP Microscaling Formats 1.0, table 4: E2M1.
constexpr Table kMxfp4Table = {{0, 0.5f, 1, 1.5f, 2, 3, 4, 6, -0.0f, -0.5f, -1, -1.5f, -2, -3, -4, -6},
                               {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12},
                               0.5f};
// Dettmers et al., QLoRA (2023), appendix E; in integers, 127 times that, rounded.
constexpr Table kNf4Table = {
    {-1.0f, -0.6961928009986877f, -0.5250730514526367f, -0.39491748809814453f, -0.28444138169288635f,
     -0.18477343022823334f, -0.09105003625154495f, 0.0f, 0.07958029955625534f, 0.16093020141124725f,
     0.24611230194568634f, 0.33791524171829224f, 0.44070982933044434f, 0.5626170039176941f, 0.7229568362236023f, 1.0f},
    {-127, -88, -67, -50, -36, -23, -12, 0, 10, 20, 31, 43, 56, 71, 92, 127},
    1.0f / 127};

}  // namespace ingot::quantized_matmul
