// Products of many rows on Hopper: Y^T = W X^T with W as operand A of wgmma, whose registers weights become numbers in.
//
// A block has a warp that loads X by TMA, kRows rows by 64 k at a time, into a ring in shared memory, and two
// warpgroups that compute 64 columns of Y for all of these rows each. Their warps read the codes of a panel straight
// from global memory, two steps ahead, and make operands of the next step while the tensor cores multiply those of the
// last. Blocks stay: they compute one tile after another, in bands of rows of Y.
#include <algorithm>

#include "cuda/bands.h"
#include "cuda/quantized_matmul/epilogue.h"
#include "cuda/tensor_map.h"

namespace ingot::cuda::quantized_matmul {
namespace {

constexpr int kConsumers = 2;      // warpgroups
constexpr int kGroupColumns = 64;  // of Y, of a warpgroup
constexpr int kTileColumns = kConsumers * kGroupColumns;
constexpr int kThreads = (kConsumers + 1) * 128;
constexpr int kMostStages = 8;
constexpr int kSharedBytes = 227 * 1024;
// A warpgroup writes rows of Y through shared memory, so many at a time, 64 columns side by side.
constexpr int kWriteRows = 32, kWriteStride = kGroupColumns + 4;
constexpr int kWriteBytes = kConsumers * kWriteRows * kWriteStride * 4;

template <int kRows>
constexpr int kStageBytes = kRows * kStep * 2;
template <int kRows>
constexpr int kStages = std::min(kMostStages, (kSharedBytes - kWriteBytes - 2048) / kStageBytes<kRows>);
template <int kRows>
constexpr int kUsedBytes = kStages<kRows> * kStageBytes<kRows> + kWriteBytes + 2 * kMostStages * 8;

#if INGOT_HOPPER

// Rows of Y whose tiles are computed column by column. A row of X is four times the bytes of a column of W: 132 blocks
// read least with about 1,000 rows by 4,000 columns under way, and with many columns X is read once from memory.
constexpr int kBandRows = 1024;

// Where a thread is in the ring.
struct Place {
  int stage = 0;
  uint32_t phase = 0;
  INGOT_PTX void Advance(int stages) {
    if (++stage == stages) {
      stage = 0;
      phase ^= 1;
    }
  }
};

// Scales or zeros of two rows, as they lie in memory: what converts them waits for them.
struct Numbers {
  uint32_t even, odd;
};

INGOT_PTX Numbers ReadNumbers(const uint8_t* from, int bytes) {  // from: of the first; the second is 8 on
  const auto* words = reinterpret_cast<const uint32_t*>(from);
  const auto* halves = reinterpret_cast<const uint16_t*>(from);
  if (bytes == 2) return {halves[0], halves[8]};
  if (bytes == 4) return {words[0], words[8]};
  return {from[0], from[8]};
}

INGOT_PTX float ToFloat(uint32_t number, Element type) {
  switch (type) {
    case Element::kFloat:
      return __uint_as_float(number);
    case Element::kHalf:
      return __half2float(__ushort_as_half(static_cast<unsigned short>(number)));
    case Element::kBfloat:
      return __uint_as_float(number << 16);
    case Element::kPower:
      return PowerOf(number);
    default:
      return static_cast<float>(static_cast<int8_t>(number));
  }
}

// kGeneral: groups of fewer than 64 k, or zeros.
template <typename T, Codes kCodes, int kRows, bool kGeneral>
struct Consumer {
  static constexpr int kWords = kCodes == Codes::kBytes ? 2 : 1;  // pieces of 16 bytes of a step

  const Problem& p;
  uint32_t x_address, full, empty;
  int lane;
  int panel;
  const uint8_t* codes_from;  // this lane's
  Place place;
  uint4 codes[2][kWords];                 // of the next two steps
  Numbers scales[2] = {}, zeros[2] = {};  // likewise, where they are the same in all of a step
  float sums[kRows / 2];

  INGOT_PTX Consumer(const Problem& problem, uint32_t x, uint32_t full_barriers, uint32_t empty_barriers)
      : p(problem),
        x_address(x),
        full(full_barriers),
        empty(empty_barriers),
        lane(static_cast<int>(threadIdx.x) % 32) {}

