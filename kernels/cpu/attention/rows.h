// Rows of the tensors: reading them as floats, starting and finishing a unit.
#pragma once

#include "cpu/attention/softmax.h"

namespace ingot::attention {

// The queries of a block of keys that starts at `first`.
INGOT_INLINE const float* QueriesOf(const Problem& problem, const Scratch& scratch, int64_t first) {
  return first < problem.sink_keys ? scratch.sink_q : scratch.queries;
}

template <typename T>
INGOT_INLINE const T* RowOf(const Tensor& tensor, int64_t batch, int64_t sequence, int64_t head) {
  return static_cast<const T*>(tensor.data) + batch * tensor.batch + sequence * tensor.sequence + head * tensor.head;
}

// What of a unit's scratch memory is one head's.
INGOT_INLINE Scratch HeadScratch(const Problem& problem, const Scratch& scratch, int64_t head) {
  const int64_t rows = scratch.padded_rows;
  const int64_t queries = head * rows * RoundUp(problem.size, kPadding);
  const int64_t state = head * rows * (RoundUp(problem.value_size, kPadding) + 2);
  Scratch part = scratch;
  part.queries += queries;
  part.sink_q += queries;
  part.scores += head * rows * kBlockKeys;
  part.factors += head * kMostBlockRows;
  part.out += state;
  part.max += state;
  part.sum += state;
  return part;
}

// Calls body(unit, scratch) for each of the unit's heads alone.
template <typename Body>
INGOT_INLINE void ForHeads(const Problem& problem, const Unit& unit, const Scratch& scratch, Body&& body) {
  for (int64_t head = 0; head < unit.heads; ++head) {
    Unit part = unit;
    part.kv_head += head;
    part.heads = 1;
    body(part, HeadScratch(problem, scratch, head));
  }
}

// How many rows ahead: at a hundred cycles from the third-level cache, and some ten to copy a row.
constexpr int64_t kFetchedRows = 8;

// Fetches a row that will be read soon to the first-level cache (3) or the second (2): cores do not foresee rows that
// lie apart.
template <int kLocality = 3, typename T>
INGOT_INLINE void Fetch(const T* row, int64_t size) {
  const char* from = reinterpret_cast<const char*>(row);
  for (int64_t at = 0; at < size * static_cast<int64_t>(sizeof(T)); at += 64)
    __builtin_prefetch(from + at, 0, kLocality);
}

// Calls body(T*) with a null pointer of the C++ type of an element of Q or O.
template <typename Body>
INGOT_INLINE void WithType(Element element, Body&& body) {
  switch (element) {
    case Element::kHalf:
      return body(static_cast<Half*>(nullptr));
    case Element::kBfloat:
      return body(static_cast<Bfloat16*>(nullptr));
    default:
      return body(static_cast<float*>(nullptr));
  }
}

// Of an element of K or V.
template <typename Body>
INGOT_INLINE void WithCacheType(Element element, Body&& body) {
  if (element == Element::kInt8) return body(static_cast<int8_t*>(nullptr));
  WithType(element, body);
}

// to[i] = factor * from[i].
template <typename V, typename T, typename U>
INGOT_INLINE void ScaleRow(const T* from, U* to, int64_t count, float factor) {
  int64_t i = 0;
  for (; i + V::kLanes <= count; i += V::kLanes) V::Store(to + i, V::Load(from + i) * V::Set(factor));
  if (i < count) V::StoreFirst(to + i, count - i, V::LoadFirst(from + i, count - i) * V::Set(factor));
}

// The row of a key or value that lies `place` elements from the start, as floats side by side: in place if it is so,
// else written to `staging`. The scale is that of int8.
template <typename V>
INGOT_INLINE const float* FloatRow(const Tensor& tensor, int64_t place, int64_t size, float scale, float* staging) {
  if (tensor.element == Element::kFloat && tensor.feature == 1) return static_cast<const float*>(tensor.data) + place;
  WithCacheType(tensor.element, [&]<typename T>(T*) __attribute__((always_inline)) {
    const T* from = static_cast<const T*>(tensor.data) + place;
    if (tensor.feature == 1) return ScaleRow<V>(from, staging, size, scale);
    for (int64_t i = 0; i < size; ++i) {
      const T one[V::kLanes] = {from[i * tensor.feature]};
      V::StoreFirst(staging + i, 1, V::Load(one) * V::Set(scale));
    }
  });
  return staging;
}

// Scales a head's queries; rows are padded with zeros, in length and in number.
template <typename V>
[[gnu::noinline]] void ScaleQueries(const Problem& problem, const Unit& unit, const Tensor& q, float* queries,
                                    int64_t padded_rows) {
  const int64_t rows = unit.end_row - unit.first_row;
  const int64_t stride = RoundUp(problem.size, kPadding);
  const float scale = problem.softcap > 0 ? problem.scale / problem.softcap : problem.scale;
  std::memset(queries + rows * stride, 0, static_cast<size_t>((padded_rows - rows) * stride) * sizeof(float));
  WithType(q.element, [&]<typename T>(T*) __attribute__((always_inline)) {
    for (int64_t i = 0; i < rows; ++i) {
      const int64_t row = unit.first_row + i;
      const int64_t head = HeadOf(problem, unit, row);
      float* to = queries + i * stride;
      if (i + kFetchedRows < rows)
        Fetch(RowOf<T>(q, unit.batch, QueryOf(problem, row + kFetchedRows), head), problem.size);
      ScaleRow<V>(RowOf<T>(q, unit.batch, QueryOf(problem, row), head), to, problem.size, scale);
      for (int64_t j = problem.size; j < stride; ++j) to[j] = 0;
    }
  });
}

// Clears the outputs of a head's rows [begin, end), of those in scratch memory.
INGOT_INLINE void ClearOutputs(const Problem& problem, const Scratch& scratch, int64_t begin, int64_t end) {
  const int64_t stride = RoundUp(problem.value_size, kPadding);
  std::memset(scratch.out + begin * stride, 0, static_cast<size_t>((end - begin) * stride) * sizeof(float));
}

// Starts a head's softmax.
template <typename V>
[[gnu::noinline]] void StartSums(const Problem& problem, const Unit& unit, const Scratch& scratch) {
  const int64_t rows = unit.end_row - unit.first_row;
  const int64_t padded_rows = scratch.padded_rows;
  for (int64_t i = 0; i < padded_rows; ++i) {
    scratch.max[i] = kMinusInfinity;
    scratch.sum[i] = 0;
  }
  if (problem.sinks == nullptr || unit.first_key > 0) return;
  // A sink is a key without a value that was seen first; e^(sink - max) is 1. An infinite one has no softmax.
  for (int64_t i = 0; i < rows; ++i) {
    const float sink = problem.sinks[HeadOf(problem, unit, unit.first_row + i)];
    const float next = sink == -kMinusInfinity ? sink - sink : sink;
    scratch.max[i] = next;
    scratch.sum[i] = next == kMinusInfinity ? 0 : next != next ? next : 1;
  }
}

// Scales a head's queries and clears its state.
template <typename V>
INGOT_INLINE void StartUnit(const Problem& problem, const Unit& unit, const Scratch& scratch) {
  ScaleQueries<V>(problem, unit, problem.q, scratch.queries, scratch.padded_rows);
  if (problem.sink_q.data != nullptr && unit.first_key < problem.sink_keys)
    ScaleQueries<V>(problem, unit, problem.sink_q, scratch.sink_q, scratch.padded_rows);
  ClearOutputs(problem, scratch, 0, scratch.padded_rows);
  StartSums<V>(problem, unit, scratch);
}

// Writes a head's rows of O.
template <typename V>
[[gnu::noinline]] void FinishUnit(const Problem& problem, const Unit& unit, const Scratch& scratch) {
  const int64_t stride = RoundUp(problem.value_size, kPadding);
  WithType(problem.o.element, [&]<typename T>(T*) __attribute__((always_inline)) {
    for (int64_t i = 0; i < unit.end_row - unit.first_row; ++i) {
      const int64_t row = unit.first_row + i;
      const int64_t head = HeadOf(problem, unit, row);
      T* to = const_cast<T*>(RowOf<T>(problem.o, unit.batch, QueryOf(problem, row), head));
      const float factor = scratch.sum[i] == 0 ? 0 : 1 / scratch.sum[i];
      ScaleRow<V>(scratch.out + i * stride, to, problem.value_size, factor);
    }
  });
}

}  // namespace ingot::attention
