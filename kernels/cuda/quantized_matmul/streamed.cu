// Products of few rows: weights pass through shared memory once, each 16 bytes to the lane that multiplies them.
//
// A block computes kWarpsN * 32 columns of Y for up to kTiles * 8 rows; its warps stand in a grid of kWarpsN by some
// that share K. W is operand A of mma.m16n8k16 and X operand B: Y^T = W X^T, so that 8 rows of X are enough for a
// product. Each warp has a ring of stages of one step (64 k): the codes of its two panels, which no other thread reads,
// with their scales and zeros, and X, which the warps of a row of the grid share. Sums of a group are multiplied with
// its scale in float32. What the warps of a block have summed up they add in shared memory in order; blocks that share
// K write that to scratch memory, and the one that finds all others' there adds it up, in order too.
#include <algorithm>

#include "cuda/quantized_matmul/split.h"

namespace ingot::cuda::quantized_matmul {
namespace {

constexpr int kWarpPanels = 2;
constexpr int kStages = 4;
constexpr int kRowBytes = kStep * 2;  // of X in a stage
// Sizes in bytes of what lies in shared memory, and scratch memory.
struct Layout {
  int32_t x_rows;                   // rows of X in a stage
  int32_t scale_bytes, zero_bytes;  // of a panel in a stage
  int32_t warp_bytes, stage_bytes;
  float* parts;                  // [tiles, splits, rows * columns of a tile], nullptr: no splits
  unsigned long long* arrivals;  // [tiles, splits]
};

template <int kWarpsN>
INGOT_PTX void SyncStage() {
  if constexpr (kWarpsN == 1) {
    __syncwarp();
  } else {
    __syncthreads();
  }
}

// kGeneral: groups of fewer than 64 k, or zeros.
template <typename T, Codes kCodes, int kTiles, int kWarpsN, bool kGeneral>
struct Worker {
  static constexpr int kCodeBytes = kCodes == Codes::kBytes ? 2 * 512 : 512;  // of a panel in a stage
  static constexpr int kColumns = kWarpsN * kWarpPanels * kPanel;
  static constexpr int kSumStride = kColumns + 4;  // free of bank conflicts for lanes' 4 pairs of rows by 8 columns
  static constexpr int kRowsAtATime = kWarpsN * 32 / 8;  // of X that the warps of a row copy, 8 pieces each
  static constexpr int kPieces = kTiles * 8 > kRowsAtATime ? kTiles * 8 / kRowsAtATime : 1;  // of a thread

  const Problem& p;
  const Layout& layout;
  uint8_t* shared;
  int lane, warp_n, warp_k, warps_k;
  int first_row, rows;  // of X in this block
  int first_step, end_step;
  // What a stage's address is added to: where this thread writes pieces of X and reads their matrices, and the warp's
  // weights.
  uint32_t x_write, x_read, codes;
  // Where this thread reads its pieces of the next step to be loaded.
  const uint8_t* from_codes[kWarpPanels];
  const uint8_t* from_scales;
  const uint8_t* from_zeros;
  const uint16_t* from_x;
  int x_row, x_k;
  float total[kWarpPanels][kTiles][4];
  float sums[kWarpPanels][kTiles][4];

  INGOT_PTX Worker(const Problem& problem, const Layout& sizes, uint8_t* memory)
      : p(problem), layout(sizes), shared(memory) {
    const int warp = static_cast<int>(threadIdx.x) / 32;
    lane = static_cast<int>(threadIdx.x) % 32;
    warp_n = warp % kWarpsN;
    warp_k = warp / kWarpsN;
    warps_k = static_cast<int>(blockDim.x) / 32 / kWarpsN;
    first_row = static_cast<int>(blockIdx.z) * kTiles * 8;
    rows = min(p.rows - first_row, kTiles * 8);
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
    SetAddresses();
  }

