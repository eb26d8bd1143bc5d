#include <cstring>

#include "cuda/launch.h"
#include "store.h"

namespace ingot::cuda {
namespace {

struct Parcel {
  unsigned char bytes[kMostStored];
};

__global__ void StoreKernel(unsigned char* to, Parcel parcel, unsigned count) {
  if (threadIdx.x < count) to[threadIdx.x] = parcel.bytes[threadIdx.x];
}

}  // namespace

cudaError_t Store(void* to, const void* from, size_t bytes, cudaStream_t stream) {
  Parcel parcel;
  std::memcpy(parcel.bytes, from, bytes);
  return Launch(StoreKernel, dim3(1), dim3(kMostStored), 0, stream, static_cast<unsigned char*>(to), parcel,
                static_cast<unsigned>(bytes));
}

}  // namespace ingot::cuda
