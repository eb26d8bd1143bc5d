// What this machine is and can do.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace ingot {

// "x86_64" or "aarch64", as `uname -m` says it.
extern const std::string_view kArchitecture;

// Whether the CPU and the system support a feature, by Linux's name of it (/proc/cpuinfo).
bool HasFeature(std::string_view name);

// What this machine lacks of an architecture with features, for a message; "" if nothing.
std::string MissingFeatures(std::string_view architecture, std::span<const std::string_view> features);

// The number of threads worth running: one for each core, within the process's affinity and its container's quota.
int32_t CoreCount();

// The size in bytes of the largest cache, or 0 if it is not known.
size_t LastLevelCacheBytes();

// ingot_machine's JSON, made once.
const std::string& MachineJson();

}  // namespace ingot
