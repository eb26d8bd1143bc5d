// Hopper's path. A block takes tiles of 64 queries for each of its warpgroups that compute; one more warp loads by TMA.
// The block stays for as many tiles as there are, longest first.
//
// A warpgroup holds 64 rows of scores S, of weights P and of sums O in registers. While its product P V of one block of
// keys is under way, it does the softmax of the next block, whose Q K^T was started before; and warpgroups take turns
// in starting products, so that the softmax of one falls into the products of another. The weights go from the
// registers of S into the second product without passing through shared memory.
//
// Shared memory holds tiles in panels of kPanel columns (what a swizzle spans), row after row, swizzled by TMA; wgmma
// reads Q and K as they lie (K-major) and V transposed (MN-major).
#pragma once

#include "cuda/attention_prefill/bounds.h"
#include "cuda/attention_prefill/hopper_parameters.h"
#include "cuda/attention_prefill/rows.h"
#include "cuda/launch.h"
#include "cuda/ptx.h"

namespace ingot::cuda::prefill {

// mbarriers, by their numbers: of Q, and of each stage of K and V.
enum HopperBarrier : int { kQueryFull, kQueryEmpty, kKeyFull, kKeyEmpty, kValueFull, kValueEmpty, kHopperBarriers };

// kSize: columns of a head, padded; kKeys: keys of a block; kGroups: warpgroups that compute; kStages: blocks of K, and
// of V, on their way; kOwnOutput: O has memory of its own rather than Q's, so that the next tile's Q comes before this
// one's O has left; kTurns: warpgroups take turns; kHeldQuery: Q stays in registers, and is not read from shared memory
// for each block of keys.
template <typename Element_, int kSize_, int kKeys_, int kGroups_, int kStages_, bool kOwnOutput_, bool kTurns_,
          bool kHeldQuery_ = false>
struct HopperTile {
  using Element = Element_;
  static constexpr int kSize = kSize_, kKeys = kKeys_, kGroups = kGroups_, kStages = kStages_;
  static constexpr bool kOwnOutput = kOwnOutput_, kTurns = kTurns_, kHeldQuery = kHeldQuery_;
  static_assert(kOwnOutput || !kHeldQuery);

  static constexpr int kRows = 64 * kGroups;
  static constexpr int kThreads = 128 * (kGroups + 1);
  static constexpr int kPanel = kSize % 64 == 0 ? 64 : 32;
  static constexpr int kPanels = kSize / kPanel;
  static constexpr int kPanelBytes = kPanel * 2;  // of one row
  static constexpr int kGroupBytes = 64 * kSize * 2;
  static constexpr int kBlockBytes = kKeys * kSize * 2;
  // What a thread may use: 65,536 registers, of which the loading warpgroup keeps few.
  static constexpr int kConsumerRegisters = kGroups == 1 ? 240 : kGroups == 2 ? 240 : 160;
  static constexpr int kProducerRegisters = kGroups == 3 ? 32 : 24;

  static constexpr int kQuery = 0;
  static constexpr int kOutput = kOwnOutput ? kGroups * kGroupBytes : kQuery;
  static constexpr int kKey = kOutput + kGroups * kGroupBytes;
  static constexpr int kValue = kKey + kStages * kBlockBytes;
  static constexpr int kBarriers = kValue + kStages * kBlockBytes;  // kHopperBarriers for each stage
  static constexpr int kNext =
      kBarriers + kHopperBarriers * kStages * 8;  // int32: the tile whose Q is there; -1: no more
  static constexpr int kSharedBytes = kNext + 16;
  static_assert(kSharedBytes <= 232448 && kBlockBytes % 1024 == 0 && kKeys % 16 == 0);
};

// A place in a ring of kStages, and the parity of its round.
template <int kStages>
struct Place {
  uint32_t stage = 0, round = 0;
  __device__ void Next() {
    if (++stage == kStages) {
      stage = 0;
      round ^= 1;
    }
  }
};

#if INGOT_HOPPER

template <typename T>
class HopperBlock {
 public:
  __device__ HopperBlock(const HopperParameters& parameters, unsigned char* shared)
      : p_(parameters), shared_(shared), address_(ptx::SharedAddress(shared)) {}

