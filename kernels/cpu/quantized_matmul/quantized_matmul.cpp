#include "cpu/quantized_matmul/quantized_matmul.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>

#include "cpu/quantized_matmul/checks.h"
#include "cpu/quantized_matmul/problem.h"
#include "cpu/quantized_matmul/tables.h"

namespace ingot {
namespace {

using namespace quantized_matmul;

// A fork of the threads takes 2 to 5 microseconds, in which a thread does about this many multiply-adds.
constexpr int64_t kForkWork = 1 << 17;
// Units for each thread: what finishes late is at most one of so many.
constexpr int64_t kUnitsPerThread = 4;
// Ranges of units that threads start with.
constexpr int64_t kMostRanges = 16;
// Blocks of rows of X that are rounded before the products: some MiB of scratch memory for the longest rows.
constexpr int64_t kMostBlocks = 4;

int64_t CeilDivide(int64_t a, int64_t b) { return (a + b - 1) / b; }
int64_t RoundUpTo(int64_t x, int64_t multiple) { return CeilDivide(x, multiple) * multiple; }
// Rows of a part, where there are as few parts of at most `most` rows as it takes, nearly alike and of whole tiles.
int64_t PartOf(int64_t rows, int64_t most, int64_t tile) {
  return std::min(RoundUpTo(CeilDivide(rows, CeilDivide(rows, most)), tile), most);
}

const std::byte* DataOrNull(const DLTensor* tensor) { return tensor == nullptr ? nullptr : Data<std::byte>(*tensor); }

class Call {
 public:
  Call(KernelContext& context, const Path& path) : context_(context), path_(&path) {
    ReadOperands();
    ReadFormat();
    ReadGroups();
    ReadEpilogue();
  }

  void Run() {
    if (problem_.rows == 0 || problem_.columns == 0) return;
    const int64_t run = std::min({problem_.group, problem_.x_group, kChunk});
    const bool fits = problem_.integer && problem_.rows >= path_->least_rows && run >= path_->least_run &&
                      problem_.rows * run >= path_->least_rows_by_run;
    if (path_->otherwise != nullptr && !fits) path_ = path_->otherwise;
    traits_ = problem_.codes == Codes::kNibbles ? path_->nibbles : path_->bytes;
    DivideGroups();
    Divide();
    AllocateScratch();
    for (base_row_ = 0; base_row_ < problem_.rows; base_row_ += rounded_rows_) {
      const int64_t end = std::min(base_row_ + rounded_rows_, problem_.rows);
      if (problem_.integer) Quantize(end);
      Multiply(end);
    }
  }

 private:
  void ReadOperands() {
    const DLTensor& x = context_.Input(0);
    const DLTensor& w = context_.Input(1);
    const DLTensor& y = context_.Output(0);
    problem_.type = FloatOf<Element>(x, "X");
    const bool fits = x.ndim >= 1 && x.ndim == y.ndim && FloatOf<Element>(y, "Y") == problem_.type &&
                      std::equal(x.shape, x.shape + x.ndim - 1, y.shape);
    if (!fits)
      FailKernel("quantized_matmul of X ", DTypeText(x.dtype), " ", ShapeText(x), " to Y ", DTypeText(y.dtype), " ",
                 ShapeText(y), " does not fit together");
    const std::span<const int64_t> leading = ShapeOf(x).first(static_cast<size_t>(x.ndim - 1));
    problem_.rows = ElementCount(leading);
    problem_.depth = x.shape[x.ndim - 1];
    problem_.columns = y.shape[y.ndim - 1];
    problem_.panels = CeilDivide(problem_.columns, kPanel);
    problem_.steps = CeilDivide(problem_.depth, kStep);
    if (!Is(w, kDLUInt, 8)) FailKernel("quantized_matmul takes packed weights of uint8, not ", DTypeText(w.dtype));
    problem_.x = Data<std::byte>(x);
    problem_.y = Data<std::byte>(y);
    problem_.weights = Data<uint8_t>(w);
  }

