// The kernel of attention_decode.h, for one type of keys and one size of heads.
#pragma once

#include "cuda/attention_decode/fragments.h"
#include "cuda/attention_decode/launch_decode.h"

namespace ingot::cuda::decode {

// One warp's tiles.
template <AttentionElement kCache, int kSize>
class Loader {
 public:
  using S = Shape<kCache, kSize>;

  __device__ Loader(const AttentionProblem& problem, const Sequence& sequence, const Tiles<kTileKeys>& tiles,
                    int64_t batch, int64_t kv_head, int lane, uint32_t shared)
      : problem_(problem), sequence_(sequence), tiles_(tiles), batch_(batch), lane_(lane), shared_(shared) {
    const auto* k = static_cast<const char*>(problem.k.data) + kv_head * problem.k.head * S::kBytes;
    const auto* v = static_cast<const char*>(problem.v.data) + kv_head * problem.v.head * S::kBytes;
    k_ = k;
    v_ = v;
    const AttentionTensor& tensor = lane < kTileKeys ? problem.k : problem.v;
    batch_stride_ = tensor.batch * S::kBytes / 16;
    step_stride_ = tensor.sequence * S::kBytes / 16;
    scales_ = (lane < kTileKeys ? problem.k_scales : problem.v_scales) + kv_head * problem.scales_head;
  }

  // Finds where the keys of a tile lie: lanes 0 to 15 for K, 16 to 31 for V.
  __device__ void Find(int32_t tile, int32_t end_tile) {
    if (tile >= end_tile) return;
    const int32_t last = tiles_.End(tile) - 1;
    const int32_t key = tiles_.First(tile) + lane_ % kTileKeys;
    const Place place = PlaceOf(problem_, sequence_, batch_, key < last ? key : last);
    offset_ = static_cast<uint32_t>(place.batch * batch_stride_ + place.step * step_stride_);
    if (!S::kWide) scale_ = place.batch * problem_.scales_batch + place.step * problem_.scales_sequence;
  }

  // Starts to load the tile that Find was called for. Keys past its end become zeros.
  __device__ void Start(int32_t tile, int32_t end_tile, int32_t stage) {
    if (tile < end_tile) {
      const int32_t count = tiles_.End(tile) - tiles_.First(tile);
      const uint32_t to = shared_ + static_cast<uint32_t>(stage) * S::kStageBytes;
      if (count >= kTileKeys) {
        Rows<true>(to, k_, 0, count);
        Rows<true>(to + S::kTileBytes, v_, kTileKeys, count);
      } else {
        Rows<false>(to, k_, 0, count);
        Rows<false>(to + S::kTileBytes, v_, kTileKeys, count);
      }
      if (!S::kWide && problem_.k_scales != nullptr)
        ptx::CopyAsyncFill<4>(to + 2 * S::kTileBytes + 4 * lane_, scales_ + scale_, lane_ % kTileKeys < count ? 4 : 0);
    }
    ptx::CopyAsyncCommit();
  }

 private:
  template <bool kWhole>
  __device__ void Rows(uint32_t to, const char* from, int first_lane, int32_t count) const {
    // Wholly unrolled, heads of 256 would keep more addresses than there are registers.
    constexpr int kCount = S::kPieces * kTileKeys / 32;
    constexpr int kUnrolled = kSize == 256 ? 4 : kCount;
#pragma unroll kUnrolled
    for (int i = 0; i < kCount; ++i) {
      const int piece = i * 32 + lane_;
      const int row = piece / S::kPieces;
      const int column = piece % S::kPieces;
      const uint32_t offset = __shfl_sync(0xffffffffu, offset_, first_lane + row);
      const uint32_t target = to + row * S::kPitch + 16 * column;
      const char* source = from + 16 * uint64_t{offset} + 16 * column;
      if constexpr (kWhole) {
        ptx::CopyAsync<16>(target, source);
      } else {
        ptx::CopyAsyncFill<16>(target, source, row < count ? 16 : 0);
      }
    }
  }

