#include <algorithm>
#include <cmath>

#include "cuda/elements.h"
#include "cuda/launch.h"
#include "cuda/sampling/sampling.h"

namespace ingot {
namespace cuda {
namespace {

constexpr int kThreads = 1024;
constexpr int kWarps = kThreads / 32;
constexpr int kBins = 2 * kThreads;
constexpr uint32_t kAll = 0xffffffffu;
// Weights are counted in 2^-40: the sum of 2^20 of them is below 2^61.
constexpr float kWeightUnit = 1099511627776.0f;
constexpr unsigned long long kEndless = 1ull << 62;
constexpr int64_t kMostTokens = int64_t{1} << 20;
constexpr float kDeepest = 64;      // weights below e^-64 are none
constexpr float kColdest = 1e-20f;  // lower temperatures are 0, as keys would not be finite
constexpr float kKeys = 4294967296.0f;
constexpr float kGreatestKey = 4294967040.0f;  // the greatest float below 2^32

struct Settings {
  float temperature, top_k, top_p, min_p;
};

struct Problem {
  Floats logits;
  const float* numbers;
  const Settings* rows;  // nullptr: `all`
  Settings all;
  int64_t* tokens;
  float* log_probabilities;
  int32_t size;
  bool fours;
};

// Shared memory of a block.
struct Shared {
  unsigned long long mass[kBins];
  uint32_t count[kBins];
  unsigned long long warp_mass[kWarps];
  uint32_t warp_count[kWarps];
  float values[kWarps];
  int32_t places[kWarps];
  uint32_t bin, found_count, token;
  unsigned long long before_mass, total_mass;
  uint32_t before_count;
};

// Where a running sum over tokens in order passes a number: at `count` tokens of one key, behind the sums of those
// before.
struct Place {
  uint32_t key;
  uint32_t count, before_count;
  unsigned long long before_mass;
};

// Logits of a row by keys: how far one is below the largest, in steps of 64 temperatures / 2^32.
class Row {
 public:
  __device__ Row(const Problem& problem, int64_t row, Shared& shared)
      : logits_(problem.logits),
        start_(row * problem.size),
        size_(problem.size),
        fours_(problem.fours),
        shared_(shared) {}

  // Calls body(logit, number) for this thread's tokens.
  template <typename Body>
  __device__ void Each(const Body& body) const {
    if (fours_) {
#pragma unroll 4
      for (int32_t i = static_cast<int32_t>(threadIdx.x) * 4; i < size_; i += kThreads * 4) {
        float four[4];
        LoadFour(logits_, start_ + i, four);
#pragma unroll
        for (int j = 0; j < 4; ++j) body(four[j], i + j);
      }
    } else {
#pragma unroll 4
      for (int32_t i = static_cast<int32_t>(threadIdx.x); i < size_; i += kThreads)
        body(LoadElement(logits_, start_ + i), i);
    }
  }

  // The first of the largest logits.
  __device__ int32_t Largest() {
    float most = -INFINITY;
    int32_t place = size_;
    Each([&](float logit, int32_t i) {
      if (logit > most || (logit == most && i < place && logit > -INFINITY)) {
        most = logit;
        place = i;
      }
    });
    for (int offset = 16; offset > 0; offset /= 2)
      Join(most, place, __shfl_xor_sync(kAll, most, offset), __shfl_xor_sync(kAll, place, offset));
    if (threadIdx.x % 32 == 0) {
      shared_.values[threadIdx.x / 32] = most;
      shared_.places[threadIdx.x / 32] = place;
    }
    __syncthreads();
    for (int i = 0; i < kWarps; ++i) Join(most, place, shared_.values[i], shared_.places[i]);
    __syncthreads();
    largest_ = most;
    return place < size_ ? place : 0;
  }

  // log of the sum of e^(logit - largest).
  __device__ float LogSum() {
    float sum = 0;
    Each([&](float logit, int32_t) { sum += logit > -INFINITY ? expf(logit - largest_) : 0; });
    for (int offset = 16; offset > 0; offset /= 2) sum += __shfl_xor_sync(kAll, sum, offset);
    if (threadIdx.x % 32 == 0) shared_.values[threadIdx.x / 32] = sum;
    __syncthreads();
    sum = 0;
    for (int i = 0; i < kWarps; ++i) sum += shared_.values[i];
    __syncthreads();
    return logf(sum);
  }

