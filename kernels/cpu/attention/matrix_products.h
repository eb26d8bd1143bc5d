// Products of matrices of bfloat16 (AMX) in tiles of 32 rows by 32 columns.
//
// An operand is one bfloat16 or the sum of three, which are a float to its last bit: the six products of parts that are
// not less than 2^-24 of the whole are as exact as a product of floats.
#pragma once

#include "cpu/attention/matrix_operands.h"

namespace ingot::attention {

// One of two operands: rows of A that lie `stride` numbers apart, or registers of B, of which the right ones lie
// `stride` behind the left ones; and how far parts, and steps of k, lie apart.
struct Operand {
  const uint16_t* at;
  int64_t stride, part, step;
};

INGOT_INLINE void LoadA(const Operand& a, int64_t part) {
  const uint16_t* at = a.at + part * a.part;
  _tile_loadd(4, at, a.stride * 2);
  _tile_loadd(5, at + simd::kMatrixRows * a.stride, a.stride * 2);
}

INGOT_INLINE void LoadB(const Operand& b, int64_t part) {
  const uint16_t* at = b.at + part * b.part;
  _tile_loadd(6, at, simd::kMatrixRowBytes);
  _tile_loadd(7, at + b.stride, simd::kMatrixRowBytes);
}

INGOT_INLINE void MultiplyRegisters() {
  _tile_dpbf16ps(0, 4, 6);
  _tile_dpbf16ps(1, 4, 7);
  _tile_dpbf16ps(2, 5, 6);
  _tile_dpbf16ps(3, 5, 7);
}

// How many products of parts a product of operands of kParts is: of three and three those that matter.
constexpr int ProductsOf(int parts) { return parts == 1 ? 1 : 6; }

// Adds the `product`th product of parts to a tile of sums: first all of A with the first of B, small ones before large
// ones, then the first of A with the others of B, then the second ones. In this order most stay in their registers.
template <int kParts>
INGOT_INLINE void AddProduct(const Operand& a, const Operand& b, int product) {
  static_assert(kParts == 1 || kParts == 3);
  if (product == 0) LoadB(b, 0);
  if (product < kParts) LoadA(a, kParts - 1 - product);
  if (product == 3) LoadB(b, 2);
  if (product == 4) LoadB(b, 1);
  if (product == 5) LoadA(a, 1);
  MultiplyRegisters();
}

// A tile of sums plus the products of two operands of kParts.
template <int kParts>
INGOT_INLINE void AddProducts(Operand a, Operand b, int64_t depth) {
  for (int64_t k = 0; k < depth; k += kDepth, a.at += a.step, b.at += b.step) {
    for (int product = 0; product < ProductsOf(kParts); ++product) AddProduct<kParts>(a, b, product);
  }
}

INGOT_INLINE void ClearTile() {
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
}

INGOT_INLINE void StoreTile(float* to, int64_t stride) {
  _tile_stored(0, to, stride * 4);
  _tile_stored(1, to + simd::kMatrixRows, stride * 4);
  _tile_stored(2, to + simd::kMatrixRows * stride, stride * 4);
  _tile_stored(3, to + simd::kMatrixRows * stride + simd::kMatrixRows, stride * 4);
}

INGOT_INLINE void LoadTile(const float* from, int64_t stride) {
  _tile_loadd(0, from, stride * 4);
  _tile_loadd(1, from + simd::kMatrixRows, stride * 4);
  _tile_loadd(2, from + simd::kMatrixRows * stride, stride * 4);
  _tile_loadd(3, from + simd::kMatrixRows * stride + simd::kMatrixRows, stride * 4);
}

// Scores of 32 rows, computed in steps, between which vectors do something else: matrices and vectors work side by
// side. Between the first step and the last the registers of matrices are its own.
template <int kParts>
class Scores {
 public:
  // Of no rows.
  Scores() = default;
  // Products of queries with the keys of `columns`, which are `depth` numbers long, become rows of kBlockKeys
  // scores.
  Scores(const Operand& queries, const Operand& keys, Range columns, int64_t depth, float* to)
      : queries_(queries),
        keys_(keys),
        columns_(columns),
        depth_(depth),
        to_(to),
        pause_(static_cast<int>(Greatest(kTile * kTile / (depth * kProducts), 1))) {
    StartColumn();
  }

  INGOT_INLINE bool done() const { return columns_.begin >= columns_.end; }

  // Called once for each 32 weights of another 32 rows: takes a step when it is time for one.
  INGOT_INLINE void Beat() {
    if (--wait_ > 0 || done()) return;
    wait_ = pause_;
    Step();
  }
  INGOT_INLINE void Finish() {
    while (!done()) Step();
  }

 private:
  static constexpr int kProducts = ProductsOf(kParts);

  INGOT_INLINE void StartColumn() {
    a_ = queries_;
    b_ = keys_;
    b_.at += columns_.begin * depth_;
    left_ = depth_;
  }

  INGOT_INLINE void Step() {
    if (product_ == 0 && left_ == depth_) ClearTile();
    AddProduct<kParts>(a_, b_, product_);
    if (++product_ < kProducts) return;
    product_ = 0;
    a_.at += a_.step;
    b_.at += b_.step;
    left_ -= kDepth;
    if (left_ > 0) return;
    StoreTile(to_ + columns_.begin, kBlockKeys);
    columns_.begin += kTile;
    StartColumn();
  }

  Operand queries_{}, keys_{};
  Operand a_{}, b_{};
  Range columns_{0, 0};
  int64_t depth_ = 0, left_ = 0;
  float* to_ = nullptr;
  int product_ = 0;
  int pause_ = 1, wait_ = 1;
};

}  // namespace ingot::attention
