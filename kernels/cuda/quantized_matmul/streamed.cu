// Products of few rows: weights pass through shared memory once, each 16 bytes to the lane that multiplies them.
//
// A block computes kWarpsN * 32 columns of Y for up to kTiles * 8 rows; its warps stand in a grid of kWarpsN by some
// that share K. W is operand A of mma.m16n8k16 and X operand B: Y^T = W X^T, so that 8 rows of X are enough for a
// product. Each warp has a ring of stages of one step (64 k): the codes of its two panels, which no other thread reads,
// with their scales and zeros, and X, which the warps of a row of the grid share. Sums of a group are multiplied with
// its scale in float32. What the warps of a block have summed up they add in shared memory in order; blocks that share
// K write that to scratch memory, and the one that finds all others' there adds it up, in order too.
#include "cuda/quantized_matmul/epilogue.h"

#include <algorithm>

namespace ingot::cuda::quantized_matmul {
namespace {

constexpr int kWarpPanels = 2;
constexpr int kMostStages = 8;
// What a block writes when its part is in scratch memory. Memory that was never written may hold it by a chance of 2^-64; what has been read is
// overwritten.
constexpr unsigned long long kArrived = 0x9E3779B97F4A7C15;

// Sizes in bytes of what lies in shared memory, and scratch memory.
struct Layout {
  int32_t stages;
  int32_t x_rows;                    // rows of X in a stage
  int32_t scale_bytes, zero_bytes;   // of a panel in a stage
  int32_t scale_elements;            // likewise
  int32_t warp_bytes, stage_bytes;
  float* parts;                      // [tiles, splits, rows * columns of a tile], nullptr: no splits
  unsigned long long* arrivals;      // [tiles, splits]
};

INGOT_PTX void WaitForStage(int stages) {
  switch (stages) {
    case 2:
      return ptx::CopyAsyncWait<0>();
    case 3:
      return ptx::CopyAsyncWait<1>();
    case 4:
      return ptx::CopyAsyncWait<2>();
    case 5:
      return ptx::CopyAsyncWait<3>();
    case 6:
      return ptx::CopyAsyncWait<4>();
    case 7:
      return ptx::CopyAsyncWait<5>();
    default:
      return ptx::CopyAsyncWait<6>();
  }
}

template <int kWarpsN>
INGOT_PTX void SyncStage() {
  if constexpr (kWarpsN == 1) {
    __syncwarp();
  } else {
    __syncthreads();
  }
}

template <typename T, Codes kCodes, int kTiles, int kWarpsN>
struct Worker {
  static constexpr int kCodeBytes = kCodes == Codes::kBytes ? 2 * 512 : 512;  // of a panel in a stage
  static constexpr int kColumns = kWarpsN * kWarpPanels * kPanel;
  static constexpr int kRedStride = kColumns + 4;  // free of bank conflicts for lanes' 4 pairs of rows by 8 columns

  const Problem& p;
  const Layout& layout;
  uint8_t* shared;
  uint32_t shared_address;
  int lane, warp_n, warp_k, warps_k;
  int first_row, rows;  // of X in this block
  int panel;            // the warp's first
  int first_step, end_step;
  float total[kWarpPanels][kTiles][4];
  float sums[kWarpPanels][kTiles][4];

  INGOT_PTX Worker(const Problem& problem, const Layout& sizes, uint8_t* memory)
      : p(problem), layout(sizes), shared(memory), shared_address(ptx::SharedAddress(memory)) {
    const int warp = static_cast<int>(threadIdx.x) / 32;
    lane = static_cast<int>(threadIdx.x) % 32;
    warp_n = warp % kWarpsN;
    warp_k = warp / kWarpsN;
    warps_k = static_cast<int>(blockDim.x) / 32 / kWarpsN;
    first_row = static_cast<int>(blockIdx.z) * kTiles * 8;
    rows = min(p.rows - first_row, kTiles * 8);
    panel = (static_cast<int>(blockIdx.x) * kWarpsN + warp_n) * kWarpPanels;
    const int slices = static_cast<int>(gridDim.y) * warps_k;
    const int slice = static_cast<int>(blockIdx.y) * warps_k + warp_k;
    first_step = static_cast<int>(int64_t{p.steps} * slice / slices);
    end_step = static_cast<int>(int64_t{p.steps} * (slice + 1) / slices);
#pragma unroll
    for (int i = 0; i < kWarpPanels; ++i) {
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
        for (int j = 0; j < 4; ++j) total[i][tile][j] = sums[i][tile][j] = 0;
      }
    }
  }

