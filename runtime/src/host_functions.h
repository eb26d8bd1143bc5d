// The functions that generated code may import (docs/format.md, "Code").
#pragma once

#include <string_view>

namespace ingot {

// The address of a host function, or nullptr.
void* FindHostFunction(std::string_view name);

}  // namespace ingot
