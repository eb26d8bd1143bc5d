// Ampere's path, for compute capability 8.0 and later: four warps, each with kTiles x 16 queries; mma.sync, and K and V
// by cp.async, one being loaded while the other is used.
//
// Shared memory holds rows of kSize columns in pieces of 16 bytes, whose places are exchanged so that ldmatrix reads
// eight rows without conflicts.
#pragma once

#include "cuda/attention/problem.h"
#include "cuda/attention_prefill/bounds.h"
#include "cuda/attention_prefill/rows.h"
#include "cuda/launch.h"
#include "cuda/ptx.h"

namespace ingot::cuda::prefill {

struct AmpereOperand {
  const void* data;
  int64_t batch, sequence, head;  // strides
};

struct AmpereParameters {
  AmpereOperand q, k, v, o;
  const void* sink_q;  // Q in front of pinned keys, or nullptr
  const void* ring;    // AttentionProblem's
  int32_t long_ring;
  int32_t apart;  // with sink queries or a ring: no block has pinned keys and others
  Bounds bounds;
  int32_t heads, group;
  int32_t all_heads;         // of all batches
  int32_t row_blocks;        // of a head
  int32_t size, value_size;  // multiples of 8

  float scale;  // as HopperParameters'; with a bias, scores become exponents before it is added, and this is 1
  float cap_in, cap_out;  // as HopperParameters'

  const float* sinks;

  // With a bias alone.
  float before;  // what a score is multiplied by before the bias is added, once it has been capped
  AttentionMask mask;
  const float* slopes;
};

// kBias: with a mask or slopes.
template <typename Element_, int kSize_, int kTiles_, int kKeys_, bool kBias_>
struct AmpereTile {
  using Element = Element_;
  static constexpr int kSize = kSize_, kTiles = kTiles_, kKeys = kKeys_;
  static constexpr bool kBias = kBias_;
  static constexpr int kThreads = 128;
  static constexpr int kRows = 64 * kTiles;
  static constexpr int kRowBytes = kSize * 2;
  static constexpr int kKey = kRows * kRowBytes, kValue = kKey + kKeys * kRowBytes;
  static constexpr int kSharedBytes = kValue + kKeys * kRowBytes;
};

template <typename Element>
__device__ inline void Mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  if constexpr (std::is_same_v<Element, __half>) {
    ptx::MmaHalf(d, a, b);
  } else {
    ptx::MmaBFloat16(d, a, b);
  }
}

// An element of a mask as what is added to a score.
__device__ inline float MaskValue(const AttentionMask& mask, int64_t at) {
  switch (mask.element) {
    case AttentionElement::kBool:
      return static_cast<const uint8_t*>(mask.data)[at] != 0 ? 0.0f : -kInfinity;
    case AttentionElement::kHalf:
      return __half2float(static_cast<const __half*>(mask.data)[at]);
    case AttentionElement::kBfloat:
      return __bfloat162float(static_cast<const __nv_bfloat16*>(mask.data)[at]);
    default:
      return static_cast<const float*>(mask.data)[at];
  }
}

template <typename T>
class AmpereBlock {
 public:
  __device__ AmpereBlock(const AmpereParameters& parameters, void* shared)
      : p_(parameters),
        shared_(ptx::SharedAddress(shared)),
        warp_(static_cast<int>(threadIdx.x) / 32),
        lane_(static_cast<int>(threadIdx.x) % 32) {
    const auto index = static_cast<int32_t>(blockIdx.x);
    const int32_t head = index % p_.all_heads;
    batch_ = head / p_.heads;
    head_ = head % p_.heads;
    query_ = (p_.row_blocks - 1 - index / p_.all_heads) * T::kRows;  // blocks with most keys start first
    length_ = p_.bounds.Length(batch_);
    if (p_.ring != nullptr && length_ > p_.bounds.pinned) {
      const Turn turn = ReadRing(p_.ring, p_.long_ring != 0, batch_, p_.bounds.pinned, p_.bounds.keys);
      shift_ = static_cast<int32_t>(turn.shift < kMostPositions ? turn.shift : kMostPositions);
      turn_ = turn.turn;
    }
    offset_ = p_.bounds.at_end != 0 ? p_.bounds.Offset(length_) : -shift_;
  }

