// What one thread does at a time, and what the instruction sets implement. Plain data only: an inline function in a
// file that is compiled for AVX2 could be the one that the linker keeps for all machines.
#pragma once

#include <cstdint>

namespace ingot::attention {

enum class Element : uint8_t { kFloat, kHalf, kBfloat, kInt8, kBool };

// A tensor of [batch, sequence, head, size], with the distances between its elements.
struct Tensor {
  void* data;
  Element element;
  int64_t batch;
  int64_t sequence;
  int64_t head;
  int64_t feature;
};

// 0 is the distance along an axis that is broadcast.
struct Mask {
  const void* data;  // nullptr if there is none
  Element element;
  int64_t batch;
  int64_t head;
  int64_t query;
  int64_t key;
};

// The keys of one batch, numbered from the oldest.
struct Sequence {
  int64_t length;  // how many keys there are
  int64_t query;   // the position of the first query
  int64_t shift;   // by how much the position of a key behind the pinned ones exceeds its number
  int64_t turn;    // by how many slots a key behind the pinned ones lies farther round the ring than its number says
};

struct Problem {
  Tensor q, k, v, o;
  Tensor sink_q;              // in place of q for the first sink_keys keys; no data without
  Tensor k_scales, v_scales;  // [batch, sequence, head], for int8; no data without
  Mask mask;
  const float* slopes;  // [query heads], or nullptr
  const float* sinks;   // [query heads], or nullptr
  int64_t batches, queries, kv_heads;
  int64_t keys;       // how many there can be: of a ring, its slots
  int64_t most_keys;  // the greatest length
  int64_t group;      // query heads for each key head
  int64_t size, value_size;
  int64_t left, right;  // no bound is a large number
  int64_t sink_keys;    // which are never too far behind, and pinned to the first slots of a ring
  float scale, softcap;
  bool rounds;                // products may be of operands rounded to bfloat16
  const Sequence* sequences;  // [batches]
  const int32_t* table;       // [batches, table_row]: pages, which are the batches of K and V; nullptr without
  int64_t table_row, page_size;
};

// The queries that share a key head are one matrix of queries × group rows; row r is query r / group of head r % group,
// so that neighboring rows see almost the same keys. A unit of few rows has as many heads as it takes to read K and V
// in long stretches.
struct Unit {
  int64_t batch;
  int64_t kv_head;  // the first one
  int64_t heads;
  int64_t first_row, end_row;
  int64_t first_key, end_key;
};

// At most so many keys are a step of the running softmax, in which a row's state is rescaled once.
constexpr int64_t kBlockKeys = 256;
// And so many of few rows, and at the least where they are packed. Parts of the keys are multiples of it.
constexpr int64_t kFewKeys = 128;
// Packed keys and values of a step: a quarter of a second-level cache of 512 KiB. Of heads of 64, kBlockKeys.
constexpr int64_t kPackedBytes = 128 << 10;
// Rows whose scores are computed, exponentiated and multiplied before the next ones are: 24 × 256 scores are 24 KiB, so
// that they stay in the first-level cache. A multiple of every instruction set's tile.
constexpr int64_t kBlockRows = 24;
// With matrices, which are multiplied two at a time.
constexpr int64_t kMatrixBlockRows = 32;
constexpr int64_t kMostBlockRows = 32;
// Numbers of 16 bits that a float is the sum of, where matrices multiply it.
constexpr int64_t kMostParts = 3;
// Up to so many rows, products of rows with keys as they lie are faster than packing the keys first.
constexpr int64_t kMostDirectRows = 8;
// Heads of a unit.
constexpr int64_t kMostUnitHeads = 32;
// The largest size of a head.
constexpr int64_t kMostSize = 256;
// Rows of Q, O and V in scratch memory are padded to a multiple of this: at least the columns of every tile.
constexpr int64_t kPadding = 32;

// Scratch memory of one thread, and the state of the unit's rows: O before it is divided by `sum`. What is for a head
// is repeated for each of the unit's; rows are padded to kBlockRows, or to kMatrixBlockRows behind it, unless they are
// few.
struct Scratch {
  int64_t padded_rows;
  float* queries;  // of a head: [padded rows, padded size], scaled; with room for kMostParts of 16 bits unless few
  float* sink_q;   // likewise, for pinned keys; `queries` where these have none of their own
  float* keys;     // [kBlockKeys, size], in panels
  float* values;   // [kBlockKeys, padded value size], in panels
  float* scores;   // of a head: [at most kMostBlockRows, kBlockKeys]
  float* staging;  // [8, kMostSize]: rows that are not floats side by side
  float* factors;  // of a head: [kMostBlockRows]
  float* out;      // of a head: [padded rows, padded value size], and max and sum behind it
  float* max;      // [padded rows]
  float* sum;      // [padded rows]
};

enum class Phase : uint8_t {
  kWhole,   // computes the unit and writes O
  kState,   // computes the unit and leaves its state in scratch memory
  kFinish,  // divides the state by its sums, and writes O
};

using UnitFunction = void (*)(const Problem& problem, const Unit& unit, const Scratch& scratch, Phase phase);

void RunUnitScalar(const Problem& problem, const Unit& unit, const Scratch& scratch, Phase phase);
void RunUnitAvx2(const Problem& problem, const Unit& unit, const Scratch& scratch, Phase phase);
void RunUnitAvx512(const Problem& problem, const Unit& unit, const Scratch& scratch, Phase phase);
void RunUnitAmx(const Problem& problem, const Unit& unit, const Scratch& scratch, Phase phase);
void RunUnitNeon(const Problem& problem, const Unit& unit, const Scratch& scratch, Phase phase);

}  // namespace ingot::attention
