// Integer expressions over the symbols of a function (docs/format.md, "Program").
#pragma once

#include <cstdint>
#include <limits>
#include <optional>
#include <span>
#include <string_view>

#include "json.h"

namespace ingot {

enum class Operator : uint8_t {
  kConst,
  kSymbol,
  kAdd,
  kSub,
  kMul,
  kFloorDiv,
  kFloorMod,
  kMin,
  kMax,
  kLt,
  kLe,
  kEq,
  kNe,
  kAnd,
  kOr,
  kNot,
  kSelect
};

// The value of an expression that has none: a division by zero or an overflow, or one made of such. It is an error only
// where an extent or a check needs it, so that `select` can guard a division.
constexpr int64_t kUndefinedInteger = std::numeric_limits<int64_t>::min();

struct Expression {
  Operator op;
  int32_t operands[3];  // indices of earlier expressions; of a symbol for kSymbol
  int64_t constant;     // of kConst

  // What follows from where symbols are bound (analysis.cpp).
  int32_t stage = 0;  // 0: known once the function's inputs are; s + 1: known after step s
  bool late = false;  // depends on something that is not known until the function runs
};

struct OperatorRow {
  std::string_view name;
  Operator op;
  int operand_count;
};

const OperatorRow* FindOperator(std::string_view name);
int OperandCount(Operator op);

// Reads an expression, which stands behind `index` others and may refer to this many symbols.
Expression ReadExpression(const json::Node& node, size_t index, size_t symbols);

// The value of an expression, given those of all expressions before it and of the symbols.
int64_t EvaluateExpression(const Expression& expression, std::span<const int64_t> values,
                           std::span<const int64_t> symbols);

// Whether a condition is true; one that has no value is not.
inline bool Holds(int64_t value) { return value != 0 && value != kUndefinedInteger; }

}  // namespace ingot
