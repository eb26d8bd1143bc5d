"""Normalizations."""

from __future__ import annotations

from typing import Any

from tvm import relax, te, tirx

from ingot.importer import dims
from ingot.importer.context import Context
from ingot.importer.registry import onnx_op
from ingot.importer.values import Value


def per_channel(cx: Context, values: Value, rank: int) -> Value:
    """A vector of channels, shaped to broadcast over [N, C, ...]."""
    return cx.reshape(values, [1, values.shape[0], *[1] * (rank - 2)])


def add(cx: Context, a: Value, b: Value) -> Value:
    """Their sum, as an operator that fuses."""
    return cx.op(relax.op.add(a.expr, b.expr))


def multiply(cx: Context, a: Value, b: Value) -> Value:
    """Their product, as an operator that fuses."""
    return cx.op(relax.op.multiply(a.expr, b.expr))


def subtract(cx: Context, a: Value, b: Value) -> Value:
    """Their difference, as an operator that fuses."""
    return cx.op(relax.op.subtract(a.expr, b.expr))


def inverse_deviation(cx: Context, variance: Value, epsilon: float) -> Value:
    """1 / sqrt(variance + epsilon)."""
    return cx.op(relax.op.rsqrt(relax.op.add(variance.expr, relax.const(epsilon, variance.dtype))))


def mean(cx: Context, x: Value, axes: list[int]) -> Value:
    """The mean over axes, which stay as extents of 1."""
    return cx.op(relax.op.mean(x.expr, axes, keepdims=True))


def standardized(cx: Context, x: Value, axes: list[int], epsilon: float) -> tuple[Value, Value, Value]:
    """(x - mean) / sqrt(variance + epsilon) over axes, the mean, and the inverse deviation."""
    average = mean(cx, x, axes)
    centered = subtract(cx, x, average)
    inverse = inverse_deviation(cx, mean(cx, multiply(cx, centered, centered), axes), epsilon)
    return multiply(cx, centered, inverse), average, inverse


@onnx_op("BatchNormalization", since=7)
def batch_normalization(cx: Context, x: Value, scale: Value, bias: Value, running_mean: Value, running_variance: Value, *,
                        epsilon: float = 1e-5, momentum: float = 0.9, spatial: int = 1, training_mode: int = 0) -> Value | tuple[Value, ...]:
    if training_mode:
        return _training(cx, x, scale, bias, running_mean, running_variance, epsilon, momentum)
    inverse = inverse_deviation(cx, running_variance, epsilon)
    factor = multiply(cx, cx.cast(scale, inverse.dtype), inverse)
    shift = subtract(cx, cx.cast(bias, inverse.dtype), multiply(cx, running_mean, factor))
    wide = cx.cast(x, factor.dtype)
    y = add(cx, multiply(cx, wide, per_channel(cx, factor, x.ndim)), per_channel(cx, shift, x.ndim))
    return cx.cast(y, x.dtype)


def _training(cx: Context, x: Value, scale: Value, bias: Value, running_mean: Value, running_variance: Value, epsilon: float,
              momentum: float) -> tuple[Value, ...]:
    axes = [0, *range(2, x.ndim)]
    average = mean(cx, x, axes)
    centered = subtract(cx, x, average)
    variance = mean(cx, multiply(cx, centered, centered), axes)
    normal = multiply(cx, centered, inverse_deviation(cx, variance, epsilon))
    y = add(cx, multiply(cx, normal, per_channel(cx, scale, x.ndim)), per_channel(cx, bias, x.ndim))

    def update(old: Value, new: Value) -> Value:
        flat = cx.reshape(new, old.shape)
        return cx.op(relax.op.add(relax.op.multiply(old.expr, relax.const(momentum, old.dtype)),
                                  relax.op.multiply(flat.expr, relax.const(1 - momentum, old.dtype))))

    return y, update(running_mean, average), update(running_variance, variance)


