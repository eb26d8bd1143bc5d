#include <algorithm>
#include <bit>
#include <initializer_list>
#include <limits>
#include <string>

#include "cpu/quantized_matmul/checks.h"
#include "cpu/quantized_matmul/quantized_matmul.h"
#include "cpu/quantized_matmul/tables.h"
#include "cuda/normalization/rms_rows.h"
#include "cuda/quantized_matmul/problem.h"
#include "cuda/quantized_matmul/quantized_matmul.h"

namespace ingot::cuda {
namespace {

using namespace quantized_matmul;
using ingot::quantized_matmul::CheckShape;
using ingot::quantized_matmul::FloatOf;
using ingot::quantized_matmul::Is;
using ingot::quantized_matmul::Typed;

constexpr int64_t kGates = 8;  // from this activation on

// From so many rows on, products on Hopper are bound by arithmetic.
constexpr int kLeastWgmmaRows = 33;
// Measured on an H200, int4, K by N: weights straight into registers took 15 us for 8 rows and 19 us for 16 (4096 x
// 14336; 18 and 21 us for 14336 x 4096), tiles 16 us and 17 us (20 us).
constexpr int kMostDirectRows = 8;
// One row of many columns: bulk copies took 12 us and registers 14 us (4096 x 14336), but 26 us and 14 us for 14336 x
// 4096.
constexpr int kBulkColumns = 96;  // for each multiprocessor
constexpr Choice kBulk = {4, 0, 2, 8};

// A float in 16 bits, to nearest even; for the normal numbers and zeros of tables.
uint16_t Rounded(float value, Element type) {
  uint32_t bits = std::bit_cast<uint32_t>(value);
  const auto sign = static_cast<uint16_t>(bits >> 31 << 15);
  if ((bits & 0x7FFFFFFF) == 0) return sign;
  if (type == Element::kHalf) bits -= uint32_t{127 - 15} << 23;
  const int dropped = type == Element::kHalf ? 13 : 16;
  bits += (uint32_t{1} << (dropped - 1)) - 1 + (bits >> dropped & 1);
  return static_cast<uint16_t>(sign | (bits >> dropped & 0x7FFF));
}

class Call {
 public:
  Call(CudaContext& context, bool normalized) : context_(context) {
    ReadOperands();
    ReadFormat();
    ReadGroups();
    ReadEpilogue();
    if (normalized) ReadNormalization();
  }

  void Run() {
    Problem& p = problem_;
    if (p.rows == 0 || p.columns == 0) return;
    const bool in_floats = p.depth == 0 || p.zero_type == Element::kFloat || (p.x_type == Element::kFloat && !rounds_);
    // Rows are copied in pieces of 16 bytes.
    const bool aligned = p.x_stride % 8 == 0 && reinterpret_cast<uintptr_t>(p.x) % 16 == 0;
    const Choice choice = ReadChoice();
    if (p.normalized) {
      const bool tensor_cores = !in_floats && aligned && p.x_type != Element::kFloat;
      if (tensor_cores && TakesDirect(choice) && (choice.path != 0 || !TakesBulk())) {
        FillTable();
        if (LaunchDirect(context_, p, choice)) return;
      }
      NormalizeX();
      return Run();
    }
    if (in_floats) return LaunchFloats(context_, p);
    if (p.x_type == Element::kFloat || !aligned) {
      const Element type = p.x_type == Element::kHalf ? Element::kHalf : Element::kBfloat;
      const int64_t stride = CeilDivide(p.depth, 8) * 8;
      void* x = context_.DeviceScratch(static_cast<size_t>(p.rows * stride * 2));
      LaunchPrepare(context_, p, type, x, stride);
      p.x = x;
      p.x_type = type;
      p.x_stride = stride;
      p.depth = static_cast<int32_t>(stride);
    }
    FillTable();
    if (choice.path == 3 || (choice.path == 0 && TakesWgmma())) return LaunchWgmma(context_, p, choice);
    if (choice.path == 4 && LaunchBulk(context_, p, choice)) return;
    if (choice.path == 0 && TakesBulk() && LaunchBulk(context_, p, kBulk)) return;
    if (TakesDirect(choice) && LaunchDirect(context_, p, choice)) return;
    LaunchStreamed(context_, p, choice);
  }