  const AttentionProblem& problem_;
  const Sequence& sequence_;
  const Tiles<kTileKeys>& tiles_;
  const int64_t batch_;
  const int lane_;
  const uint32_t shared_;
  const char* k_;
  const char* v_;
  const float* scales_;
  int64_t batch_stride_, step_stride_;  // in 16 bytes
  uint32_t offset_ = 0;
  int64_t scale_ = 0;
};

// A lane's elements of a row of Q: every 32nd. All loads start before the first is waited for.
template <typename T, int kCount>
__device__ void LoadRow(float (&x)[kCount], const void* data, int64_t from, int lane) {
  T row[kCount];
#pragma unroll
  for (int i = 0; i < kCount; ++i) row[i] = static_cast<const T*>(data)[from + i * 32 + lane];
#pragma unroll
  for (int i = 0; i < kCount; ++i) x[i] = ToFloat(row[i]);
}

// Writes the block's rows of Q, or of sink queries, to shared memory, and what they were divided by to `norms`.
template <AttentionElement kCache, int kSize>
__device__ void LoadQueries(const AttentionProblem& problem, const Plan& plan, const void* data, int64_t batch,
                            int64_t kv_head, int32_t first_row, unsigned char* to, float* norms) {
  using S = Shape<kCache, kSize>;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const auto group = static_cast<int32_t>(problem.group);  // 32-bit numbers: a GPU divides those of 64 bits slowly
  const int32_t rows = static_cast<int32_t>(problem.queries) * group;
  for (int r = static_cast<int>(threadIdx.x) / 32; r < kRows; r += S::kWarps) {
    const int32_t row = first_row + r;
    const bool exists = row < rows;
    const int64_t from =
        batch * problem.q.batch + row / group * problem.q.sequence + (kv_head * group + row % group) * problem.q.head;
    float x[kSize / 32] = {};
    if (exists) {
      if (problem.q.element == AttentionElement::kHalf) {
        LoadRow<__half>(x, data, from, lane);
      } else if (problem.q.element == AttentionElement::kBfloat) {
        LoadRow<__nv_bfloat16>(x, data, from, lane);
      } else {
        LoadRow<float>(x, data, from, lane);
      }
    }
    float norm = 1;
    if (plan.normalized) {
      float most = 0;
#pragma unroll
      for (int i = 0; i < kSize / 32; ++i) most = fmaxf(most, fabsf(x[i]));
      for (int offset = 16; offset > 0; offset /= 2) most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, offset));
      if (most > 0) norm = most;
#pragma unroll
      for (int i = 0; i < kSize / 32; ++i) x[i] /= norm;
    }
    using T = typename S::Multiplied;
#pragma unroll
    for (int i = 0; i < kSize / 32; ++i) {
      const T high = Rounded<T>(x[i]);
      auto* place = reinterpret_cast<T*>(to + r * S::kQueryPitch) + i * 32 + lane;
      *place = high;
      if (plan.twice)
        *reinterpret_cast<T*>(reinterpret_cast<unsigned char*>(place) + S::kQueryBytes) =
            Rounded<T>(x[i] - ToFloat(high));
    }
    if (lane == 0) norms[r] = norm;
  }
}

// Which key of a tile a lane's score i of 8 belongs to.
__device__ inline int32_t Key(int i, int lane) { return i / 4 * 8 + 2 * (lane % 4) + i % 2; }

