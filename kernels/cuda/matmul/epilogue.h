// What happens to sums before they are written: scales, bias, activation, residual, one rounding. Products and
// convolutions of all types end here.
#pragma once

#include <type_traits>

#include "cuda/matmul/codes.h"
#include "cuda/matmul/matmul.h"
#include "cuda/ptx.h"

namespace ingot {

constexpr int kEight = 8;  // columns of one row that a thread finishes together

// The results of `matrices` products of one size. Matrix i begins `i * matrix` elements into y and residual, and
// `i * bias_step` into bias: batches lie one behind the other, groups of a convolution side by side.
struct Epilogue {
  void* y = nullptr;
  const void* bias = nullptr;               // [columns]
  const void* residual = nullptr;           // as y
  const float* row_scales = nullptr;        // of row r: element r * row_scale_step; 1 without
  const float* column_scales = nullptr;     // of column c: element c * column_scale_step; nullptr: sums are not scaled
  const int32_t* column_offsets = nullptr;  // [columns]: taken off int32 sums before they are scaled
  int64_t pitch = 0;                        // elements from row to row
  int64_t matrix = 0;
  int64_t bias_step = 0;
  int rows = 0;
  int columns = 0;
  int row_scale_step = 0;
  int column_scale_step = 0;
  Number number = Number::kFloat32;       // y's and residual's
  Number bias_number = Number::kFloat32;  // bias's
  Activation activation = Activation::kNone;
  float least = 0;  // of kClamp
  float most = 0;
  bool residual_last = true;  // added after the activation
  bool vectors = false;       // eight columns are 16-byte aligned in all of these, wherever they begin
  bool plain = false;         // sums are only scaled, if at all, and rounded
  bool integers = false;      // sums are int32; those that are not scaled are partial, and written as they are
  // With X of 8 bits: sums are rounded to codes and back, first, behind the bias; then a residual, of floats or of
  // codes, is added before the activation. Y may be codes too.
  Codes before_bias;
  Codes before_residual;
  Codes result;
  Codes residual_codes;
  Number residual_number = Number::kFloat32;
};

// What sums are: those of 8-bit floats and integers may become codes. Until they are finished, kIntegers are bits of
// int32 in place of floats.
enum class SumKind { kFloats, kNarrowFloats, kIntegers };

// Of products of numbers of `bytes` bytes.
template <typename Sum, size_t bytes>
constexpr SumKind kKindOfSums = std::is_same_v<Sum, int32_t> ? SumKind::kIntegers
                                : bytes == 1                 ? SumKind::kNarrowFloats
                                                             : SumKind::kFloats;

namespace device {

// x sigmoid(linear x + cubic x^3): SiLU with 1 and 0, and the tanh form of GELU.
__device__ __forceinline__ float TimesSigmoid(float x, float linear, float cubic) {
  const float bounded = fminf(fmaxf(x, -100.0f), 100.0f);  // where the sigmoid is 0 or 1 in float32, and x^2 is finite
  return __fdividef(x, 1.0f + __expf(-bounded * (linear + cubic * bounded * bounded)));
}

__device__ __forceinline__ float Clamp(const Epilogue& e, float x) {
  x = x < e.least ? e.least : x;
  return x > e.most ? e.most : x;
}

__device__ __forceinline__ float ActivateOne(const Epilogue& e, float x) {
  switch (e.activation) {
    case Activation::kRelu:
      return x < 0.0f ? 0.0f : x;  // NaN stays NaN
    case Activation::kGelu:
      return 0.5f * x * (1.0f + erff(x * 0.70710678f));
    case Activation::kGeluTanh:
      return TimesSigmoid(x, 1.5957691f, 1.5957691f * 0.044715f);
    case Activation::kSilu:
      return TimesSigmoid(x, 1.0f, 0.0f);
    case Activation::kClamp:
      return Clamp(e, x);
    default:
      return x;
  }
}

__device__ __forceinline__ void Activate(const Epilogue& e, float (&v)[kEight]) {
  if (e.activation == Activation::kNone) return;
  if (e.activation == Activation::kRelu) {
#pragma unroll
    for (int i = 0; i < kEight; ++i) v[i] = v[i] < 0.0f ? 0.0f : v[i];
  } else if (e.activation == Activation::kClamp) {
#pragma unroll
    for (int i = 0; i < kEight; ++i) v[i] = Clamp(e, v[i]);
  } else if (e.activation == Activation::kGelu) {
#pragma unroll
    for (int i = 0; i < kEight; ++i) v[i] = 0.5f * v[i] * (1.0f + erff(v[i] * 0.70710678f));
  } else {
    const float linear = e.activation == Activation::kSilu ? 1.0f : 1.5957691f;
    const float cubic = e.activation == Activation::kSilu ? 0.0f : 1.5957691f * 0.044715f;
#pragma unroll
    for (int i = 0; i < kEight; ++i) v[i] = TimesSigmoid(v[i], linear, cubic);
  }
}

__device__ __forceinline__ float LowHalf(Number number, uint32_t pair) {
  if (number == Number::kBFloat16) return __uint_as_float(pair << 16);
  return __half2float(__ushort_as_half(static_cast<unsigned short>(pair & 0xffff)));
}

__device__ __forceinline__ float HighHalf(Number number, uint32_t pair) {
  if (number == Number::kBFloat16) return __uint_as_float(pair & 0xffff0000);
  return __half2float(__ushort_as_half(static_cast<unsigned short>(pair >> 16)));
}

__device__ __forceinline__ float LoadNumber(const void* base, Number number, int64_t index) {
  if (number == Number::kFloat32) return static_cast<const float*>(base)[index];
  return LowHalf(number, static_cast<const uint16_t*>(base)[index]);
}

__device__ __forceinline__ uint32_t Pack(Number number, float low, float high) {
  return number == Number::kBFloat16 ? ptx::PackBFloat16(low, high) : ptx::PackHalf(low, high);
}

__device__ __forceinline__ void StoreNumber(void* base, Number number, int64_t index, float value) {
  if (number == Number::kFloat32) {
    static_cast<float*>(base)[index] = value;
  } else {
    static_cast<uint16_t*>(base)[index] = static_cast<uint16_t>(Pack(number, value, 0.0f));
  }
}

// Eight numbers from a 16-byte boundary.
__device__ __forceinline__ void LoadEight(float (&v)[kEight], const void* base, Number number, int64_t index) {
  if (number == Number::kFloat32) {
    const float4* const from = reinterpret_cast<const float4*>(static_cast<const float*>(base) + index);
    const float4 low = from[0];
    const float4 high = from[1];
    v[0] = low.x, v[1] = low.y, v[2] = low.z, v[3] = low.w;
    v[4] = high.x, v[5] = high.y, v[6] = high.z, v[7] = high.w;
    return;
  }
  const uint4 from = *reinterpret_cast<const uint4*>(static_cast<const uint16_t*>(base) + index);
  v[0] = LowHalf(number, from.x), v[1] = HighHalf(number, from.x);
  v[2] = LowHalf(number, from.y), v[3] = HighHalf(number, from.y);
  v[4] = LowHalf(number, from.z), v[5] = HighHalf(number, from.z);
  v[6] = LowHalf(number, from.w), v[7] = HighHalf(number, from.w);
}

__device__ __forceinline__ void WriteEight(const Epilogue& e, int64_t at, const float (&v)[kEight]) {
  if (e.number == Number::kFloat32) {
    float4* const to = reinterpret_cast<float4*>(static_cast<float*>(e.y) + at);
    to[0] = make_float4(v[0], v[1], v[2], v[3]);
    to[1] = make_float4(v[4], v[5], v[6], v[7]);
  } else {
    *reinterpret_cast<uint4*>(static_cast<uint16_t*>(e.y) + at) = make_uint4(
        Pack(e.number, v[0], v[1]), Pack(e.number, v[2], v[3]), Pack(e.number, v[4], v[5]), Pack(e.number, v[6], v[7]));
  }
}

__device__ __forceinline__ float SumBits(float sum) { return sum; }
__device__ __forceinline__ float SumBits(int32_t sum) { return __int_as_float(sum); }

// Eight codes from an 8-byte boundary, as what they stand for.
__device__ __forceinline__ void LoadCodes(const Codes& codes, float (&v)[kEight], const void* base, int64_t index) {
  const uint2 from = *reinterpret_cast<const uint2*>(static_cast<const uint8_t*>(base) + index);
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    v[i] = Decode(codes, from.x >> (8 * i) & 0xff);
    v[i + 4] = Decode(codes, from.y >> (8 * i) & 0xff);
  }
}

// As WriteEight, where Y may be codes.
__device__ __forceinline__ void WriteEightOrCodes(const Epilogue& e, int64_t at, const float (&v)[kEight]) {
  if (e.number < Number::kInt8) {
    WriteEight(e, at, v);
    return;
  }
  uint2 codes = make_uint2(0, 0);
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    codes.x |= Encode(e.result, v[i]) << (8 * i);
    codes.y |= Encode(e.result, v[i + 4]) << (8 * i);
  }
  *reinterpret_cast<uint2*>(static_cast<uint8_t*>(e.y) + at) = codes;
}

