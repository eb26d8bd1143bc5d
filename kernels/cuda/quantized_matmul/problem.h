// A call as its device functions take it, and the functions that start them.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cuda/kernel.h"

namespace ingot::cuda::quantized_matmul {

constexpr int kPanel = 16;  // rows of W in a panel: columns of Y
constexpr int kEight = 8;   // columns that a thread finishes together, or that are gates
constexpr int kStep = 64;   // k in a step of the packed weights
constexpr int kLeastGroup = 16;

enum class Element : int32_t { kFloat, kHalf, kBfloat, kPower, kByte };  // kPower: 2^(code - 127)
enum class Codes : int32_t { kBytes, kNibbles, kTable };
enum class Activation : int32_t { kNone, kRelu, kGelu, kGeluTanh, kSilu };

struct Problem {
  const void* x;     // rows are `x_stride` elements apart
  int64_t x_stride;  // for tensor cores: of aligned rows, a multiple of 8
  const uint8_t* weights;
  const uint8_t* scales;
  const uint8_t* zeros;  // nullptr: none
  const float* bias;     // nullptr: none
  const void* residual;  // nullptr: none
  void* y;
  int32_t rows, columns, depth;
  int32_t y_columns;      // with gates half of `columns`
  int32_t panels, steps;  // steps of a panel
  int32_t groups;         // scales of a column
  int32_t group_shift;    // k that share a scale: 1 << group_shift, at most 2^30
  Element x_type;
  Element scale_type;
  Element zero_type;
  Element y_type;  // and the residual's
  Codes codes;
  Activation activation;
  bool normalized;      // rows of X are RMS-normalized first, and rounded to X's type
  const uint8_t* norm;  // [depth], what they are multiplied by after `norm_offset` is added; nullptr: 1
  Element norm_type;
  float norm_epsilon, norm_offset;
  bool gated;              // a panel's second eight columns are multiplied by the activation of its first eight
  uint32_t table[8];       // of kTable, in the type of the product: lower bytes of the 16 numbers, upper bytes
  float table_floats[16];  // of kTable, for products in float32
};

// What ints can ask for, or zeros: the variant in quantized_matmul.h.
struct Choice {
  int path, splits, stages, warps;
};

inline int64_t CeilDivide(int64_t a, int64_t b) { return (a + b - 1) / b; }
__host__ __device__ constexpr int BytesOf(Element element) {
  return element == Element::kFloat ? 4 : element == Element::kHalf || element == Element::kBfloat ? 2 : 1;
}
// Bytes of one step of one panel.
inline int StepBytes(Codes codes) { return codes == Codes::kBytes ? kPanel * kStep : kPanel * kStep / 2; }

// Writes X as [rows, stride] of 16 bits, zeros in the columns past `depth`.
void LaunchPrepare(CudaContext& context, const Problem& problem, Element to_type, void* to, int64_t stride);
// Products in float32 of whatever types.
void LaunchFloats(CudaContext& context, const Problem& problem);
// Products of 16-bit rows in tensor cores (mma.sync), for all GPUs.
void LaunchStreamed(CudaContext& context, const Problem& problem, const Choice& choice);
// The same for up to 8 rows on compute capability 9.0, where groups are of 64 k or more and have no zeros. False, and
// nothing is started, for what it does not take.
bool LaunchBulk(CudaContext& context, const Problem& problem, const Choice& choice);
// The same for up to 32 rows, where groups are of 64 k or more; it alone takes `normalized`, for up to 8. False, and
// nothing is started, for what it does not take.
bool LaunchDirect(CudaContext& context, const Problem& problem, const Choice& choice);
// The same for many rows on compute capability 9.0 (wgmma).
void LaunchWgmma(CudaContext& context, const Problem& problem, const Choice& choice);
// About how long these take where arithmetic is what takes the time.
int64_t StreamedCycles(const Problem& problem, int multiprocessors);
int64_t WgmmaCycles(const Problem& problem, int multiprocessors);

}  // namespace ingot::cuda::quantized_matmul
