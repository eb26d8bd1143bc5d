#include "expression.h"

#include <algorithm>

namespace ingot {
namespace {

// In the order of Operator. The operand of `const` is its constant, of `sym` a symbol.
constexpr OperatorRow kOperators[] = {
    {"const", Operator::kConst, 0},
    {"sym", Operator::kSymbol, 0},
    {"add", Operator::kAdd, 2},
    {"sub", Operator::kSub, 2},
    {"mul", Operator::kMul, 2},
    {"floordiv", Operator::kFloorDiv, 2},
    {"floormod", Operator::kFloorMod, 2},
    {"min", Operator::kMin, 2},
    {"max", Operator::kMax, 2},
    {"lt", Operator::kLt, 2},
    {"le", Operator::kLe, 2},
    {"eq", Operator::kEq, 2},
    {"ne", Operator::kNe, 2},
    {"and", Operator::kAnd, 2},
    {"or", Operator::kOr, 2},
    {"not", Operator::kNot, 1},
    {"select", Operator::kSelect, 3},
};

// `value` is a reference because it is what the call that makes `overflow` writes, in an order that C++ leaves open.
int64_t Checked(bool overflow, const int64_t& value) { return overflow ? kUndefinedInteger : value; }

int64_t FloorDivide(int64_t a, int64_t b) {
  if (b == 0) return kUndefinedInteger;
  if (b == -1) return Checked(__builtin_sub_overflow(int64_t{0}, a, &a), a);
  return a / b - (a % b != 0 && (a < 0) != (b < 0));
}

int64_t FloorModulo(int64_t a, int64_t b) {
  if (b == 0) return kUndefinedInteger;
  if (b == -1) return 0;
  const int64_t remainder = a % b;
  return remainder != 0 && (remainder < 0) != (b < 0) ? remainder + b : remainder;
}

}  // namespace

const OperatorRow* FindOperator(std::string_view name) {
  for (const OperatorRow& row : kOperators) {
    if (row.name == name) return &row;
  }
  return nullptr;
}

int OperandCount(Operator op) { return kOperators[static_cast<size_t>(op)].operand_count; }

Expression ReadExpression(const json::Node& node, size_t index, size_t symbols) {
  const size_t size = node.ArraySize();
  if (size == 0) node.Fail("an expression starts with an operator");
  const OperatorRow* row = FindOperator(node.At(0).String());
  if (row == nullptr) node.Fail("there is no operator '", node.At(0).String(), "'");
  Expression expression{row->op, {0, 0, 0}, 0};
  const bool leaf = row->operand_count == 0;
  if (size != static_cast<size_t>(leaf ? 2 : row->operand_count + 1)) node.Fail("wrong number of operands");
  if (row->op == Operator::kConst) {
    expression.constant = node.At(1).Integer();
  } else if (row->op == Operator::kSymbol) {
    expression.operands[0] = node.At(1).Index(symbols);
  } else {
    for (int i = 0; i < row->operand_count; ++i)
      expression.operands[i] = node.At(static_cast<size_t>(i) + 1).Index(index);
  }
  return expression;
}

int64_t EvaluateExpression(const Expression& expression, std::span<const int64_t> values,
                           std::span<const int64_t> symbols) {
  if (expression.op == Operator::kConst) return expression.constant;
  if (expression.op == Operator::kSymbol) return symbols[static_cast<size_t>(expression.operands[0])];
  const auto operand = [&](int i) { return values[static_cast<size_t>(expression.operands[i])]; };
  const int64_t a = operand(0);
  if (a == kUndefinedInteger) return kUndefinedInteger;
  if (expression.op == Operator::kNot) return a == 0;
  if (expression.op == Operator::kSelect) return a != 0 ? operand(1) : operand(2);
  const int64_t b = operand(1);
  if (b == kUndefinedInteger) return kUndefinedInteger;
  int64_t result = 0;
  switch (expression.op) {
    case Operator::kAdd:
      return Checked(__builtin_add_overflow(a, b, &result), result);
    case Operator::kSub:
      return Checked(__builtin_sub_overflow(a, b, &result), result);
    case Operator::kMul:
      return Checked(__builtin_mul_overflow(a, b, &result), result);
    case Operator::kFloorDiv:
      return FloorDivide(a, b);
    case Operator::kFloorMod:
      return FloorModulo(a, b);
    case Operator::kMin:
      return std::min(a, b);
    case Operator::kMax:
      return std::max(a, b);
    case Operator::kLt:
      return a < b;
    case Operator::kLe:
      return a <= b;
    case Operator::kEq:
      return a == b;
    case Operator::kNe:
      return a != b;
    case Operator::kAnd:
      return a != 0 && b != 0;
    case Operator::kOr:
      return a != 0 || b != 0;
    default:
      return kUndefinedInteger;
  }
}

}  // namespace ingot