  // In a stage lie X for each row of warps, [x_rows, 64] with the pieces of 16 bytes of row r at i ^ (r % 8), then the
  // codes, scales and zeros of both panels for each warp.
  INGOT_PTX void SetAddresses() {
    const uint32_t start = ptx::SharedAddress(shared);
    const int x_bytes = layout.x_rows * kRowBytes;
    const uint32_t x = start + static_cast<uint32_t>(warp_k * x_bytes);
    const int piece = warp_n * 32 + lane, chunk = piece % 8;
    x_row = piece / 8;
    x_k = first_step * kStep + chunk * 8;
    x_write = x + static_cast<uint32_t>(x_row * kRowBytes + ((chunk ^ (x_row & 7)) << 4));
    from_x = static_cast<const uint16_t*>(p.x) + (first_row + x_row) * p.x_stride + x_k;
    // Rows past the last are those of the last: nobody reads their sums. More than one tile has all of its rows.
    const int row = min(lane % 8, layout.x_rows - 1);
    x_read = x + static_cast<uint32_t>(row * kRowBytes + ((lane / 8 ^ (row & 7)) << 4));
    codes = start + static_cast<uint32_t>(warps_k * x_bytes + (warp_k * kWarpsN + warp_n) * layout.warp_bytes);
#pragma unroll
    for (int i = 0; i < kWarpPanels; ++i)
      from_codes[i] = p.weights + (static_cast<int64_t>(PanelAt(i)) * p.steps + first_step) * kCodeBytes + lane * 16;
    from_scales = NumbersOf(p.scales, BytesOf(p.scale_type));
    from_zeros = kGeneral && p.zeros != nullptr ? NumbersOf(p.zeros, 1) : nullptr;
  }

  INGOT_PTX int PanelAt(int i) const {
    return min((static_cast<int>(blockIdx.x) * kWarpsN + warp_n) * kWarpPanels + i, p.panels - 1);
  }

  // The lower half of the warp copies numbers of one panel, the upper half those of the other, in pieces of 16 bytes.
  INGOT_PTX const uint8_t* NumbersOf(const uint8_t* from, int element) const {
    return from + static_cast<int64_t>(PanelAt(lane / 16)) * p.groups * (kPanel * element) + lane % 16 * 16;
  }
  INGOT_PTX void LoadNumbers(const uint8_t* from, int element, int step, int bytes_of_panel, uint32_t to) const {
    const int piece = lane % 16 * 16;
    if (piece >= bytes_of_panel) return;
    const int group_bytes = kPanel * element;
    const int at = (step * kStep >> p.group_shift) * group_bytes;
    const bool exists = !kGeneral || at + piece < p.groups * group_bytes;
    to += static_cast<uint32_t>(lane / 16 * bytes_of_panel + piece);
    if constexpr (kGeneral) {
      ptx::CopyAsyncFill<16>(to, exists ? from + at : from - piece, exists ? 16 : 0);
    } else {
      ptx::CopyAsync<16>(to, from + at);
    }
  }

  INGOT_PTX void LoadWeights(int step, uint32_t stage) {
    if (step < end_step) {
      const uint32_t to = codes + stage;
#pragma unroll
      for (int i = 0; i < kWarpPanels; ++i) {
#pragma unroll
        for (int half = 0; half < kCodeBytes / 512; ++half)
          ptx::CopyAsync<16>(to + static_cast<uint32_t>(i * kCodeBytes + half * 512 + lane * 16),
                             from_codes[i] + half * 512);
        from_codes[i] += kCodeBytes;
      }
      LoadNumbers(from_scales, BytesOf(p.scale_type), step, layout.scale_bytes, to + kWarpPanels * kCodeBytes);
      if (kGeneral && p.zeros != nullptr)
        LoadNumbers(from_zeros, 1, step, layout.zero_bytes,
                    to + static_cast<uint32_t>(kWarpPanels * (kCodeBytes + layout.scale_bytes)));
    }
  }

  INGOT_PTX void LoadX(int step, uint32_t stage) {
    if (step < end_step) {
#pragma unroll
      for (int i = 0; i < kPieces; ++i) {
        const int row = x_row + i * kRowsAtATime;
        const bool exists = row < rows && x_k < p.depth;
        // Rows that are 4 apart differ in the bit of the swizzle that 64 is.
        const uint32_t to = ((x_write + stage) ^ (i * kRowsAtATime % 8 == 0 ? 0 : 64)) +
                            static_cast<uint32_t>(i * kRowsAtATime * kRowBytes);
        if (row < layout.x_rows)
          ptx::CopyAsyncFill<16>(to, exists ? static_cast<const void*>(from_x + i * kRowsAtATime * p.x_stride) : p.x,
                                 exists ? 16 : 0);
      }
      from_x += kStep;
      x_k += kStep;
    }
  }