  __device__ void Run() {
    if (threadIdx.x == 0) {
      for (int i = 0; i < T::kStages; ++i) {
        for (const HopperBarrier full : {kQueryFull, kKeyFull, kValueFull}) ptx::BarrierInit(Barrier(full, i), 1);
        for (const HopperBarrier empty : {kQueryEmpty, kKeyEmpty, kValueEmpty})
          ptx::BarrierInit(Barrier(empty, i), 4 * T::kGroups);  // a lane of each warp
      }
      ptx::FenceBarrierInit();
      ptx::PrefetchTensorMap(&p_.q);
      ptx::PrefetchTensorMap(&p_.k);
      ptx::PrefetchTensorMap(&p_.v);
      ptx::PrefetchTensorMap(&p_.o);
    }
    __syncthreads();
    // The last warpgroup loads.
    const int group = __shfl_sync(kAllLanes, static_cast<int>(threadIdx.x) / 128, 0);
    if (group == T::kGroups) {
      ptx::SetMaxRegistersDown<T::kProducerRegisters>();
      if (threadIdx.x == 128 * T::kGroups) Produce();
    } else {
      ptx::SetMaxRegistersUp<T::kConsumerRegisters>();
      Consume(group);
    }
  }

 private:
  using Element = typename T::Element;
  // Q's memory is free once the last scores have been computed; otherwise sooner or later.
  static constexpr bool kFreesQuery = T::kOwnOutput && !T::kHeldQuery;

  // The thread that loads.
  __device__ void Produce() {
    Place<T::kStages> key, value;
    int32_t index = static_cast<int32_t>(blockIdx.x);
    for (uint32_t round = 0;; ++round) {
      const bool more = index < p_.tiles;
      KeyBlocks blocks{};
      HopperCoordinates at{};
      if (more) {
        at = p_.At(index);
        const int32_t length = p_.bounds.Length(at.batch);
        blocks = BlocksOf(p_.bounds, at.query, T::kRows, length, p_.bounds.Offset(length), T::kKeys);
        if (blocks.count > 0) LoadKeys(at, blocks.Key(blocks.count - 1, T::kKeys), key);
      }
      ptx::BarrierWait(Barrier(kQueryEmpty), (round & 1) ^ 1);
      *Next() = more ? index : -1;
      if (!more) {
        ptx::BarrierArrive(Barrier(kQueryFull));
        return;
      }
      ptx::BarrierArriveExpect(Barrier(kQueryFull), T::kGroups * T::kGroupBytes);
      for (int i = 0; i < T::kGroups * T::kPanels; ++i) {
        const int panel = i % T::kPanels;
        ptx::TensorLoad(address_ + T::kQuery + i * 64 * T::kPanelBytes, &p_.q, Barrier(kQueryFull), panel * T::kPanel,
                        at.query + i / T::kPanels * 64, at.head, at.batch);
      }
      index = p_.Next(index, round);
      for (int32_t n = blocks.count; n-- > 0;) {
        if (n > 0) LoadKeys(at, blocks.Key(n - 1, T::kKeys), key);
        ptx::BarrierWait(Barrier(kValueEmpty, value.stage), value.round ^ 1);
        Load(p_.v, T::kValue, at, blocks.Key(n, T::kKeys), value, Barrier(kValueFull, value.stage));
      }
    }
  }

  __device__ void LoadKeys(const HopperCoordinates& at, int32_t row, Place<T::kStages>& place) {
    ptx::BarrierWait(Barrier(kKeyEmpty, place.stage), place.round ^ 1);
    Load(p_.k, T::kKey, at, row, place, Barrier(kKeyFull, place.stage));
  }

