#include "cpu/attention/attention.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>

#include "cpu/attention/operands.h"

namespace ingot {
namespace {

using namespace attention;

// A fork of the threads takes 2 to 5 microseconds, in which a thread does about this many multiply-adds.
constexpr int64_t kForkWork = 1 << 17;
// Units for each thread: what finishes late is at most one of so many.
constexpr int64_t kUnitsPerThread = 4;
// Fewer rows would not pay for packing the keys.
constexpr int64_t kLeastRows = 2 * kBlockRows;
// Bytes of a unit's queries and outputs. They are read once for each block of keys, which takes longer to multiply than
// to bring them from a third-level cache; the more rows, the less often keys and values are packed.
constexpr int64_t kStateBytes = 2048 << 10;
// Keys of so many heads, as a stretch of memory, are read as fast as memory allows: a page.
constexpr int64_t kStretchBytes = 4096;
// Fewer keys would not pay for combining the parts.
constexpr int64_t kLeastPartKeys = 512;

int64_t CeilDivide(int64_t a, int64_t b) { return (a + b - 1) / b; }
int64_t RoundUpTo(int64_t x, int64_t multiple) { return CeilDivide(x, multiple) * multiple; }

class Call {
 public:
  Call(KernelContext& context, UnitFunction run) : context_(context), run_(run), problem_(ReadProblem(context)) {}

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
      context_.ParallelFor(units_ / parts_ * unit_heads_, kUnitsPerThread, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) Combine(i / unit_heads_, i % unit_heads_);
      });
    }
  }

 private:
  // Divides the work into units: blocks of rows, and where these are too few, parts of the keys. Few rows take the keys
  // of several heads that lie side by side, as far as there are parts enough.
  void Divide() {
    const int64_t threads = context_.threads();
    const int64_t heads = problem_.batches * problem_.kv_heads;
    const int64_t features = problem_.size + problem_.value_size;
    const double work = static_cast<double>(heads * rows_) * static_cast<double>(problem_.most_keys * features);
    workers_ = work < 2 * kForkWork ? 1 : threads;
    const int64_t wanted = workers_ == 1 ? 1 : kUnitsPerThread * workers_;
    const int64_t most_rows = std::max(kStateBytes / 4 / features / kBlockRows * kBlockRows, kLeastRows);
    const int64_t useful = std::min(CeilDivide(wanted, heads), rows_ / kLeastRows);
    row_blocks_ = std::max({CeilDivide(rows_, most_rows), useful, int64_t{1}});
    block_rows_ = CeilDivide(rows_, row_blocks_);
    if (block_rows_ > kMostDirectRows) block_rows_ = RoundUpTo(block_rows_, kTileRows);
    row_blocks_ = CeilDivide(rows_, block_rows_);
    direct_ = rows_ <= kMostDirectRows && problem_.k.feature == 1;
    const int64_t most_parts = std::max<int64_t>(problem_.most_keys / kLeastPartKeys, 1);
    if (direct_ && problem_.size > 0 && problem_.k.head < problem_.k.sequence) {
      const int64_t most_heads = std::min({kStretchBytes / KeyBytes(), problem_.kv_heads, kMostUnitHeads});
      unit_heads_ = std::clamp<int64_t>(heads * most_parts / wanted, 1, std::max<int64_t>(most_heads, 1));
    }
    head_groups_ = CeilDivide(problem_.kv_heads, unit_heads_);
    const int64_t groups = problem_.batches * head_groups_ * row_blocks_;
    parts_ = std::min(most_parts, CeilDivide(wanted, groups));
    part_keys_ = std::max(RoundUpTo(CeilDivide(problem_.most_keys, parts_), kFewKeys), kFewKeys);
    units_ = groups * parts_;
    workers_ = std::min(workers_, units_);
  }

  // Of one head.
  int64_t KeyBytes() const {
    const Element element = problem_.k.element;
    return problem_.size * (element == Element::kFloat ? 4 : element == Element::kInt8 ? 1 : 2);
  }

  // Units that see most keys come first: with a causal mask the last rows.
  Unit UnitAt(int64_t i) const {
    const int64_t part = i % parts_;
    const int64_t groups = problem_.batches * head_groups_;
    const int64_t group = i / parts_ % groups;
    const int64_t block = row_blocks_ - 1 - i / parts_ / groups;
    const int64_t head = group % head_groups_ * unit_heads_;
    const int64_t first_row = std::min(block * block_rows_, rows_);
    return {group / head_groups_,
            head,
            std::min(unit_heads_, problem_.kv_heads - head),
            first_row,
            std::min(first_row + block_rows_, rows_),
            std::min(part * part_keys_, problem_.most_keys),
            std::min((part + 1) * part_keys_, problem_.most_keys)};
  }

  // Of one head.
  int64_t StateFloats() const { return padded_rows_ * (RoundUpTo(problem_.value_size, kPadding) + 2); }

  void AllocateScratch() {
    padded_rows_ = direct_ ? block_rows_ : RoundUpTo(RoundUpTo(block_rows_, kBlockRows), kMatrixBlockRows);
    const int64_t padded_size = RoundUpTo(problem_.size, kPadding);
    const int64_t padded_value_size = RoundUpTo(problem_.value_size, kPadding);
    const int64_t queries = unit_heads_ * padded_rows_ * padded_size * (direct_ ? 2 : kMostParts) / 2;
    const int64_t counts[] = {queries,
                              problem_.sink_q.data != nullptr ? queries : 0,
                              direct_ ? 0 : kBlockKeys * padded_size * kMostParts / 2,
                              direct_ ? 0 : kBlockKeys * padded_value_size * kMostParts / 2,
                              unit_heads_ * std::min(padded_rows_, 2 * kMostBlockRows) * kBlockKeys,
                              direct_ ? 0 : 8 * kMostSize,
                              unit_heads_ * kMostBlockRows,
                              parts_ > 1 ? 0 : unit_heads_ * StateFloats()};
    int64_t total = 0;
    for (size_t i = 0; i < std::size(counts); ++i) {
      offsets_[i] = total;
      total += RoundUpTo(counts[i], 16);  // a cache line
    }
    worker_floats_ = total;
    scratch_ = context_.Scratch<float>(static_cast<size_t>(workers_ * worker_floats_)).data();
    if (parts_ > 1) states_ = context_.Scratch<float>(static_cast<size_t>(units_ * unit_heads_ * StateFloats())).data();
  }

  Scratch ScratchOf(int64_t worker, int64_t unit) const {
    float* base = scratch_ + worker * worker_floats_;
    float* state = parts_ > 1 ? states_ + unit * unit_heads_ * StateFloats() : base + offsets_[7];
    float* max = state + padded_rows_ * RoundUpTo(problem_.value_size, kPadding);
    return {padded_rows_,
            base + offsets_[0],
            base + offsets_[problem_.sink_q.data != nullptr ? 1 : 0],
            base + offsets_[2],
            base + offsets_[3],
            base + offsets_[4],
            base + offsets_[5],
            base + offsets_[6],
            state,
            max,
            max + padded_rows_};
  }

  void RunUnit(int64_t worker, int64_t i) {
    run_(problem_, UnitAt(i), ScratchOf(worker, i), parts_ == 1 ? Phase::kWhole : Phase::kState);
  }

  // The state of one head of a unit.
  Scratch StateOf(int64_t unit, int64_t head) const {
    Scratch state = ScratchOf(0, unit);
    state.out += head * StateFloats();
    state.max += head * StateFloats();
    state.sum += head * StateFloats();
    return state;
  }

  // Adds up the parts of one block of rows of a head in the first one's state, and writes O.
  void Combine(int64_t block, int64_t head) {
    const int64_t stride = RoundUpTo(problem_.value_size, kPadding);
    Unit unit = UnitAt(block * parts_);
    if (head >= unit.heads) return;
    unit.kv_head += head;
    unit.heads = 1;
    const Scratch total = StateOf(block * parts_, head);
    for (int64_t row = 0; row < unit.end_row - unit.first_row; ++row) {
      float max = total.max[row];
      for (int64_t part = 1; part < parts_; ++part) max = std::max(max, StateOf(block * parts_ + part, head).max[row]);
      float sum = 0;
      float* out = total.out + row * stride;
      for (int64_t part = 0; part < parts_; ++part) {
        const Scratch scratch = StateOf(block * parts_ + part, head);
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
  const Problem problem_;
  int64_t rows_ = 0;
  int64_t workers_ = 1, units_ = 0;
  int64_t row_blocks_ = 1, block_rows_ = 0, padded_rows_ = 0;
  bool direct_ = false;
  int64_t unit_heads_ = 1, head_groups_ = 1;
  int64_t parts_ = 1, part_keys_ = 0;
  int64_t worker_floats_ = 0;
  std::array<int64_t, 8> offsets_{};
  float* scratch_ = nullptr;
  float* states_ = nullptr;
};

}  // namespace

void Attention(KernelContext& context) { Call(context, RunUnitScalar).Run(); }
#if defined(__x86_64__)
void AttentionAvx2(KernelContext& context) { Call(context, RunUnitAvx2).Run(); }
void AttentionAvx512(KernelContext& context) { Call(context, RunUnitAvx512).Run(); }
void AttentionAmx(KernelContext& context) { Call(context, RunUnitAmx).Run(); }
#elif defined(__aarch64__)
void AttentionNeon(KernelContext& context) { Call(context, RunUnitNeon).Run(); }
#endif

}  // namespace ingot