  INGOT_PTX Numbers ReadPair(const uint8_t* from, Element type, int k) const {
    const int group = min(k >> p.group_shift, p.groups - 1);
    const int64_t at = (static_cast<int64_t>(panel) * p.groups + group) * kPanel + lane / 4;
    return ReadNumbers(from + at * BytesOf(type), BytesOf(type));
  }

  INGOT_PTX bool Fine() const { return kGeneral && p.group_shift < 6; }  // more than one group in a step
  INGOT_PTX bool HasZeros() const { return kGeneral && p.zeros != nullptr; }

  template <int kBuffer>
  INGOT_PTX void Fetch(int step) {
    if (step >= p.steps) return;
    const uint8_t* from = codes_from + static_cast<int64_t>(step) * kWords * 512;
#pragma unroll
    for (int i = 0; i < kWords; ++i) codes[kBuffer][i] = ptx::LoadReadOnly(from + i * 512);
    if (Fine()) return;
    scales[kBuffer] = ReadPair(p.scales, p.scale_type, step * kStep);
    if (HasZeros()) zeros[kBuffer] = ReadPair(p.zeros, Element::kByte, step * kStep);
  }

  // Pairs of a row's scale, for even and odd registers.
  INGOT_PTX Numbers PairsOf(const Numbers& numbers) const {
    const float even = ToFloat(numbers.even, p.scale_type), odd = ToFloat(numbers.odd, p.scale_type);
    return {Pairs<T>::Pack(even, even), Pairs<T>::Pack(odd, odd)};
  }

  // Operand A of the four matrices of a step.
  template <int kBuffer>
  INGOT_PTX void Dequantize4(int step, uint32_t (&a)[4][4]) {
    Numbers scale{};
    if (!Fine()) scale = PairsOf(scales[kBuffer]);
#pragma unroll
    for (int matrix = 0; matrix < 4; ++matrix) {
      Numbers zero = zeros[kBuffer];
      if (Fine()) {
        scale = PairsOf(ReadPair(p.scales, p.scale_type, step * kStep + matrix * 16));
        if (HasZeros()) zero = ReadPair(p.zeros, Element::kByte, step * kStep + matrix * 16);
      }
      Offsets offsets = OffsetsOf<T, kCodes>(0, 0);
      if (HasZeros())
        offsets = OffsetsOf<T, kCodes>(ToFloat(zero.even, Element::kByte), ToFloat(zero.odd, Element::kByte));
      if constexpr (kCodes == Codes::kBytes) {
        const uint4 v = codes[kBuffer][matrix / 2];
        DequantizeBytes<T>(matrix % 2 == 0 ? v.x : v.z, matrix % 2 == 0 ? v.y : v.w, offsets, a[matrix]);
      } else {
        const uint4 v = codes[kBuffer][0];
        Dequantize<T, kCodes>(matrix == 0   ? v.x
                              : matrix == 1 ? v.y
                              : matrix == 2 ? v.z
                                            : v.w,
                              offsets, p.table, a[matrix]);
      }
#pragma unroll
      for (int i = 0; i < 4; ++i)
        a[matrix][i] = Pairs<T>::Fma(a[matrix][i], i % 2 == 0 ? scale.even : scale.odd, 0x80008000);
    }
  }

  // One step: makes the operands, while the product of the step before runs, and starts theirs.
  template <int kBuffer>
  INGOT_PTX void Step(int step, uint32_t (&a)[4][4]) {
    Dequantize4<kBuffer>(step, a);
    Fetch<kBuffer>(step + 2);
    ptx::BarrierWait(full + static_cast<uint32_t>(place.stage) * 8, place.phase);
    const uint64_t x = ptx::MatrixDescriptor(x_address + static_cast<uint32_t>(place.stage * kStageBytes<kRows>), 16,
                                             1024, ptx::Swizzle::k128);
    ptx::WgmmaFence();
#pragma unroll
    for (int matrix = 0; matrix < 4; ++matrix)
      ptx::WgmmaRegisters<T, kRows>(sums, a[matrix], x + static_cast<uint64_t>(2 * matrix), step > 0 || matrix > 0);
    ptx::WgmmaCommit();
    ptx::WgmmaWait<1>();
    if (step > 0) Release(place.stage == 0 ? kStages<kRows> - 1 : place.stage - 1);
    place.Advance(kStages<kRows>);
  }