  __device__ void Load(const CUtensorMap& map, int memory, const HopperCoordinates& at, int32_t row,
                       Place<T::kStages>& place, uint32_t barrier) {
    ptx::BarrierArriveExpect(barrier, T::kBlockBytes);
    const uint32_t block = address_ + memory + place.stage * T::kBlockBytes;
    for (int i = 0; i < T::kPanels; ++i)
      ptx::TensorLoad(block + i * T::kKeys * T::kPanelBytes, &map, barrier, i * T::kPanel, row, at.head / p_.group,
                      at.batch);
    place.Next();
  }

  // A warpgroup that computes.
  __device__ void Consume(int group) {
    float s[T::kKeys / 2];
    float o[T::kSize / 2];
    uint32_t weights[T::kKeys / 4];
    uint32_t held[T::kHeldQuery ? T::kSize / 16 : 1][4];
    Place<T::kStages> key, value;
    const int thread = static_cast<int>(threadIdx.x) % 128;
    if (T::kTurns && group == T::kGroups - 1) PassTurn(group);
    for (uint32_t round = 0;; ++round) {
      ptx::BarrierWait(Barrier(kQueryFull), round & 1);
      const int32_t index = *Next();
      if (index < 0) break;
      const HopperCoordinates at = p_.At(index);
      const int32_t length = p_.bounds.Length(at.batch);
      const int32_t offset = p_.bounds.Offset(length);
      const KeyBlocks blocks = BlocksOf(p_.bounds, at.query, T::kRows, length, offset, T::kKeys);
      const RowMask mask(p_.bounds, at.query + group * 64 + offset, length, thread);
      RowSoftmax<T::kKeys / 2> softmax;
      softmax.Begin(p_.scale, p_.cap_in, p_.cap_out);
#pragma unroll
      for (int i = 0; i < T::kSize / 2; ++i) o[i] = 0;

      if constexpr (T::kHeldQuery) HoldQuery(held, group, thread);

      if (blocks.count > 0) {
        int32_t n = blocks.count - 1;
        int32_t first = blocks.Key(n, T::kKeys);
        ptx::BarrierWait(Barrier(kKeyFull, key.stage), key.round);
        ptx::WgmmaFence();
        Scores(s, held, group, key.stage);
        ptx::WgmmaCommit();
        ptx::WgmmaWait<0>();
        ptx::WgmmaPin(s);
        Release(key, kKeyEmpty);
        if (kFreesQuery && n == 0) ArriveByWarp(Barrier(kQueryEmpty));
        softmax.Cap(s);
        if (mask.Cuts(first, T::kKeys)) mask.Apply(s, first);
        softmax.Start(s);
        Pack<Element>(s, weights);
        if (length < first + T::kKeys && length < p_.bounds.keys) ClearTail(group, thread, value, length - first);

        while (n-- > 0) {
          ptx::BarrierWait(Barrier(kKeyFull, key.stage), key.round);
          if constexpr (T::kTurns) ptx::NamedSync(1 + group, 256);
          ptx::WgmmaPin(o);
          ptx::WgmmaFence();
          Scores(s, held, group, key.stage);
          ptx::WgmmaCommit();
          ptx::BarrierWait(Barrier(kValueFull, value.stage), value.round);
          ptx::WgmmaFence();
          Sums(o, weights, value.stage);
          ptx::WgmmaCommit();
          if constexpr (T::kTurns) PassTurn(group);
          ptx::WgmmaWait<1>();
          ptx::WgmmaPin(s);
          Release(key, kKeyEmpty);
          if (kFreesQuery && n == 0) ArriveByWarp(Barrier(kQueryEmpty));
          softmax.Cap(s);
          first = blocks.Key(n, T::kKeys);
          if (mask.Cuts(first, T::kKeys)) mask.Apply(s, first);
          softmax.Step(s);
          ptx::WgmmaPin(s);  // the softmax is done while P V is under way
          ptx::WgmmaWait<0>();
          ptx::WgmmaPin(o);
          Release(value, kValueEmpty);
          softmax.Rescale(o);
          Pack<Element>(s, weights);
        }

        ptx::BarrierWait(Barrier(kValueFull, value.stage), value.round);
        ptx::WgmmaPin(o);
        ptx::WgmmaFence();
        Sums(o, weights, value.stage);
        ptx::WgmmaCommit();
        ptx::WgmmaWait<0>();
        ptx::WgmmaPin(o);
        Release(value, kValueEmpty);
      } else if constexpr (kFreesQuery) {
        __syncwarp();  // all lanes have read Next
        ArriveByWarp(Barrier(kQueryEmpty));
      }
      if (p_.sinks != nullptr) softmax.Sink(p_.sinks[at.head] * kLog2E, o);
      softmax.Finish(o);
      Store(o, group, thread, at);
    }
    // Memory is the block's until the last store has read it.
    if (thread == 0) ptx::BulkWaitRead<0>();
  }

