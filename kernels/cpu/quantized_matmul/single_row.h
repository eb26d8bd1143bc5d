// One row of X in integers: it takes the time that W takes to read. Several panels at once, over the whole depth and
// with scales as they lie, are as many streams of memory that are fetched ahead and never wait for one another.
#pragma once

#include "cpu/quantized_matmul/integer.h"
#include "cpu/quantized_matmul/scales.h"

namespace ingot::quantized_matmul {

// Bytes of each panel that are fetched ahead of what is multiplied: of weights, and of scales.
constexpr int64_t kWeightsAhead = 1024;
constexpr int64_t kScalesAhead = 256;

// Fetches the cache line at `at` of what has `size` bytes a panel; past its end, from the panel that is read next.
INGOT_INLINE void FetchStream(const void* panel, int64_t at, int64_t size, int64_t panels) {
  __builtin_prefetch(static_cast<const char*>(panel) + at + (at < size ? 0 : (panels - 1) * size));
}

// The products of a row with the columns of kPanels panels.
template <typename E, Codes kCodes, int kPanels, typename Scale>
[[gnu::noinline]] void MultiplyStreams(const Problem& problem, int64_t panel, TileRows<typename E::Operand> x,
                                       float* sums) {
  using L = typename E::Lanes;
  using V = typename L::V;
  constexpr int kOfPanel = kPanel / V::kLanes;
  constexpr int kVectors = kOfPanel * kPanels;
  const uint8_t* weights = problem.weights + panel * problem.panel_bytes;
  const int64_t panel_scales = problem.groups * kPanel;
  const Scale* scales = reinterpret_cast<const Scale*>(problem.scales) + panel * panel_scales;
  const typename E::Table table = E::LoadTable(problem.table_bytes);
  const int64_t run_steps = problem.run / kStep;
  const int64_t group_runs = problem.group / problem.run;
  typename V::Float total[kVectors];
#pragma GCC unroll 16
  for (int v = 0; v < kVectors; ++v) total[v] = V::Set(0);
  int64_t at = 0, group = 0, left = group_runs;
  for (int64_t step = 0; step < problem.steps; step += run_steps) {
    typename E::Sums products[kVectors];
#pragma GCC unroll 16
    for (int v = 0; v < kVectors; ++v) products[v] = E::Begin(x.starts);
    const int64_t count = Least(run_steps, problem.steps - step);
    int64_t i = 0;
    do {  // at least once: sums of a loop that may be left out would be kept twice
#pragma GCC unroll 4
      for (int p = 0; p < kPanels; ++p) {
        for (int64_t line = 0; line < StepBytes(kCodes); line += 64)
          FetchStream(weights + p * problem.panel_bytes, at + kWeightsAhead + line, problem.panel_bytes, kPanels);
      }
#pragma GCC unroll 2
      for (int part = 0; part < E::kParts; ++part) {
        const typename E::X one = E::LoadX(x.values, part);
#pragma GCC unroll 16
        for (int v = 0; v < kVectors; ++v) {
          const uint8_t* from = weights + v / kOfPanel * problem.panel_bytes + at + v % kOfPanel * V::kLanes * 4;
          E::Add(products[v], E::template Load<kCodes>(from, part, table), one);
        }
      }
      at += StepBytes(kCodes);
      x.values += kStep;
    } while (++i < count);
#pragma GCC unroll 16
    for (int v = 0; v < kVectors; ++v) {
      const int64_t column = v / kOfPanel * panel_scales + group * kPanel + v % kOfPanel * V::kLanes;
      typename L::Int out[1];
      E::Finish(products[v], x.starts, out);
      auto product = L::ToFloat(out[0]);
      if (problem.zeros != nullptr)
        product = V::Fma(LoadZeros<V>(problem, panel * panel_scales + column), V::Set(-*x.sums), product);
      total[v] = V::Fma(product, LoadScales<V>(scales + column) * V::Set(*x.scales), total[v]);
    }
    ++x.scales;
    ++x.starts;
    ++x.sums;
    if (--left > 0) continue;
    left = group_runs;
    ++group;
    constexpr auto kSize = static_cast<int64_t>(sizeof(Scale));
    if (group * kPanel * kSize % 64 != 0) continue;
#pragma GCC unroll 4
    for (int p = 0; p < kPanels; ++p)
      FetchStream(scales + p * panel_scales, group * kPanel * kSize + kScalesAhead, panel_scales * kSize, kPanels);
  }
#pragma GCC unroll 16
  for (int v = 0; v < kVectors; ++v) V::Store(sums + v * V::kLanes, total[v]);
}

// The products of a unit of one row, kPanel apart.
template <typename E, Codes kCodes>
INGOT_INLINE void MultiplySingleRow(const Problem& problem, const Scratch& scratch, const Unit& unit) {
  constexpr int kStreams = E::Lanes::V::kLanes / 4;  // registers hold the sums of so many panels twice
  static_assert(kStreams <= kMostStreams);
  const int64_t runs = (problem.steps * kStep + problem.run - 1) / problem.run;
  const int64_t base = unit.first_row - scratch.base_row;
  const auto* values = static_cast<const typename E::Operand*>(scratch.rows.values);
  const TileRows<typename E::Operand> x = {values + base * problem.steps * kStep, scratch.rows.scales + base * runs,
                                           scratch.rows.starts + base * runs, scratch.rows.sums + base * runs};
  WithScaleType(problem.scale_type, [&]<typename Scale>(Scale*) __attribute__((always_inline)) {
    int64_t panel = unit.first_panel;
    float* sums = scratch.sums;
    const auto multiply = [&]<int kPanels>() __attribute__((always_inline)) {
      for (; unit.end_panel - panel >= kPanels; panel += kPanels, sums += kPanels * kPanel)
        MultiplyStreams<E, kCodes, kPanels, Scale>(problem, panel, x, sums);
    };
    multiply.template operator()<kStreams>();
    multiply.template operator()<1>();
  });
}

}  // namespace ingot::quantized_matmul
