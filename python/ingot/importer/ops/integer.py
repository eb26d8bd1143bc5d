"""Products and convolutions of 8-bit integers, which accumulate in int32."""

from __future__ import annotations

import numpy as np
from tvm import relax

from ingot.importer import dims
from ingot.importer.context import Context
from ingot.importer.ops.conv import check_ranks, convolve, pad_spatial
from ingot.importer.ops.elementwise import binary
from ingot.importer.ops.normalize import per_channel
from ingot.importer.ops.quantize import is_zero, rounded
from ingot.importer.ops.windows import Window, window
from ingot.importer.registry import onnx_op
from ingot.importer.values import Value

_EIGHT = ("int8", "uint8")


def _check(cx: Context, *values: Value) -> None:
    for value in values:
        if value.dtype not in _EIGHT:
            raise cx.error(f"an operand is {value.dtype}; int8 and uint8 are supported")


def _sum(cx: Context, x: Value, axes: list[int]) -> Value:
    """The int32 sums over axes, which stay as extents of 1; those of a weight are taken while compiling."""
    if x.weight is not None:
        shape = tuple(1 if i in axes else int(d) for i, d in enumerate(x.shape))
        return Value(cx, "int32", shape, weight=x.weight.map(
            lambda a: a.astype(np.int32).sum(axis=tuple(axes), keepdims=True, dtype=np.int32), shape, ":sum" + "".join(map(str, axes)), "int32"))
    return cx.op(relax.op.sum(cx.cast(x, "int32").expr, axes, keepdims=True))


def _minus(cx: Context, a: Value, b: Value) -> Value:
    return binary(cx, relax.op.subtract, lambda p, q: p - q, a, b)


def _times(cx: Context, a: Value, b: Value) -> Value:
    return binary(cx, relax.op.multiply, lambda p, q: p * q, a, b)


def _of_rows(cx: Context, value: Value, a: Value) -> Value:
    """A zero point or scale of the left operand: one number, or one for each row."""
    if all(dims.equal(d, 1) for d in value.shape):
        return cx.reshape(value, [])
    return cx.reshape(value, [value.shape[0], 1]) if value.ndim == 1 and a.ndim > 1 else value


def _of_columns(cx: Context, value: Value) -> Value:
    """A zero point or scale of the right operand: one number, or one for each column."""
    return cx.reshape(value, []) if all(dims.equal(d, 1) for d in value.shape) else value


def product(cx: Context, a: Value, b: Value, a_zero: Value | None, b_zero: Value | None) -> Value:
    """(a - a_zero) @ (b - b_zero) in int32: the product of the bytes as they are, then what the zero points change about it."""
    _check(cx, a, b)
    if a.ndim < 2 or b.ndim < 2:
        left, right = cx.cast(a, "int32"), cx.cast(b, "int32")
        if a_zero is not None and not is_zero(a_zero):
            left = _minus(cx, left, _of_rows(cx, cx.cast(a_zero, "int32"), a))
        if b_zero is not None and not is_zero(b_zero):
            right = _minus(cx, right, _of_columns(cx, cx.cast(b_zero, "int32")))
        return cx.op(relax.op.matmul(left.expr, right.expr))
    if not dims.equal(a.shape[-1], b.shape[-2]):
        raise cx.error(f"shapes {dims.text(a.shape)} and {dims.text(b.shape)} cannot be multiplied")
    y = cx.op(relax.op.matmul(a.expr, b.expr, out_dtype="int32"))
    rows = None
    if a_zero is not None and not is_zero(a_zero):
        rows = _of_rows(cx, cx.cast(a_zero, "int32"), a)
        y = _minus(cx, y, _times(cx, _sum(cx, b, [b.ndim - 2]), rows))
    if b_zero is not None and not is_zero(b_zero):
        sums = _sum(cx, a, [a.ndim - 1])
        if rows is not None:
            sums = _minus(cx, sums, _times(cx, cx.cast(cx.symbolic(a.shape[-1]), "int32"), rows))
        y = _minus(cx, y, _times(cx, sums, _of_columns(cx, cx.cast(b_zero, "int32"))))
    return y


@onnx_op("MatMulInteger", since=10)
def matmul_integer(cx: Context, a: Value, b: Value, a_zero: Value | None = None, b_zero: Value | None = None) -> Value:
    return product(cx, a, b, a_zero, b_zero)