template <AttentionElement kCache, int kSize>
__global__ void __launch_bounds__(32 * Shape<kCache, kSize>::kWarps, 2)
    Decode(const AttentionProblem problem, const Plan plan) {
  using S = Shape<kCache, kSize>;
  constexpr int kSteps = kSize / 16;  // of products of 16 elements
  INGOT_DYNAMIC_SHARED(unsigned char, memory);
  __shared__ float norms[2][kRows];  // of Q and of sink queries
  __shared__ State states[S::kWarps][kRows];
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp = static_cast<int>(threadIdx.x) / 32;

  uint32_t index = blockIdx.x;
  const int32_t first_row = static_cast<int32_t>(index % plan.row_blocks) * kRows;
  index /= plan.row_blocks;
  const int32_t kv_head = static_cast<int32_t>(index % static_cast<uint32_t>(problem.kv_heads));
  index /= static_cast<uint32_t>(problem.kv_heads);
  const int32_t part = static_cast<int32_t>(index % plan.parts.count);
  const int32_t batch = static_cast<int32_t>(index / plan.parts.count);
  const auto group = static_cast<int32_t>(problem.group);
  const auto all_rows = static_cast<int32_t>(problem.queries) * group;
  const int32_t rows = all_rows - first_row < kRows ? all_rows - first_row : kRows;

  ptx::GridLaunchDependents();
  ptx::GridDependencyWait();
  const Sequence sequence = ReadSequence(problem, batch);
  const Span span = SpanOf(problem, sequence, first_row / group, (first_row + rows - 1) / group);
  const Tiles<kTileKeys> tiles(span);
  const TileRange range = RangeOf(tiles.count, part, plan.parts.count, S::kWarps);
  if (plan.parts.count > 1 && range.begin >= range.end) {
    if (static_cast<int>(threadIdx.x) < rows)
      plan.parts.states[PartRow(problem, plan.parts, batch, kv_head, part, first_row + threadIdx.x)] = {-INFINITY, 0};
    return;
  }

  // Tiles are under way before the queries are read.
  const uint32_t stages = ptx::SharedAddress(memory) + static_cast<uint32_t>(warp * plan.stages) * S::kStageBytes;
  Loader<kCache, kSize> loader(problem, sequence, tiles, batch, kv_head, lane, stages);
  int32_t loaded = range.begin + warp;
  for (int32_t stage = 0; stage < plan.stages - 1; ++stage) {
    loader.Find(loaded, range.end);
    loader.Start(loaded, range.end, stage);
    loaded += S::kWarps;
  }
  loader.Find(loaded, range.end);

  unsigned char* const queries = memory + S::kWarps * plan.stages * S::kStageBytes;
  LoadQueries<kCache, kSize>(problem, plan, problem.q.data, batch, kv_head, first_row, queries, norms[0]);
  const int32_t sink_bytes = (plan.twice ? 2 : 1) * S::kQueryBytes;  // from Q to sink queries
  if (problem.sink_q != nullptr && range.begin < tiles.pinned)
    LoadQueries<kCache, kSize>(problem, plan, problem.sink_q, batch, kv_head, first_row, queries + sink_bytes,
                               norms[1]);
  __syncthreads();

  const uint32_t query_address = ptx::SharedAddress(queries);
  uint32_t query[S::kQueryRegisters ? kSteps : 1][4];
  if constexpr (S::kQueryRegisters) {
#pragma unroll
    for (int c = 0; c < kSteps; ++c) S::LoadQuery(query[c], query_address, c, lane);
  }

  // This lane's rows: lane / 4 and 8 more.
  const bool capped = problem.softcap > 0;
  const bool scaled = problem.k_scales != nullptr;
  const float unit = capped ? problem.scale / problem.softcap : problem.scale * kLog2E;
  const float cap = problem.softcap * kLog2E;
  float slopes[2] = {}, positions[2] = {};
  Visible visible[2];
  const int64_t origin = sequence.query + first_row / group;  // positions are differences to it, which floats hold
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int32_t row = lane / 4 + 8 * i < rows ? lane / 4 + 8 * i : rows - 1;
    visible[i] = VisibleKeys(problem, sequence, (first_row + row) / group);
    if (problem.slopes == nullptr) continue;
    slopes[i] = problem.slopes[kv_head * group + (first_row + row) % group] * kLog2E;
    positions[i] = static_cast<float>((first_row + row) / group - first_row / group);
  }
  // Every row sees what lies between these.
  const int32_t all_end = VisibleKeys(problem, sequence, first_row / group).end;
  const int32_t all_begin = VisibleKeys(problem, sequence, (first_row + rows - 1) / group).begin;

  float out[2 * kSteps][4] = {};
  float max[2] = {-INFINITY, -INFINITY};
  float sum[2] = {};
  int32_t stage = 0;
  for (int32_t tile = range.begin + warp; tile < range.end; tile += S::kWarps) {
    WaitForTile(plan.stages);
    __syncwarp();  // what all lanes loaded can be read; what they read before can be replaced
    const int32_t next_stage = stage == 0 ? plan.stages - 1 : stage - 1;
    loader.Start(loaded, range.end, next_stage);
    loaded += S::kWarps;
    loader.Find(loaded, range.end);

    const uint32_t keys = stages + static_cast<uint32_t>(stage) * S::kStageBytes;
    float scores[2][4] = {};
    const auto multiply = [&](uint32_t rows_of_query) {
#pragma unroll 2
      for (int c = 0; c < kSteps; c += S::kLoadedSteps) {
        uint32_t fragments[S::kLoadedSteps][2][2];
        S::LoadKeys(fragments, keys, c, lane);
#pragma unroll
        for (int i = 0; i < S::kLoadedSteps; ++i) {
          uint32_t loaded_query[4];
          S::LoadQuery(loaded_query, rows_of_query, c + i, lane);
          S::Multiply(scores[0], loaded_query, fragments[i][0]);
          S::Multiply(scores[1], loaded_query, fragments[i][1]);
        }
      }
    };
    const bool sunk = problem.sink_q != nullptr && tile < tiles.pinned;
    const uint32_t tile_query = query_address + (sunk ? sink_bytes : 0);
    if constexpr (S::kQueryRegisters) {
      if (sunk) {
        multiply(tile_query);
      } else {
#pragma unroll
        for (int c = 0; c < kSteps; c += S::kLoadedSteps) {
          uint32_t fragments[S::kLoadedSteps][2][2];
          S::LoadKeys(fragments, keys, c, lane);
#pragma unroll
          for (int i = 0; i < S::kLoadedSteps; ++i) {
            S::Multiply(scores[0], query[c + i], fragments[i][0]);
            S::Multiply(scores[1], query[c + i], fragments[i][1]);
          }
        }
      }
    } else {
      multiply(tile_query);
    }
    if (plan.twice) multiply(tile_query + S::kQueryBytes);

    // Scores, times log2 e. Element i of scores[n] is that of this lane's row i / 2 and the tile's key Key(4 n + i).
    const int32_t first = tiles.First(tile);
    const int32_t end = tiles.End(tile);
    const bool whole =
        first + kTileKeys <= (end < all_end ? end : all_end) && (first >= all_begin || end <= problem.sink_keys);
    float factors[2], key_scales[2][2], value_scales[2][2];
#pragma unroll
    for (int i = 0; i < 2; ++i) factors[i] = unit * norms[sunk][lane / 4 + 8 * i];
    if (!S::kWide && scaled) {
#pragma unroll
      for (int n = 0; n < 2; ++n) {
        const uint32_t at = keys + 2 * S::kTileBytes + 4 * (8 * n + 2 * (lane % 4));
#pragma unroll
        for (int j = 0; j < 2; ++j) {
          key_scales[n][j] = __uint_as_float(ptx::LoadShared32(at + 4 * j));
          value_scales[n][j] = __uint_as_float(ptx::LoadShared32(at + 64 + 4 * j));
        }
      }
    }
#pragma unroll
    for (int n = 0; n < 2; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        scores[n][i] *= factors[i / 2];
        if (!S::kWide && scaled) scores[n][i] *= key_scales[n][i % 2];
      }
    }
    if (capped) {
#pragma unroll
      for (int i = 0; i < 8; ++i) scores[i / 4][i % 4] = cap * tanhf(scores[i / 4][i % 4]);
    }
    if (problem.slopes != nullptr) {
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const int64_t position = PositionOf(problem, sequence, first + Key(i, lane)) - origin;
        scores[i / 4][i % 4] += slopes[i % 4 / 2] * (static_cast<float>(position) - positions[i % 4 / 2]);
      }
    }
    if (!whole) {
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const int32_t key = first + Key(i, lane);
        if (key >= end || !IsVisible(problem, visible[i % 4 / 2], key)) scores[i / 4][i % 4] = -INFINITY;
      }
    }
    // What is rounded to 16 bits is a probability times V's scale: the greatest of these decides.
    float top[2] = {max[0], max[1]};
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      float score = scores[i / 4][i % 4];
      if (!S::kWide && scaled) score += ptx::Log2(fmaxf(fabsf(value_scales[i / 4][i % 2]), kLeastScale));
      top[i % 4 / 2] = fmaxf(top[i % 4 / 2], score);
    }
    bool grows = false;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      top[r] = fmaxf(top[r], __shfl_xor_sync(0xffffffffu, top[r], 1));
      top[r] = fmaxf(top[r], __shfl_xor_sync(0xffffffffu, top[r], 2));
      grows = grows || top[r] > max[r];
    }
    if (__ballot_sync(0xffffffffu, grows) != 0) {
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const float shrink = top[r] == -INFINITY ? 1 : ptx::Exp2(max[r] - top[r]);
        max[r] = top[r];
        sum[r] *= shrink;
#pragma unroll
        for (int n = 0; n < 2 * kSteps; ++n) {
          out[n][2 * r] *= shrink;
          out[n][2 * r + 1] *= shrink;
        }
      }
    }
    uint32_t weights[4], lost[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int r = i % 2;
      const float base = max[r] == -INFINITY ? 0 : max[r];
      float x = ptx::Exp2(scores[i / 2][2 * r] - base);
      float y = ptx::Exp2(scores[i / 2][2 * r + 1] - base);
      sum[r] += x + y;
      if (!S::kWide && scaled) {
        x *= value_scales[i / 2][0];
        y *= value_scales[i / 2][1];
      }
      weights[i] = S::Pack(x, y);
      lost[i] = S::Lost(x, y, weights[i]);
    }
