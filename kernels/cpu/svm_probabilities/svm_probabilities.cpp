#include "cpu/svm_probabilities/svm_probabilities.h"

#include <algorithm>
#include <cmath>

namespace ingot {
namespace {

// The probabilities of k classes from those of pairs, r[i * k + j] that of i against j. `q` is k * k of scratch, `qp`
// k.
void Couple(int64_t k, const double* r, double* q, double* qp, double* p) {
  for (int64_t t = 0; t < k; ++t) {
    p[t] = 1 / static_cast<double>(k);
    q[t * k + t] = 0;
    for (int64_t j = 0; j < k; ++j) {
      if (j == t) continue;
      q[t * k + t] += r[j * k + t] * r[j * k + t];
      q[t * k + j] = -r[j * k + t] * r[t * k + j];
    }
  }
  const double tolerance = 0.005 / static_cast<double>(k);  // LIBSVM's
  for (int64_t round = 0; round < std::max<int64_t>(100, k); ++round) {
    double pqp = 0;
    for (int64_t t = 0; t < k; ++t) {
      qp[t] = 0;
      for (int64_t j = 0; j < k; ++j) qp[t] += q[t * k + j] * p[j];
      pqp += p[t] * qp[t];
    }
    double error = 0;
    for (int64_t t = 0; t < k; ++t) error = std::max(error, std::abs(qp[t] - pqp));
    if (error < tolerance) return;
    for (int64_t t = 0; t < k; ++t) {
      const double change = (pqp - qp[t]) / q[t * k + t];
      p[t] += change;
      pqp = (pqp + change * (change * q[t * k + t] + 2 * qp[t])) / ((1 + change) * (1 + change));
      for (int64_t j = 0; j < k; ++j) {
        qp[j] = (qp[j] + change * q[t * k + j]) / (1 + change);
        p[j] /= 1 + change;
      }
    }
  }
}

}  // namespace

void SvmProbabilities(KernelContext& context) {
  const DLTensor& decisions = context.Input(0);
  const DLTensor& a = context.Input(1);
  const DLTensor& b = context.Input(2);
  const DLTensor& output = context.Output(0);
  const auto is_float = [](const DLTensor& tensor, int32_t rank) {
    return tensor.ndim == rank && DTypeText(tensor.dtype) == "float32";
  };
  bool fits = is_float(decisions, 2) && is_float(a, 1) && is_float(b, 1) && is_float(output, 2);
  const int64_t k = fits ? output.shape[1] : 0;
  fits = fits && k > 1 && k < (1 << 20) && output.shape[0] == decisions.shape[0] &&
         decisions.shape[1] == k * (k - 1) / 2 && a.shape[0] == decisions.shape[1] && b.shape[0] == a.shape[0];
  if (!fits) FailKernel("decisions ", ShapeText(decisions), " do not give probabilities ", ShapeText(output));
  if (ElementCount(output) == 0) return;
  constexpr int64_t kMostParts = 64;  // parts that the rows are split into, each with buffers of its own
  const int64_t rows = output.shape[0];
  const int64_t parts = std::min(rows, kMostParts);
  const int64_t each = 2 * k * k + 2 * k;
  const auto buffers = context.Scratch<double>(static_cast<size_t>(parts * each));
  context.ParallelFor(parts, 1, [&](int64_t begin, int64_t end) {
    for (int64_t part = begin; part < end; ++part) {
      double* r = buffers.data() + part * each;
      double* p = r + 2 * k * k + k;
      for (int64_t row = rows * part / parts; row < rows * (part + 1) / parts; ++row) {
        int64_t pair = 0;
        for (int64_t i = 0; i < k; ++i) {
          r[i * k + i] = 0;
          for (int64_t j = i + 1; j < k; ++j, ++pair) {
            const double score = Data<const float>(decisions)[row * a.shape[0] + pair];
            const double x = score * Data<const float>(a)[pair] + Data<const float>(b)[pair];
            const double probability = std::clamp(1 / (1 + std::exp(x)), 1e-7, 1 - 1e-7);
            r[i * k + j] = probability;
            r[j * k + i] = 1 - probability;
          }
        }
        Couple(k, r, r + k * k, r + 2 * k * k, p);
        for (int64_t i = 0; i < k; ++i) Data<float>(output)[row * k + i] = static_cast<float>(p[i]);
      }
    }
  });
}

}  // namespace ingot