__device__ __forceinline__ void RoundEightToCodes(const Codes& codes, float (&v)[kEight]) {
  if (codes.inverse == 0.0f) return;
#pragma unroll
  for (int i = 0; i < kEight; ++i) v[i] = RoundToCodes(codes, v[i]);
}

// From sums' bits to numbers: columns from `first` on, of all matrices.
__device__ __forceinline__ void ConvertSums(const Epilogue& e, int64_t first, float (&v)[kEight]) {
  int32_t offsets[kEight] = {};
  if (e.column_offsets != nullptr) {
    const int4* const from = reinterpret_cast<const int4*>(e.column_offsets + first);
    const int4 low = from[0];
    const int4 high = from[1];
    offsets[0] = low.x, offsets[1] = low.y, offsets[2] = low.z, offsets[3] = low.w;
    offsets[4] = high.x, offsets[5] = high.y, offsets[6] = high.z, offsets[7] = high.w;
  }
#pragma unroll
  for (int i = 0; i < kEight; ++i) v[i] = static_cast<float>(__float_as_int(v[i]) - offsets[i]);
}

// Eight columns that are all there and aligned.
template <SumKind kSums>
__device__ __forceinline__ void FinishEight(const Epilogue& e, int matrix, int row, int column, float (&v)[kEight]) {
  const int64_t at = matrix * e.matrix + row * e.pitch + column;
  const int64_t first = matrix * e.bias_step + column;
  if constexpr (kSums == SumKind::kIntegers) {
    if (e.column_scales == nullptr) {
      WriteEight(e, at, v);
      return;
    }
    ConvertSums(e, first, v);
  }
  if (e.column_scales != nullptr) {
    const float scale = e.row_scales == nullptr ? 1.0f : e.row_scales[static_cast<int64_t>(row) * e.row_scale_step];
    float scales[kEight];
    if (e.column_scale_step == 0) {
#pragma unroll
      for (int i = 0; i < kEight; ++i) scales[i] = e.column_scales[0];
    } else {
      LoadEight(scales, e.column_scales, Number::kFloat32, first);
    }
#pragma unroll
    for (int i = 0; i < kEight; ++i) v[i] *= scale * scales[i];
  }
  if constexpr (kSums != SumKind::kFloats) RoundEightToCodes(e.before_bias, v);
  if (e.bias != nullptr) {
    float bias[kEight];
    LoadEight(bias, e.bias, e.bias_number, first);
#pragma unroll
    for (int i = 0; i < kEight; ++i) v[i] += bias[i];
  }
  if constexpr (kSums != SumKind::kFloats) RoundEightToCodes(e.before_residual, v);
  if (e.residual == nullptr) {
    Activate(e, v);
  } else {
    float residual[kEight];
    if (kSums != SumKind::kFloats && e.residual_number >= Number::kInt8) {
      LoadCodes(e.residual_codes, residual, e.residual, at);
    } else {
      LoadEight(residual, e.residual, e.residual_number, at);
    }
    if (!e.residual_last) {
#pragma unroll
      for (int i = 0; i < kEight; ++i) v[i] += residual[i];
    }
    Activate(e, v);
    if (e.residual_last) {
#pragma unroll
      for (int i = 0; i < kEight; ++i) v[i] += residual[i];
    }
  }
  if constexpr (kSums == SumKind::kFloats) {
    WriteEight(e, at, v);
  } else {
    WriteEightOrCodes(e, at, v);
  }
}

