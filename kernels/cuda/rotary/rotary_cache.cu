#include <cuda_fp8.h>

#include <algorithm>
#include <array>

#include "cuda/launch.h"
#include "cuda/rotary/angles.h"
#include "cuda/rotary/rotary_cache.h"
#include "cuda/tensor_scatter/slots.h"

namespace ingot {
namespace cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kMostSize = 512;
constexpr int kKept = kMostSize / 32;

enum class Storage : int32_t { kFloats, kInt8, kFp8 };

struct Cache {
  Floats floats;  // without a type for bytes
  float* scales;
  int32_t size;
};

// Heads of a tensor: of `heads` that each token has there, from the first on.
struct Heads {
  Floats x;
  int64_t heads, first;
};

struct Call {
  Cache key, value;
  Storage storage;
  Heads q, k, v;
  Floats rotated, sink_rotated;  // the second is without data where there is no second rotation
  Angles angles, sink_angles;
  Slots slots;
  int64_t tokens, steps, heads, kv_heads;
};

// The larger number, or NaN if either is.
__device__ inline float Larger(float a, float b) { return a > b || a != a ? a : b; }

// Elements lane, lane + 32, ... of a head, into a cache.
__device__ void StoreHead(const Cache& cache, Storage storage, const float (&x)[kKept], int64_t head, int lane) {
  if (storage == Storage::kFloats) {
#pragma unroll
    for (int i = 0; i < kKept; ++i) {
      if (i * 32 + lane < cache.size) StoreElement(cache.floats, head * cache.size + i * 32 + lane, x[i]);
    }
    return;
  }
  float scale = 1;
  if (cache.scales != nullptr) {
    float most = 0;
#pragma unroll
    for (int i = 0; i < kKept; ++i) {
      if (i * 32 + lane < cache.size) most = Larger(most, fabsf(x[i]));
    }
    for (int offset = 16; offset > 0; offset /= 2) most = Larger(most, __shfl_xor_sync(0xffffffffu, most, offset));
    scale = Larger(most, 1e-30f) / (storage == Storage::kInt8 ? 127.0f : 448.0f);
    if (lane == 0) cache.scales[head] = scale;
  }
  auto* const to = static_cast<uint8_t*>(cache.floats.data) + head * cache.size;
#pragma unroll
  for (int i = 0; i < kKept; ++i) {
    if (i * 32 + lane >= cache.size) break;
    const float y = x[i] / scale;
    to[i * 32 + lane] = storage == Storage::kFp8 ? __nv_cvt_float_to_fp8(y, __NV_SATFINITE, __NV_E4M3)
                                                 : static_cast<uint8_t>(static_cast<int8_t>(__float2int_rn(y)));
  }
}

// Elements lane, lane + 32, ... of a head, of Q rotated.
__device__ void StoreQuery(const Floats& to, const float (&x)[kKept], int64_t start, int32_t size, int lane) {
#pragma unroll
  for (int i = 0; i < kKept; ++i) {
    if (i * 32 + lane < size) StoreElement(to, start + i * 32 + lane, x[i]);
  }
}

// A warp for each head of Q, K and V of each token.
__global__ void __launch_bounds__(32 * kWarps) RotateAndStore(const Call call) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int64_t all_heads = call.heads + 2 * call.kv_heads;
  const int64_t row = int64_t{blockIdx.x} * kWarps + threadIdx.x / 32;
  if (row >= call.tokens * all_heads) return;
  const int64_t token = row / all_heads;
  const int64_t batch = token / call.steps;
  const int64_t step = token % call.steps;
  int64_t head = row % all_heads;
  const bool is_q = head < call.heads;
  const bool is_v = head >= call.heads + call.kv_heads;
  if (!is_q) head -= is_v ? call.heads + call.kv_heads : call.heads;
  const Heads& from = is_q ? call.q : is_v ? call.v : call.k;
  const int32_t size = is_v ? call.value.size : call.key.size;
  const int64_t start = (token * from.heads + from.first + head) * size;
  const bool turns_twice = is_q && call.sink_rotated.data != nullptr;
  float x[kKept] = {};
  float sink_x[kKept] = {};
#pragma unroll
  for (int i = 0; i < kKept; ++i) {
    const int at = i * 32 + lane;
    if (at >= size) break;
    x[i] = is_v ? LoadElement(from.x, start + at) : RotatedElement(call.angles, from.x, start, at, batch, step);
    if (turns_twice) sink_x[i] = RotatedElement(call.sink_angles, from.x, start, at, batch, step);
  }
  __syncwarp();
  if (is_q) {
    const int64_t to = (token * call.heads + head) * size;
    StoreQuery(call.rotated, x, to, size, lane);
    if (turns_twice) StoreQuery(call.sink_rotated, sink_x, to, size, lane);
    return;
  }
  const int64_t slot = call.slots(batch, step, call.steps);
  if (slot < 0) return;
  StoreHead(is_v ? call.value : call.key, call.storage, x, (batch * call.slots.capacity + slot) * call.kv_heads + head,
            lane);
}