  void ReadFormat() {
    const int64_t format = context_.ints()[0];
    problem_.table_unit = 1;
    switch (static_cast<QuantizedFormat>(format)) {
      case QuantizedFormat::kInt8:
        problem_.codes = Codes::kBytes;
        break;
      case QuantizedFormat::kInt4:
        problem_.codes = Codes::kNibbles;
        break;
      case QuantizedFormat::kMxfp4:
        SetTable(kMxfp4Table);
        break;
      case QuantizedFormat::kNf4:
        SetTable(kNf4Table);
        break;
      default:
        FailKernel("quantized_matmul has no format ", format);
    }
    problem_.panel_bytes = problem_.steps * kStep * kPanel / (problem_.codes == Codes::kBytes ? 1 : 2);
    CheckShape(&context_.Input(1), "packed W", {problem_.panels, problem_.panel_bytes});
  }

  void SetTable(const quantized_matmul::Table& table) {
    problem_.codes = Codes::kTable;
    problem_.table_floats = table.floats;
    problem_.table_bytes = table.bytes;
    problem_.table_unit = table.unit;
  }

  // A size of groups, where 0 stands for the whole row.
  int64_t Group(int64_t group, const char* name) const {
    if (group == 0) return std::bit_ceil(static_cast<uint64_t>(std::max(problem_.steps * kStep, kLeastGroup)));
    if (group < kLeastGroup || !std::has_single_bit(static_cast<uint64_t>(group)))
      FailKernel("quantized_matmul: ", std::string_view(name), " is ", group,
                 "; it is a power of two of at least 16, or 0 for a whole row");
    return group;
  }

  void ReadGroups() {
    const auto ints = context_.ints();
    problem_.group = Group(ints[1], "group");
    problem_.groups = CeilDivide(problem_.depth, problem_.group);
    problem_.integer = ints[2] != 0;
    problem_.x_group = Group(ints[3], "the group of activations");
    const DLTensor& scales = context_.Input(2);
    problem_.scale_type = Is(scales, kDLUInt, 8) ? Element::kPower : FloatOf<Element>(scales, "scales");
    CheckShape(&scales, "scales", {problem_.panels, problem_.groups, kPanel});
    problem_.scales = Data<std::byte>(scales);
    const DLTensor* zeros = context_.OptionalInput(3);
    if (zeros == nullptr) return;
    if (problem_.codes == Codes::kTable) FailKernel("quantized_matmul: weights that are looked up have no zeros");
    problem_.zero_type = Is(*zeros, kDLInt, 8) ? Element::kByte : Element::kFloat;
    if (problem_.zero_type == Element::kFloat) Typed(zeros, "zeros", kDLFloat, 32);
    CheckShape(zeros, "zeros", {problem_.panels, problem_.groups, kPanel});
    problem_.zeros = DataOrNull(zeros);
  }

  void ReadEpilogue() {
    const int64_t activation = context_.ints()[4];
    if (activation < 0 || activation > static_cast<int64_t>(Activation::kSilu))
      FailKernel("quantized_matmul has no activation ", activation);
    problem_.activation = static_cast<Activation>(activation);
    const DLTensor* bias = Typed(context_.OptionalInput(4), "a bias", kDLFloat, 32);
    CheckShape(bias, "the bias", {problem_.columns});
    problem_.bias = reinterpret_cast<const float*>(DataOrNull(bias));
    const DLTensor& y = context_.Output(0);
    const DLTensor* residual = Typed(context_.OptionalInput(5), "a residual", y.dtype.code, y.dtype.bits);
    if (residual != nullptr && !std::ranges::equal(ShapeOf(*residual), ShapeOf(y)))
      FailKernel("quantized_matmul: the residual is ", ShapeText(*residual), ", but Y is ", ShapeText(y));
    problem_.residual = DataOrNull(residual);
  }

