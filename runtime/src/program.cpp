#include "program.h"

#include <algorithm>
#include <charconv>

namespace ingot {
namespace {

using json::Node;

// Reads one function. Indices are checked here; what depends on the order of steps is checked by Analyze.
class FunctionReader {
 public:
  FunctionReader(const Artifact& artifact, const TargetCode& code, const Node& node, size_t function_count,
                 size_t index)
      : artifact_(artifact), code_(code), node_(node), function_count_(function_count), index_(index) {}

  Function Read() {
    function_.name = node_["name"].String();
    function_.symbols = node_["symbols"].Map([](const Node& node) { return node.String(); });
    const Node expressions = node_["exprs"];
    const size_t count = expressions.ArraySize();
    for (size_t i = 0; i < count; ++i)
      function_.expressions.push_back(ReadExpression(expressions.At(i), i, function_.symbols.size()));
    function_.values = node_["values"].Map([&](const Node& node) { return ReadValue(node); });
    function_.inputs = Values(node_["inputs"]);
    function_.outputs = Values(node_["outputs"]);
    ReadWeights(node_["weights"]);
    function_.steps = node_["steps"].Map([&](const Node& node) { return ReadStep(node); });
    return std::move(function_);
  }

 private:
  Value ReadValue(const Node& node) const {
    const Node name = node["dtype"];
    const DType* dtype = FindDType(name.String());
    if (dtype == nullptr) name.Fail("there is no element type '", name.String(), "'");
    if (code_.device != nullptr && IsString(dtype->type)) name.Fail("a CUDA program has no strings");
    return Value{.dtype = dtype, .shape = Expressions(node["shape"])};
  }

  int32_t ValueIndex(const Node& node) const { return node.Index(function_.values.size()); }
  std::vector<int32_t> Values(const Node& node) const {
    return node.Map([&](const Node& value) { return ValueIndex(value); });
  }
  int32_t ExpressionIndex(const Node& node) const { return node.Index(function_.expressions.size()); }
  std::vector<int32_t> Expressions(const Node& node) const {
    return node.Map([&](const Node& expression) { return ExpressionIndex(expression); });
  }
  // A value, or kAbsent.
  int32_t OptionalValue(const Node& node) const { return node.Integer() == kAbsent ? kAbsent : ValueIndex(node); }

  // Functions only refer to later ones, so that none calls itself.
  int32_t FunctionIndex(const Node& node) const {
    return static_cast<int32_t>(
        node.Integer(static_cast<int64_t>(index_) + 1, static_cast<int64_t>(function_count_) - 1));
  }

  void ReadWeights(const Node& node) {
    const size_t count = node.MemberCount();
    for (size_t i = 0; i < count; ++i) {
      const std::string_view key = node.KeyAt(i);
      int32_t value = -1;
      const auto parsed = std::from_chars(key.data(), key.data() + key.size(), value);
      if (parsed.ec != std::errc() || parsed.ptr != key.data() + key.size() || value < 0 ||
          static_cast<size_t>(value) >= function_.values.size()) {
        node.Fail("'", key, "' is not the index of a value");
      }
      const int32_t weight = node.ValueAt(i).Index(artifact_.weights().size());
      Value& row = function_.values[static_cast<size_t>(value)];
      if (row.storage == Storage::kWeight) node.ValueAt(i).Fail("value ", value, " is a weight already");
      if (row.dtype != artifact_.weights()[static_cast<size_t>(weight)].dtype) {
        node.ValueAt(i).Fail("the weight is ", artifact_.weights()[static_cast<size_t>(weight)].dtype->name,
                             ", the value ", row.dtype->name);
      }
      row.storage = Storage::kWeight;
      row.slot = weight;
      function_.weights.push_back(value);
    }
  }

  Step ReadStep(const Node& node) const {
    Step step{};
    if (const auto origin = node.Find("node")) step.node = origin->String();
    const Node op = node["op"];
    for (const auto& [name, read] : kReaders) {
      if (name != op.String()) continue;
      (this->*read)(node, step);
      return step;
    }
    Fail(INGOT_ERROR_VERSION, op.Path(), ": this version of libingot has no step '", op.String(), "'");
  }

