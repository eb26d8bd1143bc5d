// Products of a single row of X in integers. Reading the weights is what takes the time: several panels are read at
// once, each from start to end, with its scales as it comes to them.
#pragma once

#include "cpu/quantized_matmul/integer.h"
#include "cpu/quantized_matmul/scales.h"

namespace ingot::quantized_matmul {

// Panels that a single row takes at once: as many as have four vectors of columns, whose sums stay in registers.
template <typename E>
constexpr int kRowPanels = static_cast<int>(kMostRowPanels) * E::Lanes::V::kLanes / static_cast<int>(kPanel);

// Bytes ahead of what is multiplied that are fetched, of each panel.
constexpr int64_t kFetchedOfPanel = 1024;

// Fetches from kPanels streams of `bytes` bytes each, which follow one another in memory, what lies ahead of `at`: from
// the end of a stream it goes on to the streams that are read next. A core's own prefetcher stops at the end of a page.
template <int kPanels>
INGOT_INLINE void FetchAhead(const void* streams, int64_t bytes, int64_t at) {
  const int64_t ahead = at + kFetchedOfPanel;
  const std::byte* from = static_cast<const std::byte*>(streams) + ahead + (ahead >= bytes ? (kPanels - 1) * bytes : 0);
#pragma GCC unroll 4
  for (int p = 0; p < kPanels; ++p) __builtin_prefetch(from + p * bytes);
}

// Adds the products of a row with the columns of kPanels panels to sums [kPanels, kPanel]. T is the type of the scales.
template <typename E, Codes kCodes, int kPanels, typename T>
[[gnu::noinline]] void MultiplyRow(const Problem& problem, TileRows<typename E::Operand> x, int64_t panel,
                                   float* sums) {
  using L = typename E::Lanes;
  using V = typename L::V;
  constexpr int kOfPanel = static_cast<int>(kPanel) / V::kLanes;
  constexpr int kVectors = kOfPanel * kPanels;
  constexpr int64_t kBytes = StepBytes(kCodes);
  const typename E::Table table = E::LoadTable(problem.table_bytes);
  const int64_t bytes = problem.panel_bytes, steps = problem.steps;
  const uint8_t* const weights = problem.weights + panel * bytes;
  const int64_t run_steps = problem.run / kStep;
  const int64_t group_steps = problem.group / kStep;
  const int64_t apart = problem.groups * kPanel;
  const T* scales = reinterpret_cast<const T*>(problem.scales) + panel * apart;
  typename V::Float kept[kVectors];
#pragma GCC unroll 4
  for (int v = 0; v < kVectors; ++v) kept[v] = V::Load(sums + v * V::kLanes);
  for (int64_t group = 0, step = 0; step < steps; ++group) {
    if (group * kPanel * static_cast<int64_t>(sizeof(T)) % 64 == 0)
      FetchAhead<kPanels>(scales, apart * static_cast<int64_t>(sizeof(T)), group * kPanel * static_cast<int64_t>(sizeof(T)));
    const int64_t group_end = Least(step + group_steps, steps);
    while (step < group_end) {
      typename E::Sums products[kVectors];
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) products[v] = E::Begin(x.starts);
      const int64_t end = Least(step + run_steps, group_end);
      do {
        for (int64_t at = 0; at < kBytes; at += 64) FetchAhead<kPanels>(weights, bytes, step * kBytes + at);
#pragma GCC unroll 2
        for (int part = 0; part < E::kParts; ++part) {
          const typename E::X one = E::LoadX(x.values + step * kStep, part);
#pragma GCC unroll 4
          for (int v = 0; v < kVectors; ++v) {
            const uint8_t* at = weights + v / kOfPanel * bytes + step * kBytes;
            E::Add(products[v], E::template Load<kCodes>(at + v % kOfPanel * V::kLanes * 4, part, table), one);
          }
        }
      } while (++step < end);
      const auto factor = V::Set(*x.scales++);
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) {
        typename L::Int out[1];
        E::Finish(products[v], x.starts, out);
        const auto scale = V::Load(scales + group * kPanel + v / kOfPanel * apart + v % kOfPanel * V::kLanes);
        kept[v] = V::Fma(L::ToFloat(out[0]), scale * factor, kept[v]);
      }
      ++x.starts;
    }
  }
#pragma GCC unroll 4
  for (int v = 0; v < kVectors; ++v) V::Store(sums + v * V::kLanes, kept[v]);
}

// All panels of a unit of a single row.
template <typename E, Codes kCodes>
INGOT_INLINE void MultiplySingleRow(const Problem& problem, const Scratch& scratch, const Unit& unit) {
  const int64_t base = unit.first_row - scratch.base_row;
  const int64_t runs = (problem.steps * kStep + problem.run - 1) / problem.run;
  const TileRows<typename E::Operand> x = {
      static_cast<const typename E::Operand*>(scratch.rows.values) + base * problem.steps * kStep,
      scratch.rows.scales + base * runs, scratch.rows.starts + base * runs, scratch.rows.sums + base * runs};
  WithType(problem.scale_type, [&]<typename T>(T*) __attribute__((always_inline)) {
    for (int64_t panel = unit.first_panel; panel < unit.end_panel;) {
      float* sums = scratch.sums + (panel - unit.first_panel) * kPanel;
      if (unit.end_panel - panel >= kRowPanels<E>) {
        MultiplyRow<E, kCodes, kRowPanels<E>, T>(problem, x, panel, sums);
        panel += kRowPanels<E>;
      } else {
        MultiplyRow<E, kCodes, 1, T>(problem, x, panel, sums);
        panel += 1;
      }
    }
  });
}

}  // namespace ingot::quantized_matmul
