#include "checks.h"
#include "cuda/ptx.h"

namespace ingot {
namespace {

#if INGOT_HOPPER

// Where element (row of M or N, k) of a matrix lies, as ptx_wgmma.h describes it, with groups of rows that are
// contiguous along K first.
struct Layout {
  ptx::Swizzle swizzle;
  bool mn_major;
  uint32_t element_bytes;
  uint32_t rows;
  uint32_t depth;

  __device__ uint32_t width() const {
    return swizzle == ptx::Swizzle::kNone ? 16 : 256 >> static_cast<uint32_t>(swizzle);
  }
  // K-major: 8 rows after 8 rows; with kNone, halves of 16 bytes one after another within. MN-major: 8 k after 8 k,
  // then the next of M or N.
  __device__ uint32_t leading() const {
    if (!mn_major) return swizzle == ptx::Swizzle::kNone ? 128 : 16;
    return swizzle == ptx::Swizzle::kNone ? 128 : 8 * width() * (depth / 8);
  }
  __device__ uint32_t stride() const {
    if (!mn_major) return swizzle == ptx::Swizzle::kNone ? 8 * depth * element_bytes : 8 * width();
    return swizzle == ptx::Swizzle::kNone ? 128 * (depth / 8) : 8 * width();
  }
  __device__ uint32_t Offset(uint32_t row, uint32_t k) const {
    uint32_t offset;
    if (!mn_major) {
      const uint32_t bytes = k * element_bytes;
      offset = row / 8 * stride() + row % 8 * width();
      offset += swizzle == ptx::Swizzle::kNone ? bytes / 16 * leading() + bytes % 16 : bytes;
    } else {
      const uint32_t across = width() / element_bytes;
      const bool none = swizzle == ptx::Swizzle::kNone;
      offset = row / across * (none ? stride() : leading()) + k / 8 * (none ? leading() : stride());
      offset += k % 8 * width() + row % across * element_bytes;
    }
    return ptx::Swizzled(swizzle, offset);
  }
  // How far the address moves for the next instruction's K, 32 bytes of it.
  __device__ uint32_t Step() const {
    if (!mn_major) return swizzle == ptx::Swizzle::kNone ? 256 : 32;
    return swizzle == ptx::Swizzle::kNone ? 2 * leading() : 2 * stride();
  }
};

template <typename Raw>
__device__ void Fill(const Layout& layout, const Raw* matrix, unsigned char* shared) {
  for (uint32_t i = threadIdx.x; i < layout.rows * layout.depth; i += blockDim.x) {
    const uint32_t row = layout.mn_major ? i % layout.rows : i / layout.depth;
    const uint32_t k = layout.mn_major ? i / layout.rows : i % layout.depth;
    *reinterpret_cast<Raw*>(shared + layout.Offset(row, k)) = matrix[i];
  }
}

#endif  // INGOT_HOPPER

template <typename Type, typename Raw, int N, int kTransposeA, int kTransposeB>
__global__ void __launch_bounds__(128) WgmmaKernel(const Raw* a, const Raw* b, typename ptx::WgmmaType<Type>::Sum* d,
                                                   int depth, uint32_t swizzle, bool registers) {
#if INGOT_HOPPER
  INGOT_DYNAMIC_SHARED(unsigned char, shared);
  constexpr uint32_t kBytes = sizeof(Raw);
  const auto kind = static_cast<ptx::Swizzle>(swizzle);
  const Layout a_layout{kind, kTransposeA != 0, kBytes, 64, static_cast<uint32_t>(depth)};
  const Layout b_layout{kind, kTransposeB != 0, kBytes, N, static_cast<uint32_t>(depth)};
  unsigned char* b_shared = shared + 32 * 1024;
  Fill(a_layout, a, shared);
  Fill(b_layout, b, b_shared);
  ptx::FenceProxyAsync();
  __syncthreads();
  typename ptx::WgmmaType<Type>::Sum sums[N / 2];
  for (int i = 0; i < N / 2; ++i) sums[i] = 0;
  uint64_t a_descriptor =
      ptx::MatrixDescriptor(ptx::SharedAddress(shared), a_layout.leading(), a_layout.stride(), kind);
  uint64_t b_descriptor =
      ptx::MatrixDescriptor(ptx::SharedAddress(b_shared), b_layout.leading(), b_layout.stride(), kind);
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int first = static_cast<int>(threadIdx.x) / 32 * 16 + lane / 4;
  for (uint32_t k = 0; k < depth * kBytes; k += 32) {
    if constexpr (kTransposeA == 0) {
      if (registers) {
        uint32_t fragment[4];
        for (int i = 0; i < 4; ++i) {
          const auto* row = reinterpret_cast<const unsigned char*>(a) + (first + i % 2 * 8) * depth * kBytes;
          fragment[i] = *reinterpret_cast<const uint32_t*>(row + k + i / 2 * 16 + lane % 4 * 4);
        }
        ptx::WgmmaFence();
        ptx::WgmmaRegisters<Type, N, kTransposeB>(sums, fragment, b_descriptor, k > 0);
        ptx::WgmmaCommit();
        ptx::WgmmaWait<0>();
        ptx::WgmmaPin(sums);
      }
    }
    if (!registers) {
      ptx::WgmmaFence();
      ptx::Wgmma<Type, N, kTransposeA, kTransposeB>(sums, a_descriptor, b_descriptor, k > 0);
      ptx::WgmmaCommit();
      ptx::WgmmaWait<0>();
      ptx::WgmmaPin(sums);
    }
    a_descriptor += a_layout.Step() / 16;
    b_descriptor += b_layout.Step() / 16;
  }
  for (int i = 0; i < N / 2; ++i) d[(first + i / 2 % 2 * 8) * N + i / 4 * 8 + lane % 4 * 2 + i % 2] = sums[i];
#endif
}

template <typename Type, typename Raw, int N, int kTransposeA, int kTransposeB>
void LaunchWgmma(CudaContext& context) {
  using Sum = typename ptx::WgmmaType<Type>::Sum;
  const DLTensor& a = context.Input(0);
  const int depth = static_cast<int>(a.shape[kTransposeA != 0 ? 0 : 1]);
  CudaContext::Check(
      Launch(WgmmaKernel<Type, Raw, N, kTransposeA, kTransposeB>, dim3(1), dim3(128), 96 * 1024, context.stream(),
             Data<const Raw>(a), Data<const Raw>(context.Input(1)), Data<Sum>(context.Output(0)), depth,
             static_cast<uint32_t>(context.ints()[0]), context.ints()[3] != 0),
      "check_wgmma");
}

template <typename Type, typename Raw, int kTransposeA, int kTransposeB>
void ForColumns(CudaContext& context) {
  switch (context.Output(0).shape[1]) {
    case 8:
      return LaunchWgmma<Type, Raw, 8, kTransposeA, kTransposeB>(context);
    case 64:
      return LaunchWgmma<Type, Raw, 64, kTransposeA, kTransposeB>(context);
    case 96:
      return LaunchWgmma<Type, Raw, 96, kTransposeA, kTransposeB>(context);
    case 256:
      return LaunchWgmma<Type, Raw, 256, kTransposeA, kTransposeB>(context);
    default:
      FailKernel("check_wgmma is for 8, 64, 96 and 256 columns");
  }
}

template <typename Type, typename Raw>
void ForLayouts(CudaContext& context) {
  if (context.ints()[1] != 0) {
    context.ints()[2] != 0 ? ForColumns<Type, Raw, 1, 1>(context) : ForColumns<Type, Raw, 1, 0>(context);
  } else {
    context.ints()[2] != 0 ? ForColumns<Type, Raw, 0, 1>(context) : ForColumns<Type, Raw, 0, 0>(context);
  }
}

}  // namespace

void CheckWgmma(CudaContext& context) {
  if (context.capability() != 90) FailKernel("wgmma needs compute capability 9.0");
  const std::string_view type = FindDType(context.Input(0).dtype)->name;
  if (type == "bfloat16") {
    ForLayouts<__nv_bfloat16, uint16_t>(context);
  } else if (type == "float16") {
    ForLayouts<__half, uint16_t>(context);
  } else if (type == "float32") {
    ForColumns<ptx::Tf32, uint32_t, 0, 0>(context);
  } else if (type == "int8") {
    ForColumns<int8_t, uint8_t, 0, 0>(context);
  } else {
    ForColumns<__nv_fp8_e4m3, uint8_t, 0, 0>(context);
  }
}

}  // namespace ingot
