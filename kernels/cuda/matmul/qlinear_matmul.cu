#include <algorithm>
#include <cmath>

#include "cuda/matmul/checks.h"
#include "cuda/matmul/prepare.h"
#include "cuda/matmul/qlinear.h"
#include "cuda/matmul/qlinear_call.h"

namespace ingot {
namespace {

bool IsE4M3(const DLTensor& tensor) { return IsType(tensor, kDLFloat8_e4m3fn, 8); }

template <typename T>
const T* ForEachColumn(std::string_view kernel, std::string_view name, const DLTensor& tensor, DLDataTypeCode code,
                       int64_t columns) {
  if (!IsType(tensor, code, 32) || ElementCount(tensor) != columns) {
    FailKernel(kernel, ": ", name, " are ", DTypeText(tensor.dtype), " ", ShapeText(tensor), ", not ",
               std::string_view(code == kDLInt ? "int32" : "float32"), " with ", columns, " elements");
  }
  return Data<const T>(tensor);
}

// The type of Y or of a residual.
Number NumberOrCodes(std::string_view kernel, std::string_view name, const DLTensor& tensor, const DLTensor& x) {
  if (!(tensor.dtype == x.dtype)) return NumberOf(kernel, name, tensor);
  return IsE4M3(x) ? Number::kE4M3 : Number::kInt8;
}

Codes ReadCodes(std::string_view kernel, const DLTensor& x, double inverse, double zero, double scale) {
  Codes codes{IsE4M3(x) ? Number::kE4M3 : Number::kInt8, static_cast<float>(inverse), static_cast<float>(zero),
              static_cast<float>(scale)};
  const bool whole = zero == std::floor(zero) && std::abs(zero) <= 128 && (zero == 0 || !IsE4M3(x));
  if (!std::isfinite(inverse) || !std::isfinite(scale) || !whole) {
    FailKernel(kernel, " has no codes with the scale ", scale, ", its inverse ", inverse, " and the zero ", zero);
  }
  return codes;
}

}  // namespace

const ProductKernels& QlinearProducts(CudaContext& context, std::string_view kernel) {
  const DLTensor& x = context.Input(0);
  const DLTensor& w = context.Input(1);
  if ((!IsE4M3(x) && !IsType(x, kDLInt, 8)) || !(w.dtype == x.dtype)) {
    FailKernel(kernel, " takes X and W of int8, or both of float8_e4m3fn, not ", DTypeText(x.dtype), " and ",
               DTypeText(w.dtype));
  }
  const ProductKernels& kernels = IsE4M3(x) ? E4M3Products() : Int8Products();
  if (context.capability() < kernels.least_capability) {
    FailKernel(kernel, " of ", DTypeText(x.dtype), " needs compute capability ", kernels.least_capability / 10, ".",
               kernels.least_capability % 10, ", and this GPU has ", context.capability() / 10, ".",
               context.capability() % 10);
  }
  return kernels;
}

void DescribeQlinear(CudaContext& context, std::string_view kernel, int64_t columns, int64_t activation, Epilogue& e) {
  const DLTensor& x = context.Input(0);
  const DLTensor& y = context.Output(0);
  const std::span<const double> floats = context.floats();
  e.integers = !IsE4M3(x);
  e.y = Data<void>(y);
  e.number = NumberOrCodes(kernel, "Y", y, x);
  e.column_scales = ForEachColumn<float>(kernel, "factors", context.Input(2), kDLFloat, columns);
  e.column_scale_step = 1;
  if (const DLTensor* const offsets = context.OptionalInput(3)) {
    if (!e.integers) FailKernel(kernel, " has offsets for int8 alone");
    e.column_offsets = ForEachColumn<int32_t>(kernel, "offsets", *offsets, kDLInt, columns);
  }
  if (const DLTensor* const bias = context.OptionalInput(4)) {
    e.bias = ForEachColumn<float>(kernel, "biases", *bias, kDLFloat, columns);
  }
  if (const DLTensor* const residual = context.OptionalInput(5)) {
    if (!std::ranges::equal(ShapeOf(*residual), ShapeOf(y))) {
      FailKernel(kernel, ": the residual is ", ShapeText(*residual), ", but Y is ", ShapeText(y));
    }
    e.residual = Data<const void>(*residual);
    e.residual_number = NumberOrCodes(kernel, "the residual", *residual, x);
  }
  if (activation < 0 || activation > static_cast<int64_t>(Activation::kClamp)) {
    FailKernel(kernel, " has no activation ", activation);
  }
  e.activation = static_cast<Activation>(activation);
  e.least = static_cast<float>(floats[0]);
  e.most = static_cast<float>(floats[1]);
  e.before_bias = ReadCodes(kernel, x, floats[2], floats[3], floats[4]);
  e.before_residual = ReadCodes(kernel, x, floats[5], floats[6], floats[7]);
  e.residual_codes = ReadCodes(kernel, x, 0, floats[9], floats[8]);
  e.result = ReadCodes(kernel, x, floats[10], floats[11], 0);
  e.residual_last = false;
  // Vectors of eight: 8 bytes of codes, 16 or 32 of others.
  e.vectors = e.pitch % kEight == 0 && e.matrix % kEight == 0 && e.bias_step % kEight == 0 && IsAligned(e.y) &&
              IsAligned(e.residual) && IsAligned(e.bias) && IsAligned(e.column_scales) && IsAligned(e.column_offsets);
  e.plain = e.vectors && e.activation == Activation::kNone && e.bias == nullptr && e.residual == nullptr &&
            e.before_bias.inverse == 0 && e.before_residual.inverse == 0;
}

void QlinearMatmul(CudaContext& context) {
  constexpr std::string_view kName = "qlinear_matmul";
  const ProductKernels& kernels = QlinearProducts(context, kName);
  const DLTensor& x = context.Input(0);
  const DLTensor& w = context.Input(1);
  const DLTensor& y = context.Output(0);
  MatmulProblem p = ByteLayer(kName, x, w, y);
  Epilogue e;
  e.rows = p.m;
  e.columns = p.n;
  e.pitch = p.n;
  DescribeQlinear(context, kName, p.n, context.ints()[0], e);
  if (ElementCount(y) == 0) return;
  ReadByteLayer(context, kName, x, w, p);
  RunProducts(context, kName, kernels, OperandMode::kRowsOfK, p, e, context.ints()[1]);
}

}  // namespace ingot
