// Products in integers: a tile of rows of X by a panel of W.
//
// An engine E says how an instruction set multiplies codes of one kind with rows of X:
//   Lanes                    vectors of floats and 32-bit integers (rows.h)
//   Operand                  a number of X: int8_t or int16_t
//   kOffset                  what Load adds to the codes of nibbles and bytes; a row's start takes it off again
//   kMostRun                 k whose products a sum holds exactly
//   kTileRows, Vectors(r)    rows of the largest tile, and vectors of columns of a tile of r rows
//   kPanels                  panels that a tile takes at once, 1 or 2; with 2 a vector is all columns of a panel
//   kUnit, kParts            rows that are multiplied at once, and parts of a step that are read one after the other
//   Table, LoadTable         16 numbers of a byte to look up
//   Load<codes>(at, part, table)  the weights of a part of a step and a vector of columns
//   kExpands                 whether many tiles read weights that were loaded and stored once, of one byte each
//   LoadX(at, part)          the same of kUnit rows of X
//   Sums, Add                sums of products of kUnit rows with a vector of columns
//   Begin(starts)            sums of nothing; they may hold each row's start
//   Finish(sums, starts, out) the sums as 32-bit integers, with each row's start
#pragma once

#include "cpu/quantized_matmul/rows.h"

namespace ingot::quantized_matmul {

// Bytes of a step of the packed weights (quantized_matmul.h).
INGOT_INLINE constexpr int64_t StepBytes(Codes codes) {
  return codes == Codes::kBytes ? kPanel * kStep : kPanel * kStep / 2;
}

// Calls body with the rows of the smallest tile that holds so many rows.
template <typename E, typename Body>
INGOT_INLINE void WithTileRows(int64_t rows, Body&& body) {
  if constexpr (E::kTileRows >= 12) {
    if (rows > 8) return body.template operator()<12>();
  }
  if constexpr (E::kTileRows >= 8) {
    if (rows > 6) return body.template operator()<8>();
  }
  if constexpr (E::kTileRows >= 6) {
    if (rows > 4) return body.template operator()<6>();
  }
  if constexpr (E::kTileRows >= 4) {
    if (rows > 2) return body.template operator()<4>();
  }
  if constexpr (E::kUnit == 1) {
    if (rows == 1) return body.template operator()<1>();
  }
  return body.template operator()<2>();
}

// A tile's part of X.
template <typename Operand>
struct TileRows {
  const Operand* values;
  const float* scales;
  const int32_t* starts;
  const float* sums;
};

// Bytes ahead of what is multiplied that are fetched. A core's own prefetcher stops at the end of a page.
constexpr int64_t kFetchedBytes = 4096;

// As many tiles as make it worth while to expand the weights first; a line a step of each is all that follows.
constexpr int64_t kLeastExpandedTiles = 6;
static_assert(kLeastExpandedTiles >= kMostPanels * StepBytes(Codes::kBytes) / 64);

// The distances from a panel's weights, scales and sums to those of the next.
struct Apart {
  int64_t weights, scales, sums;
};

// Weights that will be multiplied soon. At each step a tile fetches the cache line, the one `part` behind it if a step
// has two, and those `apart` behind these; then it goes `onward`. Lines that are fetched twice cost next to nothing.
struct Following {
  const uint8_t* line;
  int64_t part, apart, onward;
};

// How packed weights are read.
template <typename E, Codes kCodes>
struct Packed {
  static constexpr int64_t kStepBytes = StepBytes(kCodes);
  static constexpr bool kManyTiles = false;
  static constexpr int64_t kVectorBytes = E::Lanes::V::kLanes * 4;

  INGOT_INLINE static typename E::Weights Load(const uint8_t* at, int part, typename E::Table table) {
    return E::template Load<kCodes>(at, part, table);
  }
};

// And weights that were stored as the engine multiplies them: [panels, steps, parts, vectors of a panel].
template <typename E>
struct Expanded {
  static constexpr int64_t kVectorBytes = sizeof(typename E::Weights);
  static constexpr int64_t kPartBytes = kPanel / E::Lanes::V::kLanes * kVectorBytes;
  static constexpr int64_t kStepBytes = E::kParts * kPartBytes;
  static constexpr bool kManyTiles = true;  // so many that of what follows each fetches a line a step