  // All are powers of two: what is least divides the others.
  void DivideGroups() {
    problem_.run = std::min({problem_.group, problem_.x_group, kChunk, traits_.most_run});
    runs_ = CeilDivide(problem_.steps * kStep, problem_.run);
  }

  void Divide() {
    const int64_t tile = 2 * traits_.tile_rows;
    const int64_t most = problem_.integer ? traits_.block_rows : kBlockRows;
    const int64_t most_panels = problem_.integer ? traits_.block_panels : kBlockPanels;
    rounded_rows_ = PartOf(problem_.rows, kMostBlocks * most, tile);
    const int64_t rows = std::min(problem_.rows, rounded_rows_);
    block_rows_ = PartOf(rows, most, tile);
    const int64_t work = rows * problem_.columns * problem_.depth;
    workers_ = std::clamp<int64_t>(work / kForkWork, 1, context_.threads());
    const int64_t row_blocks = CeilDivide(rows, block_rows_);
    const int64_t wanted = CeilDivide(workers_ * kUnitsPerThread, row_blocks);
    const int64_t least = rows == 1 && problem_.panels >= workers_ * kMostStreams ? kMostStreams : 1;
    unit_panels_ = std::clamp<int64_t>(problem_.panels / wanted, least, most_panels);
    workers_ = std::min(workers_, row_blocks * CeilDivide(problem_.panels, unit_panels_));
  }

  void AllocateScratch() {
    const int64_t depth = RoundUpTo(problem_.steps * kStep, traits_.depth);
    const int64_t rows = RoundUpTo(std::min(problem_.rows, rounded_rows_), traits_.tile_rows);
    if (problem_.integer) {
      rows_.values = Bytes(rows * depth * traits_.operand_size);
      rows_.scales = reinterpret_cast<float*>(Bytes(rows * runs_ * 4));
      rows_.starts = reinterpret_cast<int32_t*>(Bytes(rows * runs_ * 4));
      rows_.sums = reinterpret_cast<float*>(Bytes(rows * runs_ * 4));
    }
    const int64_t block = std::min(problem_.rows, block_rows_);
    constexpr int64_t kScales = kMostPanels * kChunk / kLeastGroup * kPanel;
    const bool widens = !problem_.integer && problem_.type != Element::kFloat;
    const int64_t counts[] = {problem_.integer ? depth : 0,
                              unit_panels_ * block * kPanel,
                              kScales,
                              problem_.zeros == nullptr ? 0 : kScales,
                              problem_.integer ? 0 : kFloatChunk * kPanel,
                              problem_.integer ? kMostPanels * kChunk * kPanel / 4 : 0,
                              widens ? std::max(kBlockRows * kFloatChunk, kMostDirectRows * problem_.depth) : 0};
    static_assert(std::size(counts) == std::tuple_size_v<decltype(offsets_)>);
    int64_t total = 0;
    for (size_t i = 0; i < std::size(counts); ++i) {
      offsets_[i] = total;
      total += RoundUpTo(counts[i], 16);  // a cache line
    }
    worker_floats_ = total;
    scratch_ = reinterpret_cast<float*>(Bytes(workers_ * worker_floats_ * 4));
  }

  std::byte* Bytes(int64_t count) {
    return context_.Scratch<std::byte>(static_cast<size_t>(std::max<int64_t>(count, 64))).data();
  }

  Scratch ScratchOf(int64_t worker) const {
    float* base = scratch_ + worker * worker_floats_;
    return {rows_,
            base_row_,
            base + offsets_[0],
            base + offsets_[1],
            base + offsets_[2],
            base + offsets_[3],
            base + offsets_[4],
            base + offsets_[5],
            base + offsets_[6]};
  }