template <SumKind kSums>
__device__ __forceinline__ void FinishOne(const Epilogue& e, int matrix, int row, int column, float x) {
  const int64_t at = matrix * e.matrix + row * e.pitch + column;
  const int64_t place = matrix * e.bias_step + column;
  if constexpr (kSums == SumKind::kIntegers) {
    if (e.column_scales == nullptr) {
      StoreNumber(e.y, e.number, at, x);
      return;
    }
    x = static_cast<float>(__float_as_int(x) - (e.column_offsets == nullptr ? 0 : e.column_offsets[place]));
  }
  if (e.column_scales != nullptr) {
    const float scale = e.row_scales == nullptr ? 1.0f : e.row_scales[static_cast<int64_t>(row) * e.row_scale_step];
    x *= scale * e.column_scales[place * e.column_scale_step];
  }
  if constexpr (kSums != SumKind::kFloats) x = RoundToCodes(e.before_bias, x);
  if (e.bias != nullptr) x += LoadNumber(e.bias, e.bias_number, place);
  if constexpr (kSums != SumKind::kFloats) x = RoundToCodes(e.before_residual, x);
  float residual = 0.0f;
  if (e.residual != nullptr) {
    residual = kSums != SumKind::kFloats && e.residual_number >= Number::kInt8
                   ? Decode(e.residual_codes, static_cast<const uint8_t*>(e.residual)[at])
                   : LoadNumber(e.residual, e.residual_number, at);
  }
  if (!e.residual_last) x += residual;
  x = ActivateOne(e, x);
  if (e.residual_last) x += residual;
  if (kSums != SumKind::kFloats && e.number >= Number::kInt8) {
    static_cast<uint8_t*>(e.y)[at] = static_cast<uint8_t>(Encode(e.result, x));
  } else {
    StoreNumber(e.y, e.number, at, x);
  }
}