  INGOT_INLINE static typename E::Weights Load(const uint8_t* at, int part, typename E::Table) {
    typename E::Weights weights;
    __builtin_memcpy(&weights, at + part * kPartBytes, sizeof(weights));
    return weights;
  }
};

// Expands a panel's weights of `steps` steps.
template <typename E, Codes kCodes>
[[gnu::noinline]] void Expand(const Problem& problem, const uint8_t* weights, int64_t steps, uint8_t* to) {
  using From = Packed<E, kCodes>;
  const typename E::Table table = E::LoadTable(problem.table_bytes);
  for (int64_t step = 0; step < steps; ++step, weights += From::kStepBytes) {
#pragma GCC unroll 2
    for (int part = 0; part < E::kParts; ++part) {
#pragma GCC unroll 4
      for (int v = 0; v < kPanel / E::Lanes::V::kLanes; ++v) {
        const typename E::Weights vector = From::Load(weights + v * From::kVectorBytes, part, table);
        __builtin_memcpy(to, &vector, sizeof(vector));
        to += sizeof(vector);
      }
    }
  }
}

// Adds the products of kRows rows with columns of kPanels panels over `steps` steps to their sums, kPanel apart. Only
// with one panel there may be zeros. Meanwhile what follows is fetched.
template <typename E, typename From, int kRows, int kPanels>
[[gnu::noinline]] void MultiplyTile(const Problem& problem, const uint8_t* weights, Following following,
                                    TileRows<typename E::Operand> x, int64_t steps, const float* scales,
                                    const float* zeros, float* sums, Apart apart) {
  using L = typename E::Lanes;
  using V = typename L::V;
  constexpr int kOfPanel = E::Vectors(kRows);
  constexpr int kVectors = kOfPanel * kPanels;
  static_assert(kPanels == 1 || kOfPanel * V::kLanes == kPanel);
  constexpr int kUnits = kRows / E::kUnit;
  constexpr bool kKeepsSums = kRows * kVectors <= 4;  // in registers: in memory they would wait for one another
  const typename E::Table table = E::LoadTable(problem.table_bytes);
  const int64_t run_steps = problem.run / kStep;
  const int64_t group_runs = Least(problem.group, kChunk) / problem.run;
  const auto column = [](int v) __attribute__((always_inline)) { return v % kOfPanel * V::kLanes; };
  const auto sums_of = [&](int r, int v) __attribute__((always_inline)) {
    return sums + v / kOfPanel * apart.sums + r * kPanel + column(v);
  };
  typename V::Float kept[kRows][kVectors];
  if constexpr (kKeepsSums) {
    for (int r = 0; r < kRows; ++r)
      for (int v = 0; v < kVectors; ++v) kept[r][v] = V::Load(sums_of(r, v));
  }
  typename E::Sums products[kUnits][kVectors];
  // Adds what the products of a run stand for.
  const auto finish = [&]() __attribute__((always_inline)) {
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
      const auto scale = V::Load(scales + v / kOfPanel * apart.scales + column(v));
#pragma GCC unroll 12
      for (int u = 0; u < kUnits; ++u) {
        typename L::Int out[E::kUnit];
        E::Finish(products[u][v], x.starts + u * E::kUnit, out);
#pragma GCC unroll 2
        for (int i = 0; i < E::kUnit; ++i) {
          const int r = u * E::kUnit + i;
          auto product = L::ToFloat(out[i]);
          if constexpr (kPanels == 1) {
            if (zeros != nullptr) product = V::Fma(V::Load(zeros + column(v)), V::Set(-x.sums[r]), product);
          }
          const auto factor = scale * V::Set(x.scales[r]);
          if constexpr (kKeepsSums) {
            kept[r][v] = V::Fma(product, factor, kept[r][v]);
          } else {
            V::Store(sums_of(r, v), V::Fma(product, factor, V::Load(sums_of(r, v))));
          }
        }
      }
    }
  };
  int64_t left = group_runs;
  for (int64_t step = 0; step < steps; step += run_steps) {
#pragma GCC unroll 12
    for (int u = 0; u < kUnits; ++u)
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) products[u][v] = E::Begin(x.starts + u * E::kUnit);
    const int64_t count = Least(run_steps, steps - step);
    int64_t i = 0;
    do {  // at least once: sums of a loop that may be left out would be kept twice
      if constexpr (kKeepsSums) {
#pragma GCC unroll 2
        for (int p = 0; p < kPanels; ++p) {
          const uint8_t* ahead = weights + p * apart.weights + kFetchedBytes;
          for (int64_t at = 0; at < From::kStepBytes; at += 64) __builtin_prefetch(ahead + at);
        }
      } else {
        __builtin_prefetch(following.line, 0, 2);
        if constexpr (!From::kManyTiles) {
          __builtin_prefetch(following.line + following.apart, 0, 2);
          if constexpr (From::kStepBytes > 64) {
            __builtin_prefetch(following.line + following.part, 0, 2);
            __builtin_prefetch(following.line + following.part + following.apart, 0, 2);
          }
        }
        following.line += following.onward;
      }
#pragma GCC unroll 2
      for (int part = 0; part < E::kParts; ++part) {
        typename E::Weights w[kVectors];
#pragma GCC unroll 8
        for (int v = 0; v < kVectors; ++v)
          w[v] = From::Load(weights + v / kOfPanel * apart.weights + v % kOfPanel * From::kVectorBytes, part, table);
#pragma GCC unroll 12
        for (int u = 0; u < kUnits; ++u) {
          const typename E::X one = E::LoadX(x.values + u * E::kUnit * kStep, part);
#pragma GCC unroll 8
          for (int v = 0; v < kVectors; ++v) E::Add(products[u][v], w[v], one);
        }
      }
      weights += From::kStepBytes;
      x.values += kRows * kStep;
    } while (++i < count);
    finish();
    // Sums stay in memory: in registers there would be none left for the products.
    if constexpr (!kKeepsSums) asm volatile("" ::: "memory");
    x.scales += kRows;
    x.starts += kRows;
    x.sums += kRows;
    if (--left == 0) {
      left = group_runs;
      scales += kPanel;
      if (kPanels == 1 && zeros != nullptr) zeros += kPanel;
    }
  }
  if constexpr (kKeepsSums) {
    for (int r = 0; r < kRows; ++r)
      for (int v = 0; v < kVectors; ++v) V::Store(sums_of(r, v), kept[r][v]);
  }
}

