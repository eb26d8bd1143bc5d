#include "cpu/random/random.h"

#include <array>
#include <cmath>
#include <numbers>

#include "types.h"

namespace ingot {
namespace {

// Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011).
std::array<uint32_t, 4> Philox(uint64_t counter, uint64_t key) {
  std::array<uint32_t, 4> x = {static_cast<uint32_t>(counter), static_cast<uint32_t>(counter >> 32), 0, 0};
  auto k0 = static_cast<uint32_t>(key);
  auto k1 = static_cast<uint32_t>(key >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t a = uint64_t{0xD2511F53} * x[0];
    const uint64_t b = uint64_t{0xCD9E8D57} * x[2];
    x = {static_cast<uint32_t>(b >> 32) ^ x[1] ^ k0, static_cast<uint32_t>(b),
         static_cast<uint32_t>(a >> 32) ^ x[3] ^ k1, static_cast<uint32_t>(a)};
    k0 += 0x9E3779B9;
    k1 += 0xBB67AE85;
  }
  return x;
}

// Two numbers of [0, 1), with 53 random bits each.
std::array<double, 2> UniformPair(uint64_t counter, uint64_t key) {
  const auto x = Philox(counter, key);
  const auto number = [](uint32_t high, uint32_t low) {
    return static_cast<double>((uint64_t{high} << 32 | low) >> 11) * 0x1p-53;
  };
  return {number(x[0], x[1]), number(x[2], x[3])};
}

// Fills the output with numbers that come in pairs: pair(counter) holds those of elements 2 counter and 2 counter + 1.
template <typename Pair>
void Fill(KernelContext& context, Pair&& pair) {
  const DLTensor& output = context.Output(0);
  const int64_t count = ElementCount(output);
  if (output.dtype.code != kDLFloat && output.dtype.code != kDLBfloat)
    FailKernel("random numbers cannot be ", DTypeText(output.dtype));
  DispatchNumber("random", output, [&](auto zero) {
    using T = decltype(zero);
    T* to = Data<T>(output);
    constexpr int64_t kGrain = 1 << 10;
    context.ParallelFor((count + 1) / 2, kGrain, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const std::array<double, 2> numbers = pair(static_cast<uint64_t>(i));
        to[2 * i] = static_cast<T>(static_cast<Computed<T>>(numbers[0]));
        if (2 * i + 1 < count) to[2 * i + 1] = static_cast<T>(static_cast<Computed<T>>(numbers[1]));
      }
    });
  });
}

}  // namespace

void RandomUniform(KernelContext& context) {
  const auto seed = static_cast<uint64_t>(context.ints()[0]);
  const double low = context.floats()[0];
  const double range = context.floats()[1] - low;
  Fill(context, [&](uint64_t counter) -> std::array<double, 2> {
    const auto u = UniformPair(counter, seed);
    return {low + range * u[0], low + range * u[1]};
  });
}

void RandomNormal(KernelContext& context) {
  const auto seed = static_cast<uint64_t>(context.ints()[0]);
  const double mean = context.floats()[0];
  const double scale = context.floats()[1];
  // Box and Muller, 1958. 1 - u is of (0, 1], whose logarithm is finite.
  Fill(context, [&](uint64_t counter) -> std::array<double, 2> {
    const auto u = UniformPair(counter, seed);
    const double radius = scale * std::sqrt(-2 * std::log(1 - u[0]));
    const double angle = 2 * std::numbers::pi * u[1];
    return {mean + radius * std::cos(angle), mean + radius * std::sin(angle)};
  });
}

}  // namespace ingot
