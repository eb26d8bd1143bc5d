// Products of up to 8 rows on Hopper: what streamed.cu does, but that bulk copies bring weights and X.
//
// A warp's part of K is contiguous for each of its two panels, so that a lane asks for some KiB at a time: nothing but
// unpacking and products is left to do for the others. All warps of a block share K. X and scales of a warp's part are
// loaded at the start, codes pass through a ring.
#include <algorithm>

#include "cuda/quantized_matmul/epilogue.h"

namespace ingot::cuda::quantized_matmul {
namespace {

constexpr int kWarpPanels = 2;
constexpr int kColumns = kWarpPanels * kPanel;
constexpr int kSumStride = kColumns + 4;  // free of bank conflicts for lanes' 4 pairs of rows by 8 columns
constexpr int kMostStages = 8;
constexpr int kMostWarps = 32;
constexpr int kChunkSteps = 2;  // of a stage

// Sizes in bytes of what lies in shared memory: for each warp a ring of stages, its scales, its part of X.
struct Layout {
  int32_t stages;
  int32_t part_steps;   // of K, of a warp, at most
  int32_t scale_bytes;  // of a panel, of a warp's part
  int32_t
      x_pitch;  // of a row of X of a warp's part: 16 bytes more than its length, so that rows are in different banks
  int32_t warp_bytes;
};

#if INGOT_HOPPER

template <typename T, Codes kCodes>
struct Worker {
  static constexpr int kCodeBytes = kCodes == Codes::kBytes ? 2 * 512 : 512;  // of a panel in a step
  static constexpr int kStageBytes = kChunkSteps * kWarpPanels * kCodeBytes;

  const Problem& p;
  const Layout& layout;
  uint8_t* shared;
  uint32_t ring, barriers;
  int lane, panel, first_step, end_step;
  float total[kWarpPanels][4] = {};
  float sums[kWarpPanels][4] = {};

  INGOT_PTX Worker(const Problem& problem, const Layout& sizes, uint8_t* memory)
      : p(problem), layout(sizes), shared(memory) {
    const int warp = static_cast<int>(threadIdx.x) / 32, warps = static_cast<int>(blockDim.x) / 32;
    lane = static_cast<int>(threadIdx.x) % 32;
    panel = static_cast<int>(blockIdx.x) * kWarpPanels;
    first_step = static_cast<int>(int64_t{p.steps} * warp / warps);
    end_step = static_cast<int>(int64_t{p.steps} * (warp + 1) / warps);
    shared += warp * layout.warp_bytes;
    ring = ptx::SharedAddress(shared);
    barriers =
        ptx::SharedAddress(memory) + static_cast<uint32_t>(warps * layout.warp_bytes + warp * (kMostStages + 1) * 8);
  }

  INGOT_PTX int PanelAt(int i) const { return min(panel + i, p.panels - 1); }
  INGOT_PTX uint32_t ScalesOffset() const { return static_cast<uint32_t>(layout.stages * kStageBytes); }
  INGOT_PTX uint32_t XOffset() const {
    return ScalesOffset() + static_cast<uint32_t>(kWarpPanels * layout.scale_bytes);
  }

  // One lane: the codes of chunk `chunk`.
  INGOT_PTX void LoadCodes(int chunk, int stage) const {
    const int step = first_step + chunk * kChunkSteps;
    const uint32_t bytes = static_cast<uint32_t>(min(kChunkSteps, end_step - step) * kCodeBytes);
    const uint32_t barrier = barriers + static_cast<uint32_t>(stage) * 8;
    ptx::BarrierArriveExpect(barrier, kWarpPanels * bytes);
#pragma unroll
    for (int i = 0; i < kWarpPanels; ++i)
      ptx::BulkLoad(ring + static_cast<uint32_t>(stage * kStageBytes + i * kChunkSteps * kCodeBytes),
                    p.weights + (static_cast<int64_t>(PanelAt(i)) * p.steps + step) * kCodeBytes, bytes, barrier);
  }

  // One lane: scales, and rows of X, whose last piece ends with them.
  INGOT_PTX void LoadNumbers(uint32_t barrier) const {
    const int group_bytes = kPanel * BytesOf(p.scale_type);
    const int first_group = first_step * kStep >> p.group_shift;
    const auto scale_bytes =
        static_cast<uint32_t>((((end_step * kStep - 1) >> p.group_shift) + 1 - first_group) * group_bytes);
#pragma unroll
    for (int i = 0; i < kWarpPanels; ++i)
      ptx::BulkLoad(ring + ScalesOffset() + static_cast<uint32_t>(i * layout.scale_bytes),
                    p.scales + (static_cast<int64_t>(PanelAt(i)) * p.groups + first_group) * group_bytes, scale_bytes,
                    barrier);
    ptx::BarrierExpect(barrier, kWarpPanels * scale_bytes);
    ptx::GridLaunchDependents();
    ptx::GridDependencyWait();
    const auto x_bytes = static_cast<uint32_t>((min(end_step * kStep, p.depth) - first_step * kStep) * 2);
    ptx::BarrierArriveExpect(barrier, static_cast<uint32_t>(p.rows) * x_bytes);
    for (int row = 0; row < p.rows; ++row)
      ptx::BulkLoad(ring + XOffset() + static_cast<uint32_t>(row * layout.x_pitch),
                    static_cast<const uint16_t*>(p.x) + row * p.x_stride + first_step * kStep, x_bytes, barrier);
  }

