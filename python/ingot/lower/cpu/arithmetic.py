"""How micro-kernels multiply and add: a table of data types, what each needs of a target, and the instructions that do it.

A row says what X and the weights are stored as, what the sums are, and how many consecutive k's one step takes (``together``: the two or
four products of an integer or bfloat16 dot product, whose weights then lie side by side for each column). Rows of the same ``kind``
compute the same thing; the first whose features a target has is taken.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
from tvm import tirx
from tvm.ir import StringImm

from ingot.lower.cpu.nest import Flat, simplify
from ingot.lower.targets import Target


def _cast(value: Any, dtype: str, lanes: int) -> Any:
    return value.astype(dtype if lanes == 1 else f"{dtype}x{lanes}")


def _same(vector: Any, lanes: int) -> Any:
    return vector


def _bfloat16(bits: Any, lanes: int) -> Any:
    """float32 whose upper half the bits are."""
    wide = tirx.shift_left(_cast(bits, "uint32", lanes), tirx.Broadcast(tirx.const(16, "uint32"), lanes) if lanes > 1 else tirx.const(16, "uint32"))
    return tirx.reinterpret("float32" if lanes == 1 else f"float32x{lanes}", wide)


def _float16(value: Any, lanes: int) -> Any:
    return _cast(value, "float32", lanes)


def _float16_by_bits(value: Any, lanes: int) -> Any:
    """For machines that do not convert: the exponent is moved by a multiplication, which gets denormals right; finite numbers only."""
    def every(number: int, dtype: str = "uint32") -> Any:
        return tirx.Broadcast(tirx.const(number, dtype), lanes) if lanes > 1 else tirx.const(number, dtype)

    kind = "" if lanes == 1 else f"x{lanes}"
    bits = _cast(tirx.reinterpret(f"uint16{kind}", value), "uint32", lanes)
    magnitude = tirx.reinterpret(f"float32{kind}", tirx.shift_left(tirx.bitwise_and(bits, every(0x7FFF)), every(13)))
    scale = tirx.const(2.0**112, "float32")
    scaled = magnitude * (tirx.Broadcast(scale, lanes) if lanes > 1 else scale)
    sign = tirx.shift_left(tirx.bitwise_and(bits, every(0x8000)), every(16))
    return tirx.reinterpret(f"float32{kind}", tirx.bitwise_or(tirx.reinterpret(f"uint32{kind}", scaled), sign))


def _widened_integer(value: Any, lanes: int) -> Any:
    return _cast(value, "int32", lanes)


#: Of k in a row of a matrix register.
MATRIX_BYTES = 64
#: Rows of a matrix register, and columns of 32 bits.
MATRIX_ROWS = 16
#: Steps along k of 4 bytes in a row of a matrix register.
MATRIX_STEPS = 16


@dataclass(frozen=True)
class Arithmetic:
    """One way to compute ``sums += X * W``.

    ``temporaries`` is the number of registers that a step takes besides the sums, the weights and one element of X. With ``matrices`` instructions
    multiply whole matrices, 16 rows by 16 columns over 64 bytes of k (rules/matrices.py).
    """

    name: str
    kind: str
    x: str
    w: str
    sums: str
    together: int = 1
    temporaries: int = 0
    features: tuple[str, ...] = ()
    arch: str = ""
    widen_x: Callable[[Any, int], Any] = _same
    widen_w: Callable[[Any, int], Any] = _same
    dot: Callable[[Any, Any, Any, int], Any] | None = None
    definitions: str = ""
    matrices: bool = False

    def fits(self, target: Target) -> bool:
        """Whether a target has what it needs."""
        return (not self.arch or self.arch == target.arch) and set(self.features) <= set(target.features)

    @property
    def multiple(self) -> int:
        """The number of k that a sum takes is a multiple of this."""
        return MATRIX_STEPS * self.together if self.matrices else self.together

    # ---- What the micro-kernel does -------------------------------------------------------------------------

    def element(self, x: Flat, at: Any, lanes: int) -> Any:
        """``together`` consecutive elements of X, in every lane of a vector."""
        if self.dot is None:
            return tirx.Broadcast(self.widen_x(x.load(at), 1), lanes)
        bits = 8 * np.dtype(self.x).itemsize * self.together
        return tirx.Broadcast(tirx.reinterpret(f"int{bits}", x.load(at, self.together)), lanes)

    def weights(self, w: Flat, at: Any, lanes: int) -> Any:
        """The weights of ``lanes`` columns for one step."""
        return self.widen_w(w.load(simplify(at), lanes * self.together), lanes * self.together)

    def add(self, sums: Any, element: Any, weights: Any, lanes: int) -> Any:
        """The sums with one step's products added."""
        return sums + element * weights if self.dot is None else self.dot(sums, element, weights, lanes)

    # ---- What it means --------------------------------------------------------------------------------------

    def product(self, x: Any, w: Any) -> Any:
        """The product of one element of X and one weight, for the plain loops."""
        return self._plain(x, self.x) * self._plain(w, self.w)

    def _plain(self, value: Any, stored: str) -> Any:
        if stored == "uint16":
            return _bfloat16(value, 1)
        return value if stored == self.sums else value.astype(self.sums)

    def stored(self, weights: np.ndarray) -> np.ndarray:
        """Weights in the type that they are stored in. Integers must fit; float16 saturates."""
        if self.w == "uint16":
            return np.asarray(weights).astype(ml_dtypes.bfloat16).view(np.uint16)
        if self.w == "float16":
            return np.clip(weights, -65504, 65504).astype(np.float16)
        return weights.astype(self.w)


