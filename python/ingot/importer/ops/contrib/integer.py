"""Products of 8-bit integers whose results are floats, or integers again."""

from __future__ import annotations

from tvm import relax

from ingot.importer import dims
from ingot.importer.context import Context
from ingot.importer.ops.contrib.common import microsoft_op, plus, refuse, times
from ingot.importer.ops.elementwise import binary
from ingot.importer.ops.integer import product
from ingot.importer.ops.quantize import dynamic_quantize_linear, is_zero, rounded
from ingot.importer.values import Value


def _factor(cx: Context, value: Value) -> Value:
    """A scale or a zero point of one number, or of one for each column."""
    return cx.reshape(value, []) if all(dims.equal(d, 1) for d in value.shape) else value


def dequantized_product(cx: Context, a: Value, b: Value, a_scale: Value, b_scale: Value, a_zero: Value | None, b_zero: Value | None) -> Value:
    """(a - a_zero) · a_scale @ (b - b_zero) · b_scale in the scales' type, from an exact product of integers."""
    sums = product(cx, a, b, a_zero, b_zero)
    scale = times(cx, _factor(cx, a_scale), _factor(cx, b_scale))
    return times(cx, cx.cast(sums, scale.dtype), scale)


@microsoft_op("MatMulIntegerToFloat")
def matmul_integer_to_float(cx: Context, a: Value, b: Value, a_scale: Value, b_scale: Value, a_zero: Value | None = None,
                            b_zero: Value | None = None, bias: Value | None = None) -> Value:
    return plus(cx, dequantized_product(cx, a, b, a_scale, b_scale, a_zero, b_zero), bias)


@microsoft_op("DynamicQuantizeMatMul")
def dynamic_quantize_matmul(cx: Context, a: Value, b: Value, b_scale: Value, b_zero: Value | None = None, bias: Value | None = None) -> Value:
    codes, scale, zero = dynamic_quantize_linear(cx, a)
    return plus(cx, dequantized_product(cx, codes, b, scale, b_scale, zero, b_zero), bias)


@microsoft_op("QGemm")
def quantized_gemm(cx: Context, a: Value, a_scale: Value, a_zero: Value, b: Value, b_scale: Value, b_zero: Value, c: Value | None = None,
                   y_scale: Value | None = None, y_zero: Value | None = None, *, alpha: float = 1.0, transA: int = 0, transB: int = 0) -> Value:
    refuse(cx, (y_scale is None) != (y_zero is None), "y_scale and y_zero_point go together, but only one is given")
    a, b = (cx.transpose(t, [1, 0]) if turned else t for t, turned in ((a, transA), (b, transB)))
    sums = plus(cx, product(cx, a, b, a_zero, b_zero), c)
    scale = times(cx, _factor(cx, a_scale), _factor(cx, b_scale))
    scale = scale if alpha == 1 else cx.op(relax.op.multiply(scale.expr, relax.const(alpha, scale.dtype)))
    if y_scale is None or y_zero is None:
        return times(cx, cx.cast(sums, scale.dtype), scale)
    scale = binary(cx, relax.op.divide, lambda p, q: p / q, scale, _factor(cx, y_scale))
    moved = None if is_zero(y_zero) else cx.cast(_factor(cx, y_zero), "float32")
    return rounded(cx, times(cx, cx.cast(sums, "float32"), scale), moved, y_zero.dtype)