  // Adds the sums of a group, times its scales, to the totals.
  INGOT_PTX void Flush(const uint8_t* scales) {
    float numbers[2 * kWarpPanels];
    ReadRows({scales, scales + layout.scale_bytes}, p.scale_type, numbers);
#pragma unroll
    for (int i = 0; i < kWarpPanels; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        total[i][j] = fmaf(numbers[2 * i + j / 2], sums[i][j], total[i][j]);
        sums[i][j] = 0;
      }
    }
  }

  INGOT_PTX void Multiply(uint32_t codes, uint32_t x, const Offsets& offsets) {
    uint4 words[kWarpPanels][kCodeBytes / 512];
#pragma unroll
    for (int i = 0; i < kWarpPanels; ++i) {
#pragma unroll
      for (int half = 0; half < kCodeBytes / 512; ++half)
        words[i][half] = ptx::LoadShared128(codes + static_cast<uint32_t>(i * kChunkSteps * kCodeBytes + half * 512));
    }
#pragma unroll
    for (int pair = 0; pair < 2; ++pair) {
      uint32_t b[2][2];
      ptx::LoadMatrix4(b[0][0], b[0][1], b[1][0], b[1][1], x + static_cast<uint32_t>(pair * 64));
#pragma unroll
      for (int inner = 0; inner < 2; ++inner) {
        const int matrix = 2 * pair + inner;
#pragma unroll
        for (int i = 0; i < kWarpPanels; ++i) {
          uint32_t a[4];
          if constexpr (kCodes == Codes::kBytes) {
            const uint4 v = words[i][pair];
            DequantizeBytes<T>(inner == 0 ? v.x : v.z, inner == 0 ? v.y : v.w, offsets, a);
          } else {
            const uint4 v = words[i][0];
            Dequantize<T, kCodes>(matrix == 0 ? v.x : matrix == 1 ? v.y : matrix == 2 ? v.z : v.w, offsets, p.table, a);
          }
          Pairs<T>::Mma(sums[i], a, b[inner]);
        }
      }
    }
  }

  INGOT_PTX void Run() {
    const int count = end_step - first_step;
    const int chunks = (count + kChunkSteps - 1) / kChunkSteps;
    const uint32_t numbers = barriers + kMostStages * 8;
    if (count > 0 && lane == 0) {
      for (int i = 0; i < layout.stages; ++i) ptx::BarrierInit(barriers + static_cast<uint32_t>(i) * 8, 1);
      ptx::BarrierInit(numbers, 1);
      ptx::FenceBarrierInit();
      for (int i = 0; i < min(chunks, layout.stages); ++i) LoadCodes(i, i);
      LoadNumbers(numbers);
    }
    // K past the last column of X, where it counts as 0: in whole steps.
    for (int k = max(p.depth, first_step * kStep) + lane; k < end_step * kStep; k += 32) {
      for (int row = 0; row < p.rows; ++row)
        *reinterpret_cast<uint16_t*>(shared + XOffset() + row * layout.x_pitch + (k - first_step * kStep) * 2) = 0;
    }
    __syncwarp();
    if (count == 0) return;
    const Offsets offsets = OffsetsOf<T, kCodes>(0, 0);
    // Rows past the last are those of the last: nobody reads their sums.
    uint32_t x = ring + XOffset() + static_cast<uint32_t>(min(lane % 8, p.rows - 1) * layout.x_pitch + lane / 8 * 16);
    const int mask = (1 << p.group_shift) / kStep - 1;  // of steps of a group
    ptx::BarrierWait(numbers, 0);
    const int element = BytesOf(p.scale_type);
    const uint8_t* scales = shared + ScalesOffset() + lane / 4 * element;
    int stage = 0;
    uint32_t phase = 0;
    for (int chunk = 0; chunk < chunks; ++chunk) {
      ptx::BarrierWait(barriers + static_cast<uint32_t>(stage) * 8, phase);
      const uint32_t codes = ring + static_cast<uint32_t>(stage * kStageBytes + lane * 16);
#pragma unroll
      for (int i = 0; i < kChunkSteps; ++i) {
        const int step = first_step + chunk * kChunkSteps + i;
        if (step < end_step) {
          Multiply(codes + static_cast<uint32_t>(i * kCodeBytes), x, offsets);
          x += kStep * 2;
          if (((step + 1) & mask) == 0 || step + 1 == end_step) {
            Flush(scales);
            scales += kPanel * element;
          }
        }
      }
      if (chunk + layout.stages < chunks) {
        __syncwarp();  // all lanes have read the stage
        if (lane == 0) LoadCodes(chunk + layout.stages, stage);
      }
      if (++stage == layout.stages) {
        stage = 0;
        phase ^= 1;
      }
    }
  }
};

#endif

template <typename T, Codes kCodes>
__global__ void __launch_bounds__(kMostWarps * 32) Bulk(const Problem p, const Layout layout) {
#if INGOT_HOPPER
  INGOT_DYNAMIC_SHARED(uint8_t, shared);
  Worker<T, kCodes> worker(p, layout, shared);
  worker.Run();
  ptx::GridDependencyWait();  // of every thread, which reads the residual and writes Y
  __syncthreads();
  // The warps' totals side by side, [warps][rows][kSumStride], are added up in order.
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32;
  auto* parts = reinterpret_cast<float*>(shared);
  float* to = parts + thread / 32 * p.rows * kSumStride + lane / 4;
#pragma unroll
  for (int i = 0; i < kWarpPanels; ++i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const int row = lane % 4 * 2 + j % 2;
      if (row < p.rows) to[row * kSumStride + i * kPanel + j / 2 * 8] = worker.total[i][j];
    }
  }
  __syncthreads();
  for (int i = thread; i < p.rows * kColumns; i += static_cast<int>(blockDim.x)) {
    const int row = i / kColumns, column = static_cast<int>(blockIdx.x) * kColumns + i % kColumns;
    if (column >= p.columns) continue;
    Finish(p, row, column, [&](int further) {
      const float* from = parts + row * kSumStride + i % kColumns + further;
      float sum = from[0];
      for (int warp = 1; warp < static_cast<int>(blockDim.x) / 32; ++warp) sum += from[warp * p.rows * kSumStride];
      return sum;
    });
  }
#endif
}

