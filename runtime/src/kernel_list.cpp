#include "kernel_list.h"

#include <algorithm>
#include <map>
#include <string_view>
#include <vector>

#include "json.h"
#include "registry.h"

namespace ingot {
namespace {

struct Entry {
  std::string_view contract;
  std::vector<InstructionSet> versions;  // that this machine can run
};

void AppendEntry(std::string& json, std::string_view name, Entry& entry) {
  json += "{\"name\":";
  json::AppendString(json, name);
  json += ",\"contract\":";
  json::AppendString(json, entry.contract);
  json += ",\"instruction_sets\":[";
  std::ranges::sort(entry.versions);
  bool first = true;
  for (const InstructionSet version : entry.versions) {
    if (!first) json += ',';
    first = false;
    json::AppendString(json, Name(version));
  }
  json += "]}";
}

}  // namespace

std::string KernelsJson() {
  std::map<std::string_view, Entry> entries;
  for (const Kernel& kernel : Kernels()) {
    Entry& entry = entries[kernel.name];
    entry.contract = kernel.contract;
    if (Allowed(kernel.instructions)) entry.versions.push_back(kernel.instructions);
  }
  std::string json = "[";
  for (auto& [name, entry] : entries) {
    if (json.size() > 1) json += ',';
    AppendEntry(json, name, entry);
  }
  return json += ']';
}

}  // namespace ingot