  void ReadCall(const Node& node, Step& step) const {
    step.kind = StepKind::kCall;
    step.name = node["function"].String();
    if (code_.device == nullptr) {
      step.function = code_.image->Find(step.name);
    } else {
      step.device_function = code_.device->Find(step.name);
    }
    if (step.function == nullptr && step.device_function == nullptr)
      node["function"].Fail("the code has no function '", step.name, "'");
    step.inputs = Values(node["inputs"]);
    step.outputs = Values(node["outputs"]);
    step.dims = Expressions(node["dims"]);
    if (step.device_function != nullptr && step.dims.size() < step.device_function->symbols())
      node["dims"].Fail("function '", step.name, "' is called with ", step.dims.size(),
                        " dimensions, but its grids need ", step.device_function->symbols());
  }

  void ReadView(const Node& node, Step& step) const {
    step.kind = StepKind::kView;
    step.name = "view";
    step.inputs = {ValueIndex(node["input"])};
    step.outputs = {ValueIndex(node["output"])};
    CheckStrings(node, step);
  }

  // Bytes that are not strings must never be taken for addresses of some.
  void CheckStrings(const Node& node, const Step& step) const {
    const auto strings = [&](int32_t value) {
      return IsString(function_.values[static_cast<size_t>(value)].dtype->type);
    };
    if (strings(step.inputs[0]) != strings(step.outputs[0]))
      node.Fail("'", step.name, "' of strings gives strings, and of other elements it does not");
  }

  // What builtins and kernels share. Attributes that a step does not have may be left out.
  void ReadOperation(const Node& node, Step& step) const {
    step.name = node["name"].String();
    step.inputs = node["inputs"].Map([&](const Node& value) { return OptionalValue(value); });
    step.outputs = Values(node["outputs"]);
    if (const auto dims = node.Find("dims")) step.dims = Expressions(*dims);
    if (const auto ints = node.Find("ints")) step.ints = ints->Map([](const Node& value) { return value.Integer(); });
    if (const auto floats = node.Find("floats"))
      step.floats = floats->Map([](const Node& value) { return value.Number(); });
  }

  void ReadBuiltin(const Node& node, Step& step) const {
    step.kind = StepKind::kBuiltin;
    ReadOperation(node, step);
    struct Row {
      std::string_view name;
      Builtin builtin;
      size_t inputs;
      size_t outputs;
    };
    static constexpr Row kRows[] = {
        {"shape", Builtin::kShape, 0, 1}, {"to_dims", Builtin::kToDims, 1, 0}, {"copy", Builtin::kCopy, 1, 1}};
    for (const Row& row : kRows) {
      if (row.name != step.name) continue;
      step.builtin = row.builtin;
      // `shape` takes dims alone; values that it is given for the record are not read.
      const bool inputs_fit = row.builtin == Builtin::kShape || step.inputs.size() == row.inputs;
      if (!inputs_fit || step.outputs.size() != row.outputs)
        node.Fail("wrong number of inputs or outputs for '", row.name, "'");
      CheckBuiltin(node, step);
      return;
    }
    Fail(INGOT_ERROR_VERSION, node.Path(), ": this version of libingot has no builtin '", step.name, "'");
  }

  void CheckBuiltin(const Node& node, const Step& step) const {
    const auto value = [&](int32_t index) -> const Value& { return function_.values[static_cast<size_t>(index)]; };
    for (const int32_t input : step.inputs) {
      if (input == kAbsent) node.Fail("'", step.name, "' needs its input");
    }
    if (step.builtin == Builtin::kShape) {
      const Value& output = value(step.outputs[0]);
      const bool fits = output.shape.size() == 1 || (output.shape.empty() && step.dims.size() == 1);
      if (output.dtype->name != "int64" || !fits) node.Fail("'shape' writes a 1-D int64 tensor");
    } else if (step.builtin == Builtin::kToDims) {
      const Value& input = value(step.inputs[0]);
      if ((input.dtype->name != "int64" && input.dtype->name != "int32") || input.shape.size() > 1) {
        node.Fail("'to_dims' reads a 0-D or 1-D tensor of int64 or int32");
      }
      for (const int64_t symbol : step.ints) {
        if (symbol < 0 || static_cast<size_t>(symbol) >= function_.symbols.size())
          node.Fail("there is no symbol ", symbol);
      }
    } else if (value(step.inputs[0]).dtype->bytes != value(step.outputs[0]).dtype->bytes) {
      node.Fail("'copy' keeps the element size");
    } else {
      CheckStrings(node, step);
    }
  }

