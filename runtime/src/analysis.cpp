// What follows from the order of a function's steps: which step makes which symbol and shape known, where each value's
// memory comes from and how long it is needed, and how the arguments of calls are laid out.

#include <algorithm>
#include <limits>
#include <numeric>

#include "program.h"

namespace ingot {
namespace {

constexpr int32_t kNever = std::numeric_limits<int32_t>::max();
constexpr int32_t kUnbound = -1;

template <typename... Parts>
[[noreturn]] void FailProgram(const Parts&... parts) {
  Fail(INGOT_ERROR_ARTIFACT, parts...);
}

class Analysis {
 public:
  Analysis(Function& function, const Artifact& artifact) : function_(function), artifact_(artifact) {}

  void Run() {
    BindSymbols();
    FindStages();
    FindLateness();
    CheckStages();
    CheckWeights();
    PlaceValues();
    LayOutArguments();
  }

 private:
  Value& At(int32_t value) { return function_.values[static_cast<size_t>(value)]; }
  Expression& Row(int32_t expression) { return function_.expressions[static_cast<size_t>(expression)]; }
  int32_t StepCount() const { return static_cast<int32_t>(function_.steps.size()); }
  Step& StepAt(int32_t step) { return function_.steps[static_cast<size_t>(step)]; }

  void Define(int32_t value, int32_t root, int32_t step) {
    Value& row = At(value);
    if (row.root != kAbsent) FailProgram("value ", value, " is defined twice");
    row.root = root;
    row.definition = step;
    row.last_use = step;
  }

  void Use(int32_t value, int32_t step) {
    if (value == kAbsent) return;
    if (At(value).root == kAbsent) FailProgram("step ", step, " uses value ", value, " before it is defined");
    Value& root = At(At(value).root);
    root.last_use = std::max(root.last_use, step);
  }

  // Binds the symbols that stand alone as extents of a value and are not known yet.
  void BindShape(int32_t value, int32_t stage, std::vector<Binding>& bindings) {
    const Value& row = At(value);
    for (size_t axis = 0; axis < row.shape.size(); ++axis) {
      const Expression& extent = Row(row.shape[axis]);
      if (extent.op != Operator::kSymbol) continue;
      int32_t& bound = symbol_stage_[static_cast<size_t>(extent.operands[0])];
      if (bound != kUnbound) continue;
      bound = stage;
      bindings.push_back({value, static_cast<int32_t>(axis), extent.operands[0]});
    }
  }

  // Walks the steps in order: definitions, uses, and which step binds which symbol.
  void BindSymbols() {
    symbol_stage_.assign(function_.symbols.size(), kUnbound);
    for (size_t i = 0; i < function_.inputs.size(); ++i) {
      const int32_t value = function_.inputs[i];
      if (At(value).storage == Storage::kWeight) FailProgram("value ", value, " is both an input and a weight");
      Define(value, value, -1);
      At(value).storage = Storage::kInput;
      At(value).slot = static_cast<int32_t>(i);
      BindShape(value, 0, function_.bindings);
    }
    for (const int32_t value : function_.weights) Define(value, value, -1);
    for (int32_t s = 0; s < StepCount(); ++s) {
      Step& step = StepAt(s);
      for (const int32_t value : step.inputs) Use(value, s);
      for (const int32_t value : step.else_inputs) Use(value, s);
      for (const int32_t value : step.carried) Use(value, s);
      Use(step.condition, s);
      Use(step.trip_count, s);
      for (size_t o = 0; o < step.outputs.size(); ++o) {
        const int32_t value = step.outputs[o];
        const int32_t kept = KeptInput(step, o);
        Define(value, kept == kAbsent ? value : At(step.inputs[static_cast<size_t>(kept)]).root, s);
        if (step.kind != StepKind::kCall) BindShape(value, s + 1, step.bindings);
      }
      if (step.kind == StepKind::kBuiltin && step.builtin == Builtin::kToDims) BindElements(step, s + 1);
    }
    for (const int32_t value : function_.outputs) Use(value, StepCount());
  }