// Finishes and writes columns `column` to `column + 7` of a row; those past the last are left out.
template <SumKind kSums = SumKind::kFloats>
__device__ __forceinline__ void StoreEight(const Epilogue& e, int matrix, int row, int column, float (&v)[kEight]) {
  if (row >= e.rows || column >= e.columns) return;
  if (e.vectors && column + kEight <= e.columns) {
    FinishEight<kSums>(e, matrix, row, column, v);
    return;
  }
#pragma unroll 1
  for (int i = 0; i < kEight && column + i < e.columns; ++i) {
    float x = v[0];  // v stays in registers
#pragma unroll
    for (int j = 1; j < kEight; ++j) x = i == j ? v[j] : x;
    FinishOne<kSums>(e, matrix, row, column + i, x);
  }
}

// Floats of shared memory that a warp needs in StoreWarpRows.
template <int kPass>
constexpr int kWarpStage = 16 * (8 * kPass + 8);

// Writes a warp's sums of 16 rows and 8 kBlocks columns, which are fragments of mma or wgmma (ptx_mma.h), by way of
// `stage`, the warp's own shared memory: in the fragments a thread has two neighbours of a row, here eight.
template <int kPass, int kBlocks, SumKind kSums, typename Sum>
__device__ __forceinline__ void StoreWarpRows(const Epilogue& e, int matrix, int row, int column,
                                              const Sum (&sums)[4 * kBlocks], float* stage) {
  static_assert(kBlocks % kPass == 0);
  constexpr int kPitch = 8 * kPass + 8;  // spreads the eight rows of a fragment over all banks
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const bool plain = e.plain && row + 16 <= e.rows && column + 8 * kBlocks <= e.columns;
  float* const to = stage + (lane / 4) * kPitch + (lane % 4) * 2;
  constexpr int kRows = 32 / kPass;  // of the warp at a time
  const bool scaled = plain && e.column_scales != nullptr;
  const bool row_scaled = scaled && e.row_scales != nullptr;
  float row_scales[kPass / 2];
#pragma unroll
  for (int i = 0; i < kPass / 2; ++i)
    row_scales[i] =
        row_scaled ? e.row_scales[static_cast<int64_t>(row + lane / kPass + i * kRows) * e.row_scale_step] : 1.0f;
#pragma unroll
  for (int pass = 0; pass < kBlocks / kPass; ++pass) {
    const int64_t first = matrix * e.bias_step + column + (pass * kPass + lane % kPass) * 8;
    float scales[kEight];
#pragma unroll
    for (int i = 0; i < kEight; ++i) scales[i] = 1.0f;
    if (scaled && e.column_scale_step != 0) {
      LoadEight(scales, e.column_scales, Number::kFloat32, first);
    } else if (scaled) {
#pragma unroll
      for (int i = 0; i < kEight; ++i) scales[i] = e.column_scales[0];
    }
    __syncwarp();
#pragma unroll
    for (int block = 0; block < kPass; ++block) {
      const Sum* const from = &sums[4 * (pass * kPass + block)];
      *reinterpret_cast<float2*>(to + 8 * block) = make_float2(SumBits(from[0]), SumBits(from[1]));
      *reinterpret_cast<float2*>(to + 8 * block + 8 * kPitch) = make_float2(SumBits(from[2]), SumBits(from[3]));
    }
    __syncwarp();
    if (plain) {
      const int64_t at =
          matrix * e.matrix + (row + lane / kPass) * e.pitch + column + (pass * kPass + lane % kPass) * 8;
#pragma unroll
      for (int i = 0; i < kPass / 2; ++i) {
        float v[kEight];
        LoadEight(v, stage + (lane / kPass + i * kRows) * kPitch + lane % kPass * 8, Number::kFloat32, 0);
        if constexpr (kSums == SumKind::kIntegers) {
          if (scaled) ConvertSums(e, first, v);
        }
        if (kSums != SumKind::kIntegers || scaled) {
#pragma unroll
          for (int j = 0; j < kEight; ++j) v[j] *= row_scales[i] * scales[j];
        }
        if constexpr (kSums == SumKind::kFloats) {
          WriteEight(e, at + i * kRows * e.pitch, v);
        } else {
          WriteEightOrCodes(e, at + i * kRows * e.pitch, v);
        }
      }
      continue;
    }
#pragma unroll 1
    for (int i = lane; i < 16 * kPass; i += 32) {
      const float* const eight = stage + (i / kPass) * kPitch + (i % kPass) * 8;
      float v[kEight];
      LoadEight(v, eight, Number::kFloat32, 0);
      StoreEight<kSums>(e, matrix, row + i / kPass, column + (pass * kPass + i % kPass) * 8, v);
    }
  }
  __syncwarp();
}

}  // namespace device
}  // namespace ingot