  void ReadKernel(const Node& node, Step& step) const {
    step.kind = StepKind::kKernel;
    ReadOperation(node, step);
    if (const auto host = node.Find("host")) step.host = code_.device != nullptr && host->Bool();
    const auto [arity, contract] = FindKernelOf(node, step);
    const auto within = [](size_t count, Count limits) { return count >= limits.least && count <= limits.most; };
    if (!within(step.inputs.size(), arity.inputs) || !within(step.outputs.size(), arity.outputs) ||
        step.dims.size() != arity.dims || step.ints.size() != arity.ints || step.floats.size() != arity.floats) {
      node.Fail("kernel '", step.name, "' is given ", step.inputs.size(), " inputs, ", step.outputs.size(),
                " outputs, ", step.dims.size(), " dims, ", step.ints.size(), " ints and ", step.floats.size(),
                " floats; it takes: ", contract);
    }
    for (size_t i = 0; i < arity.inputs.least; ++i) {
      if (step.inputs[i] == kAbsent) node.Fail("kernel '", step.name, "' needs input ", i);
    }
    if (const auto in_place = node.Find("in_place")) ReadInPlace(*in_place, step);
  }

  // Which inputs a kernel changes and gives as outputs.
  void ReadInPlace(const Node& node, Step& step) const {
    if (index_ != 0) node.Fail("only the main function changes states in place");
    const auto inputs = static_cast<int64_t>(step.inputs.size());
    step.in_place =
        node.Map([&](const Node& input) { return static_cast<int32_t>(input.Integer(kAbsent, inputs - 1)); });
    if (step.in_place.size() > step.outputs.size())
      node.Fail("kernel '", step.name, "' gives ", step.outputs.size(), " outputs, not ", step.in_place.size());
    for (size_t i = 0; i < step.in_place.size(); ++i) {
      const int32_t input = step.in_place[i];
      if (input == kAbsent) continue;
      if (step.inputs[static_cast<size_t>(input)] == kAbsent) node.At(i).Fail("input ", input, " was left out");
      if (std::count(step.in_place.begin(), step.in_place.end(), input) > 1)
        node.At(i).Fail("two outputs cannot both be input ", input);
    }
  }

  // The kernel of a step: how many of each it takes, and the line that says what.
  std::pair<Arity, std::string_view> FindKernelOf(const Node& node, Step& step) const {
    if (code_.device == nullptr || step.host) {
      step.kernel = FindKernel(step.name);
      if (step.kernel == nullptr)
        Fail(INGOT_ERROR_VERSION, node.Path(), ": this version of libingot has no kernel '", step.name, "'");
      return {step.kernel->arity, step.kernel->contract};
    }
    const DeviceKernelRow row = code_.device->device().FindKernel(step.name);
    step.device_kernel = row.kernel;
    if (row.kernel == nullptr)
      Fail(INGOT_ERROR_VERSION, node.Path(), ": this version of libingot_cuda has no kernel '", step.name, "'");
    const Arity arity{{row.inputs[0], std::min(row.inputs[1], kMostTensors)},
                      {row.outputs[0], std::min(row.outputs[1], kMostTensors)},
                      row.dims,
                      row.ints,
                      row.floats};
    return {arity, row.contract};
  }

  void ReadIf(const Node& node, Step& step) const {
    step.kind = StepKind::kIf;
    step.name = "if";
    step.condition = Condition(node["condition"]);
    step.bodies[0] = FunctionIndex(node["then"]);
    step.bodies[1] = FunctionIndex(node["else"]);
    step.inputs = Values(node["then_inputs"]);
    step.else_inputs = Values(node["else_inputs"]);
    step.outputs = Values(node["outputs"]);
  }

