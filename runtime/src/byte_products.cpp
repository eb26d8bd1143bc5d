#include "byte_products.h"

#include <algorithm>
#include <cstddef>
#include <iterator>
#include <utility>

#include "machine.h"

namespace ingot {
namespace {

constexpr int64_t kRounds = 200000;
constexpr size_t kChains = 12;  // as for float32: a latency of 4 to 5 cycles times 2 units, within 16 registers

template <size_t kBytes>
struct Vector {
  typedef int16_t Words __attribute__((vector_size(kBytes)));
};

// An instruction is a type: the size of its vectors, the products of a step, and a step, which adds products of a and b
// to a sum. Steps are assembly, as a compiler would multiply equal operands once, before the loop. Sums may wrap:
// nothing reads them.
#if defined(__x86_64__)
struct VnniZmm {  // four products in each of 16 lanes of 32 bits
  static constexpr size_t kBytes = 64;
  static constexpr int kProducts = 64;
  template <typename Words>
  __attribute__((always_inline)) static inline void Add(Words& sum, const Words& a, const Words& b) {
    __asm__ volatile("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
  }
};
struct VnniYmm {
  static constexpr size_t kBytes = 32;
  static constexpr int kProducts = 32;
  template <typename Words>
  __attribute__((always_inline)) static inline void Add(Words& sum, const Words& a, const Words& b) {
    __asm__ volatile("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sum) : "x"(a), "x"(b));
  }
};
// Pairs of products added up in 16 bits, as kernels do that widen the sums of several pairs at once.
struct PairsZmm {
  static constexpr size_t kBytes = 64;
  static constexpr int kProducts = 64;
  template <typename Words>
  __attribute__((always_inline)) static inline void Add(Words& sum, const Words& a, const Words& b) {
    Words pairs;
    __asm__ volatile("vpmaddubsw %3, %2, %1\n\tvpaddw %1, %0, %0" : "+v"(sum), "=&v"(pairs) : "v"(a), "v"(b));
  }
};
struct PairsYmm {
  static constexpr size_t kBytes = 32;
  static constexpr int kProducts = 32;
  template <typename Words>
  __attribute__((always_inline)) static inline void Add(Words& sum, const Words& a, const Words& b) {
    Words pairs;
    __asm__ volatile("vpmaddubsw %3, %2, %1\n\tvpaddw %1, %0, %0" : "+x"(sum), "=&x"(pairs) : "x"(a), "x"(b));
  }
};
struct Baseline {  // SSE2 multiplies words
  static constexpr size_t kBytes = 16;
  static constexpr int kProducts = 8;
  template <typename Words>
  __attribute__((always_inline)) static inline void Add(Words& sum, const Words& a, const Words& b) {
    Words pairs = a;
    __asm__ volatile("pmaddwd %2, %1\n\tpaddd %1, %0" : "+x"(sum), "+x"(pairs) : "x"(b));
  }
};
#else
struct Matrices {  // two rows by two columns over eight k
  static constexpr size_t kBytes = 16;
  static constexpr int kProducts = 32;
  template <typename Words>
  __attribute__((always_inline)) static inline void Add(Words& sum, const Words& a, const Words& b) {
    __asm__ volatile("smmla %0.4s, %1.16b, %2.16b" : "+w"(sum) : "w"(a), "w"(b));
  }
};
struct DotProducts {
  static constexpr size_t kBytes = 16;
  static constexpr int kProducts = 16;
  template <typename Words>
  __attribute__((always_inline)) static inline void Add(Words& sum, const Words& a, const Words& b) {
    __asm__ volatile("sdot %0.4s, %1.16b, %2.16b" : "+w"(sum) : "w"(a), "w"(b));
  }
};
struct Baseline {
  static constexpr size_t kBytes = 16;
  static constexpr int kProducts = 8;
  template <typename Words>
  __attribute__((always_inline)) static inline void Add(Words& sum, const Words& a, const Words& b) {
    __asm__ volatile("smlal %0.8h, %1.8b, %2.8b" : "+w"(sum) : "w"(a), "w"(b));
  }
};
#endif

// The chains are named by a pack and not by an index: GCC keeps an array that a loop runs over in memory.
template <typename Instruction, size_t... kChain>
__attribute__((always_inline)) inline double RunChains(std::index_sequence<kChain...>) {
  using Words = typename Vector<Instruction::kBytes>::Words;
  Words sums[sizeof...(kChain)] = {(Words{} + static_cast<int16_t>(kChain))...};
  const Words a = Words{} + int16_t{0x0301};
  const Words b = Words{} + int16_t{0x0102};
  for (int64_t round = 0; round < kRounds; ++round) (Instruction::Add(sums[kChain], a, b), ...);
  return 2.0 * Instruction::kProducts * sizeof...(kChain) * static_cast<double>(kRounds);
}

template <typename Instruction>
__attribute__((always_inline)) inline double Run() {
  return RunChains<Instruction>(std::make_index_sequence<kChains>());
}

struct Row {
  const char* feature;  // that it needs, by Linux's name; nullptr for the architecture's baseline
  double (*run)();
};

// Each function is compiled for the instruction set that it is picked for. The fastest comes first.
#if defined(__x86_64__)
__attribute__((target("avx512f,avx512bw,avx512vnni"))) double RunVnniZmm() { return Run<VnniZmm>(); }
__attribute__((target("avx512f,avx512bw"))) double RunPairsZmm() { return Run<PairsZmm>(); }
__attribute__((target("avx2"))) double RunVnniYmm() { return Run<VnniYmm>(); }
__attribute__((target("avx2"))) double RunPairsYmm() { return Run<PairsYmm>(); }
constexpr Row kRows[] = {
    {"avx512_vnni", RunVnniZmm}, {"avx512bw", RunPairsZmm}, {"avx_vnni", RunVnniYmm},
    {"avx2", RunPairsYmm},       {nullptr, Run<Baseline>},
};
#else
__attribute__((target("arch=armv8.2-a+i8mm"))) double RunMatrices() { return Run<Matrices>(); }
__attribute__((target("arch=armv8.2-a+dotprod"))) double RunDotProducts() { return Run<DotProducts>(); }
constexpr Row kRows[] = {{"i8mm", RunMatrices}, {"asimddp", RunDotProducts}, {nullptr, Run<Baseline>}};
#endif

}  // namespace

double MultiplyBytes() {
  static const Row& best = *std::find_if(std::begin(kRows), std::end(kRows), [](const Row& row) {
    return row.feature == nullptr || HasFeature(row.feature);
  });
  return best.run();
}

}  // namespace ingot
