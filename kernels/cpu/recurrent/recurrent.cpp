#include "cpu/recurrent/recurrent.h"

#include <algorithm>
#include <array>
#include <limits>

#include "cpu/recurrent/step.h"

namespace ingot {
namespace {

using namespace recurrent;

// A fork of the threads takes 2 to 5 microseconds, in which a thread does about this many multiply-adds.
constexpr int64_t kForkGrain = 1 << 16;
// Weights of this size stay in a core's second-level cache from one time step to the next (256 KiB to 2 MiB there).
constexpr int64_t kCachedBytes = 1 << 18;
// Two directions with more weights than this each run one after another: half of one stays in a core's second-level
// cache (1 to 2 MiB on servers) from one time step to the next, while one of its own would not, or hardly.
constexpr int64_t kApartBytes = 3 << 19;
// Fewer rows would leave registers empty.
constexpr int64_t kLeastRows = 8;

template <typename T, typename W>
class Layer {
 public:
  Layer(KernelContext& context, StepFunction<T, W> step) : context_(context), step_(step) {
    const auto clip = static_cast<T>(context_.floats()[0]);
    if (clip > 0) clip_ = clip;
    ReadSizes();
    ReadTensors();
    ReadLengths();
    for (size_t d = 0; d < 2; ++d) {
      for (size_t i = 0; i < 3; ++i) functions_[d][i] = ReadFunction(3 * d + i);
    }
  }

  void Run() {
    if (batch_ == 0 || directions_ == 0 || hidden_ == 0) return;
    PrepareState();
    const int64_t work = gates_ * hidden_ * padded_;
    const int64_t threads = context_.threads();
    const bool cached = work * static_cast<int64_t>(sizeof(W)) <= kCachedBytes;
    const int64_t most_groups = cached ? std::max<int64_t>(batch_ / kLeastRows, 1) : 1;
    const int64_t groups = std::clamp<int64_t>((threads + directions_ - 1) / directions_, 1, most_groups);
    const bool apart = directions_ > 1 && threads > 1 && work * static_cast<int64_t>(sizeof(W)) > kApartBytes;
    if (apart) {
      for (int64_t d = 0; d < directions_; ++d) RunSteps(work, d, d + 1);
    } else if (directions_ * groups >= threads || work * batch_ * directions_ < 2 * kForkGrain) {
      RunSequences(groups);
    } else {
      RunSteps(work, 0, directions_);
    }
    for (int64_t d = 0; d < directions_; ++d) {
      for (int64_t b = 0; b < batch_; ++b) Finish(d, b);
    }
  }

 private:
  void ReadSizes() {
    const DLTensor& y = context_.Output(0);
    const DLTensor& projected = context_.Input(0);
    const int64_t code = context_.ints()[0];
    if (code < 0 || code > 3) FailKernel("there is no recurrent cell ", code);
    cell_ = static_cast<Cell>(code);
    gates_ = cell_ == Cell::kRnn ? 1 : cell_ == Cell::kLstm ? 4 : 3;
    if (y.ndim != 4) FailKernel("a recurrent layer's output has 4 axes, not ", ShapeText(y));
    times_ = y.shape[0];
    directions_ = y.shape[1];
    batch_ = y.shape[2];
    hidden_ = y.shape[3];
    blocks_ = (hidden_ + kLanes - 1) / kLanes;
    padded_ = blocks_ * kLanes;
    depth_ = (hidden_ + Layout<W>::kDepth - 1) / Layout<W>::kDepth * Layout<W>::kDepth;
    if (directions_ > 2) FailKernel("a recurrent layer has 1 or 2 directions, not ", directions_);
    const int64_t wide = directions_ * padded_ * gates_;
    Expect(&projected, "projected", {times_, batch_, wide}, 3);
    constexpr int kSides = Layout<W>::kSides;
    Expect(&context_.Input(1), "weights", {directions_, padded_ * gates_ * depth_ / kSides, kSides},
           kSides == 1 ? 2 : 3, context_.Input(1).dtype);
    Expect(context_.OptionalInput(2), "reset_bias", {directions_, padded_}, 2);
    Expect(context_.OptionalInput(3), "peepholes", {directions_, 3, padded_}, 3);
    Expect(context_.OptionalInput(4), "initial_h", {directions_, batch_, hidden_}, 3);
    Expect(context_.OptionalInput(5), "initial_c", {directions_, batch_, hidden_}, 3);
    Expect(&y, "Y", {times_, directions_, batch_, hidden_}, 4);
    for (size_t i = 1; i < context_.output_count(); ++i)
      Expect(&context_.Output(i), "a final state", {directions_, batch_, hidden_}, 3);
    if (context_.output_count() != (cell_ == Cell::kLstm ? 3 : 2)) FailKernel("a recurrent layer lacks an output");
  }