  INGOT_PTX Offsets OffsetsFor(const uint8_t* zeros, int i, int group) const {
    const uint8_t* of_group = zeros + i * layout.zero_bytes + group * kPanel + lane / 4;
    return OffsetsOf<T, kCodes>(static_cast<int8_t>(of_group[0]), static_cast<int8_t>(of_group[8]));
  }

  // Adds the sums of a group, times its scales, to the totals.
  INGOT_PTX void Flush(const uint8_t* scales, int group) {
    const uint8_t* from = scales + (group * kPanel + lane / 4) * BytesOf(p.scale_type);
    float numbers[2 * kWarpPanels];
    ReadRows({from, from + layout.scale_bytes}, p.scale_type, numbers);
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

  INGOT_PTX void Multiply(int step, uint32_t stage, Offsets (&offsets)[kWarpPanels]) {
    const uint32_t at = codes + stage;
    const uint8_t* scales = shared + (at - ptx::SharedAddress(shared)) + kWarpPanels * kCodeBytes;
    const uint8_t* zeros = scales + kWarpPanels * layout.scale_bytes;
    // Matrices that share a scale: 1 << fine_shift.
    const int fine_shift = kGeneral && p.group_shift < 6 ? p.group_shift - 4 : 2;
    uint4 words[kWarpPanels][kCodeBytes / 512];
#pragma unroll
    for (int i = 0; i < kWarpPanels; ++i) {
#pragma unroll
      for (int half = 0; half < kCodeBytes / 512; ++half)
        words[i][half] = ptx::LoadShared128(at + static_cast<uint32_t>(i * kCodeBytes + half * 512 + lane * 16));
    }
#pragma unroll
    for (int pair = 0; pair < 2; ++pair) {
      uint32_t b[kTiles][2][2];
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile)
        ptx::LoadMatrix4(b[tile][0][0], b[tile][0][1], b[tile][1][0], b[tile][1][1],
                         ((x_read + stage) ^ (pair * 64)) + static_cast<uint32_t>(tile * 8 * kRowBytes));
#pragma unroll
      for (int inner = 0; inner < 2; ++inner) {
        const int matrix = 2 * pair + inner;
        if (kGeneral && p.zeros != nullptr && (matrix & ((1 << fine_shift) - 1)) == 0) {
#pragma unroll
          for (int i = 0; i < kWarpPanels; ++i) offsets[i] = OffsetsFor(zeros, i, matrix >> fine_shift);
        }
#pragma unroll
        for (int i = 0; i < kWarpPanels; ++i) {
          uint32_t a[4];
          if constexpr (kCodes == Codes::kBytes) {
            const uint4 v = words[i][pair];
            DequantizeBytes<T>(inner == 0 ? v.x : v.z, inner == 0 ? v.y : v.w, offsets[i], a);
          } else {
            const uint4 v = words[i][0];
            Dequantize<T, kCodes>(matrix == 0   ? v.x
                                  : matrix == 1 ? v.y
                                  : matrix == 2 ? v.z
                                                : v.w,
                                  offsets[i], p.table, a);
          }
#pragma unroll
          for (int tile = 0; tile < kTiles; ++tile) Pairs<T>::Mma(sums[i][tile], a, b[tile][inner]);
        }
        if (kGeneral && matrix < 3 && ((matrix + 1) & ((1 << fine_shift) - 1)) == 0)
          Flush(scales, matrix >> fine_shift);
      }
    }
    // A group of more than a step may go on.
    const bool ends = step + 1 == end_step || ((step + 1) * kStep & ((1 << p.group_shift) - 1)) == 0;
    if ((kGeneral && p.group_shift < 6) || ends) Flush(scales, kGeneral ? 3 >> fine_shift : 0);
  }