  __device__ float largest() const { return largest_; }

  __device__ void SetTemperature(float temperature) {
    deepest_ = kDeepest * temperature;
    keys_per_logit_ = kKeys / deepest_;
  }

  // Tokens farther below the largest than this have no weight.
  __device__ void SetDeepest(float depth) { deepest_ = fminf(deepest_, depth); }

  __device__ bool HasWeight(float logit) const { return largest_ - logit <= deepest_; }  // false for NaN
  __device__ uint32_t KeyOf(float logit) const {
    return static_cast<uint32_t>(fminf((largest_ - logit) * keys_per_logit_, kGreatestKey));
  }
  __device__ static unsigned long long WeightOf(uint32_t key) {
    return static_cast<unsigned long long>(expf(-static_cast<float>(key) * (kDeepest / kKeys)) * kWeightUnit);
  }

  // Finds where the running number of tokens, or of their weights, passes `target`. False if that of all does not: then
  // before_mass is the weight of all.
  template <bool kMass>
  __device__ bool Find(unsigned long long target, Place& place) {
    place = {};
    for (int level = 0; level < 3; ++level) {
      const int shift = level == 0 ? 21 : level == 1 ? 10 : 0;
      const int above = level == 1 ? 21 : 10;  // bits that are known, of levels behind the first
      for (int i = static_cast<int>(threadIdx.x); i < kBins; i += kThreads) {
        shared_.mass[i] = 0;
        shared_.count[i] = 0;
      }
      if (threadIdx.x == 0) shared_.bin = kBins;
      __syncthreads();
      Each([&](float logit, int32_t) {
        if (!HasWeight(logit)) return;
        const uint32_t key = KeyOf(logit);
        if (level > 0 && key >> above != place.key >> above) return;
        const uint32_t bin = key >> shift & (level == 2 ? 1023u : 2047u);
        atomicAdd(&shared_.count[bin], 1u);
        atomicAdd(&shared_.mass[bin], WeightOf(key));
      });
      __syncthreads();
      FindBin<kMass>(target, place.before_count, place.before_mass);
      if (shared_.bin == kBins) {
        place.before_mass = shared_.total_mass;
        __syncthreads();
        return false;
      }
      place = {place.key | shared_.bin << shift, shared_.found_count, shared_.before_count, shared_.before_mass};
      __syncthreads();
    }
    return true;
  }

  // The token that is number `rank` of those with a key.
  __device__ int32_t TokenOf(uint32_t key, uint32_t rank) {
    for (int32_t first = 0; first < size_; first += kThreads) {
      const int32_t i = first + static_cast<int32_t>(threadIdx.x);
      bool is = false;
      if (i < size_) {
        const float logit = LoadElement(logits_, start_ + i);
        is = HasWeight(logit) && KeyOf(logit) == key;
      }
      const uint32_t lanes = __ballot_sync(kAll, is);
      if (threadIdx.x % 32 == 0) shared_.warp_count[threadIdx.x / 32] = static_cast<uint32_t>(__popc(lanes));
      __syncthreads();
      uint32_t before = 0;
      uint32_t total = 0;
      for (uint32_t w = 0; w < kWarps; ++w) {
        before += w < threadIdx.x / 32 ? shared_.warp_count[w] : 0;
        total += shared_.warp_count[w];
      }
      const uint32_t own = before + static_cast<uint32_t>(__popc(lanes & ((1u << threadIdx.x % 32) - 1)));
      if (is && own == rank) shared_.token = static_cast<uint32_t>(i);
      __syncthreads();
      if (rank < total) return static_cast<int32_t>(shared_.token);
      rank -= total;
    }
    return 0;
  }

 private:
  __device__ static void Join(float& most, int32_t& place, float other, int32_t other_place) {
    if (other > most || (other == most && other_place < place)) {
      most = other;
      place = other_place;
    }
  }