def _intrinsic(name: str, sums: str, operand: str, lanes: int, together: int) -> Callable[[Any, Any, Any, int], Any]:
    """A dot product that adds to its first operand: the sums, X, weights."""
    def dot(accumulated: Any, element: Any, weights: Any, width: int) -> Any:
        operands = [tirx.reinterpret(f"{operand}x{lanes * together}", v) for v in (element, weights)]
        return tirx.call_llvm_pure_intrin(f"{sums}x{lanes}", name, accumulated, *operands)

    return dot


#: Functions of LLVM's own for the instructions that take bfloat16, which TVM's code generator has no vectors of: operands are 16-bit integers.
_BFLOAT16_DOT = """
define linkonce_odr <{lanes} x float> @ingot.bfloat16_dot(<{lanes} x float> %sums, <{pairs} x i16> %x, <{pairs} x i16> %w) #0 {{
  %a = bitcast <{pairs} x i16> %x to <{pairs} x bfloat>
  %b = bitcast <{pairs} x i16> %w to <{pairs} x bfloat>
  %y = call <{lanes} x float> @{name}(<{lanes} x float> %sums, <{pairs} x bfloat> %a, <{pairs} x bfloat> %b)
  ret <{lanes} x float> %y
}}
declare <{lanes} x float> @{name}(<{lanes} x float>, <{pairs} x bfloat>, <{pairs} x bfloat>)
attributes #0 = {{ alwaysinline nounwind memory(none) "target-features"="{features}" }}
"""


def _bfloat16_dot(lanes: int) -> Callable[[Any, Any, Any, int], Any]:
    def dot(accumulated: Any, element: Any, weights: Any, width: int) -> Any:
        operands = [tirx.reinterpret(f"uint16x{2 * lanes}", v) for v in (element, weights)]
        return tirx.call_pure_extern(f"float32x{lanes}", "ingot.bfloat16_dot", accumulated, *operands)

    return dot


def with_definitions(body: Any, how: Arithmetic) -> Any:
    """A statement with the LLVM functions that an arithmetic calls."""
    return body if not how.definitions else tirx.AttrStmt(tirx.IntImm("int32", 0), "pragma_import_llvm", StringImm(how.definitions), body)


def _pairs(name: str, lanes: int) -> Callable[[Any, Any, Any, int], Any]:
    """x86's pmaddwd: products of 16-bit integers, added in pairs; the sum of a pair is exact."""
    def dot(accumulated: Any, element: Any, weights: Any, width: int) -> Any:
        operands = [tirx.reinterpret(f"int16x{2 * lanes}", v) for v in (element, weights)]
        return accumulated + tirx.call_llvm_pure_intrin(f"int32x{lanes}", name, *operands)

    return dot