  // Symbols that a to_dims step reads; the axis of their binding is the element.
  void BindElements(Step& step, int32_t stage) {
    for (size_t i = 0; i < step.ints.size(); ++i) {
      int32_t& bound = symbol_stage_[static_cast<size_t>(step.ints[i])];
      if (bound != kUnbound) FailProgram("symbol ", step.ints[i], " is known before a to_dims step binds it");
      bound = stage;
      step.bindings.push_back({step.inputs[0], static_cast<int32_t>(i), static_cast<int32_t>(step.ints[i])});
    }
  }

  void FindStages() {
    for (Expression& row : function_.expressions) {
      if (row.op == Operator::kSymbol) {
        const int32_t bound = symbol_stage_[static_cast<size_t>(row.operands[0])];
        row.stage = bound == kUnbound ? kNever : bound;
      }
      for (int i = 0; i < OperandCount(row.op); ++i) row.stage = std::max(row.stage, Row(row.operands[i]).stage);
    }
  }

  // A symbol is late unless it comes from the inputs' shapes, or from the shape of a view of a value that is not late.
  void FindLateness() {
    std::vector<std::vector<int32_t>> by_stage(function_.steps.size() + 1);
    for (size_t e = 0; e < function_.expressions.size(); ++e) {
      const int32_t stage = function_.expressions[e].stage;
      if (stage != kNever) by_stage[static_cast<size_t>(stage)].push_back(static_cast<int32_t>(e));
    }
    std::vector<bool> symbol_late(function_.symbols.size(), false);
    const auto visit = [&](int32_t e) {
      Expression& row = Row(e);
      if (row.op == Operator::kSymbol) row.late = symbol_late[static_cast<size_t>(row.operands[0])];
      for (int i = 0; i < OperandCount(row.op); ++i) row.late |= Row(row.operands[i]).late;
      return row.late;
    };
    for (const int32_t e : by_stage[0]) visit(e);
    function_.first_expressions = std::move(by_stage[0]);
    for (int32_t s = 0; s < StepCount(); ++s) {
      Step& step = StepAt(s);
      const bool view = step.kind == StepKind::kView;
      for (const Binding& binding : step.bindings) {
        symbol_late[static_cast<size_t>(binding.symbol)] = !view || ShapeIsLate(step.inputs[0]);
      }
      for (const int32_t e : by_stage[static_cast<size_t>(s) + 1]) {
        (visit(e) ? step.late_expressions : step.early_expressions).push_back(e);
      }
    }
    for (size_t v = 0; v < function_.values.size(); ++v)
      function_.values[v].late = ShapeIsLate(static_cast<int32_t>(v));
  }

  bool ShapeIsLate(int32_t value) {
    const auto& shape = At(value).shape;
    return std::any_of(shape.begin(), shape.end(), [&](int32_t e) { return Row(e).late; });
  }

  void RequireKnown(int32_t expression, int32_t stage, int32_t step) {
    if (Row(expression).stage > stage)
      FailProgram("step ", step, " needs expression ", expression, ", whose symbols are not all bound before");
  }

  void CheckStages() {
    for (const int32_t value : function_.inputs) {
      for (const int32_t e : At(value).shape) {
        if (Row(e).stage > 0) FailProgram("the shape of input value ", value, " has a symbol that no input binds");
      }
    }
    for (int32_t s = 0; s < StepCount(); ++s) {
      Step& step = StepAt(s);
      for (const int32_t e : step.dims) RequireKnown(e, s, s);
      if (step.expression != kAbsent) RequireKnown(step.expression, s, s);
      for (const int32_t value : step.outputs) {
        for (const int32_t e : At(value).shape) RequireKnown(e, step.kind == StepKind::kCall ? s : s + 1, s);
      }
      const bool view = step.kind == StepKind::kView;
      if (view && !step.bindings.empty() && At(step.inputs[0]).shape.size() != At(step.outputs[0]).shape.size()) {
        FailProgram("step ", s, " is a view of another rank with a symbol that is not bound before");
      }
      if (view) step.early = !At(step.inputs[0]).late && !At(step.outputs[0]).late && step.late_expressions.empty();
      if (step.kind == StepKind::kCheck) step.early = !Row(step.expression).late;
    }
  }

