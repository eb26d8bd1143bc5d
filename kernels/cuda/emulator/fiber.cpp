#include "fiber.h"

#include <sys/mman.h>

#include <cstdint>
#include <vector>

#include "error.h"

#if defined(__x86_64__)
// The System V ABI keeps rbx, rbp and r12 to r15 across calls; all else is the caller's to save.
asm(R"(
.text
.hidden ingot_emulator_switch
.globl ingot_emulator_switch
.type ingot_emulator_switch, @function
ingot_emulator_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size ingot_emulator_switch, .-ingot_emulator_switch
)");
extern "C" void ingot_emulator_switch(void** from, void* to);
#endif

namespace ingot::emulator {

#if defined(__x86_64__)
void StartFiber(Fiber& fiber, void* stack, size_t bytes, void (*entry)()) {
  // Behind the six registers lie the address to return to, which is the entry, and a word that aligns the stack as
  // after a call.
  auto* top = reinterpret_cast<uintptr_t*>(static_cast<std::byte*>(stack) + bytes);
  *--top = 0;
  *--top = reinterpret_cast<uintptr_t>(entry);
  for (int i = 0; i < 6; ++i) *--top = 0;
  fiber.stack_pointer = top;
}

void SwitchFiber(Fiber& from, Fiber& to) { ingot_emulator_switch(&from.stack_pointer, to.stack_pointer); }
#else
void StartFiber(Fiber& fiber, void* stack, size_t bytes, void (*entry)()) {
  getcontext(&fiber.context);
  fiber.context.uc_stack.ss_sp = stack;
  fiber.context.uc_stack.ss_size = bytes;
  fiber.context.uc_link = nullptr;
  makecontext(&fiber.context, entry, 0);
}

void SwitchFiber(Fiber& from, Fiber& to) { swapcontext(&from.context, &to.context); }
#endif

void* FiberStack(size_t index) {
  static std::vector<void*> stacks;
  constexpr size_t kGuardBytes = 64 * 1024;  // the largest page size in use
  while (stacks.size() <= index) {
    void* memory = mmap(nullptr, kGuardBytes + kStackBytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
    if (memory == MAP_FAILED || mprotect(memory, kGuardBytes, PROT_NONE) != 0)
      Fail(INGOT_ERROR_MEMORY, "no memory for the stacks of emulated threads");
    stacks.push_back(static_cast<std::byte*>(memory) + kGuardBytes);
  }
  return stacks[index];
}

}  // namespace ingot::emulator