  INGOT_PTX int XOffset(int stage) const { return stage * layout.stage_bytes + warp_k * layout.x_rows * kStep * 2; }
  INGOT_PTX int CodesOffset(int stage) const {
    return stage * layout.stage_bytes + warps_k * layout.x_rows * kStep * 2 + (warp_k * kWarpsN + warp_n) * layout.warp_bytes;
  }
  INGOT_PTX int PanelAt(int i) const { return min(panel + i, p.panels - 1); }

  // Copies of `bytes_of_panel` bytes for each of the warp's panels from `step` on, in pieces of 16 bytes that the lower and the upper half
  // of the warp copy. A group has kPanel numbers of kElement bytes.
  INGOT_PTX void LoadNumbers(const uint8_t* from, int element, int step, int bytes_of_panel, uint32_t to) const {
    const int i = lane / 16, piece = lane % 16 * 16;
    if (piece >= bytes_of_panel) return;
    const int group_bytes = kPanel * element;
    const int at = (step * kStep >> p.group_shift) * group_bytes + piece;
    const int row_bytes = p.groups * group_bytes;
    const bool exists = at < row_bytes;
    ptx::CopyAsyncFill<16>(to + static_cast<uint32_t>(i * bytes_of_panel + piece),
                           from + static_cast<int64_t>(PanelAt(i)) * row_bytes + (exists ? at : 0), exists ? 16 : 0);
  }

  INGOT_PTX void LoadWeights(int step, int stage) const {
    if (step < end_step) {
      uint32_t to = shared_address + static_cast<uint32_t>(CodesOffset(stage));
#pragma unroll
      for (int i = 0; i < kWarpPanels; ++i) {
        const uint8_t* from = p.weights + (static_cast<int64_t>(PanelAt(i)) * p.steps + step) * kCodeBytes + lane * 16;
#pragma unroll
        for (int half = 0; half < kCodeBytes / 512; ++half)
          ptx::CopyAsync<16>(to + static_cast<uint32_t>(i * kCodeBytes + half * 512 + lane * 16), from + half * 512);
      }
      to += kWarpPanels * kCodeBytes;
      LoadNumbers(p.scales, BytesOf(p.scale_type), step, layout.scale_bytes, to);
      if (p.zeros != nullptr)
        LoadNumbers(p.zeros, 1, step, layout.zero_bytes, to + static_cast<uint32_t>(kWarpPanels * layout.scale_bytes));
    }
  }

  INGOT_PTX void LoadX(int step, int stage) const {
    if (step >= end_step) return;
    const uint32_t to = shared_address + static_cast<uint32_t>(XOffset(stage));
    const auto* x = static_cast<const uint16_t*>(p.x);
    for (int piece = warp_n * 32 + lane; piece < layout.x_rows * 8; piece += kWarpsN * 32) {
      const int row = piece / 8, chunk = piece % 8;
      const int k = step * kStep + chunk * 8;
      const bool exists = row < rows && k < p.depth;
      ptx::CopyAsyncFill<16>(to + static_cast<uint32_t>(row * kStep * 2 + ((chunk ^ (row & 7)) << 4)),
                             x + (exists ? (first_row + row) * p.x_stride + k : 0), exists ? 16 : 0);
    }
  }

  INGOT_PTX Offsets OffsetsFor(const uint8_t* zeros, int i, int group) const {
    const uint8_t* of_group = zeros + i * layout.zero_bytes + group * kPanel + lane / 4;
    return OffsetsOf<T, kCodes>(static_cast<int8_t>(of_group[0]), static_cast<int8_t>(of_group[8]));
  }

