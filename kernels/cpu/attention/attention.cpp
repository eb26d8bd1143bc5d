#include "cpu/attention/attention.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>

#include "cpu/attention/unit.h"

namespace ingot {
namespace {

using namespace attention;

static_assert(kMostSize == kMostAttentionSize);

// A fork of the threads takes 2 to 5 microseconds, in which a thread does about this many multiply-adds.
constexpr int64_t kForkWork = 1 << 17;
// Units for each thread: what finishes late is at most one of so many.
constexpr int64_t kUnitsPerThread = 4;
// Fewer rows would not pay for packing the keys.
constexpr int64_t kLeastRows = 2 * kBlockRows;
// Bytes of a unit's queries and outputs, which stay in a second-level cache of 512 KiB beside the packed keys and
// values.
constexpr int64_t kStateBytes = 128 << 10;
// Fewer keys would not pay for combining the parts.
constexpr int64_t kLeastPartKeys = 512;
constexpr int64_t kNoBound = int64_t{1} << 60;

int64_t CeilDivide(int64_t a, int64_t b) { return (a + b - 1) / b; }
int64_t RoundUpTo(int64_t x, int64_t multiple) { return CeilDivide(x, multiple) * multiple; }

Element ElementOf(const DLTensor& tensor, const char* name, bool is_mask) {
  if (tensor.dtype.code == kDLFloat && tensor.dtype.bits == 32) return Element::kFloat;
  if (tensor.dtype.code == kDLFloat && tensor.dtype.bits == 16) return Element::kHalf;
  if (tensor.dtype.code == kDLBfloat && tensor.dtype.bits == 16) return Element::kBfloat;
  if (is_mask && tensor.dtype.code == kDLBool && tensor.dtype.bits == 8) return Element::kBool;
  FailKernel("attention takes ", std::string_view(name), " of float32, float16",
             is_mask ? ", bfloat16 or bool" : " or bfloat16", ", not ", DTypeText(tensor.dtype));
}

// Extents of a tensor, whatever its layout.
struct Extents {
  int64_t batch, sequence, head, size;
};

class Call {
 public:
  Call(KernelContext& context, UnitFunction run) : context_(context), run_(run) {
    ReadTensors();
    ReadMask();
    ReadLengths();
    const auto ints = context.ints();
    problem_.left = Bound(ints[4], "left");
    problem_.right = Bound(ints[5], "right");
    problem_.at_end = ints[6] != 0;
    problem_.scale = static_cast<float>(context.floats()[0]);
    problem_.softcap = static_cast<float>(context.floats()[1]);
    if (!std::isfinite(problem_.scale) || !(problem_.softcap >= 0) || std::isinf(problem_.softcap))
      FailKernel("attention with scale ", problem_.scale, " and softcap ", problem_.softcap, " is not defined");
  }

  void Run() {
    rows_ = problem_.queries * problem_.group;
    if (problem_.batches == 0 || problem_.kv_heads == 0 || rows_ == 0 || problem_.value_size == 0) return;
    Divide();
    AllocateScratch();
    std::atomic<int64_t> next{0};
    context_.ParallelFor(workers_, 1, [&](int64_t begin, int64_t end) {
      for (int64_t worker = begin; worker < end; ++worker) {
        for (int64_t i = next.fetch_add(1, std::memory_order_relaxed); i < units_;
             i = next.fetch_add(1, std::memory_order_relaxed))
          RunUnit(worker, i);
      }
    });
    if (parts_ > 1) {
      context_.ParallelFor(units_ / parts_, kUnitsPerThread, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) Combine(i);
      });
    }
  }

