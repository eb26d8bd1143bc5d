// The text of the wgmma.mma_async instructions: WgmmaInstruction<Type, N>. Included by ptx_wgmma.h, which documents
// them.
#pragma once

#include "ptx.h"

#if INGOT_HOPPER
// Operands of the accumulator, eight at a time: their numbers in the text, and themselves.
#define INGOT_TEXT_0 "%0, %1, %2, %3, %4, %5, %6, %7"
#define INGOT_TEXT_1 "%8, %9, %10, %11, %12, %13, %14, %15"
#define INGOT_TEXT_2 "%16, %17, %18, %19, %20, %21, %22, %23"
#define INGOT_TEXT_3 "%24, %25, %26, %27, %28, %29, %30, %31"
#define INGOT_TEXT_4 "%32, %33, %34, %35, %36, %37, %38, %39"
#define INGOT_TEXT_5 "%40, %41, %42, %43, %44, %45, %46, %47"
#define INGOT_TEXT_6 "%48, %49, %50, %51, %52, %53, %54, %55"
#define INGOT_TEXT_7 "%56, %57, %58, %59, %60, %61, %62, %63"
#define INGOT_TEXT_8 "%64, %65, %66, %67, %68, %69, %70, %71"
#define INGOT_TEXT_9 "%72, %73, %74, %75, %76, %77, %78, %79"
#define INGOT_TEXT_10 "%80, %81, %82, %83, %84, %85, %86, %87"
#define INGOT_TEXT_11 "%88, %89, %90, %91, %92, %93, %94, %95"
#define INGOT_TEXT_12 "%96, %97, %98, %99, %100, %101, %102, %103"
#define INGOT_TEXT_13 "%104, %105, %106, %107, %108, %109, %110, %111"
#define INGOT_TEXT_14 "%112, %113, %114, %115, %116, %117, %118, %119"
#define INGOT_TEXT_15 "%120, %121, %122, %123, %124, %125, %126, %127"
#define INGOT_TEXT8 "%0, %1, %2, %3"
#define INGOT_TEXT16 INGOT_TEXT_0
#define INGOT_TEXT32 INGOT_TEXT16 ", " INGOT_TEXT_1
#define INGOT_TEXT64 INGOT_TEXT32 ", " INGOT_TEXT_2 ", " INGOT_TEXT_3
#define INGOT_TEXT80 INGOT_TEXT64 ", " INGOT_TEXT_4
#define INGOT_TEXT96 INGOT_TEXT64 ", " INGOT_TEXT_4 ", " INGOT_TEXT_5
#define INGOT_TEXT128 INGOT_TEXT96 ", " INGOT_TEXT_6 ", " INGOT_TEXT_7
#define INGOT_TEXT112 INGOT_TEXT96 ", " INGOT_TEXT_6
#define INGOT_TEXT144 INGOT_TEXT128 ", " INGOT_TEXT_8
#define INGOT_TEXT160 INGOT_TEXT144 ", " INGOT_TEXT_9
#define INGOT_TEXT176 INGOT_TEXT160 ", " INGOT_TEXT_10
#define INGOT_TEXT192 INGOT_TEXT128 ", " INGOT_TEXT_8 ", " INGOT_TEXT_9 ", " INGOT_TEXT_10 ", " INGOT_TEXT_11
#define INGOT_TEXT256 INGOT_TEXT192 ", " INGOT_TEXT_12 ", " INGOT_TEXT_13 ", " INGOT_TEXT_14 ", " INGOT_TEXT_15

