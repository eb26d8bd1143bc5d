// The program of one target (docs/format.md, "Program"): read, validated, and resolved against the code image, the
// weights and the kernels, so that running it needs no checks but those of data-dependent shapes.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "artifact.h"
#include "code_image.h"
#include "device_code.h"
#include "expression.h"
#include "registry.h"

namespace ingot {

constexpr int32_t kAbsent = -1;  // an input that was left out

// Where the memory of a value comes from.
enum class Storage : uint8_t {
  kUndefined,  // no step defines it, and none uses it
  kInput,      // borrowed from the function's caller
  kWeight,     // the artifact's mapping
  kArena,      // planned: an offset in the session's arena
  kOutput,     // a buffer of its own, which leaves with the function's result
  kDynamic,    // a buffer that is allocated by the step that defines it and freed after its last use
};

struct Value {
  const DType* dtype;
  std::vector<int32_t> shape;  // expressions

  // From analysis.cpp. Storage and lifetime are those of `root`: the value itself, or what it is a view of.
  int32_t root = kAbsent;
  Storage storage = Storage::kUndefined;
  int32_t slot = 0;        // the index of the input, weight or output
  bool late = false;       // its shape is not known until the function runs
  int32_t definition = 0;  // of a root: the step that defines it
  int32_t last_use = 0;    // of a root: the last step that touches it or a view of it
  size_t extents = 0;      // where its shape starts among the extents of a frame
};

enum class StepKind : uint8_t { kCall, kView, kBuiltin, kKernel, kIf, kLoop, kCheck };
enum class Builtin : uint8_t { kShape, kToDims, kCopy };

// A symbol that becomes known as an extent of a value.
struct Binding {
  int32_t value;
  int32_t axis;
  int32_t symbol;
};

// A place in a frame's `args` and the expression that it holds.
struct DimensionArgument {
  size_t position;
  int32_t expression;
};

struct Step {
  StepKind kind;
  std::string_view node;         // the model's nodes that it came from; for messages
  std::string_view name;         // of the function, builtin or kernel
  std::vector<int32_t> inputs;   // values; captured ones for kIf (then) and kLoop
  std::vector<int32_t> outputs;  // values
  std::vector<int32_t> dims;     // expressions
  std::vector<int64_t> ints;
  std::vector<double> floats;

  GeneratedFunction function = nullptr;             // kCall, on a CPU
  const DeviceFunction* device_function = nullptr;  // kCall, on a GPU
  Builtin builtin = Builtin::kShape;                // kBuiltin
  const Kernel* kernel = nullptr;                   // kKernel that runs on the CPU
  const void* device_kernel = nullptr;              // kKernel that runs on a GPU
  bool host = false;                                // kKernel: of a GPU's program, but runs on the CPU
  std::vector<int32_t> in_place;                    // kKernel: the inputs that outputs are, changed; or kAbsent
  int32_t condition = kAbsent;                      // kIf, kLoop
  int32_t trip_count = kAbsent;                     // kLoop
  int32_t bodies[2] = {0, 0};                       // functions: then and else, or the loop's body
  std::vector<int32_t> else_inputs;                 // kIf
  std::vector<int32_t> carried;                     // kLoop
  int32_t expression = kAbsent;                     // kCheck
  std::string_view message;                         // kCheck

  // From analysis.cpp.
  std::vector<Binding> bindings;             // symbols that the shapes of its outputs bind
  std::vector<int32_t> early_expressions;    // known after it, when a frame is built
  std::vector<int32_t> late_expressions;     // known after it, while running
  std::vector<DimensionArgument> late_dims;  // of a call
  std::vector<int32_t> releases;             // dynamic values whose last use it is
  size_t args = 0;                           // where the arguments of a call start
  bool early = false;                        // all of it happens when a frame is built
};

// The number of the input whose memory an output of a step is, or kAbsent.
inline int32_t KeptInput(const Step& step, size_t output) {
  if (step.kind == StepKind::kView) return 0;
  return output < step.in_place.size() ? step.in_place[output] : kAbsent;
}

struct Function {
  std::string_view name;
  std::vector<std::string_view> symbols;
  std::vector<Expression> expressions;
  std::vector<Value> values;
  std::vector<int32_t> inputs;
  std::vector<int32_t> outputs;
  std::vector<int32_t> weights;  // values that are weights
  std::vector<Step> steps;

  // From analysis.cpp.
  std::vector<Binding> bindings;              // symbols that the inputs' shapes bind
  std::vector<int32_t> first_expressions;     // known with the inputs
  std::vector<DimensionArgument> dims;        // arguments of calls that are known when a frame is built
  std::vector<std::vector<int32_t>> views;    // of each root: the values that show its memory, itself included
  std::vector<std::vector<size_t>> pointers;  // of each root: the places in `args` that hold its address
  size_t args = 0;                            // the length of the arguments of all calls
  size_t extents = 0;                         // the number of extents of all values

  // The root value whose memory is output `index`'s own and is given before the function runs, or kAbsent.
  int32_t OwnRoot(size_t index) const;
  // Whether an output's shape is late, yet known before its step runs.
  bool IsComputable(const Step& step, int32_t value) const;
};

struct Program {
  std::vector<Function> functions;  // functions[0] is the model
  // The dimension that is axis 0 of every output, and of every input that has it, and whose rows can be computed one
  // without another; or kAbsent.
  int32_t rows = kAbsent;
  std::string data_dependence;  // of a GPU's: why functions[0] cannot be captured as a graph, or ""
};

// What the names of functions in a program stand for: one of the two.
struct TargetCode {
  const CodeImage* image = nullptr;
  const DeviceCode* device = nullptr;
};

// Reads a target's "program". Errors name the place in the manifest.
Program ReadProgram(const Artifact& artifact, const json::Node& node, const TargetCode& code);

// Fills in what follows from a function's steps; errors say which rule of the format it breaks.
void Analyze(Function& function, const Artifact& artifact);

}  // namespace ingot
