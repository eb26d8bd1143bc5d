#include "cuda/convolution/call.h"
#include "cuda/convolution/convolution.h"
#include "cuda/convolution/depthwise.h"
#include "cuda/convolution/gather.h"
#include "cuda/matmul/checks.h"
#include "cuda/matmul/prepare.h"
#include "cuda/matmul/products.h"

namespace ingot {
namespace {

constexpr std::string_view kName = "convolution";

struct Kernels {
  const ProductKernels* products;
  StartMma gather;
};

Kernels KernelsFor(Number number, int64_t precision) {
  if (number == Number::kFloat16) return {&HalfProducts(), StartConvolutionHalf};
  if (number == Number::kBFloat16) return {&BFloat16Products(), StartConvolutionBFloat16};
  if (precision == static_cast<int64_t>(Float32Precision::kTf32)) return {&Tf32Products(), StartConvolutionTf32};
  if (precision == static_cast<int64_t>(Float32Precision::kFloat32))
    return {&Float32Products(), StartConvolutionFloat32};
  FailKernel(kName, " has no precision ", precision);
}

}  // namespace

void Convolution(CudaContext& context) {
  const DLTensor& x = context.Input(0);
  const DLTensor& w = context.Input(1);
  const DLTensor& y = context.Output(0);
  const Number number = NumberOf(kName, "X", x);
  if (!(w.dtype == x.dtype))
    FailKernel(kName, " takes W of X's type ", DTypeText(x.dtype), ", not ", DTypeText(w.dtype));
  if (!(y.dtype == x.dtype) && !IsType(y, kDLFloat, 32)) {
    FailKernel(kName, " of ", DTypeText(x.dtype), " gives Y of that type or of float32, not ", DTypeText(y.dtype));
  }
  ConvolutionCall call{.kernel = kName, .context = context, .x = x, .w = w, .y = y, .steps = {}};
  call.ReadAttributes();
  call.ReadShapes();
  const ConvolutionSteps& steps = call.steps;

  Epilogue e;
  e.pitch = call.kernels;
  e.matrix = call.kernels / call.groups;
  e.bias_step = e.matrix;
  e.residual_last = context.ints()[10] != 0;
  DescribeResult(kName, y, context.OptionalInput(2), context.OptionalInput(3), call.kernels, context.ints()[9],
                 context.floats(), e);
  if (ElementCount(y) == 0) return;
  e.rows = CheckedInt(kName, "the number of Y's pixels", ElementCount(y) / call.kernels);
  e.columns = call.kernels / call.groups;
  const Kernels kernels = KernelsFor(number, context.ints()[11]);
  const int bytes = BytesOf(number);
  const int64_t variant = context.ints()[12];

  if (call.groups == call.channels && call.kernels == call.channels && variant == 0) {
    const DepthwiseProblem depthwise{
        Data<const void>(x), Data<const void>(w), number, call.images,
        call.channels,       call.kernel_height,  steps,  call.channels % 8 == 0 && IsAligned(Data<const void>(x))};
    if (CanRunDepthwise(depthwise)) {
      e.columns = call.channels;  // all groups are one matrix
      CudaContext::Check(RunDepthwise(depthwise, e, context.stream()), kName);
      return;
    }
  }

  const int piece = 16 / bytes;
  const int padded = (steps.channels + piece - 1) / piece * piece;
  MatmulProblem p;
  p.m = e.rows;
  p.n = e.columns;
  p.k = CheckedInt(kName, "kh kw C", static_cast<int64_t>(call.kernel_height) * steps.kernel_width * padded);
  p.w_depth = p.k;
  p.x_pitch = static_cast<int64_t>(padded) * call.groups * bytes;
  p.w_pitch = static_cast<int64_t>(p.k) * bytes;
  p.x = PaddedRows(context, kName, x, bytes, steps.channels, padded);
  p.w = PaddedRows(context, kName, w, bytes, steps.channels, padded);
  if (call.IsProduct()) {
    p.x_matrix = p.m * p.x_pitch;
    p.w_matrix = p.n * p.w_pitch;
    RunProducts(context, kName, *kernels.products, OperandMode::kRowsOfK, p, e, variant);
    return;
  }
  p.matrices = call.groups;
  p.x_matrix = static_cast<int64_t>(padded) * bytes;
  p.w_matrix = p.n * p.w_pitch;
  p.convolution = steps;
  p.convolution.channels = padded;
  const ProductSituation situation{OperandMode::kConvolution, p.m, p.n, p.k, p.matrices, context.capability(),
                                   context.multiprocessors()};
  const ProductPlan plan = ChooseProductPlan(kName, *kernels.products, situation, variant);
  RunMma(context, kName, *kernels.products, kernels.gather, OperandMode::kConvolution, plan, p, e);
}

}  // namespace ingot
