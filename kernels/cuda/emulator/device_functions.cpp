#include "device_functions.h"

#include "block.h"

namespace ingot::emulator {

void RequireFullMask(unsigned mask, const char* what) {
  if (mask != 0xffffffff)
    Trap((std::string(what) + " with a mask that leaves lanes out, which is not emulated").c_str());
}

int Lane() { return static_cast<int>(current->number % 32); }

unsigned Ballot(unsigned mask, const char* name, bool predicate) {
  RequireFullMask(mask, name);
  struct Vote {
    bool predicate;
    unsigned result;
  } vote{predicate, 0};
  Collective(name, vote, [](Vote* const* lanes) {
    unsigned result = 0;
    for (int lane = 0; lane < 32; ++lane) result |= static_cast<unsigned>(lanes[lane]->predicate) << lane;
    for (int lane = 0; lane < 32; ++lane) lanes[lane]->result = result;
  });
  return vote.result;
}

namespace {
int votes = 0;
}

}  // namespace ingot::emulator

int __syncthreads_count(int predicate) {
  using ingot::emulator::votes;
  __syncthreads();
  votes = 0;
  __syncthreads();
  if (predicate != 0) ++votes;
  __syncthreads();
  const int result = votes;
  __syncthreads();
  return result;
}

int __syncthreads_and(int predicate) { return __syncthreads_count(predicate == 0) == 0; }
