// Walks down trees with AVX-512, sixteen side by side in the lanes of a vector: what they need of a node is gathered.
// Several vectors take their steps in turn, to hide the latency of gathers.
#pragma once

#include "cpu/packed_trees/packed.h"
#include "simd/vector_avx512.h"

namespace ingot::trees {

// A row of up to 32 features lies in registers.
class ShortRow {
 public:
  static constexpr int64_t kMost = 32;

  ShortRow(const float* row, int64_t count)
      : low_(simd::Avx512::LoadFirst(row, count < 16 ? count : 16)),
        high_(count <= 16 ? _mm512_setzero_ps() : simd::Avx512::LoadFirst(row + 16, count - 16)) {}
  __m512 Of(__m512i feature, __mmask16) const { return _mm512_permutex2var_ps(low_, feature, high_); }

 private:
  __m512 low_;
  __m512 high_;
};

class LongRow {
 public:
  LongRow(const float* row, int64_t) : row_(row) {}
  __m512 Of(__m512i feature, __mmask16 used) const {
    return _mm512_mask_i32gather_ps(_mm512_setzero_ps(), used, feature, row_, 4);
  }

 private:
  const float* row_;
};

template <typename Row>
class Gathers {
 public:
  Gathers(const Packed& forest, const float* row)
      : row_(row, forest.feature_count),
        nodes_(reinterpret_cast<const float*>(forest.nodes)),
        node_count_(_mm512_set1_epi32(static_cast<int32_t>(forest.node_count))),
        feature_count_(_mm512_set1_epi32(static_cast<int32_t>(forest.feature_count))) {}

  bool Take(const int32_t* roots, int64_t count, Leaves& leaves) const {
    constexpr int kGroups = kChunk / 16;
    __m512i at[kGroups];
    __mmask16 going[kGroups];
    __mmask16 wrong = 0;
    for (int g = 0; g < kGroups; ++g) {
      going[g] =
          count >= 16 * (g + 1) ? 0xFFFF : static_cast<__mmask16>((1u << (count > 16 * g ? count - 16 * g : 0)) - 1);
      at[g] = _mm512_maskz_loadu_epi32(going[g], roots + 16 * g);
      wrong |= _mm512_mask_cmpge_epu32_mask(going[g], at[g], node_count_);
    }
    unsigned any = 1;
    while (wrong == 0 && any != 0) {
      any = 0;
#pragma GCC unroll 4
      for (int g = 0; g < kGroups; ++g) {
        Step(at[g], going[g], wrong, leaves, 16 * g);
        any |= going[g];
      }
    }
    return wrong == 0;
  }

 private:
  // One step of the walks that are going on. Those that are at a leaf end.
  void Step(__m512i& at, __mmask16& going, __mmask16& wrong, Leaves& leaves, int first) const {
    const __m512i one = _mm512_set1_epi32(1);
    const __m512i word = _mm512_mask_i32gather_epi32(_mm512_setzero_si512(), going, at, nodes_ + 1, 8);
    const __m512 limit = _mm512_mask_i32gather_ps(_mm512_setzero_ps(), going, at, nodes_, 8);
    const __m512i children = _mm512_srli_epi32(word, PackedNode::kFeatureBits + 1);
    const __m512i feature =
        _mm512_and_si512(_mm512_srli_epi32(word, 1), _mm512_set1_epi32((1 << PackedNode::kFeatureBits) - 1));
    const __mmask16 on = _mm512_mask_test_epi32_mask(going, children, children);
    if (on != going) {
      _mm512_mask_storeu_ps(leaves.value + first, going & ~on, limit);
      _mm512_mask_storeu_epi32(leaves.target + first, going & ~on, feature);
    }
    const __mmask16 known = _mm512_mask_cmplt_epu32_mask(on, feature, feature_count_);
    const __m512 x = row_.Of(feature, known);
    const __mmask16 missing = _mm512_mask_cmp_ps_mask(_mm512_test_epi32_mask(word, one), x, x, _CMP_UNORD_Q);
    const __mmask16 fails = _mm512_cmp_ps_mask(x, limit, _CMP_NLE_UQ) & ~missing;
    at = _mm512_add_epi32(at, children);
    at = _mm512_mask_add_epi32(at, fails, at, one);
    wrong |= on & ~(known & _mm512_cmplt_epu32_mask(at, node_count_));
    going = on;
  }

  Row row_;
  const float* nodes_;  // PackedNode: limit, word
  __m512i node_count_;
  __m512i feature_count_;
};

inline bool WalkByGathers(const Packed& forest, const float* row, const int32_t* roots, int64_t count, Leaves& leaves) {
  return forest.feature_count <= ShortRow::kMost ? Gathers<ShortRow>(forest, row).Take(roots, count, leaves)
                                                 : Gathers<LongRow>(forest, row).Take(roots, count, leaves);
}

}  // namespace ingot::trees
