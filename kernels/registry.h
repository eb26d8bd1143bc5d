// Which kernels exist: one table, in registry.cpp.
#pragma once

#include <span>
#include <string_view>

#include "kernel.h"

namespace ingot {

// What a kernel's translation unit was compiled for, in order of preference on each architecture.
enum class InstructionSet : uint8_t {
  kScalar,
  kAvx2,
  kAvxVnni,
  kAvx512,
  kAvx512Vnni,
  kAvx512Bf16,
  kAmx,
  kNeon,
  kNeonDotprod,
  kNeonI8mm
};

struct Count {
  size_t least;
  size_t most;
};

// How many of each a kernel takes. The first inputs.least inputs cannot be left out.
struct Arity {
  Count inputs;
  Count outputs;
  size_t dims;
  size_t ints;
  size_t floats;
};

// No kernel takes or gives more tensors or dims.
constexpr size_t kMostTensors = 16;

struct Kernel {
  std::string_view name;
  InstructionSet instructions;
  KernelFunction run;
  Arity arity;
  std::string_view contract;  // one line; the header in the kernel's folder says all
};

// Every row, also those that this machine cannot run.
std::span<const Kernel> Kernels();

// Whether this machine, and INGOT_ISA if it is set, allow an instruction set. INGOT_ISA=avx2 allows scalar and AVX2
// kernels; an unknown value is an error.
bool Allowed(InstructionSet instructions);
// Whether INGOT_ISA leaves out the instructions of a feature, by Linux's name of it.
bool Forbidden(std::string_view feature);
std::string_view Name(InstructionSet instructions);

// The row of a name with the best instruction set that is allowed, or nullptr.
const Kernel* FindKernel(std::string_view name);

}  // namespace ingot