  void ReadLoop(const Node& node, Step& step) const {
    step.kind = StepKind::kLoop;
    step.name = "loop";
    step.trip_count = OptionalValue(node["trip_count"]);
    if (step.trip_count != kAbsent && function_.values[static_cast<size_t>(step.trip_count)].dtype->name != "int64") {
      node["trip_count"].Fail("the trip count of a loop is an int64 tensor of one element");
    }
    step.condition = node["condition"].Integer() == kAbsent ? kAbsent : Condition(node["condition"]);
    step.bodies[0] = FunctionIndex(node["body"]);
    step.carried = Values(node["carried"]);
    step.inputs = Values(node["inputs"]);
    step.outputs = Values(node["outputs"]);
    if (step.outputs.size() < step.carried.size()) node["outputs"].Fail("a loop gives each carried value back");
  }

  int32_t Condition(const Node& node) const {
    const int32_t value = ValueIndex(node);
    if (function_.values[static_cast<size_t>(value)].dtype->name != "bool")
      node.Fail("a condition is a bool tensor of one element");
    return value;
  }

  void ReadCheck(const Node& node, Step& step) const {
    step.kind = StepKind::kCheck;
    step.name = "check";
    step.expression = ExpressionIndex(node["expr"]);
    step.message = node["message"].String();
  }

  using Reader = void (FunctionReader::*)(const Node&, Step&) const;
  static constexpr std::pair<std::string_view, Reader> kReaders[] = {
      {"call", &FunctionReader::ReadCall},       {"view", &FunctionReader::ReadView},
      {"builtin", &FunctionReader::ReadBuiltin}, {"kernel", &FunctionReader::ReadKernel},
      {"if", &FunctionReader::ReadIf},           {"loop", &FunctionReader::ReadLoop},
      {"check", &FunctionReader::ReadCheck},
  };