  // Adds the sums of a group, times its scales, to the totals.
  INGOT_PTX void Flush(const uint8_t* scales, int group) {
    // Rows g and g + 8 of both panels, one after another.
    const int64_t at = group * kPanel + lane / 4, other = at + layout.scale_elements;
    float numbers[2 * kWarpPanels];
    ReadNumbers(scales, p.scale_type, {at, at + 8, other, other + 8}, numbers);
#pragma unroll
    for (int i = 0; i < kWarpPanels; ++i) {
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          total[i][tile][j] = fmaf(numbers[2 * i + j / 2], sums[i][tile][j], total[i][tile][j]);
          sums[i][tile][j] = 0;
        }
      }
    }
  }

  INGOT_PTX void Multiply(int step, int stage, Offsets (&offsets)[kWarpPanels]) {
    const int at = CodesOffset(stage);
    const uint8_t* scales = shared + at + kWarpPanels * kCodeBytes;
    const uint8_t* zeros = scales + kWarpPanels * layout.scale_bytes;
    const int fine_shift = p.group_shift < 6 ? p.group_shift - 4 : 2;  // matrices that share a scale: 1 << fine_shift
    uint4 codes[kWarpPanels][kCodeBytes / 512];
#pragma unroll
    for (int i = 0; i < kWarpPanels; ++i) {
#pragma unroll
      for (int half = 0; half < kCodeBytes / 512; ++half)
        codes[i][half] =
            ptx::LoadShared128(shared_address + static_cast<uint32_t>(at + i * kCodeBytes + half * 512 + lane * 16));
    }
    const uint32_t x = shared_address + static_cast<uint32_t>(XOffset(stage));
    // The flush of the last matrix is for the whole step: groups may go on.
    const bool whole = p.group_shift < 6 || step + 1 == end_step || ((step + 1) * kStep & ((1 << p.group_shift) - 1)) == 0;
#pragma unroll
    for (int pair = 0; pair < 2; ++pair) {
      uint32_t b[kTiles][2][2];
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) {
        const int row = min(tile * 8 + lane % 8, layout.x_rows - 1);
        const int chunk = pair * 4 + lane / 8;
        ptx::LoadMatrix4(b[tile][0][0], b[tile][0][1], b[tile][1][0], b[tile][1][1],
                         x + static_cast<uint32_t>(row * kStep * 2 + ((chunk ^ (row & 7)) << 4)));
      }
#pragma unroll
      for (int inner = 0; inner < 2; ++inner) {
        const int matrix = 2 * pair + inner;
        if (p.zeros != nullptr && (matrix & ((1 << fine_shift) - 1)) == 0) {
#pragma unroll
          for (int i = 0; i < kWarpPanels; ++i) offsets[i] = OffsetsFor(zeros, i, matrix >> fine_shift);
        }
#pragma unroll
        for (int i = 0; i < kWarpPanels; ++i) {
          uint32_t a[4];
          if constexpr (kCodes == Codes::kBytes) {
            const uint4 v = codes[i][pair];
            DequantizeBytes<T>(inner == 0 ? v.x : v.z, inner == 0 ? v.y : v.w, offsets[i], a);
          } else {
            const uint4 v = codes[i][0];
            Dequantize<T, kCodes>(matrix == 0 ? v.x : matrix == 1 ? v.y : matrix == 2 ? v.z : v.w, offsets[i], p.table, a);
          }
#pragma unroll
          for (int tile = 0; tile < kTiles; ++tile) Pairs<T>::Mma(sums[i][tile], a, b[tile][inner]);
        }
        if (matrix < 3) {
          if (((matrix + 1) & ((1 << fine_shift) - 1)) == 0) Flush(scales, matrix >> fine_shift);
        } else if (whole) {
          Flush(scales, 3 >> fine_shift);
        }
      }
    }
  }

  INGOT_PTX void Run() {
    Offsets offsets[kWarpPanels];
#pragma unroll
    for (int i = 0; i < kWarpPanels; ++i) offsets[i] = OffsetsOf<T, kCodes>(0, 0);
    const int stages = layout.stages;
    const int slices = static_cast<int>(gridDim.y) * warps_k;
    const int count = (p.steps + slices - 1) / slices;  // of all warps
    // Weights are constants: what stands in front on the stream does not write them.
    for (int i = 0; i < stages - 1; ++i) LoadWeights(first_step + i, i);
    ptx::GridLaunchDependents();
    ptx::GridDependencyWait();
    for (int i = 0; i < stages - 1; ++i) {
      LoadX(first_step + i, i);
      ptx::CopyAsyncCommit();
    }
    int stage = 0, free = stages - 1;
    for (int i = 0; i < count; ++i) {
      WaitForStage(stages);
      SyncStage<kWarpsN>();
      LoadWeights(first_step + i + stages - 1, free);
      LoadX(first_step + i + stages - 1, free);
      ptx::CopyAsyncCommit();
      if (first_step + i < end_step) Multiply(first_step + i, stage, offsets);
      free = stage;
      stage = stage + 1 == stages ? 0 : stage + 1;
    }
    ptx::CopyAsyncWait<0>();
    __syncthreads();
  }

  // Puts the warps' totals side by side: [warps_k][rows][kRedStride].
  INGOT_PTX void Store() const {
    float* to = reinterpret_cast<float*>(shared) + warp_k * layout.x_rows * kRedStride + warp_n * kWarpPanels * kPanel + lane / 4;
#pragma unroll
    for (int i = 0; i < kWarpPanels; ++i) {
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          const int row = tile * 8 + lane % 4 * 2 + j % 2;
          if (row < rows) to[row * kRedStride + i * kPanel + j / 2 * 8] = total[i][tile][j];
        }
      }
    }
    __syncthreads();
  }

  INGOT_PTX float Sum(int row, int column) const {
    const float* from = reinterpret_cast<const float*>(shared) + row * kRedStride + column;
    float sum = from[0];
    for (int k = 1; k < warps_k; ++k) sum += from[k * layout.x_rows * kRedStride];
    return sum;
  }

};

