#include "cuda/convolution/call.h"
#include "cuda/convolution/gather.h"
#include "cuda/convolution/qlinear_conv.h"
#include "cuda/matmul/prepare.h"
#include "cuda/matmul/products.h"
#include "cuda/matmul/qlinear_call.h"

namespace ingot {

void QlinearConv(CudaContext& context) {
  constexpr std::string_view kName = "qlinear_conv";
  const ProductKernels& kernels = QlinearProducts(context, kName);
  const DLTensor& x = context.Input(0);
  const DLTensor& w = context.Input(1);
  const DLTensor& y = context.Output(0);
  ConvolutionCall call{.kernel = kName, .context = context, .x = x, .w = w, .y = y, .steps = {}};
  call.ReadAttributes();
  call.ReadShapes();

  Epilogue e;
  e.pitch = call.kernels;
  e.matrix = call.kernels / call.groups;
  e.bias_step = e.matrix;
  e.columns = call.kernels / call.groups;
  DescribeQlinear(context, kName, call.kernels, context.ints()[9], e);
  const int64_t outside = context.ints()[10];
  if (outside < -128 || outside > 127 || (outside != 0 && !e.integers)) {
    FailKernel(kName, " has no code ", outside, " for X outside");
  }
  if (ElementCount(y) == 0) return;
  e.rows = CheckedInt(kName, "the number of Y's pixels", ElementCount(y) / call.kernels);

  const int padded = (call.steps.channels + 15) / 16 * 16;
  MatmulProblem p;
  p.m = e.rows;
  p.n = e.columns;
  p.k = CheckedInt(kName, "kh kw C", static_cast<int64_t>(call.kernel_height) * call.steps.kernel_width * padded);
  p.w_depth = p.k;
  p.x_pitch = static_cast<int64_t>(padded) * call.groups;
  p.w_pitch = p.k;
  p.x = PaddedRows(context, kName, x, 1, call.steps.channels, padded);
  p.w = PaddedRows(context, kName, w, 1, call.steps.channels, padded);
  p.w_matrix = p.n * p.w_pitch;
  const int64_t variant = context.ints()[11];
  if (call.IsProduct()) {
    p.x_matrix = p.m * p.x_pitch;
    RunProducts(context, kName, kernels, OperandMode::kRowsOfK, p, e, variant);
    return;
  }
  p.matrices = call.groups;
  p.x_matrix = padded;
  p.convolution = call.steps;
  p.convolution.channels = padded;
  p.convolution.outside = 0x01010101u * static_cast<uint8_t>(outside);
  const ProductSituation situation{OperandMode::kConvolution, p.m, p.n, p.k, p.matrices, context.capability(),
                                   context.multiprocessors()};
  const ProductPlan plan = ChooseProductPlan(kName, kernels, situation, variant);
  RunMma(context, kName, kernels, e.integers ? StartConvolutionInt8 : StartConvolutionE4M3, OperandMode::kConvolution,
         plan, p, e);
}

}  // namespace ingot