  __device__ void Run() {
    const KeyBlocks blocks = BlocksOf(p_.bounds, query_, T::kRows, length_, offset_, T::kKeys, p_.apart != 0, shift_);
    float o[T::kTiles][T::kSize / 2];
#pragma unroll
    for (int t = 0; t < T::kTiles; ++t) {
#pragma unroll
      for (int e = 0; e < T::kSize / 2; ++e) o[t][e] = 0;
    }
    RowSoftmax<T::kKeys / 2> softmax[T::kTiles];
#pragma unroll
    for (int t = 0; t < T::kTiles; ++t) softmax[t].Begin(p_.scale, p_.cap_in, p_.cap_out);

    if (blocks.count > 0) {
      const bool sunk = p_.sink_q != nullptr && blocks.count == blocks.pinned;
      LoadQueries(sunk ? p_.sink_q : p_.q.data);
      LoadKeys(p_.k, T::kKey, blocks, blocks.count - 1, p_.size);
      ptx::CopyAsyncCommit();
      for (int32_t n = blocks.count; n-- > 0;) {
        ptx::CopyAsyncWait<0>();
        __syncthreads();  // K is there, and the last V has been used
        LoadKeys(p_.v, T::kValue, blocks, n, p_.value_size);
        ptx::CopyAsyncCommit();
        float s[T::kTiles][T::kKeys / 2];
        Scores(s);
        ptx::CopyAsyncWait<0>();
        __syncthreads();  // V is there, and K has been used
        if (n > 0) {
          if (p_.sink_q != nullptr && n == blocks.pinned) LoadQueries(p_.sink_q);
          LoadKeys(p_.k, T::kKey, blocks, n - 1, p_.size);
          ptx::CopyAsyncCommit();
        }
        const int32_t key = blocks.Key(n, T::kKeys);
        const bool pinned = IsPinned(blocks, n);
        const int32_t offset = offset_ + (pinned ? shift_ : 0);
#pragma unroll
        for (int t = 0; t < T::kTiles; ++t) {
          softmax[t].Cap(s[t]);
          if constexpr (T::kBias) AddBias(s[t], t, key, offset);
          const RowMask mask(p_.bounds, Row(t) + offset, End(pinned), lane_, 16);
          if (mask.Cuts(key, T::kKeys)) mask.Apply(s[t], key);
          softmax[t].Step(s[t]);
          softmax[t].Rescale(o[t]);
        }
        Sums(o, s);
      }
    }
#pragma unroll
    for (int t = 0; t < T::kTiles; ++t) {
      if (p_.sinks != nullptr) softmax[t].Sink(p_.sinks[head_] * kLog2E, o[t]);
      softmax[t].Finish(o[t]);
      Store(o[t], t);
    }
  }

 private:
  using Element = typename T::Element;

  // The first query of the warp's tile t.
  __device__ int32_t Row(int t) const { return query_ + (warp_ * T::kTiles + t) * 16; }

  // Where a piece of 16 bytes of a row lies: pieces of 128 bytes, or of 64, change places.
  static constexpr uint32_t kExchanged = T::kRowBytes % 128 == 0 ? 0x70 : 0x30;
  __device__ static uint32_t Place(int row, int piece) {
    const int exchanged = kExchanged == 0x70 ? piece ^ (row & 7) : piece ^ (row >> 1 & 3);
    return row * T::kRowBytes + exchanged * 16;
  }
  // From the place of a piece below 2 to that of one 2 i further in its row.
  __device__ static uint32_t Further(uint32_t place, int i) {
    return (place ^ (32 * i & kExchanged)) + (32 * i & ~kExchanged);
  }