// Whether this block, whose part is written, is to add up the parts of a tile. More than one may be: they write the same.
INGOT_PTX bool AllArrived(unsigned long long* arrivals) {
  __shared__ int all;
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    atomicExch(arrivals + blockIdx.y, kArrived);
    __threadfence();
    all = 1;
    for (int i = 0; i < static_cast<int>(gridDim.y); ++i) {
      if (atomicAdd(arrivals + i, 0ULL) != kArrived) all = 0;
    }
    __threadfence();
  }
  __syncthreads();
  return all != 0;
}

template <typename T, Codes kCodes, int kTiles, int kWarpsN>
__global__ void __launch_bounds__(kWarpsN == 1 ? 1024 : kTiles == 8 ? 256 : 512)
    Streamed(const Problem p, const Layout layout) {
  INGOT_DYNAMIC_SHARED(uint8_t, shared);
  Worker<T, kCodes, kTiles, kWarpsN> worker(p, layout, shared);
  constexpr int kColumns = Worker<T, kCodes, kTiles, kWarpsN>::kColumns;
  worker.Run();
  worker.Store();
  const int first_column = static_cast<int>(blockIdx.x) * kColumns;
  if (gridDim.y == 1) {
    for (int i = static_cast<int>(threadIdx.x); i < worker.rows * kColumns; i += static_cast<int>(blockDim.x)) {
      const int column = first_column + i % kColumns;
      if (column < p.columns) Finish(p, worker.first_row + i / kColumns, column, worker.Sum(i / kColumns, i % kColumns));
    }
    return;
  }
  const int64_t tile = static_cast<int64_t>(blockIdx.z) * gridDim.x + blockIdx.x;
  constexpr int kPart = kTiles * 8 * kColumns;
  float* parts = layout.parts + tile * gridDim.y * kPart;
  for (int i = static_cast<int>(threadIdx.x); i < worker.rows * kColumns; i += static_cast<int>(blockDim.x))
    parts[blockIdx.y * kPart + i] = worker.Sum(i / kColumns, i % kColumns);
  unsigned long long* arrivals = layout.arrivals + tile * gridDim.y;
  if (!AllArrived(arrivals)) return;
  for (int i = static_cast<int>(threadIdx.x); i < worker.rows * kColumns; i += static_cast<int>(blockDim.x)) {
    float sum = __ldcg(parts + i);
    for (int split = 1; split < static_cast<int>(gridDim.y); ++split) sum += __ldcg(parts + split * kPart + i);
    const int column = first_column + i % kColumns;
    if (column < p.columns) Finish(p, worker.first_row + i / kColumns, column, sum);
  }
  if (threadIdx.x < gridDim.y) arrivals[threadIdx.x] = 0;
}

int MostSharedBytes(int capability) {
  return capability >= 90 ? 227 * 1024 : capability == 80 || capability == 87 ? 163 * 1024 : 99 * 1024;
}

