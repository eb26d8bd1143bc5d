"""Quantization: numbers as integers (or small floats) with a scale and a zero point, per tensor, per axis or per block."""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import relax, te, tirx

from ingot.importer import dims, narrow
from ingot.importer.context import Context
from ingot.importer.ops.cast import convert, dtype_of
from ingot.importer.ops.elementwise import NARROW_FLOATS
from ingot.importer.quantized import from_integers
from ingot.importer.registry import onnx_op
from ingot.importer.values import Value
from ingot.importer.weights import numpy_dtype


def limits(dtype: str) -> tuple[int, int]:
    """The least and the largest number of an integer type."""
    if dtype in narrow.INTEGERS:
        signed, bits = narrow.INTEGERS[dtype]
        return (-2 ** (bits - 1), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    info = np.iinfo(numpy_dtype(dtype))
    return int(info.min), int(info.max)


def spread(cx: Context, value: Value, x: Value, axis: int, block: int) -> Value:
    """A scale or zero point shaped to broadcast over x: one number, one for each position on the axis, or one for each block of it."""
    if all(dims.equal(d, 1) for d in value.shape) and (value.ndim < 2 or not block):
        return cx.reshape(value, [])
    if not -x.ndim <= axis < x.ndim:
        raise cx.error(f"axis {axis} is out of range for a tensor of {x.ndim} dimensions")
    axis %= x.ndim
    if not block:
        _check_shape(cx, value, [x.shape[axis]], f"axis {axis} of shape {dims.text(x.shape)}")
        return cx.reshape(value, [x.shape[axis] if i == axis else 1 for i in range(x.ndim)])
    blocks = [dims.ceildiv(d, block) if i == axis else d for i, d in enumerate(x.shape)]
    _check_shape(cx, value, blocks, f"blocks of {block} on axis {axis} of shape {dims.text(x.shape)}")

    def repeat(t: te.Tensor) -> te.Tensor:
        return te.compute([dims.expr(d) for d in x.shape], lambda *i: t(*i[:axis], tirx.floordiv(i[axis], block), *i[axis + 1:]), name="blocks")

    return cx.wrap(cx.te(repeat, value, name="blocks"))


def _check_shape(cx: Context, value: Value, shape: list[dims.Dim], what: str) -> None:
    """Raises an error unless a scale or zero point has a shape; where that is not known yet, the program checks it."""
    message = f"a scale or zero point of shape {dims.text(value.shape)} does not fit {what}"
    if value.ndim != len(shape):
        raise cx.error(message)
    for given, wanted in zip(value.shape, shape, strict=True):
        if not dims.equal(given, wanted):
            cx.check(given == wanted if isinstance(given, int) and isinstance(wanted, int) else dims.expr(given).equal(dims.expr(wanted)), message)


def rounded(cx: Context, x: Value, zero: Value | None, dtype: str) -> Value:
    """Round(x) + zero, saturated, in an integer type of up to 16 bits. Ties go to even; NaN becomes the least number."""
    low, high = limits(dtype)
    inner = "int32" if dtype in narrow.INTEGERS else dtype

    def function(a: Any, *z: Any) -> Any:
        whole = tirx.nearbyint(a)
        moved = whole + z[0] if z else whole
        return tirx.min(tirx.max(moved, tirx.const(low, "float32")), tirx.const(high, "float32")).astype(inner)

    inputs = [cx.cast(x, "float32"), *([zero] if zero is not None else [])]
    return convert(cx, cx.elementwise(function, *inputs, dtype=inner, name="round"), dtype)


#: Types of quantized numbers that passes know. float8_e4m3fn has no zero point: theirs is an int8 of 0.
_KNOWN = ("int8", "uint8", "int16", "uint16", "int32", "float8_e4m3fn")


def simple(x: Value, scale: Value, zero: Value | None, dtype: str, block: int) -> bool:
    """Whether Relax's own operators say it, which passes recognize: float32 by one scale, or one for each position of an axis."""
    static = [d for v in (scale, zero) if v is not None for d in v.shape]
    floats = {v.dtype for v in (x, scale) if v.dtype not in _KNOWN}
    return (not block and floats == {"float32"} and dtype in _KNOWN and dims.is_static(static)
            and scale.ndim <= 1 and (zero is None or scale.shape == zero.shape))


def parameters(cx: Context, x: Value, scale: Value, zero: Value | None, axis: int, dtype: str) -> tuple[Any, Any]:
    """Scale and zero point as Relax's operators take them: without axes, or with one."""
    if dtype in narrow.FLOATS:
        _check_zero(cx, zero)
        zero, dtype = None, "int8"
    found = []
    for value in (scale, zero if zero is not None else cx.constant(np.zeros([int(d) for d in scale.shape]), dtype)):
        spread(cx, value, x, axis, 0)  # checks the shape
        found.append((cx.reshape(value, []) if all(dims.equal(d, 1) for d in value.shape) else value).expr)
    return found[0], found[1]


@onnx_op("QuantizeLinear", since=10)
def quantize_linear(cx: Context, x: Value, scale: Value, zero: Value | None = None, *, axis: int = 1, saturate: int = 1, block_size: int = 0,
                    output_dtype: int = 0, precision: int = 0) -> Value:
    dtype = zero.dtype if zero is not None else dtype_of(cx, output_dtype) if output_dtype else "uint8"
    if output_dtype and dtype_of(cx, output_dtype) != dtype:
        raise cx.error(f"output_dtype is {dtype_of(cx, output_dtype)}, but the zero point is {dtype}")
    if dtype not in (*narrow.TYPES, "int8", "uint8", "int16", "uint16") or dtype == "float8_e8m0fnu":
        raise cx.error(f"numbers cannot be quantized to {dtype}")
    if simple(x, scale, zero, dtype, block_size) and not precision and (saturate or dtype not in narrow.FLOATS):
        return cx.op(relax.op.quantize(x.expr, *parameters(cx, x, scale, zero, axis, dtype), axis % max(1, x.ndim), dtype))
    within = dtype_of(cx, precision) if precision else scale.dtype if scale.dtype in (*NARROW_FLOATS, "float32", "float64") else "float32"
    # In narrow precision, the quotient is rounded to it, whatever the machine divides in.
    wide = "float32" if within in NARROW_FLOATS else within
    operands = [cx.cast(convert(cx, v, within), wide).expr for v in (x, spread(cx, scale, x, axis, block_size))]
    quotient = cx.cast(cx.cast(cx.op(relax.op.divide(*operands)), within), "float32")
    if dtype in narrow.FLOATS:
        _check_zero(cx, zero)
        return narrow.encode(cx, quotient, dtype, saturate=bool(saturate))
    moved = None if zero is None or is_zero(zero) else spread(cx, convert(cx, zero, "float32"), x, axis, block_size)
    return rounded(cx, quotient, moved, dtype)


def is_zero(value: Value | None) -> bool:
    """Whether a zero point is known to be 0, or absent."""
    return value is None or (value.is_small_constant and value.array is not None and not np.any(np.asarray(value.array).astype(np.float32)))


def _check_zero(cx: Context, zero: Value | None) -> None:
    if zero is not None and zero.is_small_constant and not is_zero(zero):
        raise cx.error("the zero point of small floats is 0; this one is not")


def _kept(cx: Context, x: Value, scale: Value, zero: Value | None, axis: int, block: int, dtype: str) -> Value | None:
    """A constant matrix as it is quantized, for passes that multiply with it."""
    if x.weight is None or scale.weight is None or (zero is not None and zero.weight is None):
        return None
    weight = from_integers(x.weight, scale.weight, zero.weight if zero is not None else None, axis, block, dtype)
    return Value(cx, dtype, x.shape, weight=weight) if weight is not None else None


@onnx_op("DequantizeLinear", since=10)
def dequantize_linear(cx: Context, x: Value, scale: Value, zero: Value | None = None, *, axis: int = 1, block_size: int = 0,
                      output_dtype: int = 0) -> Value:
    dtype = dtype_of(cx, output_dtype) if output_dtype else scale.dtype
    if dtype not in (*NARROW_FLOATS, "float32", "float64"):
        raise cx.error(f"numbers cannot be dequantized to {dtype}")
    if zero is not None and zero.dtype != x.dtype:
        raise cx.error(f"the zero point is {zero.dtype}, but the numbers are {x.dtype}")
    if simple(x, scale, zero, x.dtype, block_size) and dtype == "float32":
        return cx.op(relax.op.dequantize(x.expr, *parameters(cx, x, scale, zero, axis, x.dtype), axis % max(1, x.ndim), dtype))
    kept = _kept(cx, x, scale, zero, axis, block_size, dtype)
    if kept is not None:
        return kept
    wide = "float64" if dtype == "float64" else "float32"
    if x.dtype in narrow.FLOATS:
        _check_zero(cx, zero)
        zero = None
    y = cx.cast(narrow.decode(cx, x) if x.dtype in narrow.TYPES else x, wide)
    if not is_zero(zero):
        assert zero is not None
        y = cx.op(relax.op.subtract(y.expr, spread(cx, convert(cx, zero, wide), x, axis, block_size).expr))
    y = cx.op(relax.op.multiply(y.expr, spread(cx, convert(cx, scale, wide), x, axis, block_size).expr))
    return cx.cast(y, dtype)


@onnx_op("DynamicQuantizeLinear", since=11)
def dynamic_quantize_linear(cx: Context, x: Value) -> tuple[Value, Value, Value]:
    every = list(range(x.ndim))
    zero = relax.const(0, "float32")
    if any(dims.equal(d, 0) for d in x.shape):
        largest = smallest = cx.constant(0, "float32")
    else:
        largest = cx.op(relax.op.maximum(zero, relax.op.max(x.expr, every)))
        smallest = cx.op(relax.op.minimum(zero, relax.op.min(x.expr, every)))

    def step(high: Any, low: Any) -> Any:
        return tirx.Select(high.equal(low), tirx.const(1, "float32"), high - low) / tirx.const(255, "float32")

    scale = cx.elementwise(step, largest, smallest, name="scale")
    exact = cx.op(relax.op.subtract(zero, relax.op.divide(smallest.expr, scale.expr)))
    point = rounded(cx, exact, None, "uint8")
    y = rounded(cx, cx.op(relax.op.divide(x.expr, scale.expr)), cx.cast(point, "float32"), "uint8")
    return y, scale, point