  const Artifact& artifact_;
  const TargetCode& code_;
  Node node_;
  size_t function_count_;
  size_t index_;
  Function function_;
};

// Whether a main function is the same work whatever its data are, so that it can be captured: "", or what is against
// it.
std::string FindDataDependence(const Function& main) {
  for (const Step& step : main.steps) {
    const bool runs_function = step.kind == StepKind::kIf || step.kind == StepKind::kLoop;
    const bool reads = step.kind == StepKind::kBuiltin && step.builtin == Builtin::kToDims;
    const auto late = [&](int32_t value) { return main.values[static_cast<size_t>(value)].late; };
    const bool depends = !step.late_expressions.empty() || std::ranges::any_of(step.outputs, late);
    if (step.host) return Text("kernel '", step.name, "' runs on the CPU");
    if (runs_function || reads) return Text("step '", step.name, "' reads what was computed");
    if (depends) return Text("a shape that '", step.name, "' gives depends on data");
  }
  return "";
}

// What the model is said to take or give, against what its main function does.
void CheckSignature(const Node& node, const char* what, std::vector<TensorInfo> stated,
                    const std::vector<StateInfo>& states, const Function& main, const std::vector<int32_t>& values) {
  stated.insert(stated.end(), states.begin(), states.end());
  if (stated.size() != values.size()) {
    node.Fail("the main function has ", values.size(), " ", std::string_view(what), "s and states, the manifest ",
              stated.size());
  }
  for (size_t i = 0; i < stated.size(); ++i) {
    const Value& value = main.values[static_cast<size_t>(values[i])];
    if (stated[i].dtype != value.dtype || stated[i].shape.size() != value.shape.size()) {
      node.Fail(std::string_view(what), " '", stated[i].name,
                "' has another type or rank in the main function than in the manifest");
    }
  }
}

// What a step changes in place are caches, each once.
void CheckInPlace(const Node& node, const Function& main, const Step& step, const std::vector<bool>& is_cache) {
  std::vector<int32_t> changed;
  for (size_t o = 0; o < step.in_place.size(); ++o) {
    if (step.in_place[o] == kAbsent) continue;
    const Value& before = main.values[static_cast<size_t>(step.inputs[static_cast<size_t>(step.in_place[o])])];
    const Value& after = main.values[static_cast<size_t>(step.outputs[o])];
    if (before.dtype != after.dtype || before.shape != after.shape)
      node.Fail("kernel '", step.name, "' changes a cache in place, and gives another type or shape");
    if (!is_cache[static_cast<size_t>(before.root)])
      node.Fail("kernel '", step.name, "' changes memory in place that is no cache");
    if (std::ranges::find(changed, before.root) != changed.end())
      node.Fail("kernel '", step.name, "' changes one cache in place as two of its outputs");
    changed.push_back(before.root);
  }
}

// Memory is only changed in place if it is a cache's, and then the cache is what the model gives for it.
void CheckStates(const Node& node, const Artifact& artifact, const Function& main) {
  const size_t inputs = artifact.inputs().size();
  const size_t outputs = artifact.outputs().size();
  std::vector<bool> is_cache(main.values.size());
  for (size_t i = 0; i < artifact.states().size(); ++i) {
    if (artifact.states()[i].kind == StateInfo::Kind::kCache)
      is_cache[static_cast<size_t>(main.inputs[inputs + i])] = true;
  }
  for (size_t s = 0; s < main.steps.size(); ++s) CheckInPlace(node["steps"].At(s), main, main.steps[s], is_cache);
  for (size_t i = 0; i < artifact.states().size(); ++i) {
    const StateInfo& state = artifact.states()[i];
    if (state.kind != StateInfo::Kind::kCache) continue;
    const int32_t given = main.values[static_cast<size_t>(main.outputs[outputs + i])].root;
    if (given != main.inputs[inputs + i])
      node.Fail("state '", state.name, "' is a cache, but the main function does not change it in place");
  }
}

// Whether values of a step and of the function that it runs have the same types and ranks; shapes are bound while
// running.
bool SameTypes(const Function& caller, std::span<const int32_t> given, const Function& body,
               std::span<const int32_t> taken) {
  if (given.size() != taken.size()) return false;
  for (size_t i = 0; i < given.size(); ++i) {
    const Value& a = caller.values[static_cast<size_t>(given[i])];
    const Value& b = body.values[static_cast<size_t>(taken[i])];
    if (a.dtype != b.dtype || a.shape.size() != b.shape.size()) return false;
  }
  return true;
}

void CheckBranch(const Node& node, const Function& caller, const Function& body, const Step& step,
                 std::span<const int32_t> inputs) {
  if (!SameTypes(caller, inputs, body, body.inputs) || !SameTypes(caller, step.outputs, body, body.outputs)) {
    node.Fail("function '", body.name, "' takes or gives other tensors than this step does");
  }
}

void CheckLoop(const Node& node, const Function& caller, const Function& body, const Step& step) {
  std::vector<int32_t> inputs = step.carried;
  inputs.insert(inputs.end(), step.inputs.begin(), step.inputs.end());
  const auto carried = std::span(step.outputs).first(step.carried.size());
  const size_t scans = step.outputs.size() - step.carried.size();
  if (body.outputs.size() != 1 + step.outputs.size() || body.inputs.size() != 2 + inputs.size() ||
      !SameTypes(caller, inputs, body, std::span(body.inputs).subspan(2)) ||
      !SameTypes(caller, carried, body, std::span(body.outputs).subspan(1, carried.size()))) {
    node.Fail("function '", body.name, "' takes or gives other tensors than this loop does");
  }
  const auto is = [&](int32_t value, std::string_view dtype) {
    return body.values[static_cast<size_t>(value)].dtype->name == dtype &&
           body.values[static_cast<size_t>(value)].shape.empty();
  };
  const Value& condition = body.values[static_cast<size_t>(body.outputs[0])];
  if (!is(body.inputs[0], "int64") || !is(body.inputs[1], "bool") || condition.dtype->name != "bool") {
    node.Fail("function '", body.name,
              "' does not take an iteration number and a condition, or does not give a condition");
  }
  for (size_t i = 0; i < scans; ++i) {
    const Value& result = body.values[static_cast<size_t>(body.outputs[1 + step.carried.size() + i])];
    const Value& stacked = caller.values[static_cast<size_t>(step.outputs[step.carried.size() + i])];
    if (result.dtype != stacked.dtype || stacked.shape.size() != result.shape.size() + 1) {
      node.Fail("scan result ", i, " of function '", body.name, "' does not stack to this loop's output");
    }
  }
}

// Functions run inside functions: deeper than models nest control flow, the machine's stack would be at risk.
void CheckDepth(const Node& functions, const Program& program) {
  constexpr int kMostDepth = 64;
  std::vector<int> depth(program.functions.size(), 1);
  for (size_t i = depth.size(); i-- > 0;) {  // functions only refer to later ones
    for (const Step& step : program.functions[i].steps) {
      if (step.kind != StepKind::kIf && step.kind != StepKind::kLoop) continue;
      const size_t bodies = step.kind == StepKind::kIf ? 2 : 1;
      for (size_t b = 0; b < bodies; ++b) depth[i] = std::max(depth[i], 1 + depth[static_cast<size_t>(step.bodies[b])]);
    }
    if (depth[i] > kMostDepth) functions.Fail("functions are nested deeper than ", kMostDepth, " levels");
  }
}

// The index of the dimension whose rows are independent of each other.
int32_t ReadRows(const Node& node, const Artifact& artifact, const Function& main) {
  const auto& dimensions = artifact.dimensions();
  const auto found =
      std::ranges::find_if(dimensions, [&](const Dimension& dimension) { return dimension.name == node.String(); });
  if (found == dimensions.end()) node.Fail("the model has no dimension '", node.String(), "'");
  const auto leads = [&](const TensorInfo& info) { return !info.dims.empty() && info.dims[0] == found->name; };
  if (!artifact.states().empty() || !std::ranges::all_of(artifact.outputs(), leads))
    node.Fail("not every output has '", node.String(), "' as its axis 0, or the model has states");
  // An output that is an input, or another output, has no memory of its own that rows could be written to.
  for (size_t i = 0; i < main.outputs.size(); ++i) {
    if (main.OwnRoot(i) == kAbsent) return kAbsent;
  }
  return static_cast<int32_t>(found - dimensions.begin());
}

}  // namespace

Program ReadProgram(const Artifact& artifact, const Node& node, const TargetCode& code) {
  const Node functions = node["functions"];
  const size_t count = functions.ArraySize();
  if (count == 0) functions.Fail("a program has at least the main function");
  Program program;
  for (size_t i = 0; i < count; ++i) {
    program.functions.push_back(FunctionReader(artifact, code, functions.At(i), count, i).Read());
    WithContext(functions.At(i).Path(), [&] { Analyze(program.functions.back(), artifact); });
  }
  CheckDepth(functions, program);
  const Function& main = program.functions[0];
  CheckSignature(functions.At(0), "input", artifact.inputs(), artifact.states(), main, main.inputs);
  CheckSignature(functions.At(0), "output", artifact.outputs(), artifact.states(), main, main.outputs);
  CheckStates(functions.At(0), artifact, main);
  if (code.device != nullptr) program.data_dependence = FindDataDependence(main);
  if (const auto rows = node.Find("rows"); rows && code.device == nullptr)
    program.rows = ReadRows(*rows, artifact, main);
  if (main.symbols.size() < artifact.dimensions().size())
    functions.At(0).Fail("the main function has fewer symbols than the model dimensions");
  for (size_t i = 0; i < count; ++i) {
    const Function& function = program.functions[i];
    for (size_t s = 0; s < function.steps.size(); ++s) {
      const Step& step = function.steps[s];
      const Node place = functions.At(i)["steps"].At(s);
      const auto body = [&](int which) -> const Function& {
        return program.functions[static_cast<size_t>(step.bodies[which])];
      };
      if (step.kind == StepKind::kIf) {
        CheckBranch(place, function, body(0), step, step.inputs);
        CheckBranch(place, function, body(1), step, step.else_inputs);
      } else if (step.kind == StepKind::kLoop) {
        CheckLoop(place, function, body(0), step);
      }
    }
  }
  return program;
}

}  // namespace ingot
