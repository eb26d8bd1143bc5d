// Products of up to 32 rows: weights go from global memory to the registers of the lanes that multiply them.
//
// The packing is that of operand A of mma.m16n8k16, so that codes need not pass through shared memory, and nothing in
// the loop waits for other warps: a lane keeps kDepth steps of its codes under way. A block computes warps_n * kPanels
// panels; the warps of a row of its grid take turns with steps of K, and their sums are added up in order at the end.
// X, scales and zeros of the block's part of K lie in shared memory from the start, the latter two as floats. Sums of a
// step are multiplied with its scales in float32.
#include <algorithm>
#include <limits>

#include "cuda/quantized_matmul/split.h"

namespace ingot::cuda::quantized_matmul {
namespace {

struct Layout {
  int32_t warps_n, warps_k;
  int32_t x_pitch;               // bytes of a row of X: 16 more than its length, so that rows are in different banks
  int32_t number_offset;         // where scales lie, [panels of the block][part_groups][16] floats; then zeros
  int32_t part_groups;           // of a panel, of a block's part of K, at most
  float* parts;                  // [tiles, splits, rows * columns of a tile], nullptr: no splits
  unsigned long long* arrivals;  // [tiles, splits]
};

// A thread may have 64 registers, 80 and 168.
template <int kTiles>
constexpr int kMostWarps = kTiles == 1   ? 32
                           : kTiles == 2 ? 24
                                         : 12;
template <int kTiles>
constexpr int kWarpPanels = kTiles == 4 ? 2 : 1;

template <typename T, Codes kCodes, int kTiles, bool kZeros>
struct Worker {
  static constexpr int kPanels = kWarpPanels<kTiles>;
  static constexpr int kWords = kCodes == Codes::kBytes ? 2 : 1;  // pieces of 16 bytes of a panel's step
  static constexpr int kDepth = (kCodes == Codes::kTable || (kTiles == 2 && kWords == 1) ? 5 : 6) / kWords;

  const Problem& p;
  const Layout& layout;
  uint8_t* shared;
  int lane, warp_n, warp_k;
  int first_step, end_step;
  const uint8_t* from[kPanels];  // this lane's codes of the next step to be loaded
  uint4 codes[kDepth][kPanels][kWords];
  float total[kPanels][kTiles][4] = {};

  INGOT_PTX Worker(const Problem& problem, const Layout& sizes, uint8_t* memory)
      : p(problem), layout(sizes), shared(memory) {
    const int warp = static_cast<int>(threadIdx.x) / 32;
    lane = static_cast<int>(threadIdx.x) % 32;
    warp_n = warp % layout.warps_n;
    warp_k = warp / layout.warps_n;
    const int part = static_cast<int>(blockIdx.y), parts = static_cast<int>(gridDim.y);
    first_step = static_cast<int>(int64_t{p.steps} * part / parts);
    end_step = static_cast<int>(int64_t{p.steps} * (part + 1) / parts);
  }

  INGOT_PTX int FirstPanel() const { return static_cast<int>(blockIdx.x) * layout.warps_n * kPanels; }
  INGOT_PTX int FirstGroup() const { return first_step * kStep >> p.group_shift; }

  template <int kSlot>
  INGOT_PTX void Load(int step) {
    if (step >= end_step) return;
#pragma unroll
    for (int i = 0; i < kPanels; ++i) {
#pragma unroll
      for (int word = 0; word < kWords; ++word) codes[kSlot][i][word] = ptx::LoadOnce(from[i] + word * 512);
      from[i] += static_cast<int64_t>(layout.warps_k) * kWords * 512;
    }
  }

  template <int kSlot = 0>
  INGOT_PTX void LoadFirst(int step) {
    Load<kSlot>(step);
    if constexpr (kSlot + 1 < kDepth) LoadFirst<kSlot + 1>(step + layout.warps_k);
  }

  // All threads of the block: numbers of its panels and groups as floats.
  INGOT_PTX void ConvertNumbers(const uint8_t* numbers, Element type, float* to) const {
    const int groups = (((end_step * kStep - 1) >> p.group_shift) + 1) - FirstGroup();
    WithNumbers(type, [&](auto number) {
      for (int panel = 0; panel < layout.warps_n * kPanels; ++panel) {
        const int64_t at =
            (static_cast<int64_t>(min(FirstPanel() + panel, p.panels - 1)) * p.groups + FirstGroup()) * kPanel;
        for (int i = static_cast<int>(threadIdx.x); i < groups * kPanel; i += static_cast<int>(blockDim.x))
          to[panel * layout.part_groups * kPanel + i] = number(numbers, at + i);
      }
    });
  }