  INGOT_PTX void Run() {
    Offsets offsets[kWarpPanels];
#pragma unroll
    for (int i = 0; i < kWarpPanels; ++i) offsets[i] = OffsetsOf<T, kCodes>(0, 0);
    const int slices = static_cast<int>(gridDim.y) * warps_k;
    const int count = (p.steps + slices - 1) / slices;  // of all warps
    const auto stage_bytes = static_cast<uint32_t>(layout.stage_bytes);
    // Weights are constants: what stands in front on the stream does not write them.
#pragma unroll
    for (uint32_t i = 0; i < kStages - 1; ++i) LoadWeights(first_step + static_cast<int>(i), i * stage_bytes);
    ptx::GridLaunchDependents();
    ptx::GridDependencyWait();
#pragma unroll
    for (uint32_t i = 0; i < kStages - 1; ++i) {
      LoadX(first_step + static_cast<int>(i), i * stage_bytes);
      ptx::CopyAsyncCommit();
    }
    uint32_t stage = 0, free = (kStages - 1) * stage_bytes;
    for (int step = first_step; step < first_step + count; ++step) {
      ptx::CopyAsyncWait<kStages - 2>();
      SyncStage<kWarpsN>();
      LoadWeights(step + kStages - 1, free);
      LoadX(step + kStages - 1, free);
      ptx::CopyAsyncCommit();
      if (step < end_step) Multiply(step, stage, offsets);
      free = stage;
      stage = stage == (kStages - 1) * stage_bytes ? 0 : stage + stage_bytes;
    }
    ptx::CopyAsyncWait<0>();
    __syncthreads();
  }

  // Puts the warps' totals side by side: [warps_k][rows][kSumStride].
  INGOT_PTX void Store() const {
    float* to = reinterpret_cast<float*>(shared) + warp_k * layout.x_rows * kSumStride + warp_n * kWarpPanels * kPanel +
                lane / 4;
#pragma unroll
    for (int i = 0; i < kWarpPanels; ++i) {
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          const int row = tile * 8 + lane % 4 * 2 + j % 2;
          if (row < rows) to[row * kSumStride + i * kPanel + j / 2 * 8] = total[i][tile][j];
        }
      }
    }
    __syncthreads();
  }

  INGOT_PTX float Sum(int row, int column) const {
    const float* from = reinterpret_cast<const float*>(shared) + row * kSumStride + column;
    float sum = from[0];
    for (int k = 1; k < warps_k; ++k) sum += from[k * layout.x_rows * kSumStride];
    return sum;
  }
};