  // Calls body(scratch, i) for all i of `count`, each on one of `workers` threads. Each has a range of its own, so that
  // it reads memory in one stretch; those that are faster go on with what is left of others'.
  template <typename Body>
  void ForEach(int64_t workers, int64_t count, Body&& body) {
    struct alignas(64) Range {
      std::atomic<int64_t> next;
      int64_t end;
    };
    std::array<Range, kMostRanges> ranges;
    const int64_t used = std::min(workers, kMostRanges);
    for (int64_t r = 0; r < used; ++r) {
      ranges[static_cast<size_t>(r)].next.store(count * r / used, std::memory_order_relaxed);
      ranges[static_cast<size_t>(r)].end = count * (r + 1) / used;
    }
    context_.ParallelFor(workers, 1, [&](int64_t begin, int64_t end) {
      for (int64_t worker = begin; worker < end; ++worker) {
        const Scratch scratch = ScratchOf(worker);
        for (int64_t r = 0; r < used; ++r) {
          Range& range = ranges[static_cast<size_t>((worker + r) % used)];
          const auto take = [&] { return range.next.fetch_add(1, std::memory_order_relaxed); };
          for (int64_t i = take(); i < range.end; i = take()) body(scratch, i);
        }
      }
    });
  }

  void Quantize(int64_t end_row) {
    const int64_t tiles = CeilDivide(end_row - base_row_, traits_.tile_rows);
    // Rounding a number takes about as long as 8 multiply-adds.
    const int64_t work = (end_row - base_row_) * problem_.depth * 8;
    const int64_t workers = std::min(std::clamp<int64_t>(work / kForkWork, 1, workers_), tiles);
    ForEach(workers, tiles, [&](const Scratch& scratch, int64_t i) {
      const int64_t first = base_row_ + i * traits_.tile_rows;
      path_->quantize(problem_, scratch, first, std::min(first + traits_.tile_rows, end_row));
    });
  }

  void Multiply(int64_t end_row) {
    const int64_t blocks = CeilDivide(end_row - base_row_, block_rows_);
    const int64_t panel_blocks = CeilDivide(problem_.panels, unit_panels_);
    ForEach(workers_, blocks * panel_blocks, [&](const Scratch& scratch, int64_t i) {
      const int64_t row = base_row_ + i % blocks * block_rows_;
      const int64_t panel = i / blocks * unit_panels_;
      path_->multiply(
          problem_, scratch,
          {row, std::min(row + block_rows_, end_row), panel, std::min(panel + unit_panels_, problem_.panels)});
    });
  }

  KernelContext& context_;
  const Path* path_;
  Problem problem_{};
  IntegerTraits traits_{};
  QuantizedRows rows_{};
  int64_t runs_ = 0;
  int64_t workers_ = 1, unit_panels_ = 1, block_rows_ = 1, rounded_rows_ = 1;
  int64_t base_row_ = 0;
  int64_t worker_floats_ = 0;
  std::array<int64_t, 7> offsets_{};
  float* scratch_ = nullptr;
};

}  // namespace

void QuantizedMatmul(KernelContext& context) { Call(context, kPathScalar).Run(); }
#if defined(__x86_64__)
void QuantizedMatmulAvx2(KernelContext& context) { Call(context, kPathAvx2).Run(); }
void QuantizedMatmulAvxVnni(KernelContext& context) { Call(context, kPathAvxVnni).Run(); }
void QuantizedMatmulAvx512(KernelContext& context) { Call(context, kPathAvx512).Run(); }
void QuantizedMatmulAvx512Vnni(KernelContext& context) { Call(context, kPathAvx512Vnni).Run(); }
void QuantizedMatmulAmx(KernelContext& context) { Call(context, kPathAmx).Run(); }
#elif defined(__aarch64__)
void QuantizedMatmulNeon(KernelContext& context) { Call(context, kPathNeon).Run(); }
void QuantizedMatmulNeonDotprod(KernelContext& context) { Call(context, kPathNeonDotprod).Run(); }
void QuantizedMatmulNeonI8mm(KernelContext& context) { Call(context, kPathNeonI8mm).Run(); }
#endif

}  // namespace ingot
