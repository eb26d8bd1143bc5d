"""LLVM functions that multiply matrices (Intel's AMX): TVM's code generator knows no matrix registers."""

from __future__ import annotations

#: For what sums: unsigned bytes by signed ones, and pairs of bfloat16.
_DOTS = {"int32": "tdpbusd", "float32": "tdpbf16ps"}

#: All eight registers have 16 rows of 64 bytes (Intel SDM, volume 2A, LDTILECFG). The kernel multiplies `steps` times 64 bytes of k and, unless it is
#: the first to, adds to the sums. Meanwhile it fetches `lines` cache lines of the weights that follow at each step: products of 64 rows by 768 x 768
#: weights that lie in memory took 0.85 of the time, of 128 and 256 rows 0.95 and 0.75 (a core of Granite Rapids).
_LLVM = """
declare void @llvm.x86.ldtilecfg(ptr)
declare void @llvm.x86.tilerelease()
declare void @llvm.x86.tilezero(i8 immarg)
declare void @llvm.x86.tileloadd64(i8 immarg, ptr, i64)
declare void @llvm.x86.tilestored64(i8 immarg, ptr, i64)
declare void @llvm.prefetch.p0(ptr, i32 immarg, i32 immarg, i32 immarg)
declare void @llvm.x86.{dot}(i8 immarg, i8 immarg, i8 immarg)

define linkonce_odr hidden void @ingot.matrices_begin() #0 {{
  %shape = alloca [64 x i8], align 64
  store <8 x i64> <i64 1, i64 0, i64 18014673391583296, i64 18014673391583296, i64 0, i64 0, i64 1157442765409226768, i64 0>, ptr %shape, align 64
  call void @llvm.x86.ldtilecfg(ptr %shape)
  ret void
}}
define linkonce_odr hidden void @ingot.matrices_end() #0 {{
  call void @llvm.x86.tilerelease()
  ret void
}}
{copy}
{kernels}
attributes #0 = {{ noinline nounwind "prefer-vector-width"="512" "target-features"="+avx512f,+avx512bw,+avx512vl,+amx-tile,+amx-int8,+amx-bf16" }}
"""

_KERNEL = """
define linkonce_odr hidden void @ingot.{name}(
    ptr %sums, ptr %x, i64 %distance, ptr %w, i64 %steps, i64 %first, ptr %following, i64 %lines) #0 {{
entry:
  %lower = shl i64 %distance, 4
  %fetched = shl i64 %lines, 6
{places}
  %begins = icmp ne i64 %first, 0
  br i1 %begins, label %clear, label %resume
clear:
{zeros}
  br label %step
resume:
{loads}
  br label %step
step:
  %left = phi i64 [ %steps, %clear ], [ %steps, %resume ], [ %less, %stepped ]
  %xs = phi ptr [ %x, %clear ], [ %x, %resume ], [ %next.x, %stepped ]
  %ws = phi ptr [ %w, %clear ], [ %w, %resume ], [ %next.w, %stepped ]
  %fetch = phi ptr [ %following, %clear ], [ %following, %resume ], [ %fetch.end, %stepped ]
{products}
  %fetch.end = getelementptr i8, ptr %fetch, i64 %fetched
  %none = icmp eq i64 %lines, 0
  br i1 %none, label %stepped, label %line
line:
  %at = phi ptr [ %fetch, %step ], [ %at.next, %line ]
  call void @llvm.prefetch.p0(ptr %at, i32 0, i32 2, i32 1)
  %at.next = getelementptr i8, ptr %at, i64 64
  %further = icmp ult ptr %at.next, %fetch.end
  br i1 %further, label %line, label %stepped
stepped:
  %next.x = getelementptr i8, ptr %xs, i64 64
  %next.w = getelementptr i8, ptr %ws, i64 2048
  %less = sub i64 %left, 1
  %again = icmp ne i64 %less, 0
  br i1 %again, label %step, label %end
end:
{stores}
  ret void
}}
"""