  void Expect(const DLTensor* tensor, const char* name, std::array<int64_t, 4> shape, size_t rank) const {
    Expect(tensor, name, shape, rank, context_.Input(0).dtype);
  }
  static void Expect(const DLTensor* tensor, const char* name, std::array<int64_t, 4> shape, size_t rank,
                     DLDataType dtype) {
    if (tensor == nullptr) return;
    const std::span<const int64_t> expected = std::span<const int64_t>(shape).first(rank);
    if (!std::ranges::equal(ShapeOf(*tensor), expected) || tensor->dtype != dtype) {
      FailKernel(std::string_view(name), " has ", ShapeText(*tensor), " of ", DTypeText(tensor->dtype), ", expected ",
                 ShapeText(expected), " of ", DTypeText(dtype));
    }
  }

  const T* OptionalData(size_t index) const {
    const DLTensor* tensor = context_.OptionalInput(index);
    return tensor == nullptr ? nullptr : Data<const T>(*tensor);
  }

  void ReadTensors() {
    projected_ = Data<const T>(context_.Input(0));
    weights_ = Data<const W>(context_.Input(1));
    reset_bias_ = OptionalData(2);
    peepholes_ = OptionalData(3);
    initial_h_ = OptionalData(4);
    initial_c_ = OptionalData(5);
    y_ = Data<T>(context_.Output(0));
  }

  void ReadLengths() {
    longest_ = times_;
    const DLTensor* lengths = context_.OptionalInput(6);
    if (lengths == nullptr) return;
    if (lengths->ndim != 1 || lengths->shape[0] != batch_ || DTypeText(lengths->dtype) != "int32")
      FailKernel("sequence_lens are int32 [", batch_, "], not ", ShapeText(*lengths), " of ",
                 DTypeText(lengths->dtype));
    lengths_ = Data<const int32_t>(*lengths);
    longest_ = 0;
    for (int64_t b = 0; b < batch_; ++b) {
      if (lengths_[b] < 0 || lengths_[b] > times_)
        FailKernel("sequence length ", lengths_[b], " is not of 0 to ", times_);
      longest_ = std::max<int64_t>(longest_, lengths_[b]);
    }
  }

  Function<T> ReadFunction(size_t index) const {
    const int64_t code = context_.ints()[3 + index];
    if (code < 0 || code >= kActivations) FailKernel("there is no activation ", code);
    return {static_cast<Activation>(code), static_cast<T>(context_.floats()[1 + 2 * index]),
            static_cast<T>(context_.floats()[2 + 2 * index])};
  }

  int64_t Length(int64_t b) const { return lengths_ == nullptr ? times_ : lengths_[b]; }
  bool Reversed(int64_t direction) const { return (context_.ints()[1] >> direction & 1) != 0; }
  int64_t Time(int64_t direction, int64_t b, int64_t step) const {
    return Reversed(direction) ? Length(b) - 1 - step : step;
  }
  T* Y(int64_t time, int64_t direction, int64_t b) const {
    return y_ + ((time * directions_ + direction) * batch_ + b) * hidden_;
  }
  // h after `steps` steps.
  const T* Hidden(int64_t direction, int64_t b, int64_t steps) const {
    if (steps > 0) return Y(Time(direction, b, steps - 1), direction, b);
    return initial_h_ == nullptr ? zeros_ : initial_h_ + (direction * batch_ + b) * hidden_;
  }

  void PrepareState() {
    const int64_t sequences = directions_ * batch_;
    rows_ = context_.Scratch<Row<T>>(static_cast<size_t>(sequences)).data();
    const auto zeros = context_.Scratch<T>(static_cast<size_t>(hidden_));
    std::ranges::fill(zeros, T{0});
    zeros_ = zeros.data();
    const auto states = context_.Scratch<T>(static_cast<size_t>(sequences * padded_ * 2));
    std::ranges::fill(states, T{0});
    states_ = states.data();
    if (cell_ != Cell::kLstm || initial_c_ == nullptr) return;
    for (int64_t i = 0; i < sequences; ++i) std::copy_n(initial_c_ + i * hidden_, hidden_, states_ + i * padded_ * 2);
  }

  // The sequences of [first, end) that are not over, at a step.
  int64_t FillRows(int64_t direction, int64_t first, int64_t end, int64_t step) {
    Row<T>* row = rows_ + direction * batch_ + first;
    const int64_t wide = padded_ * gates_;
    for (int64_t b = first; b < end; ++b) {
      if (step >= Length(b)) continue;
      const int64_t time = Time(direction, b, step);
      T* state = states_ + (direction * batch_ + b) * padded_ * 2;
      *row++ = {projected_ + ((time * batch_ + b) * directions_ + direction) * wide,
                Hidden(direction, b, step),
                Y(time, direction, b),
                state,
                state,
                state + padded_};
    }
    return row - (rows_ + direction * batch_ + first);
  }