def _quads(name: str, pairs: str, lanes: int) -> Callable[[Any, Any, Any, int], Any]:
    """x86's pmaddubsw and pmaddwd: products of bytes, added in pairs within 16 bits, which weights of 7 bits cannot leave, then in fours."""
    def dot(accumulated: Any, element: Any, weights: Any, width: int) -> Any:
        operands = [tirx.reinterpret(f"int8x{4 * lanes}", v) for v in (element, weights)]
        halves = tirx.call_llvm_pure_intrin(f"int16x{2 * lanes}", name, *operands)
        ones = tirx.Broadcast(tirx.const(1, "int16"), 2 * lanes)
        return accumulated + tirx.call_llvm_pure_intrin(f"int32x{lanes}", pairs, halves, ones)

    return dot


def _widened_pairs(value: Any, lanes: int) -> Any:
    return _cast(value, "int16", lanes)


#: Tried in order: the first of a kind that fits the target.
TABLE: tuple[Arithmetic, ...] = (
    Arithmetic("float32", "float32", "float32", "float32", "float32"),
    Arithmetic("float64", "float64", "float64", "float64", "float64"),
    # Models in float16: half of each operand's memory; sums in float32 (the conversion of ONNX's half precision on every CPU).
    Arithmetic("float16", "float16", "float16", "float16", "float32", widen_x=_float16, widen_w=_float16),
    # Weights of a float32 model in half the memory.
    Arithmetic("float16 weights", "float16 weights", "float32", "float16", "float32", features=("f16c",), widen_w=_float16),
    Arithmetic("float16 weights", "float16 weights", "float32", "float16", "float32", arch="aarch64", widen_w=_float16),
    Arithmetic("float16 weights by bits", "float16 weights", "float32", "float16", "float32", widen_w=_float16_by_bits),
    Arithmetic("bfloat16 matrices", "bfloat16", "uint16", "uint16", "float32", 2, features=("amx_bf16",), matrices=True),
    Arithmetic("bfloat16 dot", "bfloat16", "uint16", "uint16", "float32", 2, features=("avx512_bf16",),
               dot=_bfloat16_dot(16),
               definitions=_BFLOAT16_DOT.format(lanes=16, pairs=32, name="llvm.x86.avx512bf16.dpbf16ps.512", features="+avx512f,+avx512bf16")),
    Arithmetic("bfloat16 dot", "bfloat16", "uint16", "uint16", "float32", 2, features=("bf16",), arch="aarch64",
               dot=_bfloat16_dot(4),
               definitions=_BFLOAT16_DOT.format(lanes=4, pairs=8, name="llvm.aarch64.neon.bfdot.v4f32.v8bf16", features="+neon,+bf16")),
    Arithmetic("bfloat16 weights", "bfloat16", "float32", "uint16", "float32", temporaries=1, widen_w=_bfloat16),
    # Integers: X is unsigned for x86's four-way dot product, signed for Arm's, and 16 bits wide where there is none.
    Arithmetic("int8 matrices", "int8", "uint8", "int8", "int32", 4, features=("amx_int8",), matrices=True),
    Arithmetic("int8 dot", "int8", "uint8", "int8", "int32", 4, features=("avx512_vnni",),
               dot=_intrinsic("llvm.x86.avx512.vpdpbusd.512", "int32", "int8", 16, 4)),
    Arithmetic("int8 dot", "int8", "uint8", "int8", "int32", 4, features=("avx_vnni",),
               dot=_intrinsic("llvm.x86.avx512.vpdpbusd.256", "int32", "int8", 8, 4)),
    Arithmetic("int8 dot", "int8", "int8", "int8", "int32", 4, features=("asimddp",), arch="aarch64",
               dot=_intrinsic("llvm.aarch64.neon.sdot.v4i32.v16i8", "int32", "int8", 4, 4)),
    Arithmetic("int16 pairs", "int8", "int16", "int8", "int32", 2, 2, features=("avx512bw",), dot=_pairs("llvm.x86.avx512.pmaddw.d.512", 16),
               widen_w=_widened_pairs),
    Arithmetic("int16 pairs", "int8", "int16", "int8", "int32", 2, 2, features=("avx2",), dot=_pairs("llvm.x86.avx2.pmadd.wd", 8),
               widen_w=_widened_pairs),
    Arithmetic("int16 pairs", "int8", "int16", "int8", "int32", 2, 2, arch="x86_64", dot=_pairs("llvm.x86.sse2.pmadd.wd", 4),
               widen_w=_widened_pairs),
    # Weights of 7 bits (SEVEN_BITS): a byte times such a weight, twice, stays within 16 bits.
    Arithmetic("int7 quads", "int7", "uint8", "int8", "int32", 4, 2, features=("avx512bw",),
               dot=_quads("llvm.x86.avx512.pmaddubs.w.512", "llvm.x86.avx512.pmaddw.d.512", 16)),
    Arithmetic("int7 quads", "int7", "uint8", "int8", "int32", 4, 2, features=("avx2",),
               dot=_quads("llvm.x86.avx2.pmadd.ub.sw", "llvm.x86.avx2.pmadd.wd", 8)),
    Arithmetic("int7 quads", "int7", "uint8", "int8", "int32", 4, 2, features=("ssse3",),
               dot=_quads("llvm.x86.ssse3.pmadd.ub.sw.128", "llvm.x86.sse2.pmadd.wd", 4)),
    Arithmetic("int16", "int8", "int16", "int8", "int32", widen_x=_widened_integer, widen_w=_widened_integer),
    # For groups whose depth no dot product divides (one_by_one).
    Arithmetic("uint8", "int8", "uint8", "int8", "int32", widen_x=_widened_integer, widen_w=_widened_integer),
    Arithmetic("signed int8", "int8", "int8", "int8", "int32", widen_x=_widened_integer, widen_w=_widened_integer),
    # Integer weights that do not fit 8 bits once their zero point is taken off.
    Arithmetic("int16 by int16", "int16", "int16", "int16", "int32", widen_x=_widened_integer, widen_w=_widened_integer),
)