template <typename T, Codes kCodes, int kTiles, int kWarpsN, bool kGeneral>
__global__ void __launch_bounds__(kWarpsN == 1  ? 1024
                                  : kTiles == 8 ? 256
                                                : 512) Streamed(const Problem p, const Layout layout) {
  INGOT_DYNAMIC_SHARED(uint8_t, shared);
  Worker<T, kCodes, kTiles, kWarpsN, kGeneral> worker(p, layout, shared);
  constexpr int kColumns = Worker<T, kCodes, kTiles, kWarpsN, kGeneral>::kColumns;
  worker.Run();
  worker.Store();
  const int first_column = static_cast<int>(blockIdx.x) * kColumns;
  if (gridDim.y == 1) {
    for (int i = static_cast<int>(threadIdx.x); i < worker.rows * kColumns; i += static_cast<int>(blockDim.x)) {
      const int column = first_column + i % kColumns;
      if (column < p.columns)
        Finish(p, worker.first_row + i / kColumns, column,
               [&](int further) { return worker.Sum(i / kColumns, i % kColumns + further); });
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
    const int column = first_column + i % kColumns;
    if (column < p.columns)
      Finish(p, worker.first_row + i / kColumns, column,
             [&](int further) { return SumOfParts(parts + i + further, kPart); });
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
  const int wanted =
      kWarpsN == 1 ? static_cast<int>(CeilDivide(int64_t{28} * multiprocessors, std::max(blocks, 1))) : kMostWarps;
  int warps = choice.warps != 0 ? choice.warps : 4;
  if (choice.warps == 0) {
    while (warps < wanted) warps *= 2;
  }
  warps = std::clamp(warps, 1, std::min(kMostWarps, p.steps));
  int splits = choice.splits;
  if (splits == 0) splits = kWarpsN == 1 ? 1 : std::max(1, multiprocessors / std::max(blocks, 1));
  splits = std::clamp(splits, 1, std::max(1, std::min(p.steps / warps, 32)));

  Layout layout{};
  layout.x_rows = kTiles == 1 ? std::min(p.rows, 8) : kTiles * 8;
  const int groups = p.group_shift >= 6 ? 1 : kStep >> p.group_shift;
  layout.scale_bytes = groups * kPanel * BytesOf(p.scale_type);
  layout.zero_bytes = p.zeros == nullptr ? 0 : groups * kPanel;
  layout.warp_bytes = kWarpPanels * (StepBytes(kCodes) + layout.scale_bytes + layout.zero_bytes);
  // Whole rows of X: the swizzle is one of addresses.
  const auto stage_bytes = [&](int w) {
    return (w * (layout.x_rows * kRowBytes + kWarpsN * layout.warp_bytes) + kRowBytes - 1) / kRowBytes * kRowBytes;
  };
  const auto sum_bytes = [&](int w) { return w * layout.x_rows * (kColumns + 4) * 4; };
  const int most_bytes = MostSharedBytes(context.capability());
  while (warps > 1 && std::max(kStages * stage_bytes(warps), sum_bytes(warps)) > most_bytes) warps /= 2;
  layout.stage_bytes = stage_bytes(warps);
  const int shared_bytes = std::max(kStages * layout.stage_bytes, sum_bytes(warps));

  if (splits > 1) {
    layout.parts = context.DeviceScratch<float>(size_t(blocks) * size_t(splits) * kTiles * 8 * kColumns);
    layout.arrivals = context.DeviceScratch<unsigned long long>(size_t(blocks) * size_t(splits));
  }
  const dim3 grid(static_cast<unsigned>(column_blocks), static_cast<unsigned>(splits),
                  static_cast<unsigned>(row_blocks));
  const dim3 block(static_cast<unsigned>(warps * kWarpsN * 32));
  const bool general = p.group_shift < 6 || p.zeros != nullptr;
  const auto kernel =
      general ? Streamed<T, kCodes, kTiles, kWarpsN, true> : Streamed<T, kCodes, kTiles, kWarpsN, false>;
  CudaContext::Check(
      LaunchWith(true, kernel, grid, block, static_cast<size_t>(shared_bytes), context.stream(), p, layout),
      "quantized_matmul");
}

// Up to so many rows a block has 32 columns, so that all of the GPU's bandwidth is used whatever N is; from there on
// reading X again for every 32 columns takes more time than that saves.
constexpr int kMostStreamedRows = 4;

template <typename T, Codes kCodes>
void StartRows(CudaContext& context, const Problem& p, const Choice& choice) {
  if (choice.path == 1 ? p.rows <= 8 : choice.path == 0 && p.rows <= kMostStreamedRows)
    return Start<T, kCodes, 1, 1>(context, p, choice);
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

int64_t StreamedCycles(const Problem& problem, int multiprocessors) {
  // Of blocks of 64 rows by 128 columns, whose step is 2^19 multiply-adds, of which mma.sync makes about 1,100 in a
  // cycle.
  const int64_t blocks = CeilDivide(problem.rows, 64) * CeilDivide(problem.columns, 128);
  const int64_t splits = std::max<int64_t>(1, multiprocessors / blocks);
  constexpr int64_t kAddingUp = 4000;
  return CeilDivide(blocks * splits, std::max(multiprocessors, 1)) * CeilDivide(problem.steps, splits) * 480 +
         (splits > 1 ? kAddingUp : 0);
}

void LaunchStreamed(CudaContext& context, const Problem& problem, const Choice& choice) {
  if (problem.x_type == Element::kHalf) return StartCodes<__half>(context, problem, choice);
  StartCodes<__nv_bfloat16>(context, problem, choice);
}

}  // namespace ingot::cuda::quantized_matmul