#define INGOT_SUMS_4(c, i) c(d[i]), c(d[i + 1]), c(d[i + 2]), c(d[i + 3])
#define INGOT_SUMS_16(c, i) INGOT_SUMS_4(c, i), INGOT_SUMS_4(c, i + 4), INGOT_SUMS_4(c, i + 8), INGOT_SUMS_4(c, i + 12)
#define INGOT_SUMS8(c) INGOT_SUMS_4(c, 0)
#define INGOT_SUMS16(c) INGOT_SUMS_4(c, 0), INGOT_SUMS_4(c, 4)
#define INGOT_SUMS32(c) INGOT_SUMS_16(c, 0)
#define INGOT_SUMS64(c) INGOT_SUMS_16(c, 0), INGOT_SUMS_16(c, 16)
#define INGOT_SUMS_8(c, i) INGOT_SUMS_4(c, i), INGOT_SUMS_4(c, i + 4)
#define INGOT_SUMS80(c) INGOT_SUMS64(c), INGOT_SUMS_8(c, 32)
#define INGOT_SUMS96(c) INGOT_SUMS64(c), INGOT_SUMS_16(c, 32)
#define INGOT_SUMS128(c) INGOT_SUMS96(c), INGOT_SUMS_16(c, 48)
#define INGOT_SUMS112(c) INGOT_SUMS96(c), INGOT_SUMS_8(c, 48)
#define INGOT_SUMS144(c) INGOT_SUMS128(c), INGOT_SUMS_8(c, 64)
#define INGOT_SUMS160(c) INGOT_SUMS128(c), INGOT_SUMS_16(c, 64)
#define INGOT_SUMS176(c) INGOT_SUMS160(c), INGOT_SUMS_8(c, 80)
#define INGOT_SUMS192(c) INGOT_SUMS128(c), INGOT_SUMS_16(c, 64), INGOT_SUMS_16(c, 80)
#define INGOT_SUMS256(c) INGOT_SUMS192(c), INGOT_SUMS_16(c, 96), INGOT_SUMS_16(c, 112)

#define INGOT_PREDICATE(accumulate) "{\n.reg .pred p;\nsetp.ne.b32 p, " accumulate ", 0;\nwgmma.mma_async.sync.aligned."

// shape: "m64n8k16.f32.bf16.bf16"; i0 to i6: the numbers of the operands behind the accumulator's; signs: what stands
// behind the predicate.
#define INGOT_WGMMA_16(Type, n, shape, i0, i1, i2, i3, i4, i5, i6)                                               \
  template <>                                                                                                    \
  struct WgmmaInstruction<Type, n> {                                                                             \
    template <int kTransposeA, int kTransposeB>                                                                  \
    INGOT_PTX static void Shared(float (&d)[n / 2], uint64_t a, uint64_t b, int accumulate) {                    \
      asm volatile(INGOT_PREDICATE(i2) shape " {" INGOT_TEXT##n "}, " i0 ", " i1 ", p, 1, 1, " i3 ", " i4 ";\n}" \
                   : INGOT_SUMS##n("+f")                                                                         \
                   : "l"(a), "l"(b), "r"(accumulate), "n"(kTransposeA), "n"(kTransposeB)                         \
                   : "memory");                                                                                  \
    }                                                                                                            \
    template <int kTransposeB>                                                                                   \
    INGOT_PTX static void Registers(float (&d)[n / 2], const uint32_t (&a)[4], uint64_t b, int accumulate) {     \
      asm volatile(INGOT_PREDICATE(i5) shape " {" INGOT_TEXT##n "}, {" i0 ", " i1 ", " i2 ", " i3 "}, " i4       \
                                                                ", p, 1, 1, " i6 ";\n}"                          \
                   : INGOT_SUMS##n("+f")                                                                         \
                   : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(accumulate), "n"(kTransposeB)       \
                   : "memory");                                                                                  \
    }                                                                                                            \
  };