  // All threads of the block: its part of X, zeros past the last column.
  INGOT_PTX void LoadX() const {
    const uint32_t to = ptx::SharedAddress(shared);
    const int pieces = (end_step - first_step) * (kStep / 8);
    for (int row = 0; row < p.rows; ++row) {
      const auto* x = static_cast<const uint16_t*>(p.x) + row * p.x_stride;
      for (int i = static_cast<int>(threadIdx.x); i < pieces; i += static_cast<int>(blockDim.x)) {
        const int k = first_step * kStep + i * 8;
        ptx::CopyAsyncFill<16>(to + static_cast<uint32_t>(row * layout.x_pitch + i * 16),
                               k < p.depth ? static_cast<const void*>(x + k) : p.x, k < p.depth ? 16 : 0);
      }
    }
    ptx::CopyAsyncCommit();
  }

  // All threads of the block: the same of normalized rows.
  INGOT_PTX void NormalizeX() const {
    constexpr int kPiece = 8;
    const int thread = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x);
    const auto piece = [](const uint16_t* from, float (&to)[kPiece]) {
      const uint4 loaded = *reinterpret_cast<const uint4*>(from);
      const uint32_t pairs[] = {loaded.x, loaded.y, loaded.z, loaded.w};
#pragma unroll
      for (int i = 0; i < kPiece / 2; ++i) {
        to[2 * i] = Pairs<T>::Low(pairs[i]);
        to[2 * i + 1] = Pairs<T>::High(pairs[i]);
      }
    };
    // Each warp's sum of squares of a row waits where the row's part will be.
    const auto sums = [&](int row) { return reinterpret_cast<float*>(shared + row * layout.x_pitch); };
    for (int row = 0; row < p.rows; ++row) {
      const auto* x = static_cast<const uint16_t*>(p.x) + row * p.x_stride;
      float sum = 0;
      for (int k = thread * kPiece; k < p.depth; k += threads * kPiece) {
        float v[kPiece];
        piece(x + k, v);
#pragma unroll
        for (const float e : v) sum = fmaf(e, e, sum);
      }
      for (int offset = 16; offset > 0; offset /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, offset);
      if (lane == 0) sums(row)[thread / 32] = sum;
    }
    const int pieces = (end_step - first_step) * (kStep / kPiece);
    __syncthreads();
    for (int row = 0; row < p.rows; ++row) {
      float sum = 0;
      for (int i = 0; i < threads / 32; ++i) sum += sums(row)[i];
      const float factor = 1.0f / sqrtf(sum / static_cast<float>(p.depth) + p.norm_epsilon);
      __syncthreads();
      const auto* x = static_cast<const uint16_t*>(p.x) + row * p.x_stride;
      for (int i = thread; i < pieces; i += threads) {
        const int k = first_step * kStep + i * kPiece;
        float v[kPiece] = {};
        if (k < p.depth) {
          piece(x + k, v);
#pragma unroll
          for (float& e : v) e *= factor;
          if (p.norm != nullptr) {
            WithNumbers(p.norm_type, [&](auto number) {
#pragma unroll
              for (int j = 0; j < kPiece; ++j) v[j] *= number(p.norm, k + j) + p.norm_offset;
            });
          }
        }
        *reinterpret_cast<uint4*>(shared + row * layout.x_pitch + i * 16) =
            make_uint4(Pairs<T>::Pack(v[0], v[1]), Pairs<T>::Pack(v[2], v[3]), Pairs<T>::Pack(v[4], v[5]),
                       Pairs<T>::Pack(v[6], v[7]));
      }
    }
  }

