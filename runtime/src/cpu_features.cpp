#include "cpu_features.h"

#include <algorithm>
#include <array>
#include <cstdint>

#include "machine.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#elif defined(__aarch64__)
#include <sys/auxv.h>
#else
#error "Ingot runs on x86_64 and aarch64"
#endif

namespace ingot {
namespace {

struct TargetRequirement {
  std::string_view name;
  std::string_view features;  // separated by spaces
};

#if defined(__x86_64__)

enum Leaf { kLeaf1, kLeaf7, kLeaf7Subleaf1, kLeafAmd1, kLeafCount };
constexpr uint32_t kLeaves[kLeafCount][2] = {{1, 0}, {7, 0}, {7, 1}, {0x80000001, 0}};

enum Register { kEax, kEbx, kEcx, kEdx };
// Which of the registers' state the system must save for a feature to be usable (XCR0).
enum State : uint64_t { kNone = 0, kAvx = 0x6, kAvx512 = 0xE6, kAmx = 0x60006 };

struct Feature {
  std::string_view name;
  Leaf leaf;
  Register source;
  int bit;
  State state;
};

// AMD64 Architecture Programmer's Manual volume 3, appendix E; Intel SDM volume 2A, CPUID.
constexpr Feature kFeatures[] = {
    {"pni", kLeaf1, kEcx, 0, kNone},
    {"pclmulqdq", kLeaf1, kEcx, 1, kNone},
    {"ssse3", kLeaf1, kEcx, 9, kNone},
    {"fma", kLeaf1, kEcx, 12, kAvx},
    {"cx16", kLeaf1, kEcx, 13, kNone},
    {"sse4_1", kLeaf1, kEcx, 19, kNone},
    {"sse4_2", kLeaf1, kEcx, 20, kNone},
    {"movbe", kLeaf1, kEcx, 22, kNone},
    {"popcnt", kLeaf1, kEcx, 23, kNone},
    {"xsave", kLeaf1, kEcx, 26, kNone},
    {"avx", kLeaf1, kEcx, 28, kAvx},
    {"f16c", kLeaf1, kEcx, 29, kAvx},
    {"bmi1", kLeaf7, kEbx, 3, kNone},
    {"avx2", kLeaf7, kEbx, 5, kAvx},
    {"bmi2", kLeaf7, kEbx, 8, kNone},
    {"avx512f", kLeaf7, kEbx, 16, kAvx512},
    {"avx512dq", kLeaf7, kEbx, 17, kAvx512},
    {"avx512ifma", kLeaf7, kEbx, 21, kAvx512},
    {"avx512cd", kLeaf7, kEbx, 28, kAvx512},
    {"avx512bw", kLeaf7, kEbx, 30, kAvx512},
    {"avx512vl", kLeaf7, kEbx, 31, kAvx512},
    {"avx512vbmi", kLeaf7, kEcx, 1, kAvx512},
    {"avx512_vbmi2", kLeaf7, kEcx, 6, kAvx512},
    {"gfni", kLeaf7, kEcx, 8, kNone},
    {"vpclmulqdq", kLeaf7, kEcx, 10, kAvx},
    {"avx512_vnni", kLeaf7, kEcx, 11, kAvx512},
    {"avx512_bitalg", kLeaf7, kEcx, 12, kAvx512},
    {"avx512_vpopcntdq", kLeaf7, kEcx, 14, kAvx512},
    {"amx_bf16", kLeaf7, kEdx, 22, kAmx},
    {"avx512_fp16", kLeaf7, kEdx, 23, kAvx512},
    {"amx_tile", kLeaf7, kEdx, 24, kAmx},
    {"amx_int8", kLeaf7, kEdx, 25, kAmx},
    {"avx_vnni", kLeaf7Subleaf1, kEax, 4, kAvx},
    {"avx512_bf16", kLeaf7Subleaf1, kEax, 5, kAvx512},
    {"lahf_lm", kLeafAmd1, kEcx, 0, kNone},
    {"abm", kLeafAmd1, kEcx, 5, kNone},
};

// x86-64 psABI, section 3.1.1. What a level adds implies the levels below it on every CPU made so far.
constexpr TargetRequirement kTargets[] = {
    {"cpu:x86-64-v4", "avx512f avx512bw avx512cd avx512dq avx512vl"},
    {"cpu:x86-64-v3", "avx avx2 bmi1 bmi2 f16c fma abm movbe xsave"},
    {"cpu:x86-64-v2", "cx16 lahf_lm popcnt pni sse4_1 sse4_2 ssse3"},
};

// Asked once: under a hypervisor each CPUID instruction takes microseconds.
struct Cpuid {
  uint32_t registers[kLeafCount][4] = {};
  uint64_t saved_state = 0;

