// One time step of a recurrent layer: what the instruction sets implement. Plain data and functions only: an inline
// function in a translation unit that is compiled for AVX2 could be the one that the linker keeps for all machines.
#pragma once

#include <cstdint>

#include "types.h"

namespace ingot::recurrent {

constexpr int64_t kLanes = 8;
constexpr int kMostGates = 4;

// How weights of a type lie in a block: kSides k of a column are side by side, and a multiple of kDepth k are there, of
// which those from H on are zeros. Two bfloat16 side by side are what matrix registers multiply, and what vectors take
// apart with fewer instructions than a conversion has.
template <typename W>
struct Layout {
  static constexpr int kSides = 1, kDepth = 1;
};
template <>
struct Layout<Bfloat16> {
  static constexpr int kSides = 2, kDepth = 32;
};

enum class Cell : int64_t { kRnn = 0, kLstm = 1, kGru = 2, kGruLinearBeforeReset = 3 };

// In the order of the table in python/ingot/importer/ops/recurrent.py.
enum class Activation : int64_t {
  kSigmoid,
  kTanh,
  kRelu,
  kAffine,
  kLeakyRelu,
  kThresholdedRelu,
  kScaledTanh,
  kHardSigmoid,
  kElu,
  kSoftsign,
  kSoftplus
};
constexpr int64_t kActivations = 11;

template <typename T>
struct Function {
  Activation kind;
  T alpha;
  T beta;
};

// One sequence of the batch at one time step.
template <typename T>
struct Row {
  const T* projected;  // [N, G, 8]
  const T* previous;   // h of the time step before: [H]
  T* hidden;           // h: [H]
  T* cell;             // c, updated in place: [P] (LSTM)
  T* update;           // z: [P] (GRU)
  T* reset;            // r times h: [P] (GRU without linear_before_reset)
};

// What a time step computes, but for its weights.
template <typename T>
struct Settings {
  Cell cell;
  int phase;  // GRU without linear_before_reset: 0 gives z and r h, then, when all units have them, 1 gives h
  bool input_forget;
  bool descending;  // the last block comes first: a step begins with the weights that the one before it ended with
  int64_t hidden_size;
  int64_t depth;  // the k of a block of weights: hidden_size rounded up to a multiple of Layout's kDepth
  T clip;
  Function<T> f, g, h;
  const T* reset_bias;  // [P] or nullptr
  const T* peepholes;   // [3, P] or nullptr
  const Row<T>* rows;
  int64_t row_count;
  int64_t first_block;  // of N, the units to compute
  int64_t end_block;
};

// With weights of type W, this direction's and phase's.
template <typename T, typename W = T>
struct Step : Settings<T> {
  const W* weights;
};

template <typename T, typename W = T>
using StepFunction = void (*)(const Step<T, W>& step);

// The versions of a step for an instruction set, one for each type of weights.
struct StepFunctions {
  StepFunction<float> float32;
  StepFunction<float, Half> float16;
  StepFunction<float, Bfloat16> bfloat16;
};

void StepScalar(const Step<double>& step);
StepFunctions StepsScalar();
StepFunctions StepsAvx2();
StepFunctions StepsAvx512();
StepFunctions StepsAmx();
StepFunctions StepsNeon();

// One value of an activation.
float Activate(const Function<float>& function, float x);

}  // namespace ingot::recurrent