  // numbers: of row lane / 4 of the warp's first panel and the part's first group. x: of this lane's rows for ldmatrix.
  template <int kSlot>
  INGOT_PTX void Multiply(int step, const float* numbers, const uint32_t (&x)[kTiles]) {
    const int group = (step * kStep >> p.group_shift) - FirstGroup();
    const auto x_step = static_cast<uint32_t>((step - first_step) * kStep * 2);
    const int panel_numbers = layout.part_groups * kPanel;
    float sums[kPanels][kTiles][4] = {};
    Offsets offsets[kPanels];
#pragma unroll
    for (int i = 0; i < kPanels; ++i) {
      offsets[i] = OffsetsOf<T, kCodes>(0, 0);
      if constexpr (kZeros) {
        const float* zeros = numbers + (layout.warps_n * kPanels + i) * panel_numbers + group * kPanel;
        offsets[i] = OffsetsOf<T, kCodes>(zeros[0], zeros[8]);
      }
    }
#pragma unroll
    for (int pair = 0; pair < 2; ++pair) {
      uint32_t b[kTiles][2][2];
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile)
        ptx::LoadMatrix4(b[tile][0][0], b[tile][0][1], b[tile][1][0], b[tile][1][1],
                         x[tile] + x_step + static_cast<uint32_t>(pair * 64));
#pragma unroll
      for (int inner = 0; inner < 2; ++inner) {
        const int matrix = 2 * pair + inner;
#pragma unroll
        for (int i = 0; i < kPanels; ++i) {
          uint32_t a[4];
          if constexpr (kCodes == Codes::kBytes) {
            const uint4 v = codes[kSlot][i][pair];
            DequantizeBytes<T>(inner == 0 ? v.x : v.z, inner == 0 ? v.y : v.w, offsets[i], a);
          } else {
            const uint4 v = codes[kSlot][i][0];
            Dequantize<T, kCodes>(matrix == 0   ? v.x
                                  : matrix == 1 ? v.y
                                  : matrix == 2 ? v.z
                                                : v.w,
                                  offsets[i], p.table, a);
          }
#pragma unroll
          for (int tile = 0; tile < kTiles; ++tile) Pairs<T>::Mma(sums[i][tile], a, b[tile][inner]);
        }
      }
    }
#pragma unroll
    for (int i = 0; i < kPanels; ++i) {
      const float* scales = numbers + i * panel_numbers + group * kPanel;
      const float even = scales[0], odd = scales[8];
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
        for (int j = 0; j < 4; ++j) total[i][tile][j] = fmaf(j < 2 ? even : odd, sums[i][tile][j], total[i][tile][j]);
      }
    }
  }

  template <int kSlot = 0>
  INGOT_PTX void MultiplyAll(int step, const float* numbers, const uint32_t (&x)[kTiles]) {
    if (step >= end_step) return;
    Multiply<kSlot>(step, numbers, x);
    Load<kSlot>(step + kDepth * layout.warps_k);
    if constexpr (kSlot + 1 < kDepth) MultiplyAll<kSlot + 1>(step + layout.warps_k, numbers, x);
  }

  INGOT_PTX void Run() {
    const int first = first_step + warp_k;
#pragma unroll
    for (int i = 0; i < kPanels; ++i) {
      const int panel = min(FirstPanel() + warp_n * kPanels + i, p.panels - 1);
      from[i] = p.weights + ((static_cast<int64_t>(panel) * p.steps + first) * kWords * 32 + lane) * 16;
    }
    // Weights are constants: what stands in front on the stream does not write them.
    LoadFirst(first);
    auto* numbers = reinterpret_cast<float*>(shared + layout.number_offset);
    ConvertNumbers(p.scales, p.scale_type, numbers);
    if constexpr (kZeros)
      ConvertNumbers(p.zeros, Element::kByte, numbers + layout.warps_n * kPanels * layout.part_groups * kPanel);
    ptx::GridLaunchDependents();
    ptx::GridDependencyWait();
    const bool normalized = kTiles == 1 && p.normalized;
    if (normalized) {
      NormalizeX();
    } else {
      LoadX();
    }
    ptx::CopyAsyncWait<0>();
    __syncthreads();
    uint32_t x[kTiles];
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
      // Rows past the last are those of the last: nobody reads their sums.
      const int row = min(tile * 8 + lane % 8, p.rows - 1);
      x[tile] = ptx::SharedAddress(shared) + static_cast<uint32_t>(row * layout.x_pitch + lane / 8 * 16);
    }
    numbers += warp_n * kPanels * layout.part_groups * kPanel + lane / 4;
    for (int step = first; step < end_step; step += kDepth * layout.warps_k) MultiplyAll(step, numbers, x);
    __syncthreads();
  }

  // Puts the warps' totals side by side: [warps_k][rows][columns + 4], free of bank conflicts.
  INGOT_PTX void Store(int columns) const {
    float* to =
        reinterpret_cast<float*>(shared) + warp_k * p.rows * (columns + 4) + warp_n * kPanels * kPanel + lane / 4;
#pragma unroll
    for (int i = 0; i < kPanels; ++i) {
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          const int row = tile * 8 + lane % 4 * 2 + j % 2;
          if (row < p.rows) to[row * (columns + 4) + i * kPanel + j / 2 * 8] = total[i][tile][j];
        }
      }
    }
    __syncthreads();
  }

  INGOT_PTX float Sum(int row, int column, int columns) const {
    const float* parts = reinterpret_cast<const float*>(shared) + row * (columns + 4) + column;
    float sum = parts[0];
    for (int k = 1; k < layout.warps_k; ++k) sum += parts[k * p.rows * (columns + 4)];
    return sum;
  }
};