def _requantized(cx: Context, y: Value, scale: Value, zero: Value) -> Value:
    """Sums as numbers of the result: scaled, rounded, and moved by the zero point."""
    moved = None if is_zero(zero) else cx.cast(cx.reshape(zero, []) if all(dims.equal(d, 1) for d in zero.shape) else zero, "float32")
    return rounded(cx, _times(cx, cx.cast(y, "float32"), scale), moved, zero.dtype)


@onnx_op("QLinearMatMul", since=10)
def qlinear_matmul(cx: Context, a: Value, a_scale: Value, a_zero: Value, b: Value, b_scale: Value, b_zero: Value, y_scale: Value,
                   y_zero: Value) -> Value:
    _check(cx, a, b, y_zero)
    y = product(cx, a, b, a_zero, b_zero)
    scale = _times(cx, _of_rows(cx, cx.cast(a_scale, "float32"), a), _of_columns(cx, cx.cast(b_scale, "float32")))
    result = _of_rows(cx, cx.cast(y_scale, "float32"), a)
    return _requantized(cx, y, binary(cx, relax.op.divide, lambda p, q: p / q, scale, result), y_zero)


def _convolved(cx: Context, x: Value, w: Value, x_zero: Value | None, w_zero: Value | None, around: Window, group: int) -> Value:
    """A convolution of (x - x_zero) with (w - w_zero), in int32. Pads are zeros of the numbers, thus x_zero in bytes."""
    _check(cx, x, w)
    check_ranks(cx, x, w)
    if w_zero is not None and not is_zero(w_zero):
        zero = cx.cast(w_zero, "int16")
        spread = cx.reshape(zero, []) if all(dims.equal(d, 1) for d in zero.shape) else cx.reshape(zero, [zero.shape[0], *[1] * (w.ndim - 1)])
        w = _minus(cx, cx.cast(w, "int16"), spread)
    if x_zero is None or is_zero(x_zero):
        return convolve(cx, x, w, around, group, "int32")
    if not all(dims.equal(p, 0) for p in around.pads):
        x = pad_spatial(cx, x, around.before, around.after, cx.reshape(x_zero, []))
        none = (0,) * len(around.before)
        around = Window(around.kernel, around.strides, around.dilations, none, none)
    y = convolve(cx, x, w, around, group, "int32")
    change = _times(cx, cx.reshape(_sum(cx, w, list(range(1, w.ndim))), [w.shape[0]]), cx.cast(cx.reshape(x_zero, []), "int32"))
    return _minus(cx, y, per_channel(cx, change, y.ndim))


@onnx_op("ConvInteger", since=10)
def conv_integer(cx: Context, x: Value, w: Value, x_zero: Value | None = None, w_zero: Value | None = None, *, auto_pad: str = "NOTSET",
                 dilations: list[int] | None = None, group: int = 1, kernel_shape: list[int] | None = None, pads: list[int] | None = None,
                 strides: list[int] | None = None) -> Value:
    around = window(cx, x.shape[2:], w.shape[2:], auto_pad=auto_pad, strides=strides, dilations=dilations, pads=pads)
    return _convolved(cx, x, w, x_zero, w_zero, around, group)


@onnx_op("QLinearConv", since=10)
def qlinear_conv(cx: Context, x: Value, x_scale: Value, x_zero: Value, w: Value, w_scale: Value, w_zero: Value, y_scale: Value, y_zero: Value,
                 bias: Value | None = None, *, auto_pad: str = "NOTSET", dilations: list[int] | None = None, group: int = 1,
                 kernel_shape: list[int] | None = None, pads: list[int] | None = None, strides: list[int] | None = None) -> Value:
    _check(cx, y_zero)
    around = window(cx, x.shape[2:], w.shape[2:], auto_pad=auto_pad, strides=strides, dilations=dilations, pads=pads)
    y = _convolved(cx, x, w, x_zero, w_zero, around, group)
    if bias is not None:
        y = binary(cx, relax.op.add, lambda p, q: p + q, y, per_channel(cx, bias, y.ndim))
    scale = _times(cx, cx.reshape(x_scale, []), w_scale if w_scale.ndim == 1 else cx.reshape(w_scale, [1]))
    scale = binary(cx, relax.op.divide, lambda p, q: p / q, scale, cx.reshape(y_scale, []))
    return _requantized(cx, y, per_channel(cx, scale, y.ndim), y_zero)
