#include "registry.h"

#include <algorithm>
#include <cstdlib>
#include <string>
#include <vector>

#include "cpu/attention/attention.h"
#include "cpu/compress/compress.h"
#include "cpu/cumulate/cumulate.h"
#include "cpu/det/det.h"
#include "cpu/dft/dft.h"
#include "cpu/gather_nd/gather_nd.h"
#include "cpu/non_max_suppression/non_max_suppression.h"
#include "cpu/nonzero/nonzero.h"
#include "cpu/packed_trees/packed_trees.h"
#include "cpu/quantized_matmul/quantized_matmul.h"
#include "cpu/random/random.h"
#include "cpu/recurrent/recurrent.h"
#include "cpu/roi/roi.h"
#include "cpu/sampling/sampling.h"
#include "cpu/scatter_elements/scatter_elements.h"
#include "cpu/scatter_nd/scatter_nd.h"
#include "cpu/strings/strings.h"
#include "cpu/svm_probabilities/svm_probabilities.h"
#include "cpu/tensor_scatter/tensor_scatter.h"
#include "cpu/topk/topk.h"
#include "cpu/tree_ensemble/tree_ensemble.h"
#include "cpu/unique/unique.h"
#include "cpu/wrap_indices/wrap_indices.h"
#include "machine.h"

