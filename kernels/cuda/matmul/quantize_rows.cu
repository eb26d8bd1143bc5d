#include <algorithm>

#include "cuda/matmul/checks.h"
#include "cuda/matmul/scaled_matmul.h"

namespace ingot {
namespace {

constexpr std::string_view kName = "quantize_rows";
constexpr int kGroup = 128;
constexpr int kWarps = 8;

struct RowsToQuantize {
  const void* x;
  uint8_t* codes;
  float* scales;  // nullptr: `scale` is used, and none are written
  const float* scale;
  int64_t rows, columns;
  int64_t groups;  // of a row
  int64_t group;   // columns in a group
  Number number;
  bool fp8;
  bool vectors;  // rows and groups are divided into pieces of eight on 16-byte boundaries
};

__device__ __forceinline__ uint32_t Encode(bool fp8, float x) {
  if (fp8) return __nv_cvt_float_to_fp8(x, __NV_SATFINITE, __NV_E4M3);
  return static_cast<uint32_t>(static_cast<int>(rintf(fminf(fmaxf(x, -128.0f), 127.0f)))) & 0xff;
}

// The largest of all threads' numbers, which are bits of absolute values: so NaN, whose bits are above infinity's,
// stays.
__device__ __forceinline__ uint32_t BlockMaximum(uint32_t value, bool block) {
  value = __reduce_max_sync(0xffffffff, value);
  if (!block) return value;
  __shared__ uint32_t warps[kWarps];
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = value;
  __syncthreads();
  for (int i = 0; i < kWarps; ++i) value = warps[i] > value ? warps[i] : value;
  return value;
}

// A block for each row, or, with groups, a warp for each group.
__global__ void __launch_bounds__(32 * kWarps) QuantizeRowsKernel(const __grid_constant__ RowsToQuantize p) {
  const bool block = p.groups == 1;
  const int64_t unit = block ? blockIdx.x : static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32;
  if (unit >= p.rows * p.groups) return;  // a whole warp
  const int first = block ? static_cast<int>(threadIdx.x) : static_cast<int>(threadIdx.x) % 32;
  const int step = block ? 32 * kWarps : 32;
  const int64_t row = unit / p.groups;
  const int64_t begin = (unit - row * p.groups) * p.group;
  const int64_t count = p.columns - begin < p.group ? p.columns - begin : p.group;
  const int64_t at = row * p.columns + begin;

  float scale;
  if (p.scales == nullptr) {
    scale = *p.scale;
  } else {
    uint32_t largest = 0;
    if (p.vectors) {
      for (int64_t i = first * kEight; i < count; i += step * kEight) {
        float v[kEight];
        device::LoadEight(v, p.x, p.number, at + i);
#pragma unroll
        for (int j = 0; j < kEight; ++j) {
          const uint32_t bits = __float_as_uint(v[j]) & 0x7fffffff;
          largest = bits > largest ? bits : largest;
        }
      }
    } else {
      for (int64_t i = first; i < count; i += step) {
        const uint32_t bits = __float_as_uint(device::LoadNumber(p.x, p.number, at + i)) & 0x7fffffff;
        largest = bits > largest ? bits : largest;
      }
    }
    largest = BlockMaximum(largest, block);
    scale = largest == 0 ? 1.0f : __uint_as_float(largest) / (p.fp8 ? 448.0f : 127.0f);
    if (scale == 0.0f) scale = 1.0f;  // of subnormal numbers
    if (first == 0) p.scales[unit] = scale;
  }
  if (p.vectors) {
    for (int64_t i = first * kEight; i < count; i += step * kEight) {
      float v[kEight];
      device::LoadEight(v, p.x, p.number, at + i);
      uint2 codes = make_uint2(0, 0);
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        codes.x |= Encode(p.fp8, v[j] / scale) << (8 * j);
        codes.y |= Encode(p.fp8, v[j + 4] / scale) << (8 * j);
      }
      *reinterpret_cast<uint2*>(p.codes + at + i) = codes;
    }
  } else {
    for (int64_t i = first; i < count; i += step) {
      p.codes[at + i] = static_cast<uint8_t>(Encode(p.fp8, device::LoadNumber(p.x, p.number, at + i) / scale));
    }
  }
}

}  // namespace

void QuantizeRows(CudaContext& context) {
  const DLTensor& x = context.Input(0);
  const DLTensor* const scale = context.OptionalInput(1);
  const DLTensor& codes = context.Output(0);
  RowsToQuantize p{};
  p.number = NumberOf(kName, "X", x);
  p.fp8 = IsType(codes, kDLFloat8_e4m3fn, 8);
  if (!p.fp8 && !IsType(codes, kDLInt, 8)) {
    FailKernel(kName, " gives codes of int8 or float8_e4m3fn, not ", DTypeText(codes.dtype));
  }
  if (x.ndim < 1 || !std::ranges::equal(ShapeOf(x), ShapeOf(codes))) {
    FailKernel(kName, " of X ", ShapeText(x), " gives codes of that shape, not ", ShapeText(codes));
  }
  const int64_t group = context.ints()[0];
  if (group != 0 && group != kGroup) FailKernel(kName, " has groups of 128 or of whole rows (0), not of ", group);
  p.columns = x.shape[x.ndim - 1];
  p.rows = ElementCount(ShapeOf(x).first(static_cast<size_t>(x.ndim) - 1));
  p.groups = group == 0 ? 1 : (p.columns + group - 1) / group;
  p.group = group == 0 ? p.columns : group;
  p.x = Data<const void>(x);
  p.codes = Data<uint8_t>(codes);
  if (scale != nullptr) {
    if (!IsType(*scale, kDLFloat, 32) || ElementCount(*scale) != 1) {
      FailKernel(kName, " takes one scale of float32, not ", DTypeText(scale->dtype), " ", ShapeText(*scale));
    }
    p.scale = Data<const float>(*scale);
  } else {
    if (context.output_count() < 2) FailKernel(kName, " without a scale gives scales too, its second output");
    const DLTensor& scales = context.Output(1);
    if (!IsType(scales, kDLFloat, 32) || ElementCount(scales) != p.rows * p.groups) {
      FailKernel(kName, ": scales are ", DTypeText(scales.dtype), " ", ShapeText(scales), ", not float32 with ",
                 p.groups, " for each of ", p.rows, " rows");
    }
    p.scales = Data<float>(scales);
  }
  if (p.rows * p.columns == 0) return;
  p.vectors = p.columns % kEight == 0 && IsAligned(p.x) && reinterpret_cast<uintptr_t>(p.codes) % 8 == 0;
  const int64_t units = p.rows * p.groups;
  const int64_t blocks = p.groups == 1 ? units : (units + kWarps - 1) / kWarps;
  const dim3 grid(static_cast<unsigned>(CheckedInt(kName, "the number of rows", blocks)));
  CudaContext::Check(Launch(QuantizeRowsKernel, grid, dim3(32 * kWarps), 0, context.stream(), p), kName);
}

}  // namespace ingot