bool Has(const DLTensor& tensor, std::initializer_list<int64_t> shape) {
  return std::ranges::equal(ShapeOf(tensor), shape);
}

// An output that starts as an input: its memory, or a copy.
const DLTensor& Changed(CudaContext& context, const DLTensor& input, size_t output) {
  const DLTensor& result = context.AllocateOutput(output, ShapeOf(input));
  if (!(result.dtype == input.dtype))
    FailKernel("output ", output, " is ", DTypeText(result.dtype), ", what it is a change of ", DTypeText(input.dtype));
  const size_t bytes = static_cast<size_t>(ElementCount(input)) * ElementBytes(input);
  if (Data<void>(result) != Data<void>(input) && bytes > 0)
    CudaContext::Check(
        cudaMemcpyAsync(Data<void>(result), Data<const void>(input), bytes, cudaMemcpyDeviceToDevice, context.stream()),
        "rotary_cache: copying a cache");
  return result;
}

// The shape of what is written: [B, S, H, size].
using Update = std::array<int64_t, 4>;

float* ScalesOf(CudaContext& context, size_t input, size_t output, const DLTensor& cache, const Update& update) {
  const DLTensor* scales = context.OptionalInput(input);
  if (scales == nullptr) return nullptr;
  if (scales->dtype.code != kDLFloat || scales->dtype.bits != 32 ||
      !Has(*scales, {cache.shape[0], cache.shape[1], update[2]}))
    FailKernel("scales of a cache ", ShapeText(cache), " of ", update[2], " heads are float32 [", cache.shape[0], ", ",
               cache.shape[1], ", ", update[2], "], not ", DTypeText(scales->dtype), " ", ShapeText(*scales));
  if (context.output_count() <= output) FailKernel("scales change with the cache: they need an output each");
  return Data<float>(Changed(context, *scales, output));
}

Cache ReadCache(CudaContext& context, size_t input, const Update& update, Storage& storage) {
  const DLTensor& given = context.Input(input);
  const bool fits = Has(given, {update[0], given.ndim > 1 ? given.shape[1] : 0, update[2], update[3]}) ||
                    Has(given, {update[0], given.ndim > 1 ? given.shape[1] : 0, update[2] * update[3]});
  if (!fits) FailKernel("an update of ", ShapeText(update), " cannot be written into a cache of ", ShapeText(given));
  if (update[3] > kMostSize)
    FailKernel("rotary_cache takes heads of at most ", kMostSize, " elements, not ", update[3]);
  const DLTensor& cache = Changed(context, given, input);
  Cache result{{}, ScalesOf(context, 8 + input, 3 + input, cache, update), static_cast<int32_t>(update[3])};
  const bool bytes = cache.dtype.bits == 8 && (cache.dtype.code == kDLInt || cache.dtype.code == kDLFloat8_e4m3fn);
  storage = !bytes ? Storage::kFloats : cache.dtype.code == kDLInt ? Storage::kInt8 : Storage::kFp8;
  if (bytes) {
    result.floats.data = Data<std::byte>(cache);
  } else {
    result.floats = FloatsOf(cache, "rotary_cache", "a cache");
  }
  if (storage == Storage::kInt8 && result.scales == nullptr) FailKernel("a cache of int8 needs scales");
  if (!bytes && result.scales != nullptr) FailKernel("a cache of ", DTypeText(cache.dtype), " has no scales");
  return result;
}

}  // namespace
}  // namespace cuda

