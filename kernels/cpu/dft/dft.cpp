#include "cpu/dft/dft.h"

#include <algorithm>

#include "cpu/dft/fft.h"
#include "types.h"

namespace ingot {
namespace {

constexpr int64_t kMostLength = int64_t{1} << 40;  // so that products of a few lengths do not overflow
constexpr int64_t kMostParts = 64;                 // parts that the lines are split into, each with buffers of its own

// Lines along an axis, the parts of complex numbers next to each other.
struct Layout {
  int64_t outer, extent, inner, parts;

  Layout(const DLTensor& tensor, int64_t axis) {
    const auto shape = ShapeOf(tensor);
    const auto split = static_cast<size_t>(axis);
    outer = ElementCount(shape.first(split));
    extent = shape[split];
    parts = shape.back();
    inner = ElementCount(shape.subspan(split + 1, shape.size() - split - 2));
  }

  int64_t lines() const { return outer * inner; }
  int64_t First(int64_t line) const { return (line / inner * extent * inner + line % inner) * parts; }
  int64_t step() const { return inner * parts; }
};

template <typename T>
void Transform(KernelContext& context, const DLTensor& input, const DLTensor& output, int64_t n) {
  const int64_t axis = context.ints()[0];
  const bool inverse = context.ints()[1] != 0;
  const bool onesided = context.ints()[2] != 0;
  const Layout in(input, axis);
  const Layout out(output, axis);
  const int64_t given = std::min(in.extent, inverse && onesided ? n / 2 + 1 : n);
  const double scale = inverse ? 1 / static_cast<double>(n) : 1;

  Fft fft(n, context.Scratch<Complex>(static_cast<size_t>(Fft::TableSize(n))));
  const int64_t parts = std::min(in.lines(), kMostParts);
  const int64_t each = n + Fft::WorkSize(n);
  const auto buffers = context.Scratch<Complex>(static_cast<size_t>(parts * each));
  fft.Prepare(buffers.data());

  context.ParallelFor(parts, 1, [&](int64_t begin, int64_t end) {
    for (int64_t part = begin; part < end; ++part) {
      Complex* x = buffers.data() + part * each;
      const int64_t last = in.lines() * (part + 1) / parts;
      for (int64_t line = in.lines() * part / parts; line < last; ++line) {
        const T* from = Data<const T>(input) + in.First(line);
        for (int64_t k = 0; k < n; ++k) {
          if (k >= given) {
            x[k] = {0, 0};
            continue;
          }
          const T* element = from + k * in.step();
          x[k] = {static_cast<double>(Widen(element[0])), in.parts == 2 ? static_cast<double>(Widen(element[1])) : 0.0};
        }
        if (inverse && onesided) {  // the other half is the conjugate of the first
          x[0].im = 0;
          for (int64_t k = 1; k <= n / 2; ++k) {
            if (2 * k == n) x[k].im = 0;
            x[n - k] = Conjugate(x[k]);
          }
        }
        fft.Run(x, inverse, x + n);
        T* to = Data<T>(output) + out.First(line);
        for (int64_t k = 0; k < out.extent; ++k) {
          T* element = to + k * out.step();
          element[0] = static_cast<T>(static_cast<Computed<T>>(x[k].re * scale));
          if (out.parts == 2) element[1] = static_cast<T>(static_cast<Computed<T>>(x[k].im * scale));
        }
      }
    }
  });
}

}  // namespace

void Dft(KernelContext& context) {
  const DLTensor& input = context.Input(0);
  const DLTensor& output = context.Output(0);
  const int64_t axis = context.ints()[0];
  const int64_t n = context.dims()[0];
  if (input.ndim < 2 || axis < 0 || axis >= input.ndim - 1)
    FailKernel("there is no axis ", axis, " of complex numbers in ", ShapeText(input));
  if (n < 1 || n > kMostLength) FailKernel("a transform of length ", n, " is not possible");
  const bool inverse = context.ints()[1] != 0;
  const bool onesided = context.ints()[2] != 0;
  const int64_t parts = input.shape[input.ndim - 1];
  bool fits = output.ndim == input.ndim && output.dtype == input.dtype && (parts == 1 || parts == 2) &&
              output.shape[output.ndim - 1] == (inverse && onesided ? 1 : 2) &&
              output.shape[axis] == (onesided && !inverse ? n / 2 + 1 : n);
  for (int32_t i = 0; fits && i < input.ndim - 1; ++i) fits = i == axis || output.shape[i] == input.shape[i];
  if (!fits)
    FailKernel("a transform of length ", n, " of ", ShapeText(input), " does not have shape ", ShapeText(output));
  if (ElementCount(output) == 0) return;
  if (input.dtype.code != kDLFloat && input.dtype.code != kDLBfloat)
    FailKernel("dft does not take ", DTypeText(input.dtype));
  DispatchNumber("dft", input, [&](auto zero) {
    using T = decltype(zero);
    if constexpr (std::is_floating_point_v<Computed<T>>) Transform<T>(context, input, output, n);
  });
}

}  // namespace ingot