template <typename T, Codes kCodes>
bool Start(CudaContext& context, const Problem& p, const Choice& choice) {
  constexpr int kStageBytes = kChunkSteps * kWarpPanels * kPanel * kStep / (kCodes == Codes::kBytes ? 1 : 2);
  constexpr int kMostBytes = 227 * 1024;
  const int blocks = static_cast<int>(CeilDivide(p.columns, kColumns));
  // About 28 warps on a multiprocessor keep enough bytes under way.
  const int64_t wanted = CeilDivide(int64_t{28} * std::max(context.multiprocessors(), 1), blocks);
  int warps = choice.warps;
  if (warps == 0) {
    warps = 4;
    while (warps < wanted) warps *= 2;
  }
  warps = std::clamp(warps, 1, std::min(kMostWarps, p.steps));
  Layout layout{};
  layout.part_steps = static_cast<int32_t>(CeilDivide(p.steps, warps));
  const int groups = ((layout.part_steps * kStep - 1) >> p.group_shift) + 2;
  layout.scale_bytes = groups * kPanel * BytesOf(p.scale_type);
  layout.x_pitch = layout.part_steps * kStep * 2 + 16;
  const int chunks = static_cast<int>(CeilDivide(layout.part_steps, kChunkSteps));
  layout.stages = std::clamp(choice.stages != 0 ? choice.stages : 4, 1, std::min(kMostStages, chunks));
  const int sum_bytes = warps * p.rows * kSumStride * 4;
  const auto bytes = [&] {
    layout.warp_bytes = layout.stages * kStageBytes + kWarpPanels * layout.scale_bytes + p.rows * layout.x_pitch;
    return std::max(warps * (layout.warp_bytes + (kMostStages + 1) * 8), sum_bytes);
  };
  while (layout.stages > 2 && bytes() > kMostBytes) --layout.stages;
  const int shared_bytes = bytes();
  if (shared_bytes > kMostBytes) return false;
  CudaContext::Check(
      LaunchWith(true, Bulk<T, kCodes>, dim3(static_cast<unsigned>(blocks)), dim3(static_cast<unsigned>(warps * 32)),
                 static_cast<size_t>(shared_bytes), context.stream(), p, layout),
      "quantized_matmul with bulk copies");
  return true;
}

template <typename T>
bool StartCodes(CudaContext& context, const Problem& p, const Choice& choice) {
  switch (p.codes) {
    case Codes::kBytes:
      return Start<T, Codes::kBytes>(context, p, choice);
    case Codes::kNibbles:
      return Start<T, Codes::kNibbles>(context, p, choice);
    case Codes::kTable:
      return Start<T, Codes::kTable>(context, p, choice);
  }
  return false;
}

}  // namespace

bool LaunchBulk(CudaContext& context, const Problem& problem, const Choice& choice) {
  if (problem.rows > 8 || problem.group_shift < 6 || problem.zeros != nullptr) return false;
  if (problem.x_type == Element::kHalf) return StartCodes<__half>(context, problem, choice);
  return StartCodes<__nv_bfloat16>(context, problem, choice);
}

}  // namespace ingot::cuda::quantized_matmul