#pragma unroll
    for (int c = 0; c < kSteps; c += S::kLoadedSteps) {
      uint32_t fragments[2 * S::kLoadedSteps][2];
      S::LoadValues(fragments, keys + S::kTileBytes, c, lane);
#pragma unroll
      for (int i = 0; i < 2 * S::kLoadedSteps; ++i) S::Multiply(out[2 * c + i], weights, fragments[i]);
    }
    if (plan.twice) {
#pragma unroll
      for (int c = 0; c < kSteps; c += S::kLoadedSteps) {
        uint32_t fragments[2 * S::kLoadedSteps][2];
        S::LoadValues(fragments, keys + S::kTileBytes, c, lane);
#pragma unroll
        for (int i = 0; i < 2 * S::kLoadedSteps; ++i) S::Multiply(out[2 * c + i], lost, fragments[i]);
      }
    }
    stage = stage + 1 == plan.stages ? 0 : stage + 1;
  }

  // The warps' rows go to shared memory, where tiles were.
  ptx::CopyAsyncWait<0>();
  __syncthreads();
  float* const shared_out = reinterpret_cast<float*>(memory);
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    sum[r] += __shfl_xor_sync(0xffffffffu, sum[r], 1);
    sum[r] += __shfl_xor_sync(0xffffffffu, sum[r], 2);
    const int row = lane / 4 + 8 * r;
    if (lane % 4 == 0) states[warp][row] = {max[r], sum[r]};
    if (row >= rows) continue;
