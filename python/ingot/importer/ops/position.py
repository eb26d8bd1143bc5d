"""Operators that depend on where an element stands: running totals, triangles, one-hot codes, remainders."""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import te, tirx

from ingot.importer import dims
from ingot.importer.context import Context
from ingot.importer.ops.elementwise import NARROW_FLOATS, has_trap, is_float
from ingot.importer.registry import onnx_op
from ingot.importer.values import Value


def _running(name: str, since: int, product: bool) -> None:
    def function(cx: Context, x: Value, axis: Value, *, exclusive: int = 0, reverse: int = 0) -> Value:
        at = (cx.ints(axis, "the axis") or [0])[0]
        if not -x.ndim <= at < x.ndim:
            raise cx.error(f"axis {at} is out of range for a tensor of {x.ndim} dimensions")
        return cumulated(cx, x, at % x.ndim, product=product, exclusive=bool(exclusive), reverse=bool(reverse))

    onnx_op(name, since=since)(function)


def cumulated(cx: Context, x: Value, axis: int, *, product: bool = False, exclusive: bool = False, reverse: bool = False) -> Value:
    """Running sums or products along an axis."""
    result: Value = cx.kernel("cumulate", [x], [(x.shape, x.dtype)], ints=[axis, product, exclusive, reverse])
    return result


_running("CumSum", 11, False)
_running("CumProd", 26, True)


@onnx_op("Trilu", since=14)
def trilu(cx: Context, x: Value, k: Value | None = None, *, upper: int = 1) -> Value:
    offset = 0 if k is None else cx.dims(k, "k")[0]

    def compute(t: te.Tensor) -> te.Tensor:
        def body(*i: Any) -> Any:
            right = i[-1] - i[-2]
            kept = right >= dims.expr(offset) if upper else right <= dims.expr(offset)
            return tirx.Select(kept, t(*i), tirx.const(0, x.dtype))

        return te.compute(t.shape, body, name="trilu")

    return cx.wrap(cx.te(compute, x, name="trilu"))


@onnx_op("OneHot", since=9)
def one_hot(cx: Context, indices: Value, depth: Value, values: Value, *, axis: int = -1) -> Value:
    extent = cx.dims(cx.cast(depth, "int64") if is_float(depth) and not depth.is_constant else _whole(cx, depth), "the depth")[0]
    extent = cx.let([extent])[0] if _whole(cx, depth).known_elements() is None else extent
    at = axis % (indices.ndim + 1)
    positions = cx.cast(indices, "int64")
    shape = [*indices.shape[:at], extent, *indices.shape[at:]]

    def compute(t: te.Tensor, choice: te.Tensor) -> te.Tensor:
        def body(*i: Any) -> Any:
            index = t(*i[:at], *i[at + 1:])
            wrapped = tirx.Select(index < 0, index + dims.expr(extent), index)  # out of range, no element is hot
            return tirx.Select(wrapped.equal(i[at].astype("int64")), choice(1), choice(0))

        return te.compute([dims.expr(d) for d in shape], body, name="one_hot")

    return cx.wrap(cx.te(compute, positions, values, name="one_hot"))


def _whole(cx: Context, value: Value) -> Value:
    """A constant as int64."""
    if value.is_small_constant and value.elements is None:
        return cx.constant(np.asarray(value.array).astype(np.int64))
    return value


@onnx_op("Mod", since=10)
def mod(cx: Context, a: Value, b: Value, *, fmod: int = 0) -> Value:
    if is_float(a):
        wide = "float32" if a.dtype in NARROW_FLOATS else a.dtype
        c_function = "fmod" if wide == "float64" else "fmodf"
        remainder = cx.elementwise(lambda x, y: tirx.call_pure_extern(wide, c_function, x, y), cx.cast(a, wide), cx.cast(b, wide), name="fmod")
        return cx.cast(remainder if fmod else cx.elementwise(_with_divisors_sign, remainder, cx.cast(b, wide), name="mod"), a.dtype)
    operator = tirx.truncmod if fmod else tirx.floormod
    if not has_trap(b):
        return cx.elementwise(operator, a, b)
    zero, one = tirx.const(0, a.dtype), tirx.const(1, a.dtype)

    def remainder_of(x: Any, y: Any) -> Any:
        """The remainder; 0 for the divisors at which the machine's instruction stops the process: 0, and -1 for the least number."""
        unsafe = y.equal(zero) if a.dtype.startswith("u") else tirx.any(y.equal(zero), y.equal(tirx.const(-1, a.dtype)))
        return tirx.Select(unsafe, zero, operator(x, tirx.Select(unsafe, one, y)))

    return cx.elementwise(remainder_of, a, b)


def _with_divisors_sign(remainder: Any, divisor: Any) -> Any:
    """A remainder with its dividend's sign, as one with its divisor's, as Python and ONNX have it."""
    zero = tirx.const(0, str(divisor.ty.dtype))
    differ = tirx.any(tirx.all(remainder < zero, divisor > zero), tirx.all(remainder > zero, divisor < zero))
    signed = tirx.Select(differ, remainder + divisor, remainder)
    return tirx.Select(remainder.equal(zero), tirx.copysign(zero, divisor), signed)