@onnx_op("LayerNormalization", since=17)
def layer_normalization(cx: Context, x: Value, scale: Value, bias: Value | None = None, *, axis: int = -1, epsilon: float = 1e-5,
                        stash_type: int = 1) -> tuple[Value, ...]:
    axes = list(range(axis % x.ndim, x.ndim))
    wanted = [bool(o) for o in (cx.node.output if cx.node is not None else ())]
    wide = cx.cast(x, "float32") if x.dtype in ("float16", "bfloat16") else x
    if wanted[1:] or not cx.broadcasts_plainly(x.shape[axes[0]:], scale.shape) or scale.ndim != len(axes):
        normal, average, inverse = standardized(cx, wide, axes, epsilon)
        y = cx.elementwise(lambda n, s: n * s, cx.cast(normal, x.dtype), scale)
        return (y if bias is None else cx.elementwise(lambda p, q: p + q, y, bias)), average, inverse
    offset = bias if bias is not None else cx.op(relax.op.zeros([dims.expr(d) for d in scale.shape], scale.dtype))
    y = cx.op(relax.op.nn.layer_norm(wide.expr, cx.cast(scale, wide.dtype).expr, cx.cast(offset, wide.dtype).expr, axes, epsilon))
    return (cx.cast(y, x.dtype),)


@onnx_op("RMSNormalization", since=23)
def rms_normalization(cx: Context, x: Value, scale: Value, *, axis: int = -1, epsilon: float = 1e-5, stash_type: int = 1) -> Value:
    axes = list(range(axis % x.ndim, x.ndim))
    wide = cx.cast(x, "float32") if x.dtype in ("float16", "bfloat16") else x
    inverse = inverse_deviation(cx, mean(cx, multiply(cx, wide, wide), axes), epsilon)
    return cx.elementwise(lambda n, s: n * s, cx.cast(multiply(cx, wide, inverse), x.dtype), scale)


@onnx_op("InstanceNormalization", since=6)
def instance_normalization(cx: Context, x: Value, scale: Value, bias: Value, *, epsilon: float = 1e-5) -> Value:
    normal, _, _ = standardized(cx, x, list(range(2, x.ndim)), epsilon)
    return add(cx, multiply(cx, normal, per_channel(cx, scale, x.ndim)), per_channel(cx, bias, x.ndim))


@onnx_op("GroupNormalization", since=21)
def group_normalization(cx: Context, x: Value, scale: Value, bias: Value, *, num_groups: int, epsilon: float = 1e-5, stash_type: int = 1) -> Value:
    grouped = cx.reshape(x, [x.shape[0], num_groups, dims.floordiv(x.shape[1], num_groups), *x.shape[2:]])
    normal, _, _ = standardized(cx, grouped, list(range(2, grouped.ndim)), epsilon)
    flat = cx.reshape(normal, x.shape)
    return add(cx, multiply(cx, flat, per_channel(cx, scale, x.ndim)), per_channel(cx, bias, x.ndim))


@onnx_op("LpNormalization")
def lp_normalization(cx: Context, x: Value, *, axis: int = -1, p: int = 2) -> Value:
    power = relax.op.abs(x.expr) if p == 1 else relax.op.multiply(x.expr, x.expr)
    total = cx.op(relax.op.sum(power, [axis % x.ndim], keepdims=True))
    norm = total if p == 1 else cx.op(relax.op.sqrt(total.expr))
    return cx.elementwise(lambda a, n: tirx.if_then_else(n.equal(0), n, a / n), x, norm)


@onnx_op("LRN")
def lrn(cx: Context, x: Value, *, size: int, alpha: float = 1e-4, beta: float = 0.75, bias: float = 1.0) -> Value:
    before = (size - 1) // 2

    def window(t: te.Tensor) -> te.Tensor:
        j = te.reduce_axis((0, size), name="j")

        def square(n: Any, c: Any, *rest: Any) -> Any:
            at = c + j - before
            picked = t(n, tirx.max(tirx.min(at, t.shape[1] - 1), 0), *rest)
            return te.sum(tirx.if_then_else(tirx.all(at >= 0, at < t.shape[1]), picked * picked, tirx.const(0, x.dtype)), axis=[j])

        return te.compute(t.shape, square, name="square_sum")

    total = cx.te(window, x, name="lrn")
    scale = relax.op.add(relax.op.multiply(total.expr, relax.const(alpha / size, x.dtype)), relax.const(bias, x.dtype))
    return cx.op(relax.op.divide(x.expr, relax.op.power(scale, relax.const(beta, x.dtype))))
