#include "measure.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <functional>
#include <thread>
#include <utility>
#include <vector>

#include "buffer.h"
#include "cpu_features.h"
#include "error.h"
#include "machine.h"
#include "narrow_products.h"
#include "registry.h"

namespace ingot {
namespace {

using Clock = std::chrono::steady_clock;

double Seconds(Clock::duration duration) { return std::chrono::duration<double>(duration).count(); }

// Runs work(thread) on every thread again and again for so many seconds: rates in 10^9 of `amount`, which a round does,
// in a second.
ingot_rate Rate(int32_t threads, double seconds, double amount, const std::function<void(int32_t)>& work) {
  const auto round = [&] {
    std::vector<std::thread> others;
    std::atomic<int32_t> waiting{threads};
    const auto wait_for_all = [&] {
      waiting.fetch_sub(1);
      while (waiting.load() > 0) std::this_thread::yield();
    };
    for (int32_t thread = 1; thread < threads; ++thread) {
      others.emplace_back([&, thread] {
        wait_for_all();
        work(thread);
      });
    }
    wait_for_all();
    const auto start = Clock::now();
    work(0);
    for (std::thread& other : others) other.join();
    return amount / Seconds(Clock::now() - start);
  };
  std::vector<double> rates;
  const auto start = Clock::now();
  do {
    rates.push_back(round() * 1e-9);
  } while (Seconds(Clock::now() - start) < seconds);
  std::ranges::sort(rates);
  return {rates.back(), rates[rates.size() / 2]};
}

// Vectors are GCC's portable ones; each function is compiled for the instruction set that it is picked for.
template <int kBytes>
struct Vectors {
  typedef float Float __attribute__((vector_size(kBytes)));
  typedef int64_t Integer __attribute__((vector_size(kBytes), aligned(8)));
};

template <int kBytes>
__attribute__((always_inline)) inline int64_t SumWith(const std::byte* data, size_t bytes) {
  using Integer = typename Vectors<kBytes>::Integer;
  constexpr size_t kStreams = 8;
  Integer sums[kStreams] = {};
  for (size_t at = 0; at + sizeof(sums) <= bytes; at += sizeof(sums)) {
    for (size_t s = 0; s < kStreams; ++s) sums[s] += *reinterpret_cast<const Integer*>(data + at + s * sizeof(Integer));
  }
  int64_t total = 0;
  for (const Integer& sum : sums) {
    for (size_t i = 0; i < sizeof(Integer) / 8; ++i) total += sum[i];
  }
  return total;
}

constexpr size_t kChains = 12;  // independent ones: a latency of 4 to 5 cycles times 2 units, within 16 registers
constexpr int64_t kRounds = 200000;

// Chains of multiply-adds; the result only keeps the compiler from removing them. Returns the operations done.
// The chains are named by a pack and not by an index: GCC keeps an array that a loop runs over in memory.
template <int kBytes, size_t... kChain>
__attribute__((always_inline)) inline double MultiplyAddChains(float& sink, std::index_sequence<kChain...>) {
  using Float = typename Vectors<kBytes>::Float;
  // None starts at 1, where multiplying and adding ends (factor * 1 + term = 1): the compiler would leave that chain
  // out.
  Float sums[sizeof...(kChain)] = {(Float{} + static_cast<float>(kChain + 2))...};
  Float factor = Float{} + 0.999f;
  Float term = Float{} + 0.001f;
  for (int64_t round = 0; round < kRounds; ++round) {
    __asm__ volatile("" : "+m"(sink));
    ((sums[kChain] = sums[kChain] * factor + term), ...);
  }
  const Float total = (sums[kChain] + ...);
  for (size_t i = 0; i < sizeof(Float) / 4; ++i) sink += total[i];
  return 2.0 * sizeof...(kChain) * static_cast<double>(kRounds) * (kBytes / 4);
}

template <int kBytes>
__attribute__((always_inline)) inline double MultiplyAddWith(float& sink) {
  return MultiplyAddChains<kBytes>(sink, std::make_index_sequence<kChains>());
}

struct Implementation {
  const char* feature;  // that it needs; nullptr for the architecture's baseline
  int64_t (*sum)(const std::byte*, size_t);
  double (*multiply_add)(float&);
};

#if defined(__x86_64__)
__attribute__((target("avx512f"))) int64_t SumAvx512(const std::byte* data, size_t bytes) {
  return SumWith<64>(data, bytes);
}
__attribute__((target("avx512f"))) double MultiplyAddAvx512(float& sink) { return MultiplyAddWith<64>(sink); }
__attribute__((target("avx2,fma"))) int64_t SumAvx2(const std::byte* data, size_t bytes) {
  return SumWith<32>(data, bytes);
}
__attribute__((target("avx2,fma"))) double MultiplyAddAvx2(float& sink) { return MultiplyAddWith<32>(sink); }
#endif
int64_t SumBaseline(const std::byte* data, size_t bytes) { return SumWith<16>(data, bytes); }
double MultiplyAddBaseline(float& sink) { return MultiplyAddWith<16>(sink); }

constexpr Implementation kImplementations[] = {
#if defined(__x86_64__)
    {"avx512f", SumAvx512, MultiplyAddAvx512},
    {"avx2", SumAvx2, MultiplyAddAvx2},
#endif
    {nullptr, SumBaseline, MultiplyAddBaseline},
};

const Implementation& Best() {
  return *std::find_if(std::begin(kImplementations), std::end(kImplementations), [](const Implementation& row) {
    return row.feature == nullptr || (HasFeature(row.feature) && !Forbidden(row.feature));
  });
}

void Check(int32_t threads, double seconds) {
  if (threads < 1 || threads > 1024)
    Fail(INGOT_ERROR_INVALID_ARGUMENT, "threads is ", threads, "; it can be 1 to 1024");
  if (!(seconds >= 0 && seconds <= 60))
    Fail(INGOT_ERROR_INVALID_ARGUMENT, "seconds is ", seconds, "; it can be 0 to 60");
}

}  // namespace

ingot_rate MeasureBandwidth(int32_t threads, double seconds) {
  Check(threads, seconds);
  // Four times the last-level cache, so that what it keeps of a pass is of little use to the next; within reason.
  constexpr size_t kLeast = size_t{256} << 20;
  constexpr size_t kMost = size_t{1} << 30;
  const size_t bytes = std::clamp(4 * LastLevelCacheBytes(), kLeast, kMost);
  Arena arena;
  arena.Reserve(bytes);
  std::fill_n(arena.data(), bytes, std::byte{1});  // untouched pages would all be one page of zeros
  const size_t part = bytes / static_cast<size_t>(threads) / 4096 * 4096;
  std::atomic<int64_t> total{0};
  const auto work = [&](int32_t thread) {
    total += Best().sum(arena.data() + static_cast<size_t>(thread) * part, part);
  };
  return Rate(threads, seconds, static_cast<double>(part) * threads, work);
}

ingot_rate MeasureFma(int32_t threads, double seconds) {
  Check(threads, seconds);
  const auto run = [] {
    float sink = 0;
    return Best().multiply_add(sink);
  };
  const double operations = run();
  return Rate(threads, seconds, operations * threads, [&](int32_t) { run(); });
}

ingot_rate MeasureInt8(int32_t threads, double seconds) {
  Check(threads, seconds);
  const double operations = MultiplyBytes();
  return Rate(threads, seconds, operations * threads, [](int32_t) { MultiplyBytes(); });
}

// Where nothing multiplies bfloat16 faster, they are widened.
ingot_rate MeasureBf16(int32_t threads, double seconds) {
  const ingot_rate widened = MeasureFma(threads, seconds / 2);
  const double operations = MultiplyBfloats();
  if (operations == 0) return widened;
  const ingot_rate rate = Rate(threads, seconds / 2, operations * threads, [](int32_t) { MultiplyBfloats(); });
  return rate.median > widened.median ? rate : widened;
}

}  // namespace ingot
