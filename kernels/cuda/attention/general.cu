#include "cuda/attention/general.h"
#include "cuda/attention_decode/parts.h"

namespace ingot::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kRows = 4;  // of a block
constexpr int kKeys = 4;  // of a warp's step
constexpr int kPairs = kRows * kKeys;

// Adds up 2 kHalf numbers over the lanes, which halves how many are left, and so on: lane i gets the sum of numbers[i /
// 2].
template <int kHalf>
__device__ void SumPairs(float (&numbers)[kPairs], int lane) {
  const bool upper = (lane & (2 * kHalf)) != 0;
#pragma unroll
  for (int i = 0; i < kHalf; ++i) {
    const float sent = upper ? numbers[i] : numbers[i + kHalf];
    const float kept = upper ? numbers[i + kHalf] : numbers[i];
    numbers[i] = kept + __shfl_xor_sync(0xffffffffu, sent, 2 * kHalf);
  }
  if constexpr (kHalf > 1) {
    SumPairs<kHalf / 2>(numbers, lane);
  } else {
    numbers[0] += __shfl_xor_sync(0xffffffffu, numbers[0], 1);
  }
}

// Four warps take turns at steps of four keys. Each lane holds elements lane, lane + 32, ... of the rows; a pair of a
// row and a key has its score in two lanes.
template <AttentionElement kCache, int kSlices>
__global__ void __launch_bounds__(32 * kWarps) General(const AttentionProblem problem, const Parts parts) {
  using T = typename ElementType<kCache>::Type;
  __shared__ State states[kWarps][kRows];
  __shared__ float shared_out[kWarps][kRows][32 * kSlices];
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const auto group = static_cast<int32_t>(problem.group);
  const int64_t all_rows = problem.queries * group;
  const auto row_blocks = static_cast<uint32_t>((all_rows + kRows - 1) / kRows);

  uint32_t index = blockIdx.x;
  const int64_t first_row = int64_t{index % row_blocks} * kRows;
  index /= row_blocks;
  const int64_t kv_head = index % static_cast<uint32_t>(problem.kv_heads);
  index /= static_cast<uint32_t>(problem.kv_heads);
  const int32_t part = static_cast<int32_t>(index % static_cast<uint32_t>(parts.count));
  const int64_t batch = index / static_cast<uint32_t>(parts.count);
  const int rows = static_cast<int>(all_rows - first_row < kRows ? all_rows - first_row : kRows);

  const Sequence sequence = ReadSequence(problem, batch);
  const Tiles<kKeys> tiles(SpanOf(problem, sequence, first_row / group, (first_row + rows - 1) / group));
  const TileRange range = RangeOf(tiles.count, part, parts.count, kWarps);
  ptx::GridLaunchDependents();
  if (parts.count > 1 && range.begin >= range.end) {
    if (static_cast<int>(threadIdx.x) < rows)
      parts.states[PartRow(problem, parts, batch, kv_head, part, first_row + threadIdx.x)] = {-INFINITY, 0};
    return;
  }

  // This lane's elements of the rows of Q, or of sink queries.
  const auto read = [&](const void* data, float (&to)[kRows][kSlices]) {
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      if (r >= rows) break;
      const int64_t from = batch * problem.q.batch + (first_row + r) / group * problem.q.sequence +
                           (kv_head * group + (first_row + r) % group) * problem.q.head;
#pragma unroll
      for (int i = 0; i < kSlices; ++i) {
        if (i * 32 + lane < problem.size) to[r][i] = FloatAt(data, problem.q.element, from + i * 32 + lane);
      }
    }
  };
  float query[kRows][kSlices] = {};
  read(problem.q.data, query);

  // The row of this lane's pairs.
  const int pair = lane / 2;
  const int own_row = pair % kRows < rows ? pair % kRows : rows - 1;
  const int64_t own_query = (first_row + own_row) / group;
  const int64_t head = kv_head * group + (first_row + own_row) % group;
  const Visible visible = VisibleKeys(problem, sequence, own_query);
  const float slope = problem.slopes == nullptr ? 0 : problem.slopes[head];
  const int64_t mask_row = batch * problem.mask.batch + head * problem.mask.head + own_query * problem.mask.query;

  const T* const all_keys = static_cast<const T*>(problem.k.data) + kv_head * problem.k.head;
  const T* const all_values = static_cast<const T*>(problem.v.data) + kv_head * problem.v.head;
  float out[kRows][kSlices] = {};
  float max = -INFINITY;
  float sum = 0;
  for (int32_t tile = range.begin + warp; tile < range.end; tile += kWarps) {
    const int32_t first = tiles.First(tile);
    const int32_t end = tiles.End(tile);
    float pairs[kPairs] = {};
    float values[kKeys][kSlices] = {};
    float key_scale = 1;
#pragma unroll
    for (int j = 0; j < kKeys; ++j) {
      if (first + j >= end) break;
      const Place place = PlaceOf(problem, sequence, batch, first + j);
      const T* key = all_keys + place.batch * problem.k.batch + place.step * problem.k.sequence;
      const T* value = all_values + place.batch * problem.v.batch + place.step * problem.v.sequence;
      const bool sunk = problem.sink_q != nullptr && first + j < problem.sink_keys;
      float sink_query[kRows][kSlices] = {};
      if (sunk) read(problem.sink_q, sink_query);  // sinks are few
      float value_scale = 1;
      if (problem.k_scales != nullptr) {
        const int64_t at =
            place.batch * problem.scales_batch + place.step * problem.scales_sequence + kv_head * problem.scales_head;
        if (j == pair / kRows) key_scale = problem.k_scales[at];
        value_scale = problem.v_scales[at];
      }
#pragma unroll
      for (int i = 0; i < kSlices; ++i) {
        const int at = i * 32 + lane;
        const float x = at < problem.size ? ToFloat(key[at * problem.k.size]) : 0;
        values[j][i] = at < problem.value_size ? ToFloat(value[at]) * value_scale : 0;
#pragma unroll
        for (int r = 0; r < kRows; ++r) pairs[j * kRows + r] += (sunk ? sink_query : query)[r][i] * x;
      }
    }

    const int32_t key = first + pair / kRows;
    SumPairs<kPairs / 2>(pairs, lane);
    float score = pairs[0] * key_scale * problem.scale;
    if (problem.softcap > 0) score = problem.softcap * tanhf(score / problem.softcap);
    if (key >= end || !IsVisible(problem, visible, key)) {
      score = -INFINITY;
    } else {
      if (problem.slopes != nullptr)
        score += slope * static_cast<float>(PositionOf(problem, sequence, key) - sequence.query - own_query);
      if (problem.mask.data != nullptr) {
        const int64_t at = mask_row + key * problem.mask.key;
        if (problem.mask.element != AttentionElement::kBool) {
          score += FloatAt(problem.mask.data, problem.mask.element, at);
        } else if (static_cast<const uint8_t*>(problem.mask.data)[at] == 0) {
          score = -INFINITY;
        }
      }
    }
    score *= kLog2E;

    float top = fmaxf(max, score);
    for (int offset = 2 * kRows; offset < 32; offset *= 2) top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, offset));
    const float shrink = top == -INFINITY ? 1 : exp2f(max - top);
    const float weight = exp2f(score - (top == -INFINITY ? 0 : top));
    max = top;
    sum = sum * shrink + weight;
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const float factor = __shfl_sync(0xffffffffu, shrink, 2 * r);
#pragma unroll
      for (int i = 0; i < kSlices; ++i) out[r][i] *= factor;
