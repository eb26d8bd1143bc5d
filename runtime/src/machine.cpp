#include "machine.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <memory>
#include <optional>
#include <set>
#include <vector>

#include "cpu_features.h"
#include "json.h"

namespace ingot {
namespace {

// The first bytes of a file of /proc or /sys, without the line end; "" if it cannot be read.
std::string ReadText(const std::string& path, size_t limit = 1 << 16) {
  std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(path.c_str(), "re"), std::fclose);
  std::string text;
  if (file == nullptr) return text;
  text.resize(limit);
  text.resize(std::fread(text.data(), 1, limit, file.get()));
  while (text.ends_with('\n')) text.pop_back();
  return text;
}

std::optional<int64_t> LeadingInteger(std::string_view text) {
  int64_t value = 0;
  const auto result = std::from_chars(text.data(), text.data() + text.size(), value);
  return result.ec == std::errc() ? std::optional(value) : std::nullopt;
}

// The value of the first line "key : value" of /proc/cpuinfo.
std::string CpuInfo(std::string_view key) {
  static const std::string text = ReadText("/proc/cpuinfo");
  std::string_view rest = text;
  while (!rest.empty()) {
    const std::string_view line = rest.substr(0, rest.find('\n'));
    rest.remove_prefix(std::min(rest.size(), line.size() + 1));
    const size_t colon = line.find(':');
    if (colon == std::string_view::npos) continue;
    std::string_view name = line.substr(0, colon);
    while (!name.empty() && (name.back() == '\t' || name.back() == ' ')) name.remove_suffix(1);
    if (name == key) return std::string(line.substr(std::min(line.size(), colon + 2)));
  }
  return "";
}

struct Cache {
  int64_t level;
  std::string type;
  int64_t bytes;
};

std::vector<Cache> Caches() {
  std::vector<Cache> caches;
  for (int index = 0;; ++index) {
    const std::string folder = Text("/sys/devices/system/cpu/cpu0/cache/index", index, "/");
    const std::string size = ReadText(folder + "size");
    const auto amount = LeadingInteger(size);
    if (!amount) return caches;
    const int64_t unit = size.ends_with('K') ? 1024 : size.ends_with('M') ? 1024 * 1024 : 1;
    caches.push_back(
        {LeadingInteger(ReadText(folder + "level")).value_or(0), ReadText(folder + "type"), *amount * unit});
  }
}

// CPUs that the process may run on, and how many cores they belong to.
struct Cpus {
  int32_t logical;
  int32_t cores;
};

Cpus CountCpus() {
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) {
    const long online = sysconf(_SC_NPROCESSORS_ONLN);
    const int32_t count = online > 0 ? static_cast<int32_t>(online) : 1;
    return {count, count};
  }
  std::set<std::string> cores;  // a core is known by the list of its threads
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(cpu, &allowed)) continue;
    const std::string siblings = ReadText(Text("/sys/devices/system/cpu/cpu", cpu, "/topology/thread_siblings_list"));
    cores.insert(siblings.empty() ? Text("cpu", cpu) : siblings);
  }
  return {CPU_COUNT(&allowed), static_cast<int32_t>(cores.size())};
}

// The CPUs that a container's quota is worth (cgroup v2 cpu.max: "max 100000" or "150000 100000").
std::optional<int32_t> QuotaCpus() {
  const std::string text = ReadText("/sys/fs/cgroup/cpu.max");
  const auto quota = LeadingInteger(text);
  const size_t space = text.find(' ');
  if (!quota || space == std::string::npos) return std::nullopt;
  const auto period = LeadingInteger(std::string_view(text).substr(space + 1));
  if (!period || *period <= 0) return std::nullopt;
  return static_cast<int32_t>(std::max<int64_t>(1, (*quota + *period - 1) / *period));
}

std::string BuildMachineJson() {
  std::string json = "{\"architecture\":";
  json::AppendString(json, kArchitecture);
  json += ",\"model\":";
  json::AppendString(json, CpuInfo("model name"));
  const Cpus cpus = CountCpus();
  json += Text(",\"cores\":", cpus.cores, ",\"logical_cpus\":", cpus.logical, ",\"threads\":", CoreCount(),
               ",\"features\":[");
  const auto append_names = [&](auto&& names, auto&& keep) {
    bool first = true;
    for (const auto& name : names) {
      if (!keep(name)) continue;
      if (!first) json += ',';
      first = false;
      json::AppendString(json, name);
    }
  };
  append_names(KnownFeatures(), [](std::string_view name) { return HasFeature(name); });
  json += "],\"caches\":[";
  bool first = true;
  for (const Cache& cache : Caches()) {
    if (!first) json += ',';
    first = false;
    json += Text("{\"level\":", cache.level, ",\"type\":");
    json::AppendString(json, cache.type);
    json += Text(",\"bytes\":", cache.bytes, "}");
  }
  json += "],\"targets\":[";
  append_names(RunnableTargets(), [](std::string_view) { return true; });
  return json += "]}";
}

}  // namespace

bool HasFeature(std::string_view name) {
  if (const auto known = DetectFeature(name)) return *known;
  // Features newer than the table: what the kernel says.
  const std::string flags = CpuInfo(kArchitecture == "aarch64" ? "Features" : "flags");
  std::string_view rest = flags;
  while (!rest.empty()) {
    const std::string_view word = rest.substr(0, rest.find(' '));
    if (word == name) return true;
    rest.remove_prefix(std::min(rest.size(), word.size() + 1));
  }
  return false;
}

std::string MissingFeatures(std::string_view architecture, std::span<const std::string_view> features) {
  if (architecture != kArchitecture) return std::string(architecture);
  std::string missing;
  for (const std::string_view feature : features) {
    if (HasFeature(feature)) continue;
    if (!missing.empty()) missing += ", ";
    missing += feature;
  }
  return missing;
}

int32_t CoreCount() {
  static const int32_t count = [] {
    const int32_t cores = CountCpus().cores;
    return std::max(1, std::min(cores, QuotaCpus().value_or(cores)));
  }();
  return count;
}

size_t LastLevelCacheBytes() {
  int64_t largest = 0;
  for (const Cache& cache : Caches()) largest = std::max(largest, cache.bytes);
  return static_cast<size_t>(largest);
}

const std::string& MachineJson() {
  static const std::string json = BuildMachineJson();
  return json;
}

}  // namespace ingot