// How the work is divided, and the launch of one instance.
template <typename T, Codes kCodes, int kTiles, int kWarpsN>
void Start(CudaContext& context, const Problem& p, const Choice& choice) {
  constexpr int kColumns = kWarpsN * kWarpPanels * kPanel;
  constexpr int kMostWarps = (kWarpsN == 1 ? 1024 : kTiles == 8 ? 256 : 512) / 32 / kWarpsN;
  const int column_blocks = static_cast<int>(CeilDivide(p.columns, kColumns));
  const int row_blocks = static_cast<int>(CeilDivide(p.rows, kTiles * 8));
  const int blocks = column_blocks * row_blocks;
  const int multiprocessors = std::max(context.multiprocessors(), 1);

  // About 28 warps with a ring each on a multiprocessor keep enough bytes under way.
  const int wanted = kWarpsN == 1 ? static_cast<int>(CeilDivide(int64_t{28} * multiprocessors, std::max(blocks, 1))) : kMostWarps;
  int warps = choice.warps != 0 ? choice.warps : 4;
  if (choice.warps == 0) {
    while (warps < wanted) warps *= 2;
  }
  warps = std::clamp(warps, 1, std::min(kMostWarps, p.steps));
  int splits = choice.splits;
  if (splits == 0) splits = kWarpsN == 1 ? 1 : std::max(1, multiprocessors / std::max(blocks, 1));
  splits = std::clamp(splits, 1, std::max(1, std::min(p.steps / warps, 32)));

  Layout layout{};
  layout.x_rows = std::min(p.rows, kTiles * 8);
  const int groups = p.group_shift >= 6 ? 1 : kStep >> p.group_shift;
  layout.scale_elements = groups * kPanel;
  layout.scale_bytes = layout.scale_elements * BytesOf(p.scale_type);
  layout.zero_bytes = p.zeros == nullptr ? 0 : groups * kPanel;
  layout.warp_bytes = kWarpPanels * (StepBytes(kCodes) + layout.scale_bytes + layout.zero_bytes);
  const auto stage_bytes = [&](int w) { return w * (layout.x_rows * kStep * 2 + kWarpsN * layout.warp_bytes); };
  const auto sum_bytes = [&](int w) { return w * layout.x_rows * (kColumns + 4) * 4; };
  const int most_bytes = MostSharedBytes(context.capability());
  while (warps > 1 && std::max(2 * stage_bytes(warps), sum_bytes(warps)) > most_bytes) warps /= 2;
  layout.stage_bytes = stage_bytes(warps);
  const int steps = static_cast<int>(CeilDivide(p.steps, warps * splits));
  layout.stages = choice.stages != 0 ? choice.stages : 4;
  layout.stages = std::clamp(layout.stages, 2, std::min(kMostStages, std::max(2, steps + 1)));
  layout.stages = std::clamp(layout.stages, 2, std::max(2, most_bytes / layout.stage_bytes));
  const int shared_bytes = std::max(layout.stages * layout.stage_bytes, sum_bytes(warps));

  if (splits > 1) {
    layout.parts = context.DeviceScratch<float>(size_t(blocks) * size_t(splits) * kTiles * 8 * kColumns);
    layout.arrivals = context.DeviceScratch<unsigned long long>(size_t(blocks) * size_t(splits));
  }
  const dim3 grid(static_cast<unsigned>(column_blocks), static_cast<unsigned>(splits), static_cast<unsigned>(row_blocks));
  const dim3 block(static_cast<unsigned>(warps * kWarpsN * 32));
  CudaContext::Check(LaunchWith(true, Streamed<T, kCodes, kTiles, kWarpsN>, grid, block, static_cast<size_t>(shared_bytes), context.stream(),
                            p, layout),
                     "quantized_matmul");
}

// Up to so many rows a block has 32 columns, so that all of the GPU's bandwidth is used whatever N is; from there on reading X again for every 32
// columns takes more time than that saves.
constexpr int kMostStreamedRows = 4;

template <typename T, Codes kCodes>
void StartRows(CudaContext& context, const Problem& p, const Choice& choice) {
  if (choice.path == 1 ? p.rows <= 8 : choice.path == 0 && p.rows <= kMostStreamedRows) return Start<T, kCodes, 1, 1>(context, p, choice);
  if (p.rows <= 8) return Start<T, kCodes, 1, 4>(context, p, choice);
  if (p.rows <= 16) return Start<T, kCodes, 2, 4>(context, p, choice);
  if (p.rows <= 32) return Start<T, kCodes, 4, 4>(context, p, choice);
  return Start<T, kCodes, 8, 4>(context, p, choice);
}

template <typename T>
void StartCodes(CudaContext& context, const Problem& p, const Choice& choice) {
  switch (p.codes) {
    case Codes::kBytes:
      return StartRows<T, Codes::kBytes>(context, p, choice);
    case Codes::kNibbles:
      return StartRows<T, Codes::kNibbles>(context, p, choice);
    case Codes::kTable:
      return StartRows<T, Codes::kTable>(context, p, choice);
  }
}

}  // namespace

void LaunchStreamed(CudaContext& context, const Problem& problem, const Choice& choice) {
  if (problem.x_type == Element::kHalf) return StartCodes<__half>(context, problem, choice);
  StartCodes<__nv_bfloat16>(context, problem, choice);
}

}  // namespace ingot::cuda::quantized_matmul
