"""Element types of 8 bits and less that no machine computes on: small floats, and integers of 4 and 2 bits.

A tensor of such a type holds codes, one to a byte. They are moved as bytes; to compute, they are decoded first, by
arithmetic or from a table of all codes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import te, tirx

from ingot.importer.context import Context
from ingot.importer.values import Value
from ingot.importer.weights import numpy_dtype

#: Integers of less than a byte: in the low bits of each byte.
INTEGERS = {"int4": (True, 4), "uint4": (False, 4), "int2": (True, 2), "uint2": (False, 2)}
FLOATS = ("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu", "float4_e2m1fn")
TYPES = frozenset({*INTEGERS, *FLOATS})

#: Operators that give elements of their inputs as they are.
MOVES = frozenset({
    "Identity", "Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Concat", "Split", "Slice", "Gather", "GatherElements", "GatherND",
    "Expand", "Tile", "Where", "DepthToSpace", "SpaceToDepth", "Compress", "ReverseSequence", "Scatter", "ScatterElements", "ScatterND"})

#: Operators that take these types, or pass them on without a computation.
TAKES = frozenset({
    "Cast", "CastLike", "BitCast", "QuantizeLinear", "DequantizeLinear", "IsNaN", "IsInf", "Shape", "Size", "Constant", "ConstantOfShape", "EyeLike",
    "If", "Loop", "Scan", "GatherBlockQuantized", "TensorScatter", "CachedAttention"})


@dataclass(frozen=True)
class Encoding:
    """How a small float is encoded: a sign bit, then the exponent, then ``mantissa`` bits.

    ``exponent`` is the least one of a normal number, ``largest`` the code of the largest finite number; ``overflow`` and
    ``nan`` are the codes of what is out of range (if it is not to be the largest number) and of NaN.
    """

    bits: int
    mantissa: int
    exponent: int
    maximum: float
    largest: int
    overflow: int
    nan: int
    negative_zero: bool


def encoding(dtype: str) -> Encoding:
    """The encoding of a small float with a sign, as ml_dtypes defines it."""
    import ml_dtypes

    kind = numpy_dtype(dtype)
    info: Any = ml_dtypes.finfo(kind)  # type: ignore[no-untyped-call]
    with np.errstate(all="ignore"):
        largest, overflow, nan = (int(c) for c in np.array([float(info.max), np.inf, np.nan]).astype(kind).view(np.uint8))
    unsigned_zero = dtype.endswith("fnuz")  # its negative zero is NaN
    return Encoding(info.bits, info.nmant, int(info.minexp), float(info.max), largest, overflow, nan, not unsigned_zero)


def as_bytes(cx: Context, operator: str, inputs: list[Value | None]) -> tuple[list[Value | None], Callable[[Value], Value]]:
    """For an operator that only moves elements: inputs of a narrow type as bytes, and what gives its results their type."""
    types = sorted({v.dtype for v in inputs if v is not None and v.dtype in TYPES})
    if not types or operator in TAKES:
        return inputs, lambda value: value
    if operator not in MOVES or len(types) > 1:
        raise cx.error(f"it cannot compute on {' and '.join(types)}; cast to another type first")
    return [v if v is None else codes(cx, v) for v in inputs], lambda value: tagged(cx, value, types[0])


def codes(cx: Context, x: Value) -> Value:
    """The bytes of a tensor of a narrow type."""
    if x.dtype not in TYPES:
        return x
    return _viewed(cx, x, "uint8")


def tagged(cx: Context, x: Value, dtype: str) -> Value:
    """Bytes as a tensor of a narrow type."""
    return x if x.dtype == dtype else _viewed(cx, x, dtype)


def _viewed(cx: Context, x: Value, dtype: str) -> Value:
    """The same bytes in another type of the same size."""
    if x.weight is not None:
        kind = numpy_dtype(dtype)
        shape = x.weight.shape
        return Value(cx, dtype, x.shape, weight=x.weight.map(lambda a: np.ascontiguousarray(a).view(kind).reshape(shape), shape, f":{dtype}", dtype))
    return cx.view(x, dtype)


def decode(cx: Context, x: Value) -> Value:
    """The numbers of a narrow type: int8 or uint8 for integers, float32 for floats. Exact."""
    wide = "float32" if x.dtype in FLOATS else "int8" if INTEGERS[x.dtype][0] else "uint8"
    if x.weight is not None:
        kind = numpy_dtype(wide)
        return Value(cx, wide, x.shape, weight=x.weight.map(lambda a: a.astype(kind), x.weight.shape, f":{wide}", wide))
    bytes_ = codes(cx, x)
    if wide != "float32":
        unused = tirx.const(8 - INTEGERS[x.dtype][1], wide)
        return cx.elementwise(lambda b: tirx.shift_right(tirx.shift_left(b.astype(wide), unused), unused), bytes_, name="decode")
    table = cx.constant(numbers_of(x.dtype))

    def look_up(t: te.Tensor, numbers: te.Tensor) -> te.Tensor:
        return te.compute(t.shape, lambda *i: numbers(t(*i).astype("int32")), name="decode")

    return cx.wrap(cx.te(look_up, bytes_, table, name="decode"))


def encode(cx: Context, x: Value, dtype: str, *, saturate: bool = True, round_mode: str = "up") -> Value:
    """Numbers of an ordinary type in a narrow one, by the rules of ONNX's Cast."""
    if dtype in INTEGERS:
        whole = cx.cast(x, "int32") if not x.dtype.startswith(("int", "uint")) else x
        mask = tirx.const(2 ** INTEGERS[dtype][1] - 1, whole.dtype)
        return tagged(cx, cx.elementwise(lambda a: tirx.bitwise_and(a, mask), whole, dtype="uint8", name="encode"), dtype)
    wide = x if x.dtype in ("float32", "float64") else cx.cast(x, "float64" if x.dtype.endswith(("32", "64")) else "float32")
    if dtype == "float8_e8m0fnu":
        if round_mode not in _ROUND_MODES:
            raise cx.error(f"round_mode is '{round_mode}'; it is {', '.join(_ROUND_MODES)}")
        function = _power_code(saturate, round_mode)
        wide = cx.cast(wide, "float32")
    else:
        function = float_code(encoding(dtype), saturate, wide.dtype)
    return tagged(cx, cx.elementwise(function, wide, dtype="uint8", name="encode"), dtype)