  // Whether a block has pinned keys apart from others.
  __device__ bool IsPinned(const KeyBlocks& blocks, int32_t block) const {
    return p_.apart != 0 && block < blocks.pinned;
  }
  // Where its keys end.
  __device__ int32_t End(bool pinned) const {
    return pinned && p_.bounds.pinned < length_ ? p_.bounds.pinned : length_;
  }

  __device__ void LoadQueries(const void* data) const {
    const AmpereOperand from{data, p_.q.batch, p_.q.sequence, p_.q.head};
    Load<T::kRows>(from, 0, query_, p_.bounds.queries - query_, head_, p_.size, T::kRows, 0);
  }

  // A block of K or V, from a ring's slots if there is one.
  __device__ void LoadKeys(const AmpereOperand& from, int to, const KeyBlocks& blocks, int32_t block,
                           int32_t size) const {
    const bool pinned = IsPinned(blocks, block);
    const int32_t key = blocks.Key(block, T::kKeys);
    const int32_t slot = key + (pinned ? 0 : turn_);
    Load<T::kKeys>(from, to, slot, End(pinned) - key, head_ / p_.group, size, p_.bounds.keys - slot,
                   p_.bounds.keys - p_.bounds.pinned);
  }

  // `count` rows of a head from `row` on to shared memory; zeros for further rows and columns from `size` on. Row
  // `turn` and what follows lie `back` rows before.
  template <int kRows>
  __device__ void Load(const AmpereOperand& from, int to, int32_t row, int32_t count, int32_t head, int32_t size,
                       int32_t turn, int32_t back) const {
    const Element* data = static_cast<const Element*>(from.data) + batch_ * from.batch + head * from.head;
    constexpr int kPieces = T::kSize / 8;
    static_assert(kRows * kPieces % T::kThreads == 0);
#pragma unroll 4
    for (int i = static_cast<int>(threadIdx.x); i < kRows * kPieces; i += T::kThreads) {
      const int at = i / kPieces, piece = i % kPieces;
      const bool inside = at < count && piece * 8 < size;
      const int32_t lies = row + at - (at < turn ? 0 : back);
      ptx::CopyAsyncFill<16>(shared_ + to + Place(at, piece),
                             inside ? data + lies * from.sequence + piece * 8 : from.data, inside ? 16 : 0);
    }
  }

  __device__ void Scores(float (&s)[T::kTiles][T::kKeys / 2]) const {
    const uint32_t query = shared_ + Place(warp_ * T::kTiles * 16 + lane_ % 16, lane_ / 16);
    const uint32_t key = shared_ + T::kKey + Place(lane_ / 16 * 8 + lane_ % 8, lane_ / 8 % 2);
#pragma unroll
    for (int t = 0; t < T::kTiles; ++t) {
#pragma unroll
      for (int e = 0; e < T::kKeys / 2; ++e) s[t][e] = 0;
    }
#pragma unroll
    for (int i = 0; i < T::kSize / 16; ++i) {
      uint32_t q[T::kTiles][4];
#pragma unroll
      for (int t = 0; t < T::kTiles; ++t)
        ptx::LoadMatrix4(q[t][0], q[t][1], q[t][2], q[t][3], Further(query, i) + t * 16 * T::kRowBytes);
#pragma unroll
      for (int j = 0; j < T::kKeys / 16; ++j) {
        uint32_t k[2][2];
        ptx::LoadMatrix4(k[0][0], k[0][1], k[1][0], k[1][1], Further(key, i) + j * 16 * T::kRowBytes);
#pragma unroll
        for (int t = 0; t < T::kTiles; ++t) {
          Mma<Element>(*reinterpret_cast<float (*)[4]>(s[t] + 8 * j), q[t], k[0]);
          Mma<Element>(*reinterpret_cast<float (*)[4]>(s[t] + 8 * j + 4), q[t], k[1]);
        }
      }
    }
  }

