#include <algorithm>

#include "cuda/matmul/checks.h"
#include "cuda/matmul/prepare.h"
#include "cuda/matmul/products.h"
#include "cuda/matmul/scaled_matmul.h"

namespace ingot {
namespace {

ScaleGranularity GranularityOf(std::string_view kernel, std::string_view operand, int64_t value, bool blocks) {
  if (value < 0 || value > (blocks ? 2 : 1))
    FailKernel(kernel, " has no granularity ", value, " of ", operand, "'s scales");
  return static_cast<ScaleGranularity>(value);
}

const float* ScalesOf(std::string_view kernel, std::string_view operand, const DLTensor& scales, int64_t count) {
  if (!IsType(scales, kDLFloat, 32)) {
    FailKernel(kernel, " takes scales of float32, not ", DTypeText(scales.dtype));
  }
  if (ElementCount(scales) != count) {
    FailKernel(kernel, ": ", operand, "'s scales are ", ShapeText(scales), ", not ", count, " elements");
  }
  return Data<const float>(scales);
}

void ScaledMatmul(CudaContext& context, std::string_view kernel, const ProductKernels& kernels, DLDataTypeCode code) {
  const DLTensor& x = context.Input(0);
  const DLTensor& w = context.Input(1);
  const DLTensor& y = context.Output(0);
  const bool fp8 = code == kDLFloat8_e4m3fn;
  if (!IsType(x, code, 8) || !IsType(w, code, 8)) {
    FailKernel(kernel, " takes X and W of ", std::string_view(fp8 ? "float8_e4m3fn" : "int8"), ", not ",
               DTypeText(x.dtype), " and ", DTypeText(w.dtype));
  }
  if (context.capability() < kernels.least_capability) {
    FailKernel(kernel, " needs compute capability ", kernels.least_capability / 10, ".", kernels.least_capability % 10,
               ", and this GPU has ", context.capability() / 10, ".", context.capability() % 10);
  }
  MatmulProblem p = ByteLayer(kernel, x, w, y);

  Epilogue e;
  e.integers = !fp8;
  e.rows = p.m;
  e.columns = p.n;
  e.pitch = p.n;
  const ScaleGranularity of_x = GranularityOf(kernel, "X", context.ints()[0], fp8);
  const ScaleGranularity of_w = GranularityOf(kernel, "W", context.ints()[1], fp8);
  const bool blocks = of_x == ScaleGranularity::kBlock;
  if (blocks != (of_w == ScaleGranularity::kBlock)) {
    FailKernel(kernel, ": only one of X and W has scales of blocks; both have them, or neither");
  }
  const int64_t parts = (w.shape[1] + 127) / 128;
  if (blocks) {
    p.x_blocks = ScalesOf(kernel, "X", context.Input(2), p.m * parts);
    p.w_blocks = ScalesOf(kernel, "W", context.Input(3), (p.n + int64_t{127}) / 128 * parts);
  } else {
    e.row_scale_step = of_x == ScaleGranularity::kRow ? 1 : 0;
    e.column_scale_step = of_w == ScaleGranularity::kRow ? 1 : 0;
    e.row_scales = ScalesOf(kernel, "X", context.Input(2), e.row_scale_step == 1 ? p.m : 1);
    e.column_scales = ScalesOf(kernel, "W", context.Input(3), e.column_scale_step == 1 ? p.n : 1);
  }
  DescribeResult(kernel, y, context.OptionalInput(4), context.OptionalInput(5), p.n, context.ints()[2], {}, e);
  if (ElementCount(y) == 0) return;
  ReadByteLayer(context, kernel, x, w, p);
  RunProducts(context, kernel, kernels, blocks ? OperandMode::kBlockScales : OperandMode::kRowsOfK, p, e,
              context.ints()[3]);
}

}  // namespace

void MatmulFp8(CudaContext& context) { ScaledMatmul(context, "matmul_fp8", E4M3Products(), kDLFloat8_e4m3fn); }

void MatmulInt8(CudaContext& context) { ScaledMatmul(context, "matmul_int8", Int8Products(), kDLInt); }

}  // namespace ingot