#pragma unroll
    for (int n = 0; n < 2 * kSteps; ++n) {
#pragma unroll
      for (int j = 0; j < 2; ++j)
        shared_out[(warp * kRows + row) * S::kOutPitch + S::Column(n, 2 * (lane % 4) + j)] = out[n][2 * r + j];
    }
  }
  __syncthreads();

  for (int i = static_cast<int>(threadIdx.x); i < rows * (kSize / 4); i += 32 * S::kWarps) {
    const int r = i / (kSize / 4);
    const int column = i % (kSize / 4) * 4;
    float all = -INFINITY;
    for (int w = 0; w < S::kWarps; ++w) all = fmaxf(all, states[w][r].max);
    const float base = all == -INFINITY ? 0 : all;
    float total = 0;
    float values[4] = {};
#pragma unroll
    for (int w = 0; w < S::kWarps; ++w) {
      const float weight = ptx::Exp2(states[w][r].max - base);
      total += states[w][r].max == -INFINITY ? states[w][r].sum : weight * states[w][r].sum;
      const float* from = shared_out + (w * kRows + r) * S::kOutPitch + column;
#pragma unroll
      for (int j = 0; j < 4; ++j) values[j] += weight * from[j];
    }
    const int32_t row = first_row + r;
    if (plan.parts.count == 1) {
      const int32_t head = kv_head * group + row % group;
      const float factor = OutputFactor(problem, head, all, total);
      const int64_t to = batch * problem.o.batch + row / group * problem.o.sequence + head * problem.o.head + column;
#pragma unroll
      for (int j = 0; j < 4; ++j)
        StoreFloat(const_cast<void*>(problem.o.data), problem.o.element, to + j, values[j] * factor);
    } else {
      const int64_t at = PartRow(problem, plan.parts, batch, kv_head, part, row);
      *reinterpret_cast<float4*>(plan.parts.outputs + at * kSize + column) = {values[0], values[1], values[2],
                                                                              values[3]};
      if (column == 0) plan.parts.states[at] = {all, total};
    }
  }
}