 private:
  Tensor ReadTensor(const DLTensor& tensor, const char* name, int64_t layout, bool is_key, Extents& extents) const {
    if (tensor.ndim != 4) FailKernel(std::string_view(name), " has 4 axes, not ", ShapeText(tensor));
    const auto shape = ShapeOf(tensor);
    const Element element = ElementOf(tensor, name, false);
    switch (static_cast<AttentionLayout>(layout)) {
      case AttentionLayout::kSequenceFirst:
        extents = {shape[0], shape[1], shape[2], shape[3]};
        return {tensor.data, element, shape[1] * shape[2] * shape[3], shape[2] * shape[3], shape[3], 1};
      case AttentionLayout::kHeadFirst:
        extents = {shape[0], shape[2], shape[1], shape[3]};
        return {tensor.data, element, shape[1] * shape[2] * shape[3], shape[3], shape[2] * shape[3], 1};
      case AttentionLayout::kTransposed:
        if (!is_key) break;
        extents = {shape[0], shape[3], shape[1], shape[2]};
        return {tensor.data, element, shape[1] * shape[2] * shape[3], 1, shape[2] * shape[3], shape[3]};
      case AttentionLayout::kBatchSecond:
        extents = {shape[1], shape[0], shape[2], shape[3]};
        return {tensor.data, element, shape[2] * shape[3], shape[1] * shape[2] * shape[3], shape[3], 1};
    }
    FailKernel(std::string_view(name), " has no layout ", layout);
  }

  void ReadTensors() {
    const auto ints = context_.ints();
    const DLTensor* tensors[] = {&context_.Input(0), &context_.Input(1), &context_.Input(2), &context_.Output(0)};
    Extents q, k, v, o;
    problem_.q = ReadTensor(*tensors[0], "Q", ints[0], false, q);
    problem_.k = ReadTensor(*tensors[1], "K", ints[1], true, k);
    problem_.v = ReadTensor(*tensors[2], "V", ints[2], false, v);
    problem_.o = ReadTensor(*tensors[3], "O", ints[3], false, o);
    Tensor* read[] = {&problem_.q, &problem_.k, &problem_.v, &problem_.o};
    for (size_t i = 0; i < 4; ++i) read[i]->data = Data<std::byte>(*tensors[i]);
    const bool groups = k.head == 0 ? q.head == 0 : q.head % k.head == 0;
    if (k.batch != q.batch || v.batch != q.batch || o.batch != q.batch || v.sequence != k.sequence ||
        o.sequence != q.sequence || v.head != k.head || o.head != q.head || k.size != q.size || o.size != v.size ||
        !groups || problem_.q.element != problem_.o.element || problem_.k.element != problem_.v.element)
      FailKernel("attention of Q ", TypeText(*tensors[0]), ", K ", TypeText(*tensors[1]), ", V ", TypeText(*tensors[2]),
                 " to O ", TypeText(*tensors[3]), " with layouts ", ints[0], ", ", ints[1], ", ", ints[2], ", ",
                 ints[3], " does not fit together");
    if (q.size > kMostSize || v.size > kMostSize)
      FailKernel("attention takes heads of at most ", kMostSize, " elements, not ", std::max(q.size, v.size));
    problem_.batches = q.batch;
    problem_.queries = q.sequence;
    problem_.keys = k.sequence;
    problem_.kv_heads = k.head;
    problem_.group = k.head == 0 ? 0 : q.head / k.head;
    problem_.size = q.size;
    problem_.value_size = v.size;
  }

  static std::string TypeText(const DLTensor& tensor) { return Text(DTypeText(tensor.dtype), " ", ShapeText(tensor)); }

  void ReadMask() {
    problem_.mask = {};
    const DLTensor* mask = context_.OptionalInput(3);
    if (mask == nullptr) return;
    const int64_t extents[] = {problem_.batches, problem_.kv_heads * problem_.group, problem_.queries, problem_.keys};
    int64_t strides[4] = {};
    bool fits = mask->ndim <= 4;
    int64_t stride = 1;
    for (int32_t i = 1; fits && i <= mask->ndim; ++i) {
      const int64_t extent = mask->shape[mask->ndim - i];
      fits = extent == 1 || extent == extents[4 - i];
      strides[4 - i] = extent == 1 ? 0 : stride;
      stride *= extent;
    }
    if (!fits)
      FailKernel("a mask of shape ", ShapeText(*mask), " cannot be broadcast to ",
                 ShapeText(std::span<const int64_t>(extents)));
    problem_.mask = {
        Data<std::byte>(*mask), ElementOf(*mask, "a mask", true), strides[0], strides[1], strides[2], strides[3]};
  }