#pragma unroll
      for (int j = 0; j < kKeys; ++j) {
        const float p = __shfl_sync(0xffffffffu, weight, 2 * (j * kRows + r));
#pragma unroll
        for (int i = 0; i < kSlices; ++i) out[r][i] += p * values[j][i];
      }
    }
  }

  for (int offset = 2 * kRows; offset < 32; offset *= 2) sum += __shfl_xor_sync(0xffffffffu, sum, offset);
  if (lane % 2 == 0 && lane / 2 < kRows) states[warp][lane / 2] = {max, sum};
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
#pragma unroll
    for (int i = 0; i < kSlices; ++i) shared_out[warp][r][i * 32 + lane] = out[r][i];
  }
  __syncthreads();

  const auto value_size = static_cast<int>(problem.value_size);
  for (int i = static_cast<int>(threadIdx.x); i < rows * value_size; i += 32 * kWarps) {
    const int r = i / value_size;
    const int column = i % value_size;
    float all = -INFINITY;
    for (int w = 0; w < kWarps; ++w) all = fmaxf(all, states[w][r].max);
    float total = 0;
    float value = 0;
    for (int w = 0; w < kWarps; ++w) {
      const float weight = all == -INFINITY ? 1 : exp2f(states[w][r].max - all);
      total += states[w][r].max == -INFINITY ? states[w][r].sum : weight * states[w][r].sum;
      value += weight * shared_out[w][r][column];
    }
    const int64_t row = first_row + r;
    if (parts.count == 1) {
      const float factor = OutputFactor(problem, kv_head * group + row % group, all, total);
      StoreFloat(const_cast<void*>(problem.o.data), problem.o.element, OutputOf(problem, batch, kv_head, row) + column,
                 value * factor);
    } else {
      const int64_t at = PartRow(problem, parts, batch, kv_head, part, row);
      parts.outputs[at * value_size + column] = value;
      if (column == 0) parts.states[at] = {all, total};
    }
  }
}

template <AttentionElement kCache>
void Start(const AttentionProblem& problem, CudaContext& context, int64_t variant) {
  const int64_t row_blocks = (problem.queries * problem.group + kRows - 1) / kRows;
  const int64_t blocks = problem.batches * problem.kv_heads * row_blocks;
  const int64_t slots = int64_t{4} * context.multiprocessors();
  const int32_t count = variant > 0 ? static_cast<int32_t>(std::min<int64_t>(variant, 256))
                                    : PartsFor(blocks, slots, MostVisibleKeys(problem), 32);
  if (blocks * count >= int64_t{1} << 31)
    FailKernel("attention of ", blocks, " blocks of rows is more than one launch can have; give it fewer batches");
  const Parts parts = AllocateParts(problem, count, context);
  const dim3 grid(static_cast<uint32_t>(blocks * count));
  const dim3 block(32 * kWarps);
  const bool small = problem.size <= 128 && problem.value_size <= 128;
  CudaContext::Check(small ? Launch(General<kCache, 4>, grid, block, 0, context.stream(), problem, parts)
                           : Launch(General<kCache, 8>, grid, block, 0, context.stream(), problem, parts),
                     "attention");
  CombineParts(problem, parts, context);
}

}  // namespace

void GeneralAttention(const AttentionProblem& problem, CudaContext& context, int64_t variant) {
  switch (problem.k.element) {
    case AttentionElement::kHalf:
      return Start<AttentionElement::kHalf>(problem, context, variant);
    case AttentionElement::kBfloat:
      return Start<AttentionElement::kBfloat>(problem, context, variant);
    case AttentionElement::kInt8:
      return Start<AttentionElement::kInt8>(problem, context, variant);
    case AttentionElement::kFp8:
      return Start<AttentionElement::kFp8>(problem, context, variant);
    default:
      return Start<AttentionElement::kFloat>(problem, context, variant);
  }
}

}  // namespace ingot::cuda
