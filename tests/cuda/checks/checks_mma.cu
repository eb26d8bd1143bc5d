#include "checks.h"
#include "cuda/ptx.h"

namespace ingot {
namespace {

template <typename Type>
struct Mma;
template <>
struct Mma<__nv_bfloat16> {
  static __device__ void Run(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    ptx::MmaBFloat16(d, a, b);
  }
};
template <>
struct Mma<__half> {
  static __device__ void Run(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) { ptx::MmaHalf(d, a, b); }
};
template <>
struct Mma<float> {
  static __device__ void Run(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) { ptx::MmaTf32(d, a, b); }
};
template <>
struct Mma<int8_t> {
  static __device__ void Run(int32_t (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) { ptx::MmaInt8(d, a, b); }
};
template <>
struct Mma<__nv_fp8_e4m3> {
  static __device__ void Run(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) { ptx::MmaE4M3(d, a, b); }
};

// Fragments of A [16, 32 bytes] and B [8, 32 bytes]. ldmatrix moves bytes: it serves all types.
__device__ void LoadFragments(const uint4* a, const uint4* b, uint32_t (&a_registers)[4], uint32_t (&b_registers)[2]) {
  __shared__ uint4 rows[48];
  const int lane = static_cast<int>(threadIdx.x);
  rows[lane] = a[lane];
  if (lane < 16) rows[32 + lane] = b[lane];
  __syncwarp();
  const uint32_t base = ptx::SharedAddress(rows);
  ptx::LoadMatrix4(a_registers[0], a_registers[1], a_registers[2], a_registers[3],
                   base + lane % 16 * 32 + lane / 16 * 16);
  ptx::LoadMatrix2(b_registers[0], b_registers[1], base + 512 + lane % 8 * 32 + lane / 8 % 2 * 16);
}

template <typename Type, typename Sum>
__global__ void __launch_bounds__(32) MmaKernel(const uint4* a, const uint4* b, Sum* d) {
  uint32_t a_registers[4];
  uint32_t b_registers[2];
  LoadFragments(a, b, a_registers, b_registers);
  Sum sums[4] = {};
  Mma<Type>::Run(sums, a_registers, b_registers);
  const int group = static_cast<int>(threadIdx.x) / 4;
  const int pair = static_cast<int>(threadIdx.x) % 4;
  for (int i = 0; i < 4; ++i) d[(group + i / 2 * 8) * 8 + 2 * pair + i % 2] = sums[i];
}

__global__ void __launch_bounds__(32) HalfSumsKernel(const uint4* a, const uint4* b, uint32_t* d) {
  uint32_t a_registers[4];
  uint32_t b_registers[2];
  LoadFragments(a, b, a_registers, b_registers);
  uint32_t sums[2] = {};
  ptx::MmaHalfSums(sums, a_registers, b_registers);
  for (int i = 0; i < 2; ++i) d[(threadIdx.x / 4 + i * 8) * 4 + threadIdx.x % 4] = sums[i];
}

template <typename Type, typename Sum>
void LaunchMma(CudaContext& context) {
  CudaContext::Check(
      Launch(MmaKernel<Type, Sum>, dim3(1), dim3(32), 0, context.stream(), Data<const uint4>(context.Input(0)),
             Data<const uint4>(context.Input(1)), Data<Sum>(context.Output(0))),
      "check_mma");
}

__global__ void __launch_bounds__(32) LoadMatrixKernel(const uint4* rows, uint32_t* registers) {
  __shared__ uint4 shared[32];
  const int lane = static_cast<int>(threadIdx.x);
  shared[lane] = rows[lane];
  __syncwarp();
  const uint32_t address = ptx::SharedAddress(shared) + lane * 16;
  uint32_t r[12];
  ptx::LoadMatrix4(r[0], r[1], r[2], r[3], address);
  ptx::LoadMatrixTransposed4(r[4], r[5], r[6], r[7], address);
  ptx::LoadMatrix2(r[8], r[9], address);
  ptx::LoadMatrixTransposed2(r[10], r[11], address);
  for (int i = 0; i < 12; ++i) registers[i * 32 + lane] = r[i];
}

__global__ void __launch_bounds__(32) StoreMatrixKernel(const uint32_t* registers, uint4* rows) {
#if INGOT_HOPPER
  __shared__ uint4 shared[32];
  const int lane = static_cast<int>(threadIdx.x);
  const uint32_t address = ptx::SharedAddress(shared) + lane * 16;
  for (int transposed = 0; transposed < 2; ++transposed) {
    if (transposed == 0) {
      ptx::StoreMatrix4(address, registers[lane], registers[32 + lane], registers[64 + lane], registers[96 + lane]);
    } else {
      ptx::StoreMatrixTransposed4(address, registers[lane], registers[32 + lane], registers[64 + lane],
                                  registers[96 + lane]);
    }
    __syncwarp();
    rows[transposed * 32 + lane] = shared[lane];
    __syncwarp();
  }
#endif
}

}  // namespace

void CheckMma(CudaContext& context) {
  const std::string_view type = FindDType(context.Input(0).dtype)->name;
  if (type == "float16" && context.Output(0).dtype.bits == 16) {
    CudaContext::Check(
        Launch(HalfSumsKernel, dim3(1), dim3(32), 0, context.stream(), Data<const uint4>(context.Input(0)),
               Data<const uint4>(context.Input(1)), Data<uint32_t>(context.Output(0))),
        "check_mma");
  } else if (type == "bfloat16") {
    LaunchMma<__nv_bfloat16, float>(context);
  } else if (type == "float16") {
    LaunchMma<__half, float>(context);
  } else if (type == "float32") {
    LaunchMma<float, float>(context);
  } else if (type == "int8") {
    LaunchMma<int8_t, int32_t>(context);
  } else {
    LaunchMma<__nv_fp8_e4m3, float>(context);
  }
}

void CheckLoadMatrix(CudaContext& context) {
  CudaContext::Check(Launch(LoadMatrixKernel, dim3(1), dim3(32), 0, context.stream(),
                            Data<const uint4>(context.Input(0)), Data<uint32_t>(context.Output(0))),
                     "check_load_matrix");
}

void CheckStoreMatrix(CudaContext& context) {
  CudaContext::Check(Launch(StoreMatrixKernel, dim3(1), dim3(32), 0, context.stream(),
                            Data<const uint32_t>(context.Input(0)), Data<uint4>(context.Output(0))),
                     "check_store_matrix");
}

}  // namespace ingot