  Cpuid() {
    for (int i = 0; i < kLeafCount; ++i) {
      uint32_t* r = registers[i];
      __get_cpuid_count(kLeaves[i][0], kLeaves[i][1], &r[kEax], &r[kEbx], &r[kEcx], &r[kEdx]);
    }
    constexpr uint32_t kOsxsave = 1u << 27;
    if (!(registers[kLeaf1][kEcx] & kOsxsave)) return;
    uint32_t low = 0;
    uint32_t high = 0;
    __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    saved_state = uint64_t{high} << 32 | low;
  }
};

// Linux gives a process the state of AMX's tiles when it asks for it (Documentation/arch/x86/xstate.rst), once and for
// all of its threads.
bool TilesAllowed() {
  constexpr int kRequestPermission = 0x1023;  // ARCH_REQ_XCOMP_PERM
  constexpr int kTileData = 18;               // XFEATURE_XTILEDATA
  static const bool allowed = syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
  return allowed;
}

bool Detect(const Feature& feature) {
  static const Cpuid cpuid;
  return (cpuid.registers[feature.leaf][feature.source] >> feature.bit & 1) &&
         (cpuid.saved_state & feature.state) == feature.state && (feature.state != kAmx || TilesAllowed());
}

#else

struct Feature {
  std::string_view name;
  unsigned long vector;  // of getauxval
  int bit;
};

// Linux, arch/arm64/include/uapi/asm/hwcap.h.
constexpr Feature kFeatures[] = {
    {"fp", AT_HWCAP, 0},       {"asimd", AT_HWCAP, 1},   {"aes", AT_HWCAP, 3},       {"pmull", AT_HWCAP, 4},
    {"crc32", AT_HWCAP, 7},    {"atomics", AT_HWCAP, 8}, {"fphp", AT_HWCAP, 9},      {"asimdhp", AT_HWCAP, 10},
    {"asimddp", AT_HWCAP, 20}, {"sve", AT_HWCAP, 22},    {"asimdfhm", AT_HWCAP, 23}, {"sve2", AT_HWCAP2, 1},
    {"i8mm", AT_HWCAP2, 13},   {"bf16", AT_HWCAP2, 14},  {"sme", AT_HWCAP2, 23},
};

constexpr TargetRequirement kTargets[] = {{"cpu:aarch64", "fp asimd"}};

bool Detect(const Feature& feature) { return getauxval(feature.vector) >> feature.bit & 1; }

#endif

bool HasAll(std::string_view features) {
  while (!features.empty()) {
    const std::string_view word = features.substr(0, features.find(' '));
    if (!DetectFeature(word).value_or(false)) return false;
    features.remove_prefix(std::min(features.size(), word.size() + 1));
  }
  return true;
}

}  // namespace

#if defined(__x86_64__)
constinit const std::string_view kArchitecture = "x86_64";
#else
constinit const std::string_view kArchitecture = "aarch64";
#endif

std::vector<std::string_view> KnownFeatures() {
  std::vector<std::string_view> names;
  for (const Feature& feature : kFeatures) names.push_back(feature.name);
  return names;
}

std::optional<bool> DetectFeature(std::string_view name) {
  for (const Feature& feature : kFeatures) {
    if (feature.name == name) return Detect(feature);
  }
  return std::nullopt;
}

std::vector<std::string_view> RunnableTargets() {
  std::vector<std::string_view> names;
  for (const TargetRequirement& target : kTargets) {
    if (HasAll(target.features)) names.push_back(target.name);
  }
  return names;
}

}  // namespace ingot