  // Two bins for each thread: the first in which the running sum passes the target.
  template <bool kMass>
  __device__ void FindBin(unsigned long long target, uint32_t before_count, unsigned long long before_mass) {
    const uint32_t lane = threadIdx.x % 32;
    const uint32_t warp = threadIdx.x / 32;
    const uint32_t counts[2] = {shared_.count[2 * threadIdx.x], shared_.count[2 * threadIdx.x + 1]};
    const unsigned long long masses[2] = {shared_.mass[2 * threadIdx.x], shared_.mass[2 * threadIdx.x + 1]};
    uint32_t count = counts[0] + counts[1];
    unsigned long long mass = masses[0] + masses[1];
    for (uint32_t offset = 1; offset < 32; offset *= 2) {
      const uint32_t more = __shfl_up_sync(kAll, count, offset);
      const unsigned long long heavier = __shfl_up_sync(kAll, mass, offset);
      if (lane >= offset) {
        count += more;
        mass += heavier;
      }
    }
    if (lane == 31) {
      shared_.warp_count[warp] = count;
      shared_.warp_mass[warp] = mass;
    }
    __syncthreads();
    count += before_count - counts[0] - counts[1];
    mass += before_mass - masses[0] - masses[1];
    for (uint32_t w = 0; w < warp; ++w) {
      count += shared_.warp_count[w];
      mass += shared_.warp_mass[w];
    }
    for (int i = 0; i < 2; ++i) {
      const unsigned long long before = kMass ? mass : count;
      const unsigned long long after = before + (kMass ? masses[i] : counts[i]);
      if (before <= target && after > target) {
        shared_.bin = 2 * threadIdx.x + static_cast<uint32_t>(i);
        shared_.found_count = counts[i];
        shared_.before_count = count;
        shared_.before_mass = mass;
      }
      count += counts[i];
      mass += masses[i];
    }
    if (threadIdx.x == kThreads - 1) shared_.total_mass = mass;
    __syncthreads();
  }