  // Weights have the shape that the manifest says, which no symbol can change.
  void CheckWeights() {
    std::vector<int64_t> values(function_.expressions.size(), kUndefinedInteger);
    const std::vector<int64_t> symbols(function_.symbols.size(), kUndefinedInteger);
    for (size_t e = 0; e < values.size(); ++e)
      values[e] = EvaluateExpression(function_.expressions[e], values, symbols);
    for (const int32_t value : function_.weights) {
      const Weight& weight = artifact_.weights()[static_cast<size_t>(At(value).slot)];
      std::vector<int64_t> shape;
      for (const int32_t e : At(value).shape) shape.push_back(values[static_cast<size_t>(e)]);
      if (ByteCount(shape, At(value).dtype->bytes) != weight.bytes.size()) {
        FailProgram("value ", value, " is weight '", weight.name, "', but does not have its size");
      }
    }
  }

  void PlaceValues() {
    for (size_t v = 0; v < function_.values.size(); ++v) {
      Value& value = function_.values[v];
      value.extents = function_.extents;
      function_.extents += value.shape.size();
      if (value.root != static_cast<int32_t>(v) || value.definition < 0) continue;
      const StepKind kind = StepAt(value.definition).kind;
      const bool runs_function = kind == StepKind::kIf || kind == StepKind::kLoop;
      value.storage = value.late || runs_function ? Storage::kDynamic : Storage::kArena;
    }
    for (size_t o = 0; o < function_.outputs.size(); ++o) {
      Value& root = At(At(function_.outputs[o]).root);
      if (root.storage != Storage::kArena) continue;
      root.storage = Storage::kOutput;
      root.slot = static_cast<int32_t>(o);
    }
    for (size_t v = 0; v < function_.values.size(); ++v) {
      const Value& value = function_.values[v];
      if (value.storage != Storage::kDynamic || value.root != static_cast<int32_t>(v)) continue;
      if (value.last_use < StepCount()) StepAt(value.last_use).releases.push_back(static_cast<int32_t>(v));
    }
  }

  void LayOutArguments() {
    const size_t count = function_.values.size();
    function_.views.resize(count);
    function_.pointers.resize(count);
    for (size_t v = 0; v < count; ++v) {
      const int32_t root = function_.values[v].root;
      if (root != kAbsent) function_.views[static_cast<size_t>(root)].push_back(static_cast<int32_t>(v));
    }
    for (Step& step : function_.steps) {
      if (step.kind != StepKind::kCall) continue;
      step.args = function_.args;
      for (const auto* values : {&step.inputs, &step.outputs}) {
        for (const int32_t value : *values)
          function_.pointers[static_cast<size_t>(At(value).root)].push_back(function_.args++);
      }
      for (const int32_t e : step.dims)
        (Row(e).late ? step.late_dims : function_.dims).push_back({function_.args++, e});
    }
  }

  Function& function_;
  const Artifact& artifact_;
  std::vector<int32_t> symbol_stage_;  // when a symbol becomes known, as Expression::stage
};

}  // namespace

int32_t Function::OwnRoot(size_t index) const {
  const int32_t root = values[static_cast<size_t>(outputs[index])].root;
  const Value& value = values[static_cast<size_t>(root)];
  return value.storage == Storage::kOutput && value.slot == static_cast<int32_t>(index) ? root : kAbsent;
}

bool Function::IsComputable(const Step& step, int32_t value) const {
  const Value& row = values[static_cast<size_t>(value)];
  const auto index = static_cast<int32_t>(&step - steps.data());
  return row.late && std::all_of(row.shape.begin(), row.shape.end(),
                                 [&](int32_t e) { return expressions[static_cast<size_t>(e)].stage <= index; });
}

void Analyze(Function& function, const Artifact& artifact) { Analysis(function, artifact).Run(); }

}  // namespace ingot