template <typename T, Codes kCodes, int kTiles, bool kZeros>
__global__ void __launch_bounds__(kMostWarps<kTiles> * 32, 1) Direct(const Problem p, const Layout layout) {
  INGOT_DYNAMIC_SHARED(uint8_t, shared);
  Worker<T, kCodes, kTiles, kZeros> worker(p, layout, shared);
  worker.Run();
  const int columns = layout.warps_n * kWarpPanels<kTiles> * kPanel, count = p.rows * columns;
  worker.Store(columns);
  const int thread = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x);
  const int first_column = static_cast<int>(blockIdx.x) * columns;
  if (gridDim.y == 1) {
    for (int i = thread; i < count; i += threads) {
      const int row = i / columns, column = i % columns;
      if (first_column + column < p.columns)
        Finish(p, row, first_column + column, [&](int further) { return worker.Sum(row, column + further, columns); });
    }
    return;
  }
  float* parts = layout.parts + static_cast<int64_t>(blockIdx.x) * gridDim.y * count;
  for (int i = thread; i < count; i += threads)
    parts[static_cast<int>(blockIdx.y) * count + i] = worker.Sum(i / columns, i % columns, columns);
  unsigned long long* arrivals = layout.arrivals + static_cast<int64_t>(blockIdx.x) * gridDim.y;
  if (!AllArrived(arrivals)) return;
  for (int i = thread; i < count; i += threads) {
    const int column = first_column + i % columns;
    if (column < p.columns)
      Finish(p, i / columns, column, [&](int further) { return SumOfParts(parts + i + further, count); });
  }
  if (threadIdx.x < gridDim.y) arrivals[threadIdx.x] = 0;
}

// How the work is divided.
struct Division {
  int warps_n, warps_k, splits;
  int64_t shared_bytes;
  double cost;  // of the busiest multiprocessor, in bytes of weights
};

constexpr int kOtherBytes = 2048;  // of a block: its static shared memory, and what the system takes

int MostSharedBytes(int capability) {  // of a multiprocessor
  return capability >= 90 ? 228 * 1024 : capability == 80 || capability == 87 ? 164 * 1024 : 100 * 1024;
}

int64_t GroupsOf(const Problem& p, int64_t steps) { return ((steps * kStep - 1) >> p.group_shift) + 2; }
int64_t PitchOf(int64_t steps) { return steps * kStep * 2 + 16; }

template <int kTiles>
Division Divide(const CudaContext& context, const Problem& p, const Choice& choice) {
  constexpr int kMost = kMostWarps<kTiles>, kPanels = kWarpPanels<kTiles>;
  const int multiprocessors = std::max(context.multiprocessors(), 1);
  const int64_t most_bytes = MostSharedBytes(context.capability());
  Division best{};
  best.cost = std::numeric_limits<double>::infinity();
  for (int splits = 1; splits <= std::min(p.steps, 32); ++splits) {
    if (choice.splits != 0 && choice.splits != splits) continue;
    const int64_t steps = CeilDivide(p.steps, splits);
    for (int warps_n = 1; warps_n <= 8; ++warps_n) {
      if (choice.stages != 0 && choice.stages != warps_n) continue;
      const int64_t block_panels = int64_t{warps_n} * kPanels;
      const int64_t blocks = CeilDivide(p.panels, block_panels) * splits;
      const int64_t x_bytes = p.rows * PitchOf(steps);
      const int64_t number_bytes = block_panels * GroupsOf(p, steps) * kPanel * 4 * (p.zeros != nullptr ? 2 : 1);
      const auto sum_bytes = [&](int64_t warps_k) { return warps_k * p.rows * (block_panels * kPanel + 4) * 4; };
      // Blocks of a multiprocessor, all at the same time if there is room.
      const int64_t each = CeilDivide(blocks, multiprocessors);
      const int64_t room =
          std::min(each, std::min<int64_t>(kMost / warps_n, most_bytes / (x_bytes + number_bytes + kOtherBytes)));
      if (room == 0) continue;
      int64_t warps_k = choice.warps != 0 ? choice.warps : kMost / (room * warps_n);
      warps_k = std::clamp<int64_t>(warps_k, 1, std::min<int64_t>(kMost / warps_n, steps));
      while (warps_k > 1 && sum_bytes(warps_k) > most_bytes / room - kOtherBytes) --warps_k;
      const int64_t shared_bytes = std::max(x_bytes + number_bytes, sum_bytes(warps_k));
      if (shared_bytes > most_bytes - kOtherBytes) continue;
      // X comes from the cache, about twice as fast. What else takes time, as measured: blocks that start late, adding
      // parts up, and too few warps to keep enough bytes under way.
      const double code_bytes = static_cast<double>(block_panels * steps * StepBytes(p.codes));
      double cost = static_cast<double>(each) * (code_bytes + 0.5 * static_cast<double>(x_bytes));
      cost += static_cast<double>(CeilDivide(each, room) - 1) * 32768;
      if (splits > 1) cost += 32768 + 2.0 * static_cast<double>(each) * static_cast<double>(sum_bytes(1));
      const auto warps = static_cast<double>(std::min(each, room) * warps_n * warps_k);
      cost *= std::max(1.0, 0.6 * kMost / warps);
      if (cost < best.cost) best = {warps_n, static_cast<int>(warps_k), splits, shared_bytes, cost};
    }
  }
  return best;
}