  const Floats logits_;
  const int64_t start_;
  const int32_t size_;
  const bool fours_;
  Shared& shared_;
  float largest_ = 0;
  float deepest_ = 0;
  float keys_per_logit_ = 0;
};

// The token of a row at a temperature above 0.
__device__ int32_t Draw(Row& row, const Settings& settings, float number, int32_t likeliest) {
  row.SetTemperature(settings.temperature);
  // What is kept is a number of tokens from the likeliest on, so that its weight says which.
  Place place;
  const bool cut =
      row.Find<false>(settings.top_k >= 1 ? static_cast<unsigned long long>(settings.top_k) - 1 : kEndless, place);
  unsigned long long kept = place.before_mass;
  if (cut) kept += (static_cast<unsigned long long>(settings.top_k) - place.before_count) * Row::WeightOf(place.key);
  if (kept == 0) return likeliest;
  if (settings.top_p < 1) {
    const auto wanted = static_cast<unsigned long long>(ceil(static_cast<double>(kept) * fmaxf(settings.top_p, 0)));
    const unsigned long long passed = (wanted < 1 ? 1 : wanted < kept ? wanted : kept) - 1;
    if (row.Find<true>(passed, place)) {
      const unsigned long long weight = Row::WeightOf(place.key);
      kept = place.before_mass + ((passed - place.before_mass) / weight + 1) * weight;
    }
  }
  if (settings.min_p > 0) {
    row.SetDeepest(-settings.temperature * logf(fminf(settings.min_p, 1)));
    row.Find<false>(kEndless, place);
    kept = kept < place.before_mass ? kept : place.before_mass;
  }
  const auto drawn = static_cast<unsigned long long>(static_cast<double>(kept) * fmaxf(number, 0));
  const unsigned long long target = drawn < kept ? drawn : kept - 1;
  if (!row.Find<true>(target, place)) return likeliest;
  return row.TokenOf(place.key, static_cast<uint32_t>((target - place.before_mass) / Row::WeightOf(place.key)));
}

__global__ void __launch_bounds__(kThreads) SampleRows(const Problem problem) {
  __shared__ Shared shared;
  Row row(problem, blockIdx.x, shared);
  const int32_t likeliest = row.Largest();
  const Settings settings = problem.rows == nullptr ? problem.all : problem.rows[blockIdx.x];
  int32_t token = likeliest;
  if (settings.temperature > kColdest && settings.top_k != 1 && problem.numbers != nullptr)
    token = Draw(row, settings, problem.numbers[blockIdx.x], likeliest);
  if (threadIdx.x == 0) problem.tokens[blockIdx.x] = token;
  if (problem.log_probabilities == nullptr) return;
  const float sum = row.LogSum();
  if (threadIdx.x == 0)
    problem.log_probabilities[blockIdx.x] =
        LoadElement(problem.logits, int64_t{blockIdx.x} * problem.size + token) - row.largest() - sum;
}

bool IsRows(const DLTensor& tensor, std::span<const int64_t> rows, bool settings) {
  const auto shape = ShapeOf(tensor);
  if (tensor.dtype.code != kDLFloat || tensor.dtype.bits != 32 || shape.size() != rows.size() + (settings ? 1 : 0))
    return false;
  return std::ranges::equal(shape.first(rows.size()), rows) && (!settings || shape.back() == 4);
}

}  // namespace
}  // namespace cuda

void Sample(CudaContext& context) {
  using namespace cuda;
  const DLTensor& logits = context.Input(0);
  if (logits.ndim == 0) FailKernel("sample takes rows of logits, not a single number");
  const auto rows = ShapeOf(logits).first(static_cast<size_t>(logits.ndim) - 1);
  const int64_t count = ElementCount(rows);
  const int64_t size = logits.shape[logits.ndim - 1];
  if (size < 1 || size > kMostTokens) FailKernel("sample takes 1 to ", kMostTokens, " logits of a row, not ", size);
  Problem problem{};
  problem.logits = FloatsOf(logits, "sample", "logits");
  problem.size = static_cast<int32_t>(size);
  problem.fours = InFours(problem.logits, size);
  const auto floats = context.floats();
  problem.all = {static_cast<float>(floats[0]), static_cast<float>(context.ints()[0]), static_cast<float>(floats[1]),
                 static_cast<float>(floats[2])};
  const DLTensor* numbers = context.OptionalInput(1);
  const DLTensor* settings = context.OptionalInput(2);
  if (numbers != nullptr) {
    if (!IsRows(*numbers, rows, false))
      FailKernel("random numbers are float32 ", ShapeText(rows), ", not ", DTypeText(numbers->dtype), " ",
                 ShapeText(*numbers));
    problem.numbers = Data<const float>(*numbers);
  }
  if (settings != nullptr) {
    if (!IsRows(*settings, rows, true))
      FailKernel("settings are float32 ", ShapeText(rows), " by 4, not ", DTypeText(settings->dtype), " ",
                 ShapeText(*settings));
    problem.rows = Data<const Settings>(*settings);
  }
  if (numbers == nullptr && (settings != nullptr || problem.all.temperature > 0))
    FailKernel("a temperature above 0 needs a random number for each row");
  const DLTensor& tokens = context.AllocateOutput(0, rows);
  if (tokens.dtype.code != kDLInt || tokens.dtype.bits != 64)
    FailKernel("tokens are int64, not ", DTypeText(tokens.dtype));
  problem.tokens = Data<int64_t>(tokens);
  if (context.output_count() > 1) {
    const DLTensor& log_probabilities = context.AllocateOutput(1, rows);
    if (log_probabilities.dtype.code != kDLFloat || log_probabilities.dtype.bits != 32)
      FailKernel("log probabilities are float32, not ", DTypeText(log_probabilities.dtype));
    problem.log_probabilities = Data<float>(log_probabilities);
  }
  CudaContext::Check(
      Launch(SampleRows, dim3(static_cast<uint32_t>(count)), dim3(kThreads), 0, context.stream(), problem), "sample");
}

}  // namespace ingot