  void ReadLengths() {
    const auto lengths = context_.Scratch<int64_t>(static_cast<size_t>(problem_.batches));
    std::ranges::fill(lengths, problem_.keys);
    problem_.lengths = lengths.data();
    const DLTensor* given = context_.OptionalInput(4);
    if (given == nullptr) return;
    const bool wide = given->dtype.bits == 64;
    if (given->dtype.code != kDLInt || (!wide && given->dtype.bits != 32) || given->ndim != 1 ||
        given->shape[0] != problem_.batches)
      FailKernel("lengths are int64 or int32 [", problem_.batches, "], not ", TypeText(*given));
    for (size_t i = 0; i < lengths.size(); ++i) {
      lengths[i] = wide ? Data<const int64_t>(*given)[i] : Data<const int32_t>(*given)[i];
      if (lengths[i] < 0 || lengths[i] > problem_.keys)
        FailKernel("a key length of ", lengths[i], " is not of 0 to ", problem_.keys);
    }
  }

  static int64_t Bound(int64_t bound, const char* name) {
    if (bound < -1) FailKernel(std::string_view(name), " is ", bound, "; it can be -1 or more");
    return bound == -1 ? kNoBound : std::min(bound, kNoBound);
  }

  // Divides the work into units: blocks of rows, and where these are too few, parts of the keys.
  void Divide() {
    const int64_t threads = context_.threads();
    const int64_t heads = problem_.batches * problem_.kv_heads;
    const int64_t features = problem_.size + problem_.value_size;
    const double work = static_cast<double>(heads * rows_) * static_cast<double>(problem_.keys * features);
    workers_ = work < 2 * kForkWork ? 1 : threads;
    const int64_t wanted = workers_ == 1 ? 1 : kUnitsPerThread * workers_;
    const int64_t most_rows = std::max(kStateBytes / 4 / features / kBlockRows * kBlockRows, kLeastRows);
    const int64_t useful = std::min(CeilDivide(wanted, heads), rows_ / kLeastRows);
    row_blocks_ = std::max({CeilDivide(rows_, most_rows), useful, int64_t{1}});
    block_rows_ = CeilDivide(rows_, row_blocks_);
    if (block_rows_ > kMostDirectRows) block_rows_ = RoundUpTo(block_rows_, kTileRows);
    row_blocks_ = CeilDivide(rows_, block_rows_);
    parts_ = std::clamp<int64_t>(problem_.keys / kLeastPartKeys, 1, CeilDivide(wanted, heads * row_blocks_));
    part_keys_ = std::max(RoundUpTo(CeilDivide(problem_.keys, parts_), kBlockKeys), kBlockKeys);
    units_ = heads * row_blocks_ * parts_;
    workers_ = std::min(workers_, units_);
  }

  // Units that see most keys come first: with a causal mask the last rows.
  Unit UnitAt(int64_t i) const {
    const int64_t part = i % parts_;
    const int64_t head = i / parts_ % (problem_.batches * problem_.kv_heads);
    const int64_t block = row_blocks_ - 1 - i / parts_ / (problem_.batches * problem_.kv_heads);
    const int64_t first_row = std::min(block * block_rows_, rows_);
    return {head / problem_.kv_heads,
            head % problem_.kv_heads,
            first_row,
            std::min(first_row + block_rows_, rows_),
            std::min(part * part_keys_, problem_.keys),
            std::min((part + 1) * part_keys_, problem_.keys)};
  }

  int64_t StateFloats() const { return padded_rows_ * (RoundUpTo(problem_.value_size, kPadding) + 2); }

