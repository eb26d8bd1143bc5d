#include <algorithm>
#include <bit>
#include <cstring>

#include "../ptx.h"
#include "block.h"
#include "elements.h"
#include "error.h"

namespace ingot::ptx {
namespace {

using emulator::Element;
using emulator::kDepth;

struct Matrices {
  uint32_t* const* loaded;
  const uint32_t* stored;
  int count;
  bool transposed;
  uint32_t shared;
};

// Row `row` of matrix `matrix`, at the address that a lane gave.
uint16_t* Row(Matrices* const* lanes, int matrix, int row, const char* what) {
  return static_cast<uint16_t*>(emulator::SharedPointer(lanes[matrix * 8 + row]->shared, 16, 16, what));
}

}  // namespace

void LoadMatrices(uint32_t* const* registers, int count, bool transposed, uint32_t shared) {
  Matrices matrices{registers, nullptr, count, transposed, shared};
  const char* names[] = {"ldmatrix.x1", "ldmatrix.x2", "ldmatrix.x4"};
  emulator::Collective(names[count / 2], matrices, [](Matrices* const* lanes) {
    for (int matrix = 0; matrix < lanes[0]->count; ++matrix) {
      uint16_t elements[8][8];
      for (int row = 0; row < 8; ++row) std::memcpy(elements[row], Row(lanes, matrix, row, "ldmatrix"), 16);
      for (int lane = 0; lane < 32; ++lane) {
        const int row = lane / 4, column = lane % 4 * 2;
        const bool transposed = lanes[lane]->transposed;
        const uint16_t low = transposed ? elements[column][row] : elements[row][column];
        const uint16_t high = transposed ? elements[column + 1][row] : elements[row][column + 1];
        *lanes[lane]->loaded[matrix] = low | uint32_t{high} << 16;
      }
    }
  });
}

void StoreMatrices(uint32_t shared, const uint32_t* registers, int count, bool transposed) {
  emulator::RequireCapability(90, "stmatrix");
  Matrices matrices{nullptr, registers, count, transposed, shared};
  const char* names[] = {"stmatrix.x1", "stmatrix.x2", "stmatrix.x4"};
  emulator::Collective(names[count / 2], matrices, [](Matrices* const* lanes) {
    for (int matrix = 0; matrix < lanes[0]->count; ++matrix) {
      for (int lane = 0; lane < 32; ++lane) {
        const int row = lane / 4, column = lane % 4 * 2;
        for (int half = 0; half < 2; ++half) {
          const auto element = static_cast<uint16_t>(lanes[lane]->stored[matrix] >> (16 * half));
          if (lanes[lane]->transposed) {
            Row(lanes, matrix, column + half, "stmatrix")[row] = element;
          } else {
            Row(lanes, matrix, row, "stmatrix")[column + half] = element;
          }
        }
      }
    }
  });
}

namespace {

template <typename Sum>
struct Operands {
  Sum* d;
  const uint32_t* a;
  const uint32_t* b;
};

// d += A B of m16n8 products. Sum: float, int32_t, or uint32_t for pairs of half.
template <typename Type, typename Sum>
void Multiply(const char* name, Sum* d, const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  Operands<Sum> operands{d, a, b};
  emulator::Collective(name, operands, [](Operands<Sum>* const* lanes) {
    using Number = typename Element<Type>::Number;
    constexpr int kInRegister = 4 / Element<Type>::kBytes;
    uint32_t registers[32][4];
    Number rows[16][kDepth<Type>];
    Number columns[8][kDepth<Type>];
    for (int lane = 0; lane < 32; ++lane) std::copy_n(lanes[lane]->a, 4, registers[lane]);
    emulator::ReadRows<Type>(registers, rows);
    for (int lane = 0; lane < 32; ++lane) {
      for (int i = 0; i < 2; ++i) {
        const auto* bytes = reinterpret_cast<const std::byte*>(&lanes[lane]->b[i]);
        for (int part = 0; part < kInRegister; ++part) {
          const int k = i * (kDepth<Type> / 2) + lane % 4 * kInRegister + part;
          columns[lane / 4][k] = Element<Type>::Read(bytes + part * Element<Type>::kBytes);
        }
      }
    }
    for (int lane = 0; lane < 32; ++lane) {
      for (int i = 0; i < 4; ++i) {
        const Number* row = rows[lane / 4 + i / 2 * 8];
        const Number* column = columns[lane % 4 * 2 + i % 2];
        Number sum = 0;
        for (int k = 0; k < kDepth<Type>; ++k) sum += row[k] * column[k];
        if constexpr (std::is_same_v<Sum, uint32_t>) {
          uint32_t& pair = lanes[lane]->d[i / 2];
          const int shift = i % 2 * 16;
          const float before = __half2float(std::bit_cast<__half>(static_cast<uint16_t>(pair >> shift)));
          const uint32_t after = std::bit_cast<uint16_t>(__double2half(sum + before));
          pair = (pair & ~(uint32_t{0xffff} << shift)) | after << shift;
        } else {
          lanes[lane]->d[i] = static_cast<Sum>(sum + lanes[lane]->d[i]);
        }
      }
    }
  });
}

}  // namespace

void MmaBFloat16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  Multiply<__nv_bfloat16>("mma.m16n8k16.f32.bf16", d, a, b);
}
void MmaHalf(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  Multiply<__half>("mma.m16n8k16.f32.f16", d, a, b);
}
void MmaHalfSums(uint32_t (&d)[2], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  Multiply<__half>("mma.m16n8k16.f16.f16", d, a, b);
}
void MmaTf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  Multiply<Tf32>("mma.m16n8k8.f32.tf32", d, a, b);
}
void MmaInt8(int32_t (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  Multiply<int8_t>("mma.m16n8k32.s32.s8", d, a, b);
}
void MmaE4M3(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  emulator::RequireCapability(89, "mma.m16n8k32.f32.e4m3");
  Multiply<__nv_fp8_e4m3>("mma.m16n8k32.f32.e4m3", d, a, b);
}

}  // namespace ingot::ptx