// What a tile of several fetches of the next `steps` steps of kPanels panels, which are multiplied after all tiles.
template <Codes kCodes, int kPanels>
INGOT_INLINE Following FollowingOf(const Problem& problem, const uint8_t* next, int64_t steps, int64_t tile,
                                   int64_t tiles) {
  constexpr int64_t kLines = StepBytes(kCodes) / 64;
  const int64_t apart = kPanels > 1 ? problem.panel_bytes : 0;
  const uint8_t* part = next + tile % kLines * steps * 64;
  if (tiles < kLines) return {next, 64, apart, kLines * 64};                   // all of it
  if (tiles < kLines * kPanels && tile < kLines) return {part, 0, apart, 64};  // a part of every panel
  if (tiles >= kLines * kPanels && tile < kLines * kPanels) return {part + tile / kLines * apart, 0, 0, 64};  // of one
  return {next, 0, 0, 0};  // others fetched it
}

// All tiles of a unit by kPanels panels over the steps from `first_step` on; scales and zeros are those of these steps.
// As many steps of as many panels from `next` on are multiplied after them.
template <typename E, Codes kCodes, int kPanels>
INGOT_INLINE void MultiplyRows(const Problem& problem, const Scratch& scratch, const Unit& unit, int64_t panel,
                               const uint8_t* next, int64_t first_step, int64_t steps, const float* zeros,
                               float* sums) {
  using V = typename E::Lanes::V;
  const int64_t runs = (problem.steps * kStep + problem.run - 1) / problem.run;
  const int64_t first_run = first_step * kStep / problem.run;
  const uint8_t* weights = problem.weights + panel * problem.panel_bytes + first_step * StepBytes(kCodes);
  Apart apart = {problem.panel_bytes, GroupsIn(problem, steps * kStep) * kPanel,
                 (unit.end_row - unit.first_row) * kPanel};
  const int64_t tiles = (unit.end_row - unit.first_row + E::kTileRows - 1) / E::kTileRows;
  const bool expands = E::kExpands && tiles >= kLeastExpandedTiles;
  if (expands) {
    auto* to = static_cast<uint8_t*>(scratch.expanded);
    const int64_t bytes = steps * Expanded<E>::kStepBytes;
    for (int p = 0; p < kPanels; ++p) Expand<E, kCodes>(problem, weights + p * apart.weights, steps, to + p * bytes);
    weights = to;
    apart.weights = bytes;
  }
  for (int64_t row = unit.first_row; row < unit.end_row; row += E::kTileRows) {
    const int64_t tile = (row - unit.first_row) / E::kTileRows;
    const Following following = FollowingOf<kCodes, kPanels>(problem, next, steps, tile, tiles);
    WithTileRows<E>(unit.end_row - row, [&]<int kRows>() __attribute__((always_inline)) {
      const int64_t base = row - scratch.base_row;
      const int64_t run = base * runs + first_run * kRows;
      const TileRows<typename E::Operand> x = {static_cast<const typename E::Operand*>(scratch.rows.values) +
                                                   (base * problem.steps + first_step * kRows) * kStep,
                                               scratch.rows.scales + run, scratch.rows.starts + run,
                                               scratch.rows.sums + run};
      const auto multiply = [&]<typename From>() __attribute__((always_inline)) {
        for (int v = 0; v < kPanel / V::kLanes; v += E::Vectors(kRows)) {
          const int64_t column = v * V::kLanes;
          MultiplyTile<E, From, kRows, kPanels>(problem, weights + v * From::kVectorBytes, following, x, steps,
                                                scratch.scales + column, zeros == nullptr ? nullptr : zeros + column,
                                                sums + (row - unit.first_row) * kPanel + column, apart);
        }
      };
      if constexpr (E::kExpands) {
        if (expands) return multiply.template operator()<Expanded<E>>();
      }
      multiply.template operator()<Packed<E, kCodes>>();
    });
  }
}

}  // namespace ingot::quantized_matmul