 private:
  void ReadOperands() {
    Problem& p = problem_;
    const DLTensor& x = context_.Input(0);
    const DLTensor& w = context_.Input(1);
    const DLTensor& y = context_.Output(0);
    p.x_type = FloatOf<Element>(x, "X");
    p.y_type = FloatOf<Element>(y, "Y");
    const bool fits =
        x.ndim >= 1 && x.ndim == y.ndim && p.y_type == p.x_type && std::equal(x.shape, x.shape + x.ndim - 1, y.shape);
    if (!fits)
      FailKernel("quantized_matmul of X ", DTypeText(x.dtype), " ", ShapeText(x), " to Y ", DTypeText(y.dtype), " ",
                 ShapeText(y), " does not fit together");
    p.rows = Extent(ElementCount(ShapeOf(x).first(static_cast<size_t>(x.ndim - 1))), "rows");
    p.depth = Extent(x.shape[x.ndim - 1], "columns of X");
    p.y_columns = Extent(y.shape[y.ndim - 1], "columns");
    p.gated = context_.ints()[4] >= kGates;
    if (p.gated && p.y_columns % kEight != 0)
      FailKernel("quantized_matmul has gates for eight columns at a time, not ", p.y_columns);
    p.columns = p.gated ? 2 * p.y_columns : p.y_columns;
    p.x_stride = p.depth;
    p.panels = static_cast<int32_t>(CeilDivide(p.columns, kPanel));
    p.steps = static_cast<int32_t>(CeilDivide(p.depth, kStep));
    if (!Is(w, kDLUInt, 8)) FailKernel("quantized_matmul takes packed weights of uint8, not ", DTypeText(w.dtype));
    p.x = Data<std::byte>(x);
    p.y = Data<std::byte>(y);
    p.weights = Data<uint8_t>(w);
  }

  // Offsets within a row, a panel's scales and tiles are of 32 bits.
  static int32_t Extent(int64_t extent, const char* name) {
    constexpr int64_t kMost = int64_t{1} << 24;
    if (extent > kMost) FailKernel("quantized_matmul: ", extent, " ", std::string_view(name), " are more than ", kMost);
    return static_cast<int32_t>(extent);
  }

  void ReadFormat() {
    const int64_t format = context_.ints()[0];
    switch (static_cast<QuantizedFormat>(format)) {
      case QuantizedFormat::kInt8:
        problem_.codes = Codes::kBytes;
        break;
      case QuantizedFormat::kInt4:
        problem_.codes = Codes::kNibbles;
        break;
      case QuantizedFormat::kMxfp4:
        SetTable(ingot::quantized_matmul::kMxfp4Table);
        break;
      case QuantizedFormat::kNf4:
        SetTable(ingot::quantized_matmul::kNf4Table);
        break;
      default:
        FailKernel("quantized_matmul has no format ", format);
    }
    CheckShape(&context_.Input(1), "packed W", {problem_.panels, int64_t{problem_.steps} * StepBytes(problem_.codes)});
  }

  void SetTable(const ingot::quantized_matmul::Table& table) {
    problem_.codes = Codes::kTable;
    std::copy_n(table.floats, 16, problem_.table_floats);
  }

  void FillTable() {
    if (problem_.codes != Codes::kTable) return;
    std::fill_n(problem_.table, 8, 0);
    for (unsigned i = 0; i < 16; ++i) {
      const uint32_t number = Rounded(problem_.table_floats[i], problem_.x_type);
      problem_.table[i / 4] |= (number & 0xFF) << (i % 4 * 8);
      problem_.table[4 + i / 4] |= (number >> 8) << (i % 4 * 8);
    }
  }

  static int64_t Group(int64_t group, const char* name) {
    if (group == 0) return int64_t{1} << 30;
    if (group < kLeastGroup || !std::has_single_bit(static_cast<uint64_t>(group)))
      FailKernel("quantized_matmul: ", std::string_view(name), " is ", group,
                 "; it is a power of two of at least 16, or 0 for a whole row");
    return std::min(group, int64_t{1} << 30);
  }

  void ReadGroups() {
    Problem& p = problem_;
    const auto ints = context_.ints();
    const int64_t group = Group(ints[1], "group");
    p.group_shift = std::countr_zero(static_cast<uint64_t>(group));
    p.groups = static_cast<int32_t>(CeilDivide(p.depth, group));
    rounds_ = ints[2] != 0;
    Group(ints[3], "the group of activations");
    const DLTensor& scales = context_.Input(2);
    p.scale_type = Is(scales, kDLUInt, 8) ? Element::kPower : FloatOf<Element>(scales, "scales");
    CheckShape(&scales, "scales", {p.panels, p.groups, kPanel});
    p.scales = Data<uint8_t>(scales);
    p.zero_type = Element::kByte;
    const DLTensor* zeros = context_.OptionalInput(3);
    if (zeros == nullptr) return;
    if (p.codes == Codes::kTable) FailKernel("quantized_matmul: weights that are looked up have no zeros");
    if (!Is(*zeros, kDLInt, 8)) {
      Typed(zeros, "zeros", kDLFloat, 32);
      p.zero_type = Element::kFloat;
    }
    CheckShape(zeros, "zeros", {p.panels, p.groups, kPanel});
    p.zeros = Data<uint8_t>(*zeros);
  }