  // S = Q K^T of the warpgroup's queries and a block of keys.
  __device__ void Scores(float (&s)[T::kKeys / 2], const uint32_t (&held)[T::kHeldQuery ? T::kSize / 16 : 1][4],
                         int group, uint32_t stage) {
    const uint64_t q = Descriptor(address_ + T::kQuery + group * T::kGroupBytes, 16);
    const uint64_t k = Descriptor(address_ + T::kKey + stage * T::kBlockBytes, 16);
#pragma unroll
    for (int i = 0; i < T::kSize / 16; ++i) {
      const int panel = i * 16 / T::kPanel, column = i * 16 % T::kPanel;
      const uint64_t keys = k + (panel * T::kKeys * T::kPanelBytes + column * 2) / 16;
      if constexpr (T::kHeldQuery) {
        ptx::WgmmaRegisters<Element, T::kKeys>(s, held[i], keys, i > 0);
      } else {
        ptx::Wgmma<Element, T::kKeys>(s, q + (panel * 64 * T::kPanelBytes + column * 2) / 16, keys, i > 0);
      }
    }
  }

  // The warp's 16 queries to registers; their memory is free then.
  __device__ void HoldQuery(uint32_t (&held)[T::kHeldQuery ? T::kSize / 16 : 1][4], int group, int thread) {
    const uint32_t memory = address_ + T::kQuery + group * T::kGroupBytes;
#pragma unroll
    for (int i = 0; i < T::kSize / 16; ++i)
      ptx::LoadMatrix4(held[i][0], held[i][1], held[i][2], held[i][3], memory + PieceOf(thread, i));
    __syncwarp();
    ArriveByWarp(Barrier(kQueryEmpty));
  }

  // What ldmatrix and stmatrix ask of a thread for columns 16 i to 16 i + 15 of its warp's 16 rows: where its 16 bytes
  // lie in 64 rows.
  __device__ static uint32_t PieceOf(int thread, int i) {
    const int row = thread / 32 * 16 + thread % 16;
    const int panel = i * 16 / T::kPanel, piece = i * 16 % T::kPanel / 8 + thread % 32 / 16;
    const int swizzled = T::kPanel == 64 ? piece ^ (row & 7) : piece ^ (row >> 1 & 3);
    return (panel * 64 + row) * T::kPanelBytes + swizzled * 16;
  }

  // O += P V of a block of keys.
  __device__ void Sums(float (&o)[T::kSize / 2], const uint32_t (&weights)[T::kKeys / 4], uint32_t stage) {
    const uint64_t v = Descriptor(address_ + T::kValue + stage * T::kBlockBytes, T::kKeys * T::kPanelBytes);
#pragma unroll
    for (int i = 0; i < T::kKeys / 16; ++i) {
      const uint32_t a[4] = {weights[4 * i], weights[4 * i + 1], weights[4 * i + 2], weights[4 * i + 3]};
      ptx::WgmmaRegisters<Element, T::kSize, 1>(o, a, v + i * 16 * T::kPanelBytes / 16, true);
    }
  }

