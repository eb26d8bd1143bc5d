#include "registry.h"

#include <algorithm>
#include <array>

#include "attention/attention.h"
#include "attention_prefill/attention_prefill.h"
#include "convolution/convolution.h"
#include "convolution/qlinear_conv.h"
#include "matmul/matmul.h"
#include "matmul/qlinear.h"
#include "matmul/scaled_matmul.h"
#include "normalization/normalization.h"
#include "quantized_matmul/quantized_matmul.h"
#include "rotary/rotary.h"
#include "rotary/rotary_cache.h"
#include "sampling/sampling.h"
#include "tensor_scatter/tensor_scatter.h"

namespace ingot {
namespace {

// One row for each kernel, sorted by name, behind an #include of its header:
// {name, function, {least, most} inputs, {least, most} outputs, dims, ints, floats, contract}.
constexpr auto kKernels = std::to_array<CudaKernel>({
    {"attention",
     Attention,
     {{3, 12}, {1, 1}, 0, 8, 2},
     "as on the CPU, also of float8_e4m3fn keys and values, with scales or without"},
    {"attention_prefill",
     cuda::AttentionPrefill,
     {{3, 12}, {1, 1}, 0, 8, 2},
     "attention, by the kernel of many queries or not at all; ints: attention's, and optionally a variant"},
    {"convolution",
     Convolution,
     {{2, 4}, {1, 1}, 0, 13, 2},
     "(X [B, H, W, C], W [O, kh, kw, C / groups], bias?, residual?) -> activation(X * W + bias + residual); ints: "
     "stride_h, stride_w, top, left, bottom, right, dilation_h, dilation_w, groups, activation, residual_last, "
     "precision (0 TF32, 1 float32), variant; floats: least and most of activation 5, a clamp"},
    {"matmul",
     Matmul,
     {{2, 4}, {1, 1}, 0, 4, 2},
     "(X [..., M, K], W, bias?, residual?) -> residual + activation(X W + bias); ints: layout of W (0 [..., N, K], 1 "
     "[..., K, N]), activation, precision (0 TF32, 1 float32), variant; floats: least and most of activation 5, a "
     "clamp"},
    {"matmul_fp8",
     MatmulFp8,
     {{4, 6}, {1, 1}, 0, 4, 0},
     "(X [..., K], W [N, K], X's scales, W's scales, bias?, residual?) -> residual + activation(sx sw X W^T + bias); "
     "ints: granularities of the scales of X and W (0 tensor, 1 row, 2 block), activation, variant"},
    {"matmul_int8", MatmulInt8, {{4, 6}, {1, 1}, 0, 4, 0}, "as matmul_fp8, of int8 and without scales of blocks"},
    {"normalization",
     Normalize,
     {{1, 4}, {1, 2}, 0, 1, 2},
     "(X [..., N], weight?, bias?, residual?) -> standardized rows of X + residual, the sum?; ints: kind (0 layer, 1 "
     "RMS); "
     "floats: epsilon, offset of the weight"},
    {"normalized_matmul",
     cuda::NormalizedMatmul,
     {{3, 7}, {1, 1}, 0, 5, 2},
     "(X [..., K], packed W, scales, zeros?, bias?, residual?, weight [K]?) -> quantized_matmul of RMS-normalized rows "
     "of "
     "X; ints: quantized_matmul's; floats: epsilon, offset of the weight"},
    {"qlinear_conv",
     QlinearConv,
     {{3, 6}, {1, 1}, 0, 12, kQlinearFloats},
     "(X [B, H, W, C], W [O, kh, kw, C / groups], factors, offsets?, bias?, residual?) -> qlinear_matmul of the pixels "
     "under a window; ints: stride_h, stride_w, top, left, bottom, right, dilation_h, dilation_w, groups, activation, "
     "X outside, variant"},
    {"qlinear_matmul",
     QlinearMatmul,
     {{3, 6}, {1, 1}, 0, 2, kQlinearFloats},
     "(X [..., K], W [N, K], factors, offsets?, bias?, residual?) -> codes(activation(rounded(rounded(factors (X W^T - "
     "offsets)) + bias) + residual)) of int8 or float8_e4m3fn; ints: activation, variant; floats: least, most, 1 / "
     "scale, zero and scale before the bias and before the residual, scale and zero of the residual, 1 / scale and "
     "zero of Y"},
    {"quantize_rows",
     QuantizeRows,
     {{1, 2}, {1, 2}, 0, 1, 0},
     "(X [..., K], scale?) -> codes of int8 or float8_e4m3fn, scales [..., groups]?; ints: group (0 a row, or 128)"},
    {"quantized_matmul",
     cuda::QuantizedMatmul,
     {{3, 6}, {1, 1}, 0, 5, 0},
     "(X [..., K], packed W, scales, zeros?, bias?, residual?) -> residual + activation(X W^T + bias); ints: format (0 "
     "int8, 1 int4, 2 mxfp4, 3 nf4), group, compute (0 float, 1 may round X), activation group, activation, and "
     "optionally a variant"},
    {"rotary",
     Rotary,
     {{3, 3}, {1, 1}, 0, 3, 0},
     "(X [B, S, H, D] or [B, H, S, D], cosines, sines [B or 1, S, R / 2]) -> X with pairs of elements rotated; ints: "
     "layout (0 "
     "BSHD, 1 BHSD), interleaved, R or 0 for all"},
    {"rotary_cache",
     RotaryCache,
     {{3, 12}, {3, 6}, 0, 4, 0},
     "(key cache, value cache, Q, K?, V?, cosines?, sines?, first?, key scales?, value scales?, sink cosines?, sink "
     "sines?) -> both caches, changed, rotated Q, both scales?, Q rotated by the sink angles?; ints: circular, "
     "interleaved, R or 0 for all, sinks. Without K and V Q has their heads behind its own"},
    {"sample",
     Sample,
     {{1, 3}, {1, 2}, 0, 1, 3},
     "(logits [..., V], uniform numbers [...]?, settings [..., 4]?) -> int64 tokens, float32 log probabilities?; ints: "
     "top k; "
     "floats: temperature, top p, min p"},
    {"tensor_scatter",
     TensorScatter,
     {{2, 3}, {1, 1}, 0, 3, 0},
     "(cache [B, ...], update [B, ...], first [B]?) -> the cache with the update's steps; ints: axis, circular, sinks"},
});

static_assert(std::ranges::all_of(kKernels, [](const CudaKernel& kernel) {
  return kernel.arity.inputs.most <= kMostTensors && kernel.arity.outputs.most <= kMostTensors &&
         kernel.arity.dims <= kMostTensors;
}));

}  // namespace

std::span<const CudaKernel> CudaKernels() { return kKernels; }

const CudaKernel* FindCudaKernel(std::string_view name) {
  const auto found = std::ranges::find(kKernels, name, &CudaKernel::name);
  return found == kKernels.end() ? nullptr : &*found;
}

}  // namespace ingot