#define INGOT_WGMMA_OTHER(Type, Sum, constraint, signs, n, shape, i0, i1, i2, i3, i4, i5)                              \
  template <>                                                                                                          \
  struct WgmmaInstruction<Type, n> {                                                                                   \
    template <int, int>                                                                                                \
    INGOT_PTX static void Shared(Sum (&d)[n / 2], uint64_t a, uint64_t b, int accumulate) {                            \
      asm volatile(INGOT_PREDICATE(i2) shape " {" INGOT_TEXT##n "}, " i0 ", " i1 ", p" signs ";\n}"                    \
                   : INGOT_SUMS##n(constraint)                                                                         \
                   : "l"(a), "l"(b), "r"(accumulate)                                                                   \
                   : "memory");                                                                                        \
    }                                                                                                                  \
    template <int>                                                                                                     \
    INGOT_PTX static void Registers(Sum (&d)[n / 2], const uint32_t (&a)[4], uint64_t b, int accumulate) {             \
      asm volatile(INGOT_PREDICATE(i5) shape " {" INGOT_TEXT##n "}, {" i0 ", " i1 ", " i2 ", " i3 "}, " i4 ", p" signs \
                                                                ";\n}"                                                 \
                   : INGOT_SUMS##n(constraint)                                                                         \
                   : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(accumulate)                               \
                   : "memory");                                                                                        \
    }                                                                                                                  \
  };

#define INGOT_WGMMA(n, i0, i1, i2, i3, i4, i5, i6)                                                                  \
  INGOT_WGMMA_16(__nv_bfloat16, n, "m64n" #n "k16.f32.bf16.bf16", i0, i1, i2, i3, i4, i5, i6)                       \
  INGOT_WGMMA_16(__half, n, "m64n" #n "k16.f32.f16.f16", i0, i1, i2, i3, i4, i5, i6)                                \
  INGOT_WGMMA_OTHER(Tf32, float, "+f", ", 1, 1", n, "m64n" #n "k8.f32.tf32.tf32", i0, i1, i2, i3, i4, i5)           \
  INGOT_WGMMA_OTHER(__nv_fp8_e4m3, float, "+f", ", 1, 1", n, "m64n" #n "k32.f32.e4m3.e4m3", i0, i1, i2, i3, i4, i5) \
  INGOT_WGMMA_OTHER(int8_t, int32_t, "+r", "", n, "m64n" #n "k32.s32.s8.s8", i0, i1, i2, i3, i4, i5)

namespace ingot::ptx {

template <typename Type, int N>
struct WgmmaInstruction;

INGOT_WGMMA(8, "%4", "%5", "%6", "%7", "%8", "%9", "%10")
INGOT_WGMMA(16, "%8", "%9", "%10", "%11", "%12", "%13", "%14")
INGOT_WGMMA(32, "%16", "%17", "%18", "%19", "%20", "%21", "%22")
INGOT_WGMMA(64, "%32", "%33", "%34", "%35", "%36", "%37", "%38")
INGOT_WGMMA(96, "%48", "%49", "%50", "%51", "%52", "%53", "%54")
INGOT_WGMMA(128, "%64", "%65", "%66", "%67", "%68", "%69", "%70")
// Blocks of keys in attention.
#define INGOT_WGMMA_ATTENTION(n, i0, i1, i2, i3, i4, i5, i6)                                  \
  INGOT_WGMMA_16(__nv_bfloat16, n, "m64n" #n "k16.f32.bf16.bf16", i0, i1, i2, i3, i4, i5, i6) \
  INGOT_WGMMA_16(__half, n, "m64n" #n "k16.f32.f16.f16", i0, i1, i2, i3, i4, i5, i6)
INGOT_WGMMA_ATTENTION(80, "%40", "%41", "%42", "%43", "%44", "%45", "%46")
INGOT_WGMMA_ATTENTION(112, "%56", "%57", "%58", "%59", "%60", "%61", "%62")
INGOT_WGMMA_ATTENTION(144, "%72", "%73", "%74", "%75", "%76", "%77", "%78")
INGOT_WGMMA_ATTENTION(160, "%80", "%81", "%82", "%83", "%84", "%85", "%86")
INGOT_WGMMA_ATTENTION(176, "%88", "%89", "%90", "%91", "%92", "%93", "%94")
INGOT_WGMMA(192, "%96", "%97", "%98", "%99", "%100", "%101", "%102")
INGOT_WGMMA(256, "%128", "%129", "%130", "%131", "%132", "%133", "%134")

}  // namespace ingot::ptx
#endif
