#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <algorithm>

#include "cpu/tensor_scatter/checks.h"
#include "cuda/launch.h"
#include "cuda/tensor_scatter/slots.h"
#include "cuda/tensor_scatter/tensor_scatter.h"

namespace ingot {
namespace cuda {
namespace {

constexpr int kThreads = 256;

struct Extents {
  int64_t before;  // what lies between batch and steps
  int64_t steps;
  int64_t behind;
  int64_t total;  // elements of the update
};

__device__ inline void Put(__half& to, float from) { to = __float2half_rn(from); }
__device__ inline void Put(__nv_bfloat16& to, float from) { to = __float2bfloat16_rn(from); }
template <typename T>
__device__ void Put(T& to, const T& from) {
  to = from;
}

template <typename To, typename From>
__global__ void __launch_bounds__(kThreads) Scatter(To* cache, const From* update, Extents extents, Slots slots) {
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < extents.total;
       i += int64_t{gridDim.x} * kThreads) {
    const int64_t element = i % extents.behind;
    const int64_t step = i / extents.behind % extents.steps;
    const int64_t row = i / extents.behind / extents.steps;
    const int64_t slot = slots(row / extents.before, step, extents.steps);
    if (slot >= 0) Put(cache[(row * slots.capacity + slot) * extents.behind + element], update[i]);
  }
}

template <typename To, typename From>
void Start(CudaContext& context, void* cache, const void* update, const Extents& extents, const Slots& slots) {
  const int64_t blocks = (extents.total + kThreads - 1) / kThreads;
  const auto grid = static_cast<uint32_t>(std::min<int64_t>(blocks, int64_t{16} * context.multiprocessors()));
  CudaContext::Check(Launch(Scatter<To, From>, dim3(grid), dim3(kThreads), 0, context.stream(), static_cast<To*>(cache),
                            static_cast<const From*>(update), extents, slots),
                     "tensor_scatter");
}

// Moves pieces of as many bytes as divide a step and both addresses.
void StartBytes(CudaContext& context, void* cache, const void* update, Extents extents, const Slots& slots,
                size_t bytes) {
  const auto step = static_cast<uint64_t>(extents.behind) * bytes;
  const uint64_t all = step | reinterpret_cast<uint64_t>(cache) | reinterpret_cast<uint64_t>(update);
  const int64_t width = all % 16 == 0 ? 16 : all % 8 == 0 ? 8 : all % 4 == 0 ? 4 : all % 2 == 0 ? 2 : 1;
  extents.total = extents.total / extents.behind;
  extents.behind = static_cast<int64_t>(step) / width;
  extents.total *= extents.behind;
  switch (width) {
    case 16:
      return Start<uint4, uint4>(context, cache, update, extents, slots);
    case 8:
      return Start<uint64_t, uint64_t>(context, cache, update, extents, slots);
    case 4:
      return Start<uint32_t, uint32_t>(context, cache, update, extents, slots);
    case 2:
      return Start<uint16_t, uint16_t>(context, cache, update, extents, slots);
    default:
      return Start<uint8_t, uint8_t>(context, cache, update, extents, slots);
  }
}

}  // namespace
}  // namespace cuda

void TensorScatter(CudaContext& context) {
  using namespace cuda;
  const DLTensor& cache = context.Input(0);
  const DLTensor& update = context.Input(1);
  const DLTensor* first = context.OptionalInput(2);
  const auto ints = context.ints();
  const int64_t axis = ints[0];
  const auto shape = ShapeOf(cache);
  const auto given = ShapeOf(update);
  tensor_scatter::Check(cache, update, first, axis);
  if (first != nullptr && (first->dtype.code != kDLInt || (first->dtype.bits != 64 && first->dtype.bits != 32)))
    FailKernel("starts are int64 or int32, not ", DTypeText(first->dtype));
  const bool same = cache.dtype == update.dtype;

  const auto at = static_cast<size_t>(axis);
  const Extents extents{ElementCount(shape.subspan(1, at - 1)), given[at], ElementCount(shape.subspan(at + 1)),
                        ElementCount(given)};
  const Slots slots{shape[at],
                    ints[2],
                    ints[1] != 0,
                    first == nullptr ? nullptr : Data<const std::byte>(*first),
                    first != nullptr && first->dtype.bits == 64,
                    context.faults()};
  CheckRing(slots, extents.steps);

  const DLTensor& output = context.AllocateOutput(0, shape);
  const size_t bytes = static_cast<size_t>(ElementCount(cache)) * ElementBytes(cache);
  if (Data<std::byte>(output) != Data<std::byte>(cache) && bytes > 0)
    CudaContext::Check(
        cudaMemcpyAsync(Data<void>(output), Data<const void>(cache), bytes, cudaMemcpyDeviceToDevice, context.stream()),
        "tensor_scatter: copying the cache");
  if (extents.total == 0) return;
  if (same) {
    StartBytes(context, Data<void>(output), Data<const void>(update), extents, slots, ElementBytes(cache));
  } else if (cache.dtype.code == kDLFloat) {
    Start<__half, float>(context, Data<void>(output), Data<const void>(update), extents, slots);
  } else {
    Start<__nv_bfloat16, float>(context, Data<void>(output), Data<const void>(update), extents, slots);
  }
}

}  // namespace ingot
