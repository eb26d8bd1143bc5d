#include "tensor_map.h"

#include <cudaTypedefs.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstring>

#include "../kernel.h"

#if defined(INGOT_EMULATE)
#include "emulator/tensor_map_layout.h"
#endif

namespace ingot {
namespace {

size_t ElementBytes(CUtensorMapDataType type) {
  switch (type) {
    case CU_TENSOR_MAP_DATA_TYPE_UINT8:
      return 1;
    case CU_TENSOR_MAP_DATA_TYPE_UINT16:
    case CU_TENSOR_MAP_DATA_TYPE_FLOAT16:
    case CU_TENSOR_MAP_DATA_TYPE_BFLOAT16:
      return 2;
    case CU_TENSOR_MAP_DATA_TYPE_INT32:
    case CU_TENSOR_MAP_DATA_TYPE_UINT32:
    case CU_TENSOR_MAP_DATA_TYPE_FLOAT32:
    case CU_TENSOR_MAP_DATA_TYPE_TFLOAT32:
      return 4;
    default:
      FailKernel("a tensor map of elements of type ", static_cast<int>(type), ", which MakeTensorMap does not know");
  }
}

// What the driver demands, which it only answers with "invalid argument" if it is not so.
void CheckTensorMap(size_t element_bytes, const void* data, std::span<const uint64_t> extents,
                    std::span<const uint64_t> strides, std::span<const uint32_t> box, ptx::Swizzle swizzle) {
  if (extents.empty() || extents.size() > 5 || strides.size() + 1 != extents.size() || box.size() != extents.size())
    FailKernel("a tensor map with ", extents.size(), " extents, ", strides.size(), " strides and a box of ",
               box.size());
  if (reinterpret_cast<uintptr_t>(data) % 16 != 0) FailKernel("a tensor map of data that are not aligned to 16 bytes");
  for (const uint64_t extent : extents) {
    if (extent == 0 || extent > uint64_t{1} << 32) FailKernel("a tensor map with an extent of ", extent);
  }
  for (const uint64_t stride : strides) {
    if (stride % 16 != 0 || stride >= uint64_t{1} << 40)
      FailKernel("a tensor map with a stride of ", stride, " bytes, which is no multiple of 16 below 2^40");
  }
  for (const uint32_t extent : box) {
    if (extent == 0 || extent > 256)
      FailKernel("a tensor map with a box of ", extent, " elements along an axis; it can be 1 to 256");
  }
  const size_t width = box[0] * element_bytes;
  const size_t swizzled = swizzle == ptx::Swizzle::k128  ? 128
                          : swizzle == ptx::Swizzle::k64 ? 64
                          : swizzle == ptx::Swizzle::k32 ? 32
                                                         : 0;
  if (width % 16 != 0 || (swizzled != 0 && width != swizzled))
    FailKernel("a tensor map with rows of ", width, " bytes in its box, for a swizzle of ", swizzled);
}

}  // namespace

#if defined(INGOT_EMULATE)

CUtensorMap MakeTensorMap(CUtensorMapDataType type, const void* data, std::span<const uint64_t> extents,
                          std::span<const uint64_t> strides, std::span<const uint32_t> box, ptx::Swizzle swizzle) {
  CheckTensorMap(ElementBytes(type), data, extents, strides, box, swizzle);
  emulator::TensorMapLayout layout{};
  layout.magic = emulator::kTensorMapMagic;
  layout.data = static_cast<std::byte*>(const_cast<void*>(data));
  std::ranges::copy(extents, layout.extents);
  std::ranges::copy(strides, layout.strides);
  std::ranges::copy(box, layout.box);
  layout.rank = static_cast<uint8_t>(extents.size());
  layout.element_bytes = static_cast<uint8_t>(ElementBytes(type));
  layout.swizzle = static_cast<uint8_t>(swizzle);
  CUtensorMap map{};
  std::memcpy(&map, &layout, sizeof layout);
  return map;
}

#else

namespace {

// libcuda's function, through the runtime: the library does not link to the driver.
PFN_cuTensorMapEncodeTiled_v12000 FindEncode() {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult result{};
  const cudaError_t error =
      cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000, cudaEnableDefault, &result);
  if (error != cudaSuccess || result != cudaDriverEntryPointSuccess || function == nullptr)
    FailKernel("the CUDA driver has no cuTensorMapEncodeTiled: it must be of CUDA 12.0 or newer");
  return reinterpret_cast<PFN_cuTensorMapEncodeTiled_v12000>(function);
}

CUtensorMapSwizzle DriverSwizzle(ptx::Swizzle swizzle) {
  switch (swizzle) {
    case ptx::Swizzle::k128:
      return CU_TENSOR_MAP_SWIZZLE_128B;
    case ptx::Swizzle::k64:
      return CU_TENSOR_MAP_SWIZZLE_64B;
    case ptx::Swizzle::k32:
      return CU_TENSOR_MAP_SWIZZLE_32B;
    default:
      return CU_TENSOR_MAP_SWIZZLE_NONE;
  }
}

}  // namespace

CUtensorMap MakeTensorMap(CUtensorMapDataType type, const void* data, std::span<const uint64_t> extents,
                          std::span<const uint64_t> strides, std::span<const uint32_t> box, ptx::Swizzle swizzle) {
  CheckTensorMap(ElementBytes(type), data, extents, strides, box, swizzle);
  static const PFN_cuTensorMapEncodeTiled_v12000 encode = FindEncode();
  constexpr cuuint32_t kSteps[5] = {1, 1, 1, 1, 1};
  CUtensorMap map{};
  // cuuint64_t is uint64_t by another name on some systems: copies make it the type that the driver takes.
  cuuint64_t driver_extents[5] = {};
  cuuint64_t driver_strides[5] = {};
  cuuint32_t driver_box[5] = {};
  std::ranges::copy(extents, driver_extents);
  std::ranges::copy(strides, driver_strides);
  std::ranges::copy(box, driver_box);
  const CUresult result =
      encode(&map, type, static_cast<cuuint32_t>(extents.size()), const_cast<void*>(data), driver_extents,
             driver_strides, driver_box, kSteps, CU_TENSOR_MAP_INTERLEAVE_NONE, DriverSwizzle(swizzle),
             CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result != CUDA_SUCCESS) FailKernel("cuTensorMapEncodeTiled failed with CUresult ", static_cast<int>(result));
  return map;
}

#endif

}  // namespace ingot