  __device__ void Sums(float (&o)[T::kTiles][T::kSize / 2], const float (&s)[T::kTiles][T::kKeys / 2]) const {
    const uint32_t value = shared_ + T::kValue + Place(lane_ % 16, lane_ / 16);
#pragma unroll
    for (int i = 0; i < T::kKeys / 16; ++i) {
      uint32_t weights[T::kTiles][4];
#pragma unroll
      for (int t = 0; t < T::kTiles; ++t) {
#pragma unroll
        for (int e = 0; e < 4; ++e) weights[t][e] = PackPair<Element>(s[t][8 * i + 2 * e], s[t][8 * i + 2 * e + 1]);
      }
#pragma unroll
      for (int j = 0; j < T::kSize / 16; ++j) {
        uint32_t v[2][2];
        ptx::LoadMatrixTransposed4(v[0][0], v[0][1], v[1][0], v[1][1], Further(value, j) + i * 16 * T::kRowBytes);
#pragma unroll
        for (int t = 0; t < T::kTiles; ++t) {
          Mma<Element>(*reinterpret_cast<float (*)[4]>(o[t] + 8 * j), weights[t], v[0]);
          Mma<Element>(*reinterpret_cast<float (*)[4]>(o[t] + 8 * j + 4), weights[t], v[1]);
        }
      }
    }
  }

  // Scores become exponents of 2, slopes and mask included. Keys past the length are left to RowMask.
  __device__ void AddBias(float (&s)[T::kKeys / 2], int t, int32_t key, int32_t offset) const {
    const float slope = p_.slopes == nullptr ? 0.0f : p_.slopes[head_];
#pragma unroll
    for (int e = 0; e < T::kKeys / 2; ++e) {
      const int32_t query = Row(t) + lane_ / 4 + 8 * (e / 2 % 2), column = key + e / 4 * 8 + 2 * (lane_ % 4) + e % 2;
      float bias = slope * static_cast<float>(column - query - offset);
      if (p_.mask.data != nullptr && query < p_.bounds.queries && column < length_)
        bias += MaskValue(p_.mask,
                          batch_ * p_.mask.batch + head_ * p_.mask.head + query * p_.mask.query + column * p_.mask.key);
      // A finite number stays one: masks are often of the least float, and a row of nothing else weighs its keys
      // evenly.
      if (fabsf(bias) < kInfinity) bias = fminf(fmaxf(bias * kLog2E, -kMostFloat), kMostFloat);
      s[e] = fmaf(s[e], p_.before, bias);
    }
  }

  __device__ void Store(const float (&o)[T::kSize / 2], int t) const {
    auto* data = static_cast<Element*>(const_cast<void*>(p_.o.data)) + batch_ * p_.o.batch + head_ * p_.o.head;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int32_t query = Row(t) + lane_ / 4 + 8 * half;
      if (query >= p_.bounds.queries) continue;
      Element* row = data + query * p_.o.sequence;
#pragma unroll
      for (int j = 0; j < T::kSize / 8; ++j) {
        if (8 * j >= p_.value_size) break;
        *reinterpret_cast<uint32_t*>(row + 8 * j + 2 * (lane_ % 4)) =
            PackPair<Element>(o[4 * j + 2 * half], o[4 * j + 2 * half + 1]);
      }
    }
  }

  const AmpereParameters& p_;
  const uint32_t shared_;
  const int warp_, lane_;
  int32_t batch_, head_, query_, length_;
  int32_t offset_;                // of a query: its position less its number, but for `shift_`
  int32_t shift_ = 0, turn_ = 0;  // Sequence's
};

template <typename T>
__global__ void __launch_bounds__(T::kThreads) AmperePrefill(const __grid_constant__ AmpereParameters parameters) {
  INGOT_DYNAMIC_SHARED(unsigned char, shared);
  AmpereBlock<T>(parameters, shared).Run();
}

}  // namespace ingot::cuda::prefill