  INGOT_PTX void Release(int stage) const {
    if (lane == 0) ptx::BarrierArrive(empty + static_cast<uint32_t>(stage) * 8);
  }

  INGOT_PTX void Multiply(int first_panel) {
    panel = min(first_panel, p.panels - 1);
    codes_from = p.weights + static_cast<int64_t>(panel) * p.steps * kWords * 512 + lane * 16;
    Fetch<0>(0);
    Fetch<1>(1);
    uint32_t even[4][4], odd[4][4];
    int step = 0;
    for (; step + 1 < p.steps; step += 2) {
      Step<0>(step, even);
      Step<1>(step + 1, odd);
    }
    if (step < p.steps) Step<0>(step, even);
    ptx::WgmmaWait<0>();
    ptx::WgmmaPin(sums);
    Release(place.stage == 0 ? kStages<kRows> - 1 : place.stage - 1);
  }

  // Writes the warpgroup's tile, rows of `shared` at a time.
  INGOT_PTX void Write(float* shared, int first_row, int first_column, uint32_t barrier) const {
    const int thread = static_cast<int>(threadIdx.x) % 128, warp = thread / 32;
    float* to = shared + warp * kPanel + lane / 4;
    const bool vectors = CanFinishEight(p);
#pragma unroll
    for (int chunk = 0; chunk < kRows / kWriteRows; ++chunk) {
      if (first_row + chunk * kWriteRows >= p.rows) return;
      if (chunk > 0) ptx::NamedSync(barrier, 128);
#pragma unroll
      for (int tile = 0; tile < kWriteRows / 8; ++tile) {
#pragma unroll
        for (int j = 0; j < 4; ++j)
          to[(tile * 8 + lane % 4 * 2 + j % 2) * kWriteStride + j / 2 * 8] =
              sums[(chunk * kWriteRows / 8 + tile) * 4 + j];
      }
      ptx::NamedSync(barrier, 128);
      const int place = thread % (kGroupColumns / kEight) * kEight;
#pragma unroll 1
      for (int i = thread / (kGroupColumns / kEight); i < kWriteRows; i += 128 * kEight / kGroupColumns) {
        const int row = first_row + chunk * kWriteRows + i;
        if (row < p.rows) FinishUpToEight(p, vectors, row, first_column + place, shared + i * kWriteStride + place);
      }
    }
  }
};

#endif

template <typename T, Codes kCodes, int kRows, bool kGeneral>
__global__ void __launch_bounds__(kThreads, 1) Wgmma(const Problem p, const __grid_constant__ CUtensorMap x_map) {
#if INGOT_HOPPER
  INGOT_DYNAMIC_SHARED(uint8_t, shared);
  constexpr int kRing = kStages<kRows> * kStageBytes<kRows>;
  const uint32_t x = ptx::SharedAddress(shared);
  const uint32_t full = x + kRing + kWriteBytes, empty = full + kMostStages * 8;
  const int warpgroup = static_cast<int>(threadIdx.x) / 128;
  if (threadIdx.x == 0) {
    for (uint32_t i = 0; i < kStages<kRows>; ++i) {
      ptx::BarrierInit(full + i * 8, 1);
      ptx::BarrierInit(empty + i * 8, kConsumers * 4);
    }
    ptx::FenceBarrierInit();
  }
  __syncthreads();
  const int row_tiles = (p.rows + kRows - 1) / kRows;
  const int column_tiles = (p.columns + kTileColumns - 1) / kTileColumns;
  const int tiles = column_tiles * row_tiles;
  constexpr int kBand = kBandRows / kRows;
  if (warpgroup == kConsumers) {
    ptx::SetMaxRegistersDown<40>();
    if (threadIdx.x % 128 != 0) return;
    ptx::PrefetchTensorMap(&x_map);
    Place place;
    for (int tile = static_cast<int>(blockIdx.x); tile < tiles; tile += static_cast<int>(gridDim.x)) {
      const int first_row = device::FindInBands(tile, row_tiles, column_tiles, kBand).row * kRows;
      for (int step = 0; step < p.steps; ++step) {
        const uint32_t barrier = full + static_cast<uint32_t>(place.stage) * 8;
        ptx::BarrierWait(empty + static_cast<uint32_t>(place.stage) * 8, place.phase ^ 1);
        ptx::BarrierArriveExpect(barrier, kStageBytes<kRows>);
        ptx::TensorLoad(x + static_cast<uint32_t>(place.stage * kStageBytes<kRows>), &x_map, barrier, step * kStep,
                        first_row);
        place.Advance(kStages<kRows>);
      }
    }
    return;
  }
  ptx::SetMaxRegistersUp<232>();
  Consumer<T, kCodes, kRows, kGeneral> consumer(p, x, full, empty);
  float* write = reinterpret_cast<float*>(shared + kRing) + warpgroup * kWriteRows * kWriteStride;
  for (int tile = static_cast<int>(blockIdx.x); tile < tiles; tile += static_cast<int>(gridDim.x)) {
    const device::TilePlace at = device::FindInBands(tile, row_tiles, column_tiles, kBand);
    const int first_column = at.column * kTileColumns + warpgroup * kGroupColumns;
    consumer.Multiply(first_column / kPanel + static_cast<int>(threadIdx.x) % 128 / 32);
    ptx::NamedSync(1 + static_cast<uint32_t>(warpgroup), 128);  // the last tile has been read from `write`
    consumer.Write(write, at.row * kRows, first_column, 1 + static_cast<uint32_t>(warpgroup));
  }
#endif
}

template <typename T, Codes kCodes, int kRows>
void Start(CudaContext& context, const Problem& p) {
  const uint64_t extents[] = {static_cast<uint64_t>(p.depth), static_cast<uint64_t>(p.rows)};
  const uint64_t strides[] = {static_cast<uint64_t>(p.x_stride) * 2};
  const uint32_t box[] = {kStep, kRows};
  const CUtensorMap map =
      MakeTensorMap(p.x_type == Element::kHalf ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16 : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
                    p.x, extents, strides, box, ptx::Swizzle::k128);
  const int64_t tiles = CeilDivide(p.rows, kRows) * CeilDivide(p.columns, kTileColumns);
  const dim3 grid(static_cast<unsigned>(std::min<int64_t>(tiles, std::max(context.multiprocessors(), 1))));
  const bool general = p.group_shift < 6 || p.zeros != nullptr;
  const auto kernel = general ? Wgmma<T, kCodes, kRows, true> : Wgmma<T, kCodes, kRows, false>;
  CudaContext::Check(Launch(kernel, grid, dim3(kThreads), kUsedBytes<kRows>, context.stream(), p, map),
                     "quantized_matmul with wgmma");
}

// Clock cycles of all tiles of so many rows: tensor cores take 4 for a step and a row of both warpgroups, and making
// the operands of a step takes about 350.
int64_t CyclesOf(const Problem& p, int rows, int multiprocessors) {
  const int64_t tiles = CeilDivide(p.rows, rows) * CeilDivide(p.columns, kTileColumns);
  return CeilDivide(tiles, std::max(multiprocessors, 1)) * p.steps * std::max(4 * rows + 32, 350);
}

int RowsFor(const Problem& p, int multiprocessors) {
  return std::ranges::min({256, 128, 64}, {}, [&](int rows) { return CyclesOf(p, rows, multiprocessors); });
}

template <typename T, Codes kCodes>
void StartRows(CudaContext& context, const Problem& p, const Choice& choice) {
  const int rows = choice.warps != 0 ? choice.warps : RowsFor(p, context.multiprocessors()) / 8;
  if (rows >= 32) return Start<T, kCodes, 256>(context, p);
  if (rows >= 16) return Start<T, kCodes, 128>(context, p);
  Start<T, kCodes, 64>(context, p);
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

int64_t WgmmaCycles(const Problem& problem, int multiprocessors) {
  return CyclesOf(problem, RowsFor(problem, multiprocessors), multiprocessors);
}

void LaunchWgmma(CudaContext& context, const Problem& problem, const Choice& choice) {
  if (problem.x_type == Element::kHalf) return StartCodes<__half>(context, problem, choice);
  StartCodes<__nv_bfloat16>(context, problem, choice);
}

}  // namespace ingot::cuda::quantized_matmul
