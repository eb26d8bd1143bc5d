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

struct Call {
  CudaContext& context;
  const DLTensor& x;
  const DLTensor& w;
  const DLTensor& y;
  int images = 0, channels = 0, kernels = 0;  // kernels: channels of Y
  int kernel_height = 0;
  int bottom = 0, right = 0;
  int groups = 1;
  ConvolutionSteps steps;

  [[noreturn]] void FailShapes(std::string_view why) const {
    FailKernel(kName, " of X ", ShapeText(x), " and W ", ShapeText(w), " to Y ", ShapeText(y), ": ", why);
  }

  int Attribute(size_t index, std::string_view name, int least) const {
    const int64_t value = context.ints()[index];
    if (value < least || value > (1 << 24))
      FailKernel(kName, ": ", name, " is ", value, "; it must be at least ", least);
    return static_cast<int>(value);
  }

  void ReadAttributes() {
    steps.stride_h = Attribute(0, "stride_h", 1);
    steps.stride_w = Attribute(1, "stride_w", 1);
    steps.top = Attribute(2, "top", 0);
    steps.left = Attribute(3, "left", 0);
    bottom = Attribute(4, "bottom", 0);
    right = Attribute(5, "right", 0);
    steps.dilation_h = Attribute(6, "dilation_h", 1);
    steps.dilation_w = Attribute(7, "dilation_w", 1);
    groups = Attribute(8, "groups", 1);
  }

  void CheckExtent(std::string_view name, int64_t out, int64_t in, int64_t pads, int64_t kernel, int dilation,
                   int stride) const {
    const int64_t span = in + pads - dilation * (kernel - 1) - 1;
    if (out != (span < 0 ? 0 : span / stride + 1)) FailShapes(Text("Y's ", name, " does not follow from X's"));
  }

  void ReadShapes() {
    if (x.ndim != 4 || w.ndim != 4 || y.ndim != 4) FailShapes("all need four axes");
    if (w.shape[3] * groups != x.shape[3] || w.shape[0] % groups != 0 || y.shape[3] != w.shape[0] ||
        y.shape[0] != x.shape[0]) {
      FailShapes(Text("they do not fit together with ", groups, " groups"));
    }
    CheckedInt(kName, "the number of X's pixels", x.shape[0] * x.shape[1] * x.shape[2]);
    images = static_cast<int>(x.shape[0]);
    channels = CheckedInt(kName, "C", x.shape[3]);
    kernels = CheckedInt(kName, "O", w.shape[0]);
    steps.height = static_cast<int>(x.shape[1]);
    steps.width = static_cast<int>(x.shape[2]);
    steps.out_height = CheckedInt(kName, "OH", y.shape[1]);
    steps.out_width = CheckedInt(kName, "OW", y.shape[2]);
    kernel_height = CheckedInt(kName, "kh", w.shape[1]);
    steps.kernel_width = CheckedInt(kName, "kw", w.shape[2]);
    steps.channels = channels / groups;
    CheckExtent("height", y.shape[1], x.shape[1], steps.top + bottom, w.shape[1], steps.dilation_h, steps.stride_h);
    CheckExtent("width", y.shape[2], x.shape[2], steps.left + right, w.shape[2], steps.dilation_w, steps.stride_w);
  }

  // Whether Y's pixels are products of X's pixels, one for one.
  bool IsProduct() const {
    return kernel_height == 1 && steps.kernel_width == 1 && steps.stride_h == 1 && steps.stride_w == 1 &&
           steps.top == 0 && steps.left == 0 && bottom == 0 && right == 0 && groups == 1;
  }

  // A tensor whose last axis of `columns` elements is filled up to `padded`: itself, where nothing is to be done.
  const void* Pad(const DLTensor& tensor, int bytes, int64_t columns, int64_t padded) {
    const void* const data = Data<const void>(tensor);
    if (columns == padded && IsAligned(data)) return data;
    const int64_t rows = columns == 0 ? 0 : ElementCount(tensor) / columns;
    void* const copy = context.DeviceScratch(static_cast<size_t>(rows * padded * bytes));
    CudaContext::Check(PadRows(data, copy, bytes, 1, rows, columns, padded, context.stream()), kName);
    return copy;
  }
};

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
  Call call{.context = context, .x = x, .w = w, .y = y, .steps = {}};
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
  p.x = call.Pad(x, bytes, steps.channels, padded);
  p.w = call.Pad(w, bytes, steps.channels, padded);
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