namespace ingot {
namespace {

using enum InstructionSet;

constexpr std::string_view kAttentionContract =
    "(Q, K, V, mask?, lengths?, slopes?, sinks?, K's scales?, V's scales?, pages?, ring?, sink queries?) -> "
    "softmax(softcap(scale Q K^T) + slopes + mask) V; ints: layouts of Q, K, V and the output (0 BSHD, 1 BHSD, 2 BHDS, "
    "3 SBHD), left, right, flags (1 the last query stands at the last key, 2 rounds operands), sink_keys; floats: "
    "scale, softcap";
constexpr Arity kAttentionArity{{3, 12}, {1, 1}, 0, 8, 2};

constexpr std::string_view kRecurrentContract =
    "(projected [T, B, D N G 8], packed weights, reset_bias?, peepholes?, initial_h?, initial_c?, sequence_lens?) -> Y "
    "[T, D, B, H], Y_h, Y_c?; ints: cell, reversed, input_forget, 6 activations; floats: clip, 6 x (alpha, beta)";

constexpr std::string_view kQuantizedMatmulContract =
    "(X [..., K], packed W, scales, zeros?, bias?, residual?) -> residual + activation(X W^T + bias); ints: format (0 "
    "int8, 1 int4, 2 mxfp4, 3 nf4), group, compute (0 float, 1 int8), activation group, activation (0 none, 1 relu, 2 "
    "gelu, 3 gelu tanh, 4 silu)";
constexpr Arity kQuantizedMatmulArity{{3, 6}, {1, 1}, 0, 5, 0};

constexpr std::string_view kPackedTreesContract =
    "(rows [n, features], nodes, roots, full?, full_nodes?, full_values?) -> scores [n, targets]; ints: aggregate, "
    "missing (whether a NaN passes some tests)";
constexpr Arity kPackedTreesArity{{3, 6}, {1, 1}, 0, 2, 0};

// {least, most} inputs, {least, most} outputs, dims, ints, floats.
constexpr Kernel kKernels[] = {
    {"attention", kScalar, Attention, kAttentionArity, kAttentionContract},
#if defined(__x86_64__)
    {"attention", kAvx2, AttentionAvx2, kAttentionArity, kAttentionContract},
    {"attention", kAvx512, AttentionAvx512, kAttentionArity, kAttentionContract},
    {"attention", kAmx, AttentionAmx, kAttentionArity, kAttentionContract},
#elif defined(__aarch64__)
    {"attention", kNeon, AttentionNeon, kAttentionArity, kAttentionContract},
#endif
    {"check_indices",
     kScalar,
     CheckIndices,
     {{1, 1}, {1, 1}, 1, 0, 0},
     "(int64 or int32 indices) -> int64 indices, all of 0 to extent - 1; dims: extent"},
    {"compress",
     kScalar,
     Compress,
     {{2, 2}, {1, 1}, 0, 1, 0},
     "(input, bool condition [n]) -> slices where the condition holds; ints: axis, or kFlat for the flat input"},
    {"cumulate",
     kScalar,
     Cumulate,
     {{1, 1}, {1, 1}, 0, 4, 0},
     "(input) -> running sums along an axis; ints: axis, product, exclusive, reverse"},
    {"det", kScalar, Det, {{1, 1}, {1, 1}, 0, 0, 0}, "(input [..., n, n]) -> determinants"},
    {"dft",
     kScalar,
     Dft,
     {{1, 1}, {1, 1}, 1, 3, 0},
     "(input [..., 1 or 2]) -> Fourier transforms along an axis; dims: length; ints: axis, inverse, onesided"},
    {"gather_nd", kScalar, GatherNd, {{2, 2}, {1, 1}, 0, 1, 0}, "(data, indices [..., k]) -> slices; ints: batch_dims"},
    {"max_roi_pool",
     kScalar,
     MaxRoiPool,
     {{2, 2}, {1, 1}, 0, 0, 1},
     "(features [n, c, h, w], regions [r, 5]) -> the largest element of each bin [r, c, ph, pw]; floats: "
     "spatial_scale"},
    {"non_max_suppression",
     kScalar,
     NonMaxSuppression,
     {{2, 5}, {1, 1}, 0, 1, 0},
     "(boxes [b, n, 4], scores [b, c, n], max_output?, iou_threshold?, score_threshold?) -> int64 [m, 3]; ints: "
     "center_point_box"},
    {"nonzero",
     kScalar,
     Nonzero,
     {{1, 1}, {1, 1}, 0, 0, 0},
     "(input) -> int64 [rank, n] indices of elements that are not zero"},
    {"packed_trees", kScalar, PackedTrees, kPackedTreesArity, kPackedTreesContract},
#if defined(__x86_64__)
    {"packed_trees", kAvx2, PackedTreesAvx2, kPackedTreesArity, kPackedTreesContract},
    {"packed_trees", kAvx512, PackedTreesAvx512, kPackedTreesArity, kPackedTreesContract},
#elif defined(__aarch64__)
    {"packed_trees", kNeon, PackedTreesNeon, kPackedTreesArity, kPackedTreesContract},
#endif
    {"quantized_matmul", kScalar, QuantizedMatmul, kQuantizedMatmulArity, kQuantizedMatmulContract},
#if defined(__x86_64__)
    {"quantized_matmul", kAvx2, QuantizedMatmulAvx2, kQuantizedMatmulArity, kQuantizedMatmulContract},
    {"quantized_matmul", kAvxVnni, QuantizedMatmulAvxVnni, kQuantizedMatmulArity, kQuantizedMatmulContract},
    {"quantized_matmul", kAvx512, QuantizedMatmulAvx512, kQuantizedMatmulArity, kQuantizedMatmulContract},
    {"quantized_matmul", kAvx512Vnni, QuantizedMatmulAvx512Vnni, kQuantizedMatmulArity, kQuantizedMatmulContract},
    {"quantized_matmul", kAmx, QuantizedMatmulAmx, kQuantizedMatmulArity, kQuantizedMatmulContract},
#elif defined(__aarch64__)
    {"quantized_matmul", kNeon, QuantizedMatmulNeon, kQuantizedMatmulArity, kQuantizedMatmulContract},
    {"quantized_matmul", kNeonDotprod, QuantizedMatmulNeonDotprod, kQuantizedMatmulArity, kQuantizedMatmulContract},
    {"quantized_matmul", kNeonI8mm, QuantizedMatmulNeonI8mm, kQuantizedMatmulArity, kQuantizedMatmulContract},
#endif
    {"random_normal",
     kScalar,
     RandomNormal,
     {{0, 1}, {1, 1}, 0, 1, 2},
     "() -> independent normal numbers; ints: seed; floats: mean, scale"},
    {"random_uniform",
     kScalar,
     RandomUniform,
     {{0, 1}, {1, 1}, 0, 1, 2},
     "() -> independent uniform numbers of [low, high); ints: seed; floats: low, high"},
    {"recurrent", kScalar, Recurrent, {{2, 7}, {2, 3}, 0, 9, 13}, kRecurrentContract},
#if defined(__x86_64__)
    {"recurrent", kAvx2, RecurrentAvx2, {{2, 7}, {2, 3}, 0, 9, 13}, kRecurrentContract},
    {"recurrent", kAvx512, RecurrentAvx512, {{2, 7}, {2, 3}, 0, 9, 13}, kRecurrentContract},
    {"recurrent", kAmx, RecurrentAmx, {{2, 7}, {2, 3}, 0, 9, 13}, kRecurrentContract},
#elif defined(__aarch64__)
    {"recurrent", kNeon, RecurrentNeon, {{2, 7}, {2, 3}, 0, 9, 13}, kRecurrentContract},
#endif
    {"roi_align",
     kScalar,
     RoiAlign,
     {{3, 3}, {1, 1}, 0, 3, 1},
     "(features [n, c, h, w], regions [r, 4], int64 batch [r]) -> the mean or maximum of interpolated samples [r, c, "
     "ph, pw]; ints: samples, half_pixel, maximum; floats: spatial_scale"},
    {"sample",
     kScalar,
     Sample,
     {{3, 3}, {1, 1}, 0, 1, 3},
     "(logits [..., V], uniform numbers [...], settings [..., 4]: temperature, top k, top p, min p) -> int64 tokens"},
    {"scatter_elements",
     kScalar,
     ScatterElements,
     {{3, 3}, {1, 1}, 0, 2, 0},
     "(data, indices, updates) -> data with updates along an axis; ints: axis, reduction (0 none, 1 add, 2 mul, 3 min, "
     "4 max)"},
    {"scatter_nd",
     kScalar,
     ScatterNd,
     {{3, 3}, {1, 1}, 0, 1, 0},
     "(data, indices [..., k], updates) -> data with updated slices; ints: reduction (0 none, 1 add, 2 mul, 3 min, 4 "
     "max)"},
    {"number_to_string", kScalar, NumberToString, {{1, 1}, {1, 1}, 0, 0, 0}, "(numbers) -> their shortest text"},
    {"regex_full_match",
     kScalar,
     RegexFullMatch,
     {{3, 3}, {1, 1}, 0, 0, 0},
     "(strings, instructions, ranges) -> bool, whether a regular expression matches all of a string"},
    {"string_concat", kScalar, StringConcat, {{2, 2}, {1, 1}, 0, 0, 0}, "(a, b of one shape) -> a before b"},
    {"string_equal", kScalar, StringEqual, {{2, 2}, {1, 1}, 0, 0, 0}, "(a, b of one shape) -> bool"},
    {"string_lookup",
     kScalar,
     StringLookup,
     {{2, 2}, {1, 1}, 0, 0, 0},
     "(strings, ascending keys [k]) -> int64 places among the keys, or k"},
    {"string_normalize",
     kScalar,
     StringNormalize,
     {{1, 2}, {1, 1}, 0, 2, 0},
     "(strings [n] or [1, n], stopwords?) -> those that are no stopwords; ints: case (0 as it is, 1 lower, 2 upper), "
     "exact"},
    {"string_rank",
     kScalar,
     StringRank,
     {{1, 1}, {2, 2}, 0, 0, 0},
     "(strings) -> int64 places among the different strings, and those, ascending"},
    {"string_split",
     kScalar,
     StringSplit,
     {{1, 2}, {1, 2}, 0, 1, 0},
     "(strings, delimiter?) -> parts, int64 counts; ints: how often at most, or -1"},
    {"string_to_number", kScalar, StringToNumber, {{1, 1}, {1, 1}, 0, 0, 0}, "(strings) -> the numbers that they say"},
    {"tfidf",
     kScalar,
     TfIdf,
     {{3, 4}, {1, 1}, 0, 4, 0},
     "(words [n] or [b, n], vocabulary, edges [e, 3], weights?) -> counts of n-grams; ints: mode (0 TF, 1 IDF, 2 "
     "TFIDF), least and most words, most skipped"},
    {"tokenize",
     kScalar,
     Tokenize,
     {{4, 4}, {1, 1}, 0, 3, 0},
     "(strings, instructions, ranges, pad) -> tokens; ints: 0 matches or 1 what lies between, least code points, mark"},
    {"svm_probabilities",
     kScalar,
     SvmProbabilities,
     {{3, 3}, {1, 1}, 0, 0, 0},
     "(decisions [n, pairs], a, b) -> probabilities of classes [n, k]"},
    {"tensor_scatter",
     kScalar,
     TensorScatter,
     {{2, 3}, {1, 1}, 0, 3, 0},
     "(cache [B, ...], update [B, ...], first [B]?) -> the cache with the update's steps; ints: axis, circular, sinks"},
    {"topk",
     kScalar,
     TopK,
     {{1, 2}, {1, 2}, 0, 3, 0},
     "(input) -> values, int64 indices, k along the axis as the outputs' shape says; ints: axis, largest, sorted"},
    {"tree_ensemble",
     kScalar,
     TreeEnsemble,
     {{6, 6}, {1, 1}, 0, 2, 0},
     "(rows [n, features], nodes, roots, leaves' starts, targets, weights) -> scores [n, targets]; ints: aggregate, "
     "tests (0 any, 1 <=, 2 <= or missing)"},
    {"unique",
     kScalar,
     Unique,
     {{1, 1}, {1, 4}, 0, 2, 0},
     "(input) -> unique values or slices, int64 first indices, inverse indices, counts; ints: axis or kFlat, sorted"},
    {"wrap_indices",
     kScalar,
     WrapIndices,
     {{1, 1}, {1, 1}, 1, 0, 0},
     "(int64 or int32 indices) -> int64 indices, negative ones counted from the end; dims: extent"},
};

static_assert(std::ranges::all_of(kKernels, [](const Kernel& kernel) {
  return kernel.arity.inputs.most <= kMostTensors && kernel.arity.outputs.most <= kMostTensors &&
         kernel.arity.dims <= kMostTensors;
}));

struct Row {
  InstructionSet instructions;
  std::string_view name;
  std::string_view architecture;
  std::vector<std::string_view> features;  // Linux's names
};

const std::vector<Row>& Rows() {
  static const std::vector<Row> rows = {
      {kScalar, "scalar", "", {}},
      {kAvx2, "avx2", "x86_64", {"avx2", "fma", "f16c"}},
      {kAvxVnni, "avx_vnni", "x86_64", {"avx2", "fma", "f16c", "avx_vnni"}},
      {kAvx512, "avx512", "x86_64", {"avx512f", "avx512bw", "avx512dq", "avx512vl"}},
      {kAvx512Vnni, "avx512_vnni", "x86_64", {"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni"}},
      {kAvx512Bf16,
       "avx512_bf16",
       "x86_64",
       {"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni", "avx512_bf16"}},
      {kAmx,
       "amx",
       "x86_64",
       {"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni", "avx512_bf16", "amx_tile", "amx_int8",
        "amx_bf16"}},
      {kNeon, "neon", "aarch64", {"asimd"}},
      {kNeonDotprod, "neon_dotprod", "aarch64", {"asimd", "asimddp"}},
      {kNeonI8mm, "neon_i8mm", "aarch64", {"asimd", "asimddp", "i8mm"}},
  };
  return rows;
}

// The best instruction set that INGOT_ISA allows.
InstructionSet Limit() {
  const char* forced = std::getenv("INGOT_ISA");
  if (forced == nullptr || *forced == '\0') return Rows().back().instructions;
  std::string known;
  for (const Row& row : Rows()) {
    if (row.name == forced) return row.instructions;
    known += Text(known.empty() ? "" : ", ", row.name);
  }
  Fail(INGOT_ERROR_INVALID_ARGUMENT, "INGOT_ISA is '", std::string_view(forced), "'; it can be ", known);
}

}  // namespace

std::span<const Kernel> Kernels() { return kKernels; }

std::string_view Name(InstructionSet instructions) { return Rows()[static_cast<size_t>(instructions)].name; }

bool Allowed(InstructionSet instructions) {
  if (instructions > Limit()) return false;
  const Row& row = Rows()[static_cast<size_t>(instructions)];
  return row.architecture.empty() || MissingFeatures(row.architecture, row.features).empty();
}

bool Forbidden(std::string_view feature) {
  const InstructionSet limit = Limit();
  bool beyond = false;
  for (const Row& row : Rows()) {
    if (std::ranges::find(row.features, feature) == row.features.end()) continue;
    if (row.instructions <= limit) return false;
    beyond = true;
  }
  return beyond;
}

const Kernel* FindKernel(std::string_view name) {
  const Kernel* best = nullptr;
  for (const Kernel& kernel : kKernels) {
    if (kernel.name == name && (best == nullptr || kernel.instructions > best->instructions) &&
        Allowed(kernel.instructions))
      best = &kernel;
  }
  return best;
}

}  // namespace ingot