#: The largest magnitude of a weight of kind ``int7``: 2 * 255 * 64 is less than 2^15. Quantizers' ``reduce_range`` keeps to it.
SEVEN_BITS = 64


def choose(kind: str, target: Target) -> Arithmetic:
    """The arithmetic of a kind for a target."""
    found = fitting(kind, target)
    assert found is not None, kind
    return found


def fitting(kind: str, target: Target) -> Arithmetic | None:
    """As :func:`choose`, or None if the target has none of that kind."""
    return next((a for a in TABLE if a.kind == kind and a.fits(target)), None)


def find(name: str, target: Target) -> Arithmetic:
    """The arithmetic that :func:`choose` gave the name of."""
    return next(a for a in TABLE if a.name == name and a.fits(target))


def in_vectors(how: Arithmetic, target: Target) -> Arithmetic:
    """The arithmetic to take where matrices would be mostly padding: the same kind's first that multiplies vectors."""
    return next(a for a in TABLE if a.kind == how.kind and a.fits(target) and not a.matrices)


def one_by_one(how: Arithmetic) -> Arithmetic | None:
    """The same data types one k at a time, or None: for groups whose depth the steps do not divide."""
    return next((a for a in TABLE if (a.x, a.w, a.sums, a.together) == (how.x, how.w, how.sums, 1)), None)


def widened_bfloat16(bits: Any) -> Any:
    """The float32 expression that the bits of a bfloat16 stand for."""
    return _bfloat16(bits, 1)


def to_bfloat16(value: Any) -> Any:
    """The bits of a float32 expression as bfloat16: to nearest, ties to even; NaN stays NaN."""
    bits = tirx.reinterpret("uint32", value)
    one, sixteen = tirx.const(1, "uint32"), tirx.const(16, "uint32")
    odd = tirx.bitwise_and(tirx.shift_right(bits, sixteen), one)
    nearest = tirx.shift_right(bits + odd + tirx.const(0x7FFF, "uint32"), sixteen)
    nan = tirx.bitwise_and(bits, tirx.const(0x7FFFFFFF, "uint32")) > tirx.const(0x7F800000, "uint32")
    return tirx.Select(nan, tirx.const(0x7FC0, "uint32"), nearest).astype("uint16")
