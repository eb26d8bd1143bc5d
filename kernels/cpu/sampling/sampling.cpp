#include "cpu/sampling/sampling.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace ingot {
namespace {

constexpr int64_t kMostTokens = int64_t{1} << 20;  // the sum of as many weights is below 2^61
constexpr float kWeightUnit = 1099511627776.0f;    // 2^40
constexpr float kDeepest = 64;                     // weights below e^-64 are none
constexpr float kColdest = 1e-20f;                 // lower temperatures are 0
constexpr float kKeys = 4294967296.0f;
constexpr float kGreatestKey = 4294967040.0f;  // the greatest float below 2^32

struct Settings {
  float temperature, top_k, top_p, min_p;
};

// A token that has weight: how far its logit is below the largest, in steps of 64 temperatures / 2^32, above its
// number. So the likeliest is the least, and of equally likely ones the first.
using Token = uint64_t;

float KeyOf(Token token) { return static_cast<float>(token >> 32); }

uint64_t WeightOf(Token token) {
  return static_cast<uint64_t>(std::exp(-KeyOf(token) * (kDeepest / kKeys)) * kWeightUnit);
}

uint64_t WeightOf(std::span<const Token> tokens) {
  uint64_t sum = 0;
  for (const Token token : tokens) sum += WeightOf(token);
  return sum;
}

// Of the weights in order, the place of the one with which their running sum passes `target`; that of all does. The
// likelier tokens stand before it then.
size_t Passing(std::span<Token> tokens, uint64_t target) {
  size_t begin = 0;
  size_t end = tokens.size();
  while (end - begin > 1) {
    const size_t middle = begin + (end - begin) / 2;
    std::nth_element(&tokens[begin], &tokens[middle], tokens.data() + end);
    const uint64_t weight = WeightOf(tokens.subspan(begin, middle - begin));
    if (weight > target) {
      end = middle;
    } else {
      target -= weight;
      begin = middle;
    }
  }
  return begin;
}

// The token at a temperature above 0, of at least one.
int64_t Draw(std::span<Token> tokens, const Settings& settings, float number) {
  if (settings.top_k >= 1 && settings.top_k < static_cast<float>(tokens.size())) {
    const auto k = static_cast<size_t>(settings.top_k);
    std::nth_element(tokens.data(), &tokens[k], tokens.data() + tokens.size());
    tokens = tokens.first(k);
  }
  if (settings.top_p < 1) {
    const uint64_t weight = WeightOf(tokens);
    const auto wanted = static_cast<uint64_t>(std::ceil(static_cast<double>(weight) * std::fmax(settings.top_p, 0.0f)));
    tokens = tokens.first(Passing(tokens, std::clamp<uint64_t>(wanted, 1, weight) - 1) + 1);
  }
  if (settings.min_p > 0) {
    const float most = -std::log(std::min(settings.min_p, 1.0f)) * (kKeys / kDeepest);
    const auto end = std::ranges::partition(tokens, [&](Token token) { return KeyOf(token) <= most; }).begin();
    tokens = tokens.first(static_cast<size_t>(end - tokens.begin()));
  }
  const uint64_t weight = WeightOf(tokens);
  const auto drawn = static_cast<uint64_t>(static_cast<double>(weight) * std::fmin(std::fmax(number, 0.0f), 1.0f));
  return static_cast<uint32_t>(tokens[Passing(tokens, std::min(drawn, weight - 1))]);
}

// The token of a row; `scratch` has room for each of its logits.
int64_t Choose(std::span<const float> logits, const Settings& settings, float number, Token* scratch) {
  float most = -std::numeric_limits<float>::infinity();
  size_t likeliest = 0;
  for (size_t i = 0; i < logits.size(); ++i) {
    if (!(logits[i] > most)) continue;  // as NaN is not
    most = logits[i];
    likeliest = i;
  }
  const auto first = static_cast<int64_t>(likeliest);
  if (!(settings.temperature > kColdest) || settings.top_k == 1) return first;
  const float deepest = kDeepest * settings.temperature;
  const float keys_per_logit = kKeys / deepest;
  size_t count = 0;
  for (size_t i = 0; i < logits.size(); ++i) {
    const float depth = most - logits[i];
    if (!(depth <= deepest) || !std::isfinite(depth)) continue;  // NaN, -inf, and all where one is inf
    scratch[count++] = static_cast<Token>(std::min(depth * keys_per_logit, kGreatestKey)) << 32 | i;
  }
  return count == 0 ? first : Draw({scratch, count}, settings, number);
}

}  // namespace

void Sample(KernelContext& context) {
  const DLTensor& logits = context.Input(0);
  const DLTensor& numbers = context.Input(1);
  const DLTensor& settings = context.Input(2);
  const DLTensor& tokens = context.Output(0);
  const auto is = [&](const DLTensor& tensor, const char* dtype, std::span<const int64_t> rows) {
    return DTypeText(tensor.dtype) == dtype && std::ranges::equal(rows, ShapeOf(tokens));
  };
  const auto rows_of = [](const DLTensor& tensor) {
    return ShapeOf(tensor).first(static_cast<size_t>(std::max(tensor.ndim - 1, 0)));
  };
  const int64_t size = logits.ndim > 0 ? logits.shape[logits.ndim - 1] : 0;
  const bool fits = is(logits, "float32", rows_of(logits)) && is(numbers, "float32", ShapeOf(numbers)) &&
                    is(settings, "float32", rows_of(settings)) && settings.ndim > 0 &&
                    settings.shape[settings.ndim - 1] == 4 && DTypeText(tokens.dtype) == "int64" && size >= 1 &&
                    size <= kMostTokens;
  if (!fits)
    FailKernel("tokens ", ShapeText(tokens), " cannot be chosen from logits ", ShapeText(logits), ", numbers ",
               ShapeText(numbers), " and settings ", ShapeText(settings), "; rows have 1 to ", kMostTokens, " logits");
  const int64_t rows = ElementCount(tokens);
  const int64_t parts = std::min<int64_t>(rows, context.threads());
  const auto scratch = context.Scratch<Token>(static_cast<size_t>(parts * size));
  context.ParallelFor(parts, 1, [&](int64_t begin, int64_t end) {
    for (int64_t part = begin; part < end; ++part) {
      for (int64_t row = rows * part / parts; row < rows * (part + 1) / parts; ++row) {
        Data<int64_t>(tokens)[row] =
            Choose({Data<const float>(logits) + row * size, static_cast<size_t>(size)},
                   Data<const Settings>(settings)[row], Data<const float>(numbers)[row], scratch.data() + part * size);
      }
    }
  });
}

}  // namespace ingot
