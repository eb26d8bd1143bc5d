#include <algorithm>
#include <memory>

#include "../ptx.h"
#include "block.h"
#include "elements.h"
#include "error.h"

namespace ingot::ptx {
namespace {

using emulator::Abandon;
using emulator::CurrentWarp;
using emulator::Element;
using emulator::kDepth;

struct Nothing {};

// The matrix that a descriptor describes.
struct Matrix {
  uint32_t start;
  uint32_t leading;
  uint32_t stride;
  Swizzle swizzle;
  bool mn_major;

  Matrix(uint64_t descriptor, bool transposed)
      : start(static_cast<uint32_t>(descriptor & 0x3fff) << 4),
        leading(static_cast<uint32_t>(descriptor >> 16 & 0x3fff) << 4),
        stride(static_cast<uint32_t>(descriptor >> 32 & 0x3fff) << 4),
        swizzle(static_cast<Swizzle>(descriptor >> 62)),
        mn_major(transposed) {
    if ((descriptor & ~(uint64_t{0x3fff} | uint64_t{0x3fff} << 16 | uint64_t{0x3fff} << 32 | uint64_t{3} << 62)) != 0)
      Abandon(
          "wgmma: a matrix descriptor with bits that MatrixDescriptor does not set: the address was advanced past 256 "
          "KiB, or a base "
          "offset was given");
  }

  // The address of element (row of M or N, k).
  const std::byte* At(int row, int k, int element_bytes) const {
    const int width = swizzle == Swizzle::k128 ? 128 : swizzle == Swizzle::k64 ? 64 : swizzle == Swizzle::k32 ? 32 : 16;
    uint32_t offset;
    if (!mn_major) {
      const uint32_t bytes = k * element_bytes;
      offset =
          row / 8 * stride + row % 8 * width + (swizzle == Swizzle::kNone ? bytes / 16 * leading + bytes % 16 : bytes);
    } else {
      const int across = width / element_bytes;  // elements of M or N in a row
      const uint32_t rows = k / 8 * (swizzle == Swizzle::kNone ? leading : stride);
      offset = row / across * (swizzle == Swizzle::kNone ? stride : leading) + rows + k % 8 * width +
               row % across * element_bytes;
    }
    const uint32_t address = Swizzled(swizzle, start + offset);
    return static_cast<const std::byte*>(emulator::SharedPointer(address, element_bytes, element_bytes, "wgmma"));
  }
};

template <typename Type>
struct Product {
  typename WgmmaType<Type>::Sum* d;
  int columns;
  bool registers;
  uint32_t a_registers[4];
  uint64_t a;
  uint64_t b;
  int accumulate;
  bool transpose_a;
  bool transpose_b;
};

// The 16 rows of one warp.
template <typename Type>
void Multiply(const Product<Type>& product, typename WgmmaType<Type>::Sum* const* d, const uint32_t (*registers)[4],
              int warp) {
  using Number = typename Element<Type>::Number;
  using Sum = typename WgmmaType<Type>::Sum;
  constexpr int kBytes = Element<Type>::kBytes;
  Number rows[16][kDepth<Type>];
  if (product.registers) {
    emulator::ReadRows<Type>(registers, rows);
  } else {
    const Matrix a(product.a, product.transpose_a);
    for (int row = 0; row < 16; ++row) {
      for (int k = 0; k < kDepth<Type>; ++k) rows[row][k] = Element<Type>::Read(a.At(warp * 16 + row, k, kBytes));
    }
  }
  const Matrix b(product.b, product.transpose_b);
  for (int n = 0; n < product.columns; ++n) {
    Number column[kDepth<Type>];
    for (int k = 0; k < kDepth<Type>; ++k) column[k] = Element<Type>::Read(b.At(n, k, kBytes));
    for (int row = 0; row < 16; ++row) {
      Number sum = 0;
      for (int k = 0; k < kDepth<Type>; ++k) sum += rows[row][k] * column[k];
      Sum& target = d[row % 8 * 4 + n % 8 / 2][n / 8 * 4 + row / 8 * 2 + n % 2];
      target = static_cast<Sum>(product.accumulate != 0 ? sum + target : sum);
    }
  }
}

}  // namespace

void WgmmaFence() {
  emulator::RequireCapability(90, "wgmma.fence");
  Nothing nothing;
  emulator::Collective("wgmma.fence", nothing, [](Nothing* const*) { CurrentWarp().fenced = true; });
}

void WgmmaCommit() {
  Nothing nothing;
  emulator::Collective("wgmma.commit_group", nothing, [](Nothing* const*) { CurrentWarp().products.Commit(); });
}

void WgmmaWaitFor(size_t groups) {
  emulator::Collective("wgmma.wait_group", groups,
                       [](size_t* const* lanes) { CurrentWarp().products.Wait(*lanes[0]); });
}

template <typename Type>
void WgmmaIssue(typename WgmmaType<Type>::Sum* d, int columns, const uint32_t* a_registers, uint64_t a, uint64_t b,
                int accumulate, bool transpose_a, bool transpose_b) {
  Product<Type> product{d, columns, a_registers != nullptr, {}, a, b, accumulate, transpose_a, transpose_b};
  if (a_registers != nullptr) std::copy_n(a_registers, 4, product.a_registers);
  emulator::Collective("wgmma.mma_async", product, [](Product<Type>* const* lanes) {
    using Sum = typename WgmmaType<Type>::Sum;
    if (!CurrentWarp().fenced) Abandon("wgmma.mma_async without a wgmma.fence before it");
    struct Issued {
      Product<Type> product;
      Sum* d[32];
      uint32_t registers[32][4];
      int warp;
    };
    auto issued = std::make_shared<Issued>();
    issued->product = *lanes[0];
    issued->warp = static_cast<int>(emulator::current->number / 32 % 4);
    for (int lane = 0; lane < 32; ++lane) {
      const Product<Type>& other = *lanes[lane];
      if (other.a != lanes[0]->a || other.b != lanes[0]->b || (other.accumulate != 0) != (lanes[0]->accumulate != 0) ||
          other.columns != lanes[0]->columns || other.registers != lanes[0]->registers)
        Abandon("wgmma.mma_async: descriptors, shape or scale differ between the lanes of a warp");
      issued->d[lane] = other.d;
      std::copy_n(other.a_registers, 4, issued->registers[lane]);
      // What is read of the accumulator before it has been waited for is nonsense.
      if (other.accumulate == 0) std::memset(other.d, 0xff, sizeof(Sum) * other.columns / 2);
    }
    CurrentWarp().products.open.push_back(
        [issued] { Multiply<Type>(issued->product, issued->d, issued->registers, issued->warp); });
  });
}

template void WgmmaIssue<__nv_bfloat16>(float*, int, const uint32_t*, uint64_t, uint64_t, int, bool, bool);
template void WgmmaIssue<__half>(float*, int, const uint32_t*, uint64_t, uint64_t, int, bool, bool);
template void WgmmaIssue<Tf32>(float*, int, const uint32_t*, uint64_t, uint64_t, int, bool, bool);
template void WgmmaIssue<__nv_fp8_e4m3>(float*, int, const uint32_t*, uint64_t, uint64_t, int, bool, bool);
template void WgmmaIssue<int8_t>(int32_t*, int, const uint32_t*, uint64_t, uint64_t, int, bool, bool);

}  // namespace ingot::ptx
