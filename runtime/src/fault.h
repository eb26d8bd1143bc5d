// What kernels find in data that they do not take, in one wording for all devices. A kernel on the CPU throws; one on a
// GPU writes down the first that it finds, and the session reads it when it has waited.
#pragma once

#include <cstdint>
#include <string>

#include "error.h"

namespace ingot {

enum class FaultKind : int64_t {
  kIndex,        // index, extent of the axis
  kBeforeFirst,  // batch, where its steps start
  kFull,         // batch, how many steps it holds, how many it is given, room
};

struct Fault {
  FaultKind kind;
  int64_t values[4];
};

// Memory of the host that a GPU writes to.
struct DeviceFault {
  uint64_t step;  // 0: nothing was found. Who changes it from 0 writes the rest
  Fault fault;
};

inline std::string FaultText(const Fault& fault) {
  const auto& [a, b, c, d] = fault.values;
  switch (fault.kind) {
    case FaultKind::kIndex:
      return Text("index ", a, " is out of range for an axis of ", b);
    case FaultKind::kBeforeFirst:
      return Text("batch ", a, " starts at step ", b, ", which is before the first");
    case FaultKind::kFull:
      return Text("the cache is full: it has room for ", d, " steps, holds ", b, " in batch ", a, " and is given ", c,
                  " more");
  }
  return Text("a fault of unknown kind ", static_cast<int64_t>(fault.kind));
}

}  // namespace ingot
