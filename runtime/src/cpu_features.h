// Instruction sets, asked from the CPU itself: on large machines reading /proc/cpuinfo takes longer than loading a
// model.
#pragma once

#include <optional>
#include <span>
#include <string_view>
#include <vector>

namespace ingot {

// The names of features that DetectFeature knows on this architecture.
std::vector<std::string_view> KnownFeatures();
// Whether the CPU and the system support a feature; nothing if the name is not in the table.
std::optional<bool> DetectFeature(std::string_view name);
// The names of the compiler's targets that this machine can run, the best first.
std::vector<std::string_view> RunnableTargets();

}  // namespace ingot