  void ReadEpilogue() {
    const int64_t activation = context_.ints()[4] - (problem_.gated ? kGates : 0);
    if (activation < 0 || activation > static_cast<int64_t>(Activation::kSilu))
      FailKernel("quantized_matmul has no activation ", activation);
    problem_.activation = static_cast<Activation>(activation);
    const DLTensor* bias = Typed(context_.OptionalInput(4), "a bias", kDLFloat, 32);
    CheckShape(bias, "the bias", {problem_.columns});
    if (bias != nullptr) problem_.bias = Data<float>(*bias);
    const DLTensor& y = context_.Output(0);
    const DLTensor* residual = Typed(context_.OptionalInput(5), "a residual", y.dtype.code, y.dtype.bits);
    if (residual == nullptr) return;
    if (!std::ranges::equal(ShapeOf(*residual), ShapeOf(y)))
      FailKernel("quantized_matmul: the residual is ", ShapeText(*residual), ", but Y is ", ShapeText(y));
    problem_.residual = Data<std::byte>(*residual);
  }

  void ReadNormalization() {
    Problem& p = problem_;
    p.normalized = true;
    p.norm_epsilon = static_cast<float>(context_.floats()[0]);
    p.norm_offset = static_cast<float>(context_.floats()[1]);
    const DLTensor* weight = context_.OptionalInput(6);
    if (weight == nullptr) return;
    p.norm_type = FloatOf<Element>(*weight, "the weight of the normalization");
    CheckShape(weight, "the weight of the normalization", {p.depth});
    p.norm = Data<uint8_t>(*weight);
  }

  // Normalizes X into scratch memory.
  void NormalizeX() {
    Problem& p = problem_;
    const DLTensor& x = context_.Input(0);
    RmsRows rows{};
    rows.x = FloatsOf(x, "normalized_matmul", "X");
    const size_t bytes = BytesOf(rows.x.type) * static_cast<size_t>(p.rows) * static_cast<size_t>(p.depth);
    rows.y = {context_.DeviceScratch(bytes), rows.x.type};
    if (p.norm != nullptr)
      rows.weight = FloatsOf(*context_.OptionalInput(6), "normalized_matmul", "the weight of the normalization");
    rows.rows = p.rows;
    rows.size = p.depth;
    rows.epsilon = p.norm_epsilon;
    rows.offset = p.norm_offset;
    NormalizeRms(rows, context_);
    p.x = rows.y.data;
    p.normalized = false;
  }

  Choice ReadChoice() const {
    const auto ints = context_.ints();
    const int64_t variant = ints.size() > 5 ? ints[5] : 0;
    if (variant < 0 || variant / 1'000'000 > 5) FailKernel("quantized_matmul has no variant ", variant);
    const Choice choice = {static_cast<int>(variant / 1'000'000), static_cast<int>(variant / 10'000 % 100),
                           static_cast<int>(variant / 100 % 100), static_cast<int>(variant % 100)};
    if ((choice.path == 3 || choice.path == 4) && context_.capability() != 90)
      FailKernel("quantized_matmul: variant ", variant, " is for compute capability 9.0, not ",
                 context_.capability() / 10, ".", context_.capability() % 10);
    return choice;
  }

  bool TakesDirect(const Choice& choice) const {
    return choice.path == 5 || (choice.path == 0 && problem_.rows <= kMostDirectRows);
  }

  bool TakesBulk() const {
    return context_.capability() == 90 && problem_.rows == 1 &&
           problem_.columns >= int64_t{kBulkColumns} * std::max(context_.multiprocessors(), 1);
  }

  // Weights times their scales may not fit in float16 where scales are any powers of two.
  bool TakesWgmma() const {
    const bool fits = problem_.x_type != Element::kHalf || problem_.scale_type != Element::kPower;
    if (context_.capability() != 90 || problem_.rows < kLeastWgmmaRows || !fits) return false;
    const int multiprocessors = context_.multiprocessors();
    return WgmmaCycles(problem_, multiprocessors) <= StreamedCycles(problem_, multiprocessors);
  }

  CudaContext& context_;
  Problem problem_{};
  bool rounds_ = false;  // X of float32
};

}  // namespace

void QuantizedMatmul(CudaContext& context) { Call(context, false).Run(); }
void NormalizedMatmul(CudaContext& context) { Call(context, true).Run(); }

}  // namespace ingot::cuda
