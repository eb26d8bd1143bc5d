// Where a kernel's device code reports data that it does not take (report.h).
#pragma once

#include "fault.h"

namespace ingot {

struct FaultPlace {
  DeviceFault* where;  // nullptr: nobody listens
  uint64_t step;       // what the session knows the kernel's step by
};

}  // namespace ingot
