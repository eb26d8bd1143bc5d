// The reference: one row after the other, in any floating-point type.
#include <algorithm>
#include <cmath>

#include "cpu/recurrent/step.h"

namespace ingot::recurrent {
namespace {

template <typename T>
T Apply(const Function<T>& function, T x) {
  const T alpha = function.alpha;
  const T beta = function.beta;
  switch (function.kind) {
    case Activation::kSigmoid:
      return 1 / (1 + std::exp(-x));
    case Activation::kTanh:
      return std::tanh(x);
    case Activation::kRelu:
      return x < 0 ? 0 : x;
    case Activation::kAffine:
      return alpha * x + beta;
    case Activation::kLeakyRelu:
      return x < 0 ? alpha * x : x;
    case Activation::kThresholdedRelu:
      return x < alpha ? 0 : x;
    case Activation::kScaledTanh:
      return alpha * std::tanh(beta * x);
    case Activation::kHardSigmoid:
      return std::min(std::max(alpha * x + beta, T{0}), T{1});
    case Activation::kElu:
      return x < 0 ? alpha * std::expm1(x) : x;
    case Activation::kSoftsign:
      return x / (1 + std::abs(x));
    case Activation::kSoftplus:
      return std::max(x, T{0}) + std::log1p(std::exp(-std::abs(x)));
  }
  return x;
}

template <typename T>
T Clip(T x, T clip) {
  return x > clip ? clip : x < -clip ? -clip : x;
}

// sums [gates, 8] += source [H] times block [H, gates, 8], which lies as Layout says.
template <typename T, typename W>
void Multiply(const T* source, const W* block, int64_t hidden_size, int gates, T* sums) {
  constexpr int kSides = Layout<W>::kSides;
  for (int64_t k = 0; k < hidden_size; ++k) {
    const W* row = block + k / kSides * kSides * gates * kLanes + k % kSides;
    for (int64_t j = 0; j < gates * kLanes; ++j) sums[j] += source[k] * Widen(row[j * kSides]);
  }
}

template <typename T, typename W>
class Block {
 public:
  Block(const Step<T, W>& step, const Row<T>& row, int64_t block)
      : step_(step),
        row_(row),
        first_(block * kLanes),
        lanes_(std::min(kLanes, step.hidden_size - first_)),
        block_(block) {}

  void Run() {
    switch (step_.cell) {
      case Cell::kRnn:
        return Rnn();
      case Cell::kLstm:
        return Lstm();
      case Cell::kGru:
        return step_.phase == 0 ? GruGates() : GruHidden();
      case Cell::kGruLinearBeforeReset:
        return GruLinearBeforeReset();
    }
  }

 private:
  const T* Projected(int gates) const { return row_.projected + block_ * gates * kLanes; }
  void Sum(const T* source, int gates, int weight_gates) {
    const W* block = step_.weights + block_ * step_.depth * weight_gates * kLanes;
    Multiply(source, block, step_.hidden_size, gates, sums_);
  }
  T Gate(const Function<T>& function, T x) const { return Apply(function, Clip(x, step_.clip)); }

  void Rnn() {
    std::copy_n(Projected(1), kLanes, sums_);
    Sum(row_.previous, 1, 1);
    for (int64_t j = 0; j < lanes_; ++j) row_.hidden[first_ + j] = Gate(step_.f, sums_[j]);
  }

  void Lstm() {
    std::copy_n(Projected(4), 4 * kLanes, sums_);
    Sum(row_.previous, 4, 4);
    const int64_t padded = (step_.hidden_size + kLanes - 1) / kLanes * kLanes;
    const auto peephole = [&](int64_t gate, int64_t j) {
      return step_.peepholes == nullptr ? T{0} : step_.peepholes[gate * padded + first_ + j];
    };
    for (int64_t j = 0; j < lanes_; ++j) {
      T& cell = row_.cell[first_ + j];
      const T i = Gate(step_.f, sums_[j] + peephole(0, j) * cell);
      const T f = step_.input_forget ? 1 - i : Gate(step_.f, sums_[2 * kLanes + j] + peephole(2, j) * cell);
      cell = f * cell + i * Gate(step_.g, sums_[3 * kLanes + j]);
      const T o = Gate(step_.f, sums_[kLanes + j] + peephole(1, j) * cell);
      row_.hidden[first_ + j] = o * Apply(step_.h, cell);
    }
  }

  void GruGates() {
    std::copy_n(Projected(3), 2 * kLanes, sums_);
    Sum(row_.previous, 2, 2);
    for (int64_t j = 0; j < lanes_; ++j) {
      row_.update[first_ + j] = Gate(step_.f, sums_[j]);
      row_.reset[first_ + j] = Gate(step_.f, sums_[kLanes + j]) * row_.previous[first_ + j];
    }
  }

  void GruHidden() {
    std::copy_n(Projected(3) + 2 * kLanes, kLanes, sums_);
    Sum(row_.reset, 1, 1);
    for (int64_t j = 0; j < lanes_; ++j) {
      Blend(j, row_.update[first_ + j], Gate(step_.g, sums_[j]));
    }
  }

  void GruLinearBeforeReset() {
    const T* projected = Projected(3);
    std::copy_n(projected, 2 * kLanes, sums_);
    for (int64_t j = 0; j < kLanes; ++j)
      sums_[2 * kLanes + j] = step_.reset_bias == nullptr ? T{0} : step_.reset_bias[first_ + j];
    Sum(row_.previous, 3, 3);
    for (int64_t j = 0; j < lanes_; ++j) {
      const T reset = Gate(step_.f, sums_[kLanes + j]);
      Blend(j, Gate(step_.f, sums_[j]), Gate(step_.g, projected[2 * kLanes + j] + reset * sums_[2 * kLanes + j]));
    }
  }

  void Blend(int64_t j, T update, T candidate) {
    row_.hidden[first_ + j] = (1 - update) * candidate + update * row_.previous[first_ + j];
  }

  const Step<T, W>& step_;
  const Row<T>& row_;
  const int64_t first_;
  const int64_t lanes_;
  const int64_t block_;
  T sums_[kMostGates * kLanes];
};

template <typename T, typename W>
void Run(const Step<T, W>& step) {
  for (int64_t block = step.first_block; block < step.end_block; ++block) {
    for (int64_t row = 0; row < step.row_count; ++row) Block<T, W>(step, step.rows[row], block).Run();
  }
}

}  // namespace

void StepScalar(const Step<double>& step) { Run(step); }
StepFunctions StepsScalar() { return {Run<float, float>, Run<float, Half>, Run<float, Bfloat16>}; }

float Activate(const Function<float>& function, float x) { return Apply(function, x); }

}  // namespace ingot::recurrent
