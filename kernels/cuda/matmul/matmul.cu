#include <algorithm>
#include <array>
#include <vector>

#include "cuda/cublaslt.h"
#include "cuda/matmul/checks.h"
#include "cuda/matmul/library.h"
#include "cuda/matmul/matmul.h"
#include "cuda/matmul/prepare.h"
#include "cuda/matmul/products.h"

namespace ingot {
namespace {

constexpr std::string_view kName = "matmul";

[[noreturn]] void FailShapes(const DLTensor& x, const DLTensor& w, const DLTensor& y, std::string_view why) {
  FailKernel(kName, " of X ", ShapeText(x), " and W ", ShapeText(w), " to Y ", ShapeText(y), ": ", why);
}

// An operand as a kernel reads it.
struct Operand {
  const void* data;
  int64_t pitch;   // bytes of a row, a multiple of 16
  int64_t matrix;  // bytes
};

// The extents before the last two, from the last one on; missing ones are 1.
int64_t Leading(const DLTensor& tensor, int from_last) {
  const int axis = tensor.ndim - 3 - from_last;
  return axis < 0 ? 1 : tensor.shape[axis];
}

struct Call {
  CudaContext& context;
  const DLTensor& x;
  const DLTensor& w;
  const DLTensor& y;
  bool rows_of_n;
  int bytes;  // of an element of X and W
  MatmulProblem p;
  int64_t x_count = 1, w_count = 1;  // matrices

  // Sets sizes; W without leading extents makes one matrix of all rows of X.
  void ReadShapes() {
    if (x.ndim < 2 || w.ndim < 2 || y.ndim < 2) FailShapes(x, w, y, "all need two axes at least");
    const int64_t k = x.shape[x.ndim - 1];
    const int64_t n = w.shape[w.ndim - (rows_of_n ? 1 : 2)];
    if (w.shape[w.ndim - (rows_of_n ? 2 : 1)] != k) FailShapes(x, w, y, "X and W do not have the same K");
    const int64_t m = x.shape[x.ndim - 2];
    if (y.shape[y.ndim - 1] != n || y.shape[y.ndim - 2] != m) FailShapes(x, w, y, "Y does not end in [M, N]");
    const int axes = std::max(x.ndim, w.ndim) - 2;
    if (y.ndim - 2 != axes) FailShapes(x, w, y, "Y does not have the leading extents of X and W");
    for (int i = 0; i < axes; ++i) {
      const int64_t a = Leading(x, i);
      const int64_t b = Leading(w, i);
      if (Leading(y, i) != (a == 1 ? b : a) || (a != b && a != 1 && b != 1)) {
        FailShapes(x, w, y, "leading extents do not fit together");
      }
      x_count *= a;
      w_count *= b;
    }
    p.k = CheckedInt(kName, "K", k);
    p.n = CheckedInt(kName, "N", n);
    p.w_depth = p.k;
    if (w_count == 1) {
      p.m = CheckedInt(kName, "the number of X's rows", x_count * m);
      x_count = 1;
      return;
    }
    p.m = CheckedInt(kName, "M", m);
    p.matrices = CheckedInt(kName, "the number of products", ElementCount(ShapeOf(y).first(static_cast<size_t>(axes))));
    ReadBatch(axes);
  }

  // Neighbouring axes along which both operands go on in the same way become one digit.
  void ReadBatch(int axes) {
    int digits = 0;
    int64_t x_step = 1;
    int64_t w_step = 1;
    BatchSteps& batch = p.batch;
    bool last_x = false;
    bool last_w = false;
    for (int i = 0; i < axes; ++i) {
      const int extent = CheckedInt(kName, "an extent", Leading(y, i));
      if (extent == 1) continue;
      const bool moves_x = Leading(x, i) != 1;
      const bool moves_w = Leading(w, i) != 1;
      if (digits > 0 && moves_x == last_x && moves_w == last_w) {
        batch.extents[digits - 1] *= extent;
      } else {
        if (digits == BatchSteps::kDigits) FailShapes(x, w, y, "more than 4 changes between broadcast and other axes");
        batch.extents[digits] = extent;
        batch.x[digits] = moves_x ? CheckedInt(kName, "a step", x_step) : 0;
        batch.w[digits] = moves_w ? CheckedInt(kName, "a step", w_step) : 0;
        ++digits;
      }
      last_x = moves_x;
      last_w = moves_w;
      if (moves_x) x_step *= extent;
      if (moves_w) w_step *= extent;
    }
  }