def numbers_of(dtype: str) -> np.ndarray:
    """The float32 that each of the 256 codes of a small float stands for."""
    return np.arange(256, dtype=np.uint8).view(numpy_dtype(dtype)).astype(np.float32)


def float_code(form: Encoding, saturate: bool, dtype: str) -> Callable[[Any], Any]:
    """What makes a code of an expression of ``dtype``, float32 or float64: rounded to nearest, ties to even."""
    width, stored, bias, integer = (32, 23, 127, "int32") if dtype == "float32" else (64, 52, 1023, "int64")

    def whole(value: int) -> Any:
        return tirx.const(value, integer)

    def function(x: Any) -> Any:
        bits = tirx.reinterpret(integer, x)
        sign = tirx.shift_left(tirx.bitwise_and(tirx.shift_right(bits, whole(width - 1)), whole(1)), whole(form.bits - 1))
        # Twice the largest number overflows as any larger one does, and keeps what follows in range.
        magnitude = tirx.min(tirx.abs(x), tirx.const(2 * form.maximum, dtype))
        exponent = tirx.bitwise_and(tirx.shift_right(tirx.reinterpret(integer, magnitude), whole(stored)), whole(2 * bias + 1)) - whole(bias)
        exponent = tirx.max(exponent, whole(form.exponent))
        steps = tirx.reinterpret(dtype, tirx.shift_left(whole(form.mantissa + bias) - exponent, whole(stored)))  # in one unit: a power of 2
        rounded = tirx.nearbyint(magnitude * steps).astype(integer)
        code = rounded + tirx.shift_left(exponent - whole(form.exponent), whole(form.mantissa))
        outside = whole(form.largest if saturate else form.overflow)
        code = tirx.Select(code > whole(form.largest), outside, code)
        code = tirx.Select(tirx.isnan(x), whole(form.nan & (2 ** (form.bits - 1) - 1 if form.negative_zero else 255)), code)
        signed = tirx.bitwise_or(code, sign)
        return signed if form.negative_zero else tirx.Select(code.equal(0), code, signed)

    return function


_ROUND_MODES = ("up", "down", "nearest")


def _power_code(saturate: bool, round_mode: str) -> Callable[[Any], Any]:
    """The exponent of a number, rounded: the code of float8_e8m0fnu, which holds powers of 2 only."""

    def whole(value: int) -> Any:
        return tirx.const(value, "int32")

    def function(x: Any) -> Any:
        bits = tirx.reinterpret("int32", x)
        exponent = tirx.bitwise_and(tirx.shift_right(bits, whole(23)), whole(255))
        fraction = tirx.bitwise_and(bits, whole(0x7FFFFF))
        up = {
            "up": fraction > 0,
            "down": tirx.const(False, "bool"),
            # A half goes up, except from the least power.
            "nearest": tirx.all(fraction >= 0x400000, tirx.any(fraction > 0x400000, exponent > 0)),
        }[round_mode]
        if saturate:
            up = tirx.all(up, exponent < 254)
        return tirx.Select(exponent.equal(255), whole(255), exponent + up.astype("int32"))

    return function