template <typename T, Codes kCodes, int kTiles, bool kZeros>
bool Start(CudaContext& context, const Problem& p, const Choice& choice) {
  const Division division = Divide<kTiles>(context, p, choice);
  if (division.splits == 0) return false;
  Layout layout{};
  layout.warps_n = division.warps_n;
  layout.warps_k = division.warps_k;
  const int64_t steps = CeilDivide(p.steps, division.splits);
  layout.x_pitch = static_cast<int32_t>(PitchOf(steps));
  layout.number_offset = p.rows * layout.x_pitch;
  layout.part_groups = static_cast<int32_t>(GroupsOf(p, steps));
  const int columns = layout.warps_n * kWarpPanels<kTiles> * kPanel;
  const auto blocks = static_cast<unsigned>(CeilDivide(p.columns, columns));
  const auto splits = static_cast<unsigned>(division.splits);
  if (splits > 1) {
    layout.parts = context.DeviceScratch<float>(size_t{blocks} * splits * static_cast<size_t>(p.rows * columns));
    layout.arrivals = context.DeviceScratch<unsigned long long>(size_t{blocks} * splits);
  }
  CudaContext::Check(LaunchWith(true, Direct<T, kCodes, kTiles, kZeros>, dim3(blocks, splits),
                                dim3(static_cast<unsigned>(layout.warps_n * layout.warps_k * 32)),
                                static_cast<size_t>(division.shared_bytes), context.stream(), p, layout),
                     "quantized_matmul of few rows");
  return true;
}

template <typename T, Codes kCodes, int kTiles>
bool StartZeros(CudaContext& context, const Problem& p, const Choice& choice) {
  if constexpr (kCodes != Codes::kTable) {
    if (p.zeros != nullptr) return Start<T, kCodes, kTiles, true>(context, p, choice);
  }
  return Start<T, kCodes, kTiles, false>(context, p, choice);
}

template <typename T, Codes kCodes>
bool StartRows(CudaContext& context, const Problem& p, const Choice& choice) {
  if (p.rows <= 8) return StartZeros<T, kCodes, 1>(context, p, choice);
  if (p.rows <= 16) return StartZeros<T, kCodes, 2>(context, p, choice);
  return StartZeros<T, kCodes, 4>(context, p, choice);
}

template <typename T>
bool StartCodes(CudaContext& context, const Problem& p, const Choice& choice) {
  switch (p.codes) {
    case Codes::kBytes:
      return StartRows<T, Codes::kBytes>(context, p, choice);
    case Codes::kNibbles:
      return StartRows<T, Codes::kNibbles>(context, p, choice);
    case Codes::kTable:
      return StartRows<T, Codes::kTable>(context, p, choice);
  }
  return false;
}

}  // namespace

bool LaunchDirect(CudaContext& context, const Problem& problem, const Choice& choice) {
  if (problem.rows > (problem.normalized ? 8 : 32) || problem.group_shift < 6) return false;
  if (problem.x_type == Element::kHalf) return StartCodes<__half>(context, problem, choice);
  return StartCodes<__nv_bfloat16>(context, problem, choice);
}

}  // namespace ingot::cuda::quantized_matmul