  // Of a tile in panels. Eight rows of a panel are a pattern of the swizzle; `leading` is the distance of panels, which
  // only V's has a use for.
  __device__ static uint64_t Descriptor(uint32_t tile, uint32_t leading) {
    return ptx::MatrixDescriptor(tile, leading, 8 * T::kPanelBytes,
                                 T::kPanel == 64 ? ptx::Swizzle::k128 : ptx::Swizzle::k64);
  }

  // Values past the length may be anything, and 0 times a NaN is one: they become 0. Each warpgroup does so for itself.
  __device__ void ClearTail(int group, int thread, const Place<T::kStages>& value, int32_t from) {
    ptx::BarrierWait(Barrier(kValueFull, value.stage), value.round);
    unsigned char* block = shared_ + T::kValue + value.stage * T::kBlockBytes;
    const int32_t bytes = (T::kKeys - from) * T::kPanelBytes;
    for (int i = 0; i < T::kPanels; ++i) {
      unsigned char* tail = block + (i * T::kKeys + from) * T::kPanelBytes;
      for (int32_t at = thread * 16; at < bytes; at += 128 * 16) *reinterpret_cast<uint4*>(tail + at) = uint4{};
    }
    ptx::FenceProxyAsync();
    ptx::NamedSync(1 + T::kGroups + group, 128);
  }

  __device__ void Store(const float (&o)[T::kSize / 2], int group, int thread, const HopperCoordinates& at) {
    const uint32_t memory = address_ + T::kOutput + group * T::kGroupBytes;
    if (thread == 0) ptx::BulkWaitRead<0>();  // the last tile's
    ptx::NamedSync(1 + T::kGroups + group, 128);
#pragma unroll
    for (int i = 0; i < T::kSize / 16; ++i)
      ptx::StoreMatrix4(memory + PieceOf(thread, i), PackPair<Element>(o[8 * i], o[8 * i + 1]),
                        PackPair<Element>(o[8 * i + 2], o[8 * i + 3]), PackPair<Element>(o[8 * i + 4], o[8 * i + 5]),
                        PackPair<Element>(o[8 * i + 6], o[8 * i + 7]));
    ptx::FenceProxyAsync();
    ptx::NamedSync(1 + T::kGroups + group, 128);
    if (thread != 0) return;
    for (int i = 0; i < T::kPanels; ++i)
      ptx::TensorStore(&p_.o, memory + i * 64 * T::kPanelBytes, i * T::kPanel, at.query + group * 64, at.head,
                       at.batch);
    ptx::BulkCommit();
    if constexpr (T::kOwnOutput) return;
    ptx::BulkWaitRead<0>();
    for (int i = 0; i < 4; ++i) ptx::BarrierArrive(Barrier(kQueryEmpty));
  }

  __device__ void PassTurn(int group) { ptx::NamedArrive(1 + (group + 1) % T::kGroups, 256); }

  __device__ void ArriveByWarp(uint32_t barrier) {
    if (threadIdx.x % 32 == 0) ptx::BarrierArrive(barrier);
  }

  __device__ void Release(Place<T::kStages>& place, HopperBarrier empty) {
    ArriveByWarp(Barrier(empty, place.stage));
    place.Next();
  }

  __device__ uint32_t Barrier(HopperBarrier barrier, uint32_t stage = 0) const {
    return address_ + T::kBarriers + (barrier * T::kStages + stage) * 8;
  }
  __device__ volatile int32_t* Next() const { return reinterpret_cast<int32_t*>(shared_ + T::kNext); }

  const HopperParameters& p_;
  unsigned char* const shared_;
  const uint32_t address_;
};

#endif  // INGOT_HOPPER

template <typename T>
__global__ void __launch_bounds__(T::kThreads, 1) HopperPrefill(const __grid_constant__ HopperParameters parameters) {
#if INGOT_HOPPER
  INGOT_DYNAMIC_SHARED(unsigned char, shared);
  HopperBlock<T>(parameters, shared).Run();
#endif
}

}  // namespace ingot::cuda::prefill