void RotaryCache(CudaContext& context) {
  using namespace cuda;
  const DLTensor& q = context.Input(2);
  const DLTensor* k = context.OptionalInput(3);
  const DLTensor* v = context.OptionalInput(4);
  const auto ints = context.ints();
  Call call{};
  Storage value_storage{};
  if ((k == nullptr) != (v == nullptr)) FailKernel("K and V are given both or neither");
  if (q.ndim != 4 || (k != nullptr && (k->ndim != 4 || v->ndim != 4)))
    FailKernel("Q", k == nullptr ? "" : ", K and V", " have 4 axes, not ", ShapeText(q));
  if (k == nullptr) {
    const DLTensor& cache = context.Input(0);
    if (cache.ndim != 4 && (cache.ndim != 3 || q.shape[3] == 0))
      FailKernel("a cache of ", ShapeText(cache), " has no heads");
    call.kv_heads = cache.ndim == 4 ? cache.shape[2] : cache.shape[2] / q.shape[3];
    call.heads = q.shape[2] - 2 * call.kv_heads;
    if (call.heads < 0)
      FailKernel("Q ", ShapeText(q), " has fewer heads than the keys and values of a cache ", ShapeText(cache));
  } else {
    call.kv_heads = k->shape[2];
    call.heads = q.shape[2];
  }
  const auto update = [&](const DLTensor* tensor) -> Update {
    if (tensor == nullptr) return {q.shape[0], q.shape[1], call.kv_heads, q.shape[3]};
    return {tensor->shape[0], tensor->shape[1], tensor->shape[2], tensor->shape[3]};
  };
  call.key = ReadCache(context, 0, update(k), call.storage);
  call.value = ReadCache(context, 1, update(v), value_storage);
  if (!(context.Input(0).dtype == context.Input(1).dtype) || context.Input(0).shape[1] != context.Input(1).shape[1] ||
      (call.key.scales == nullptr) != (call.value.scales == nullptr))
    FailKernel("the caches of keys and values have one type and as many slots, and scales both or neither");
  if (k != nullptr && (q.shape[0] != k->shape[0] || q.shape[1] != k->shape[1] || q.shape[3] != k->shape[3] ||
                       v->shape[1] != k->shape[1] || v->shape[2] != k->shape[2]))
    FailKernel("Q ", ShapeText(q), ", K ", ShapeText(*k), " and V ", ShapeText(*v), " do not fit together");
  call.q = {FloatsOf(q, "rotary_cache", "Q"), q.shape[2], 0};
  call.k = k == nullptr ? Heads{call.q.x, q.shape[2], call.heads}
                        : Heads{FloatsOf(*k, "rotary_cache", "K"), call.kv_heads, 0};
  call.v = v == nullptr ? Heads{call.q.x, q.shape[2], call.heads + call.kv_heads}
                        : Heads{FloatsOf(*v, "rotary_cache", "V"), call.kv_heads, 0};
  const std::array<int64_t, 4> rotated = {q.shape[0], q.shape[1], call.heads, q.shape[3]};
  call.rotated = FloatsOf(context.AllocateOutput(2, rotated), "rotary_cache", "rotated Q");
  const auto angles = [&](size_t input) {
    return ReadAngles(context.OptionalInput(input), context.OptionalInput(input + 1), q.shape[0], q.shape[1],
                      q.shape[3], ints[2], ints[1] != 0, "rotary_cache");
  };
  call.angles = angles(5);
  call.sink_angles = angles(10);
  if (call.sink_angles.cosines.data != nullptr) {
    const size_t output = call.key.scales == nullptr ? 3 : 5;
    if (context.output_count() <= output) FailKernel("Q rotated a second time needs an output");
    call.sink_rotated = FloatsOf(context.AllocateOutput(output, rotated), "rotary_cache", "Q rotated a second time");
  }
  const DLTensor* first = context.OptionalInput(7);
  if (first != nullptr && (first->dtype.code != kDLInt || (first->dtype.bits != 64 && first->dtype.bits != 32) ||
                           !Has(*first, {q.shape[0]})))
    FailKernel("starts are int64 or int32 [", q.shape[0], "], not ", DTypeText(first->dtype), " ", ShapeText(*first));
  call.slots = {context.Input(0).shape[1],
                ints[3],
                ints[0] != 0,
                first == nullptr ? nullptr : Data<const std::byte>(*first),
                first != nullptr && first->dtype.bits == 64,
                context.faults()};
  call.tokens = q.shape[0] * q.shape[1];
  call.steps = q.shape[1];
  const int64_t rows = call.tokens * (call.heads + 2 * call.kv_heads);
  if (rows == 0) return;
  CheckRing(call.slots, call.steps);
  const int64_t blocks = (rows + kWarps - 1) / kWarps;
  if (blocks >= int64_t{1} << 31) FailKernel("rotary_cache of ", rows, " heads is more than one launch can have");
  CudaContext::Check(
      Launch(RotateAndStore, dim3(static_cast<uint32_t>(blocks)), dim3(32 * kWarps), 0, context.stream(), call),
      "rotary_cache");
}

}  // namespace ingot