  void AllocateScratch() {
    padded_rows_ = RoundUpTo(block_rows_, kBlockRows);
    const bool packs = block_rows_ > kMostDirectRows || problem_.k.feature != 1;
    const int64_t padded_size = RoundUpTo(problem_.size, kPadding);
    const int64_t padded_value_size = RoundUpTo(problem_.value_size, kPadding);
    const int64_t counts[] = {padded_rows_ * padded_size,
                              packs ? kBlockKeys * problem_.size : 0,
                              packs ? kBlockKeys * padded_value_size : 0,
                              kBlockRows * kBlockKeys,
                              packs ? 8 * kMostSize : 0,
                              kBlockRows,
                              parts_ > 1 ? 0 : StateFloats()};
    int64_t total = 0;
    for (size_t i = 0; i < std::size(counts); ++i) {
      offsets_[i] = total;
      total += RoundUpTo(counts[i], 16);  // a cache line
    }
    worker_floats_ = total;
    scratch_ = context_.Scratch<float>(static_cast<size_t>(workers_ * worker_floats_)).data();
    if (parts_ > 1) states_ = context_.Scratch<float>(static_cast<size_t>(units_ * StateFloats())).data();
  }

  Scratch ScratchOf(int64_t worker, int64_t unit) const {
    float* base = scratch_ + worker * worker_floats_;
    float* state = parts_ > 1 ? states_ + unit * StateFloats() : base + offsets_[6];
    float* max = state + padded_rows_ * RoundUpTo(problem_.value_size, kPadding);
    return {base + offsets_[0],
            base + offsets_[1],
            base + offsets_[2],
            base + offsets_[3],
            base + offsets_[4],
            base + offsets_[5],
            state,
            max,
            max + padded_rows_};
  }

  void RunUnit(int64_t worker, int64_t i) {
    run_(problem_, UnitAt(i), ScratchOf(worker, i), parts_ == 1 ? Phase::kWhole : Phase::kState);
  }

  // Adds up the parts of one block of rows in the first one's state, and writes O.
  void Combine(int64_t block) {
    const int64_t stride = RoundUpTo(problem_.value_size, kPadding);
    const Unit unit = UnitAt(block * parts_);
    const Scratch total = ScratchOf(0, block * parts_);
    for (int64_t row = 0; row < unit.end_row - unit.first_row; ++row) {
      float max = total.max[row];
      for (int64_t part = 1; part < parts_; ++part) max = std::max(max, ScratchOf(0, block * parts_ + part).max[row]);
      float sum = 0;
      float* out = total.out + row * stride;
      for (int64_t part = 0; part < parts_; ++part) {
        const Scratch scratch = ScratchOf(0, block * parts_ + part);
        // The weights of a part that saw no key sum to 0, whatever its factor.
        const float factor = scratch.max[row] == max ? 1 : std::exp(scratch.max[row] - max);
        sum += factor * scratch.sum[row];
        const float* from = scratch.out + row * stride;
        for (int64_t i = 0; i < problem_.value_size; ++i) out[i] = (part == 0 ? 0 : out[i]) + factor * from[i];
      }
      total.sum[row] = sum;
    }
    run_(problem_, unit, total, Phase::kFinish);
  }

  static constexpr int64_t kTileRows = 12;  // of all instruction sets

  KernelContext& context_;
  const UnitFunction run_;
  Problem problem_;
  int64_t rows_ = 0;
  int64_t workers_ = 1, units_ = 0;
  int64_t row_blocks_ = 1, block_rows_ = 0, padded_rows_ = 0;
  int64_t parts_ = 1, part_keys_ = 0;
  int64_t worker_floats_ = 0;
  std::array<int64_t, 7> offsets_{};
  float* scratch_ = nullptr;
  float* states_ = nullptr;
};

}  // namespace

void Attention(KernelContext& context) { Call(context, RunUnitScalar).Run(); }
#if defined(__x86_64__)
void AttentionAvx2(KernelContext& context) { Call(context, RunUnitAvx2).Run(); }
void AttentionAvx512(KernelContext& context) { Call(context, RunUnitAvx512).Run(); }
#elif defined(__aarch64__)
void AttentionNeon(KernelContext& context) { Call(context, RunUnitNeon).Run(); }
#endif

}  // namespace ingot
