#include "checks.h"
#include "cuda/ptx.h"
#include "cuda/tensor_map.h"

namespace ingot {
namespace {

struct Places {
  int32_t from[4];
  int32_t to[4];
};

// Loads a box, shows the bytes as they lie in shared memory, and stores the box elsewhere.
__global__ void __launch_bounds__(128)
    TensorMapKernel(const __grid_constant__ CUtensorMap source, const __grid_constant__ CUtensorMap target, int rank,
                    Places places, uint32_t box_bytes, unsigned char* bytes) {
#if INGOT_HOPPER
  INGOT_DYNAMIC_SHARED(unsigned char, shared);
  __shared__ uint64_t barrier;
  const uint32_t address = ptx::SharedAddress(shared);
  const uint32_t loaded = ptx::SharedAddress(&barrier);
  if (threadIdx.x == 0) {
    ptx::PrefetchTensorMap(&source);
    ptx::BarrierInit(loaded, 1);
    ptx::FenceBarrierInit();
  }
  __syncthreads();
  const int32_t* from = places.from;
  if (threadIdx.x == 0) {
    ptx::BarrierArriveExpect(loaded, box_bytes);
    if (rank == 1) ptx::TensorLoad(address, &source, loaded, from[0]);
    if (rank == 2) ptx::TensorLoad(address, &source, loaded, from[0], from[1]);
    if (rank == 3) ptx::TensorLoad(address, &source, loaded, from[0], from[1], from[2]);
    if (rank == 4) ptx::TensorLoad(address, &source, loaded, from[0], from[1], from[2], from[3]);
  }
  ptx::BarrierWait(loaded, 0);
  for (uint32_t i = threadIdx.x; i < box_bytes; i += blockDim.x) bytes[i] = shared[i];
  const int32_t* to = places.to;
  if (threadIdx.x == 0) {
    if (rank == 2) ptx::TensorStore(&target, address, to[0], to[1]);
    if (rank == 3) ptx::TensorStore(&target, address, to[0], to[1], to[2]);
    if (rank == 4) ptx::TensorStore(&target, address, to[0], to[1], to[2], to[3]);
    ptx::BulkCommit();
    ptx::BulkWait<0>();
  }
#endif
}

CUtensorMap MapOf(const DLTensor& tensor, std::span<const uint32_t> box, ptx::Swizzle swizzle) {
  const size_t bytes = ElementBytes(tensor);
  const auto rank = static_cast<size_t>(tensor.ndim);
  uint64_t extents[4];
  uint64_t strides[4];
  uint64_t stride = bytes;
  for (size_t axis = 0; axis < rank; ++axis) {
    extents[axis] = static_cast<uint64_t>(tensor.shape[rank - 1 - axis]);
    stride *= extents[axis];
    strides[axis] = stride;
  }
  const CUtensorMapDataType type = bytes == 1   ? CU_TENSOR_MAP_DATA_TYPE_UINT8
                                   : bytes == 2 ? CU_TENSOR_MAP_DATA_TYPE_UINT16
                                                : CU_TENSOR_MAP_DATA_TYPE_UINT32;
  return MakeTensorMap(type, Data<void>(tensor), {extents, rank}, {strides, rank - 1}, box, swizzle);
}

}  // namespace

void CheckTensorMap(CudaContext& context) {
  const DLTensor& source = context.Input(0);
  const auto rank = static_cast<size_t>(source.ndim);
  const auto swizzle = static_cast<ptx::Swizzle>(context.dims()[0]);
  uint32_t box[4];
  Places places{};
  uint32_t bytes = static_cast<uint32_t>(ElementBytes(source));
  for (size_t axis = 0; axis < rank; ++axis) {
    box[axis] = static_cast<uint32_t>(context.dims()[1 + axis]);
    places.from[axis] = static_cast<int32_t>(context.dims()[5 + axis]);
    places.to[axis] = static_cast<int32_t>(context.dims()[9 + axis]);
    bytes *= box[axis];
  }
  CudaContext::Check(Launch(TensorMapKernel, dim3(1), dim3(128), bytes, context.stream(),
                            MapOf(source, {box, rank}, swizzle), MapOf(context.Output(1), {box, rank}, swizzle),
                            static_cast<int>(rank), places, bytes, Data<unsigned char>(context.Output(0))),
                     "check_tensor_map");
}

}  // namespace ingot
