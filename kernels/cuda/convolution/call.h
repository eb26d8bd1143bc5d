// A convolution's tensors and the integers that kernels of convolutions begin with: stride_h, stride_w, top, left,
// bottom, right, dilation_h, dilation_w, groups.
#pragma once

#include "cuda/matmul/checks.h"
#include "cuda/matmul/problem.h"

namespace ingot {

struct ConvolutionCall {
  std::string_view kernel;
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
    FailKernel(kernel, " of X ", ShapeText(x), " and W ", ShapeText(w), " to Y ", ShapeText(y), ": ", why);
  }

  int Attribute(size_t index, std::string_view name, int least) const {
    const int64_t value = context.ints()[index];
    if (value < least || value > (1 << 24))
      FailKernel(kernel, ": ", name, " is ", value, "; it must be at least ", least);
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

  void CheckExtent(std::string_view name, int64_t out, int64_t in, int64_t pads, int64_t taps, int dilation,
                   int stride) const {
    const int64_t span = in + pads - dilation * (taps - 1) - 1;
    if (out != (span < 0 ? 0 : span / stride + 1)) FailShapes(Text("Y's ", name, " does not follow from X's"));
  }

  void ReadShapes() {
    if (x.ndim != 4 || w.ndim != 4 || y.ndim != 4) FailShapes("all need four axes");
    if (w.shape[3] * groups != x.shape[3] || w.shape[0] % groups != 0 || y.shape[3] != w.shape[0] ||
        y.shape[0] != x.shape[0]) {
      FailShapes(Text("they do not fit together with ", groups, " groups"));
    }
    CheckedInt(kernel, "the number of X's pixels", x.shape[0] * x.shape[1] * x.shape[2]);
    images = static_cast<int>(x.shape[0]);
    channels = CheckedInt(kernel, "C", x.shape[3]);
    kernels = CheckedInt(kernel, "O", w.shape[0]);
    steps.height = static_cast<int>(x.shape[1]);
    steps.width = static_cast<int>(x.shape[2]);
    steps.out_height = CheckedInt(kernel, "OH", y.shape[1]);
    steps.out_width = CheckedInt(kernel, "OW", y.shape[2]);
    kernel_height = CheckedInt(kernel, "kh", w.shape[1]);
    steps.kernel_width = CheckedInt(kernel, "kw", w.shape[2]);
    steps.channels = channels / groups;
    CheckExtent("height", y.shape[1], x.shape[1], steps.top + bottom, w.shape[1], steps.dilation_h, steps.stride_h);
    CheckExtent("width", y.shape[2], x.shape[2], steps.left + right, w.shape[2], steps.dilation_w, steps.stride_w);
  }

  // Whether Y's pixels are products of X's pixels, one for one.
  bool IsProduct() const {
    return kernel_height == 1 && steps.kernel_width == 1 && steps.stride_h == 1 && steps.stride_w == 1 &&
           steps.top == 0 && steps.left == 0 && bottom == 0 && right == 0 && groups == 1;
  }
};

}  // namespace ingot