template <AttentionElement kCache, int kSize>
bool LaunchSize(const AttentionProblem& problem, Plan plan, int64_t variant, CudaContext& context) {
  using S = Shape<kCache, kSize>;
  const size_t query_bytes = (plan.twice ? 2 : 1) * (problem.sink_q != nullptr ? 2 : 1) * S::kQueryBytes;
  const size_t stage_bytes = S::kWarps * S::kStageBytes;
  // A multiprocessor's shared memory, of which the system takes a KiB for each block, and static variables less than
  // one.
  const int capability = context.capability();
  const size_t memory = capability == 80 || capability == 87   ? 164 * 1024
                        : capability >= 90 && capability < 120 ? 228 * 1024
                                                               : 100 * 1024;
  const auto stages = [&](size_t share) { return (memory / share - 2048 - query_bytes) / stage_bytes; };
  if (stages(1) < 2) return false;
  const int64_t blocks = problem.batches * problem.kv_heads * plan.row_blocks;
  const int64_t slots = context.multiprocessors() * (stages(2) < 2 ? 1 : 2);
  const int64_t keys = MostVisibleKeys(problem);
  const int64_t forced_parts = variant % 1000;
  const int32_t parts = forced_parts > 0 ? static_cast<int32_t>(std::min<int64_t>(forced_parts, 256))
                                         : PartsFor(blocks, slots, keys, S::kWarps * kTileKeys);
  plan.parts = AllocateParts(problem, parts, context);
  // Two blocks share a multiprocessor, unless there are no more blocks than multiprocessors or less than two stages fit
  // in a half.
  const bool alone = blocks * parts <= context.multiprocessors();
  const size_t wanted = variant >= 1000 ? static_cast<size_t>(variant / 1000) : alone ? stages(1) : stages(2);
  plan.stages = static_cast<int32_t>(
      std::clamp<size_t>(wanted, 2, std::clamp<size_t>(stages(1), 2, static_cast<size_t>(kMostStages))));
  CudaContext::Check(
      LaunchWith(true, Decode<kCache, kSize>, dim3(static_cast<uint32_t>(blocks * parts)), dim3(32 * S::kWarps),
                 static_cast<size_t>(plan.stages) * stage_bytes + query_bytes, context.stream(), problem, plan),
      "attention of few queries");
  CombineParts(problem, plan.parts, context);
  return true;
}

// The definition, for the files that have one type each.
#define INGOT_DECODE_ELEMENT(kCache)                                                                             \
  template <>                                                                                                    \
  bool LaunchDecode<kCache>(const AttentionProblem& problem, Plan plan, int64_t variant, CudaContext& context) { \
    switch (problem.size) {                                                                                      \
      case 64:                                                                                                   \
        return LaunchSize<kCache, 64>(problem, plan, variant, context);                                          \
      case 96:                                                                                                   \
        return LaunchSize<kCache, 96>(problem, plan, variant, context);                                          \
      case 128:                                                                                                  \
        return LaunchSize<kCache, 128>(problem, plan, variant, context);                                         \
      case 256:                                                                                                  \
        return LaunchSize<kCache, 256>(problem, plan, variant, context);                                         \
      default:                                                                                                   \
        return false;                                                                                            \
    }                                                                                                            \
  }

}  // namespace ingot::cuda::decode