#: Copies elements, one vector after the other, the last one masked.
_COPY = """
declare <{lanes} x i{bits}> @llvm.masked.load.v{lanes}i{bits}.p0(ptr, i32 immarg, <{lanes} x i1>, <{lanes} x i{bits}>)
declare void @llvm.masked.store.v{lanes}i{bits}.p0(<{lanes} x i{bits}>, ptr, i32 immarg, <{lanes} x i1>)
declare i64 @llvm.umin.i64(i64, i64)
define linkonce_odr hidden void @ingot.matrices_copy(ptr %to, ptr %from, i64 %count) #0 {{
entry:
  br label %vector
vector:
  %done = phi i64 [ 0, %entry ], [ %more, %vector ]
  %left = sub i64 %count, %done
  %taken = call i64 @llvm.umin.i64(i64 %left, i64 {lanes})
  %without = sub i64 64, %taken
  %ones = lshr i64 -1, %without
  %masks = bitcast i64 %ones to <64 x i1>
  %mask = shufflevector <64 x i1> %masks, <64 x i1> poison, <{lanes} x i32> <{first}>
  %source = getelementptr i{bits}, ptr %from, i64 %done
  %x = call <{lanes} x i{bits}> @llvm.masked.load.v{lanes}i{bits}.p0(ptr %source, i32 1, <{lanes} x i1> %mask, <{lanes} x i{bits}> zeroinitializer)
  %place = getelementptr i{bits}, ptr %to, i64 %done
  call void @llvm.masked.store.v{lanes}i{bits}.p0(<{lanes} x i{bits}> %x, ptr %place, i32 1, <{lanes} x i1> %mask)
  %more = add i64 %done, {lanes}
  %again = icmp ult i64 %more, %count
  br i1 %again, label %vector, label %end
end:
  ret void
}}
"""


def definitions(sums: str) -> str:
    """The functions for sums of a type.

    ``ingot.matrices_begin`` and ``_end`` stand around all others in a thread, ``ingot.matrices1`` and ``2`` multiply tiles of 16 and 32 rows by 32
    columns, and ``ingot.matrices_copy`` copies a stretch of a row of X.
    """
    dot, (lanes, bits) = _DOTS[sums], (64, 8) if sums == "int32" else (32, 16)
    copy = _COPY.format(lanes=lanes, bits=bits, first=", ".join(f"i32 {i}" for i in range(lanes)))
    return _LLVM.format(dot=dot, copy=copy, kernels=_kernel(dot, 1) + _kernel(dot, 2))


def _kernel(dot: str, high: int) -> str:
    """A kernel of ``high`` by 2 registers of sums, which are 0 and 1, and 2 and 3; X is in 4 and 5, weights in 6 and 7."""
    tiles = range(2 * high)

    def each(line: str) -> str:
        return "\n".join("  " + line.format(t=t, at=t // 2 * 2048 + t % 2 * 64, x=4 + t // 2, w=6 + t % 2, dot=dot) for t in tiles)

    load = "  call void @llvm.x86.tileloadd64(i8 {}, ptr %{}, i64 {})".format
    products = [load(4, "xs", "%distance"), load(6, "ws", "128"), "  %right = getelementptr i8, ptr %ws, i64 64", load(7, "right", "128")]
    if high == 2:
        products[1:1] = ["  %below = getelementptr i8, ptr %xs, i64 %lower", load(5, "below", "%distance")]
    products.append(each("call void @llvm.x86.{dot}(i8 {t}, i8 {x}, i8 {w})"))
    return _KERNEL.format(
        name=f"matrices{high}", places=each("%place{t} = getelementptr i8, ptr %sums, i64 {at}"), zeros=each("call void @llvm.x86.tilezero(i8 {t})"),
        loads=each("call void @llvm.x86.tileloadd64(i8 {t}, ptr %place{t}, i64 128)"), products="\n".join(products),
        stores=each("call void @llvm.x86.tilestored64(i8 {t}, ptr %place{t}, i64 128)"))