  void RunUnits(int64_t step, int64_t direction, int64_t first_row, int64_t rows, int phase, int64_t first_block,
                int64_t end_block) {
    const int64_t d = direction;
    const auto& [f, g, h] = functions_[static_cast<size_t>(d)];
    step_({{cell_, phase, context_.ints()[2] != 0, step % 2 != 0, hidden_, depth_, clip_, f, g, h,
            reset_bias_ == nullptr ? nullptr : reset_bias_ + d * padded_,
            peepholes_ == nullptr ? nullptr : peepholes_ + d * 3 * padded_, rows_ + d * batch_ + first_row, rows,
            first_block, end_block},
           weights_ + padded_ * depth_ * (d * gates_ + 2 * phase)});
  }

  int Phases() const { return cell_ == Cell::kGru ? 2 : 1; }

  // Directions and groups of sequences do not need one another: each thread runs through all time steps of its own.
  void RunSequences(int64_t groups) {
    context_.ParallelFor(directions_ * groups, 1, [&](int64_t begin, int64_t end) {
      for (int64_t job = begin; job < end; ++job) {
        const int64_t direction = job / groups;
        const int64_t first = batch_ * (job % groups) / groups;
        const int64_t last = batch_ * (job % groups + 1) / groups;
        for (int64_t step = 0; step < longest_; ++step) {
          const int64_t rows = FillRows(direction, first, last, step);
          for (int phase = 0; phase < Phases(); ++phase) RunUnits(step, direction, first, rows, phase, 0, blocks_);
        }
      }
    });
  }

  // Directions from first_direction on run together. Threads share the units, and meet after each time step.
  void RunSteps(int64_t work, int64_t first_direction, int64_t end_direction) {
    for (int64_t step = 0; step < longest_; ++step) {
      int64_t rows[2] = {};
      for (int64_t d = first_direction; d < end_direction; ++d) rows[d] = FillRows(d, 0, batch_, step);
      const int64_t block_work = work / blocks_ / Phases() * std::max<int64_t>(rows[first_direction], 1);
      const int64_t blocks = (end_direction - first_direction) * blocks_;
      for (int phase = 0; phase < Phases(); ++phase) {
        context_.ParallelFor(blocks, 1 + kForkGrain / block_work, [&](int64_t begin, int64_t end) {
          for (int64_t d = first_direction; d < end_direction; ++d) {
            const int64_t before = (d - first_direction) * blocks_;
            const int64_t first = std::max(begin - before, int64_t{0});
            const int64_t last = std::min(end - before, blocks_);
            if (first < last) RunUnits(step, d, 0, rows[d], phase, first, last);
          }
        });
      }
    }
  }

  void Finish(int64_t direction, int64_t b) {
    for (int64_t time = Length(b); time < times_; ++time) std::fill_n(Y(time, direction, b), hidden_, T{0});
    const int64_t sequence = direction * batch_ + b;
    std::copy_n(Hidden(direction, b, Length(b)), hidden_, Data<T>(context_.Output(1)) + sequence * hidden_);
    if (cell_ == Cell::kLstm)
      std::copy_n(states_ + sequence * padded_ * 2, hidden_, Data<T>(context_.Output(2)) + sequence * hidden_);
  }

  KernelContext& context_;
  const StepFunction<T, W> step_;
  T clip_ = std::numeric_limits<T>::infinity();
  Cell cell_;
  int64_t gates_, times_, directions_, batch_, hidden_, blocks_, padded_, depth_, longest_;
  const T* projected_;
  const W* weights_;
  const T* reset_bias_;
  const T* peepholes_;
  const T* initial_h_;
  const T* initial_c_;
  const int32_t* lengths_ = nullptr;
  T* y_;
  Row<T>* rows_;    // [D, B]
  const T* zeros_;  // [H]
  T* states_;       // [D, B, 2, P]: c; or z, then r times h
  std::array<std::array<Function<T>, 3>, 2> functions_;
};

void Run(KernelContext& context, const StepFunctions& steps) {
  const std::string type = DTypeText(context.Input(0).dtype);
  const std::string weights = DTypeText(context.Input(1).dtype);
  if (type == "float64" && weights == type) return Layer<double, double>(context, StepScalar).Run();
  if (type != "float32") FailKernel("a recurrent layer is float32 or float64, not ", type);
  if (weights == "float32") return Layer<float, float>(context, steps.float32).Run();
  if (weights == "float16") return Layer<float, Half>(context, steps.float16).Run();
  if (weights == "bfloat16") return Layer<float, Bfloat16>(context, steps.bfloat16).Run();
  FailKernel("weights of a recurrent layer of float32 are float32, float16 or bfloat16, not ", weights);
}

}  // namespace

void Recurrent(KernelContext& context) { Run(context, StepsScalar()); }

#if defined(__x86_64__)
void RecurrentAvx2(KernelContext& context) { Run(context, StepsAvx2()); }
void RecurrentAvx512(KernelContext& context) { Run(context, StepsAvx512()); }
void RecurrentAmx(KernelContext& context) { Run(context, StepsAmx()); }
#elif defined(__aarch64__)
void RecurrentNeon(KernelContext& context) { Run(context, StepsNeon()); }
#endif

}  // namespace ingot
