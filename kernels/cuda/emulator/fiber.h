// Switching between stacks: what the emulator runs a block's threads on.
#pragma once

#include <cstddef>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace ingot::emulator {

// A place to continue: a stack and the registers that calls keep. Trivial, and reused from block to block.
struct Fiber {
#if defined(__x86_64__)
  void* stack_pointer = nullptr;
#else
  ucontext_t context;
#endif
};

// Makes `fiber` start `entry` on a stack of `bytes`. `entry` must not return, nor let an exception leave it.
void StartFiber(Fiber& fiber, void* stack, size_t bytes, void (*entry)());

// Continues `to`; what called it continues when something switches to `from`.
void SwitchFiber(Fiber& from, Fiber& to);

// Memory for stacks, each with a page in front that faults. It grows and is kept until the process ends.
void* FiberStack(size_t index);
constexpr size_t kStackBytes = 256 * 1024;

}  // namespace ingot::emulator