  // The operand itself, or a copy whose rows begin at multiples of 16 bytes.
  Operand Align(const DLTensor& tensor, int64_t matrices, int64_t rows, int64_t columns) {
    const void* const data = Data<const void>(tensor);
    if (columns * bytes % 16 == 0 && IsAligned(data)) {
      return {data, columns * bytes, rows * columns * bytes};
    }
    const int64_t pitch = (columns * bytes + 15) / 16 * 16;
    void* const copy = context.DeviceScratch(static_cast<size_t>(matrices * rows * pitch));
    CudaContext::Check(PadRows(data, copy, bytes, matrices, rows, columns, pitch / bytes, context.stream()), kName);
    return {copy, pitch, rows * pitch};
  }

  // W [k, n] of floats as [n, k].
  Operand Transpose() {
    const int pitch = (p.k + 3) / 4 * 4;
    float* const copy = context.DeviceScratch<float>(static_cast<size_t>(w_count) * static_cast<size_t>(p.n) *
                                                     static_cast<size_t>(pitch));
    CudaContext::Check(TransposeFloats(Data<const float>(w), copy, w_count, p.k, p.n, pitch, context.stream()), kName);
    return {copy, 4 * static_cast<int64_t>(pitch), 4 * static_cast<int64_t>(pitch) * p.n};
  }

  OperandMode Prepare(const ProductKernels& kernels) {
    const Operand left = Align(x, x_count, p.m, p.k);
    OperandMode mode = OperandMode::kRowsOfK;
    Operand right;
    if (!rows_of_n) {
      right = Align(w, w_count, p.n, p.k);
    } else if (bytes == 4 && !kernels.fma) {
      right = Transpose();
    } else {
      right = Align(w, w_count, p.k, p.n);
      mode = OperandMode::kRowsOfN;
    }
    p.x = left.data, p.x_pitch = left.pitch, p.x_matrix = left.matrix;
    p.w = right.data, p.w_pitch = right.pitch, p.w_matrix = right.matrix;
    p.k = static_cast<int>(left.pitch / bytes);  // up to the zeros that rows were filled up with
    return mode;
  }
};

const ProductKernels& KernelsFor(Number number, int64_t precision) {
  if (number == Number::kFloat16) return HalfProducts();
  if (number == Number::kBFloat16) return BFloat16Products();
  switch (precision) {
    case static_cast<int64_t>(Float32Precision::kTf32):
      return Tf32Products();
    case static_cast<int64_t>(Float32Precision::kFloat32):
      return Float32Products();
    default:
      FailKernel(kName, " has no precision ", precision);
  }
}

}  // namespace

void Matmul(CudaContext& context) {
  const DLTensor& x = context.Input(0);
  const DLTensor& w = context.Input(1);
  const DLTensor& y = context.Output(0);
  const Number number = NumberOf(kName, "X", x);
  if (!(w.dtype == x.dtype))
    FailKernel(kName, " takes W of X's type ", DTypeText(x.dtype), ", not ", DTypeText(w.dtype));
  if (!(y.dtype == x.dtype) && !IsType(y, kDLFloat, 32)) {
    FailKernel(kName, " of ", DTypeText(x.dtype), " gives Y of that type or of float32, not ", DTypeText(y.dtype));
  }
  const int64_t layout = context.ints()[0];
  if (layout != 0 && layout != 1) FailKernel(kName, " has no layout ", layout);
  Call call{context, x, w, y, layout == 1, BytesOf(number), {}};
  call.ReadShapes();
  if (ElementCount(y) == 0) return;

  Epilogue e;
  e.rows = call.p.m;
  e.columns = call.p.n;
  e.pitch = call.p.n;
  e.matrix = static_cast<int64_t>(call.p.m) * call.p.n;
  const int64_t columns = call.p.n;
  DescribeResult(kName, y, context.OptionalInput(2), context.OptionalInput(3), columns, context.ints()[1],
                 context.floats(), e);
  const ProductKernels& kernels = KernelsFor(number, context.ints()[2]);
  const int64_t variant = context.ints()[3];
  const DenseProduct product{Data<const void>(x), Data<const void>(w), number, layout == 1, context.ints()[2], call.p};
  const bool forced = variant == kLibraryVariant;
  if (forced || (variant == 0 && IsLibraryFaster(product, context.capability()))) {
    if (RunLibrary(context, kName, product, e)) return;
    if (forced) {
      const std::string why = WhyNoLibrary();
      FailKernel(kName, ": variant 9 is cuBLASLt, which ",
                 why.empty() ? "does not compute this product" : "is not there: ", why);
    }
  }
  const OperandMode mode = call.Prepare(kernels);
  RunProducts(context, kName, kernels, mode, call.p, e, variant);
}

}  // namespace ingot
