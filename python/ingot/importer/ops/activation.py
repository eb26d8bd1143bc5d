"""Activation functions of neural networks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm import relax, tirx, topi

from ingot.importer.context import Context
from ingot.importer.ops.elementwise import NARROW_FLOATS, in_float32, scalar
from ingot.importer.registry import onnx_op
from ingot.importer.values import Value


def _each(cx: Context, x: Value, function: Callable[[Any, Callable[[float], Any]], Any], name: str) -> Value:
    """Applies ``function`` (of an element, and of a maker of constants) in at least float32."""
    wide = cx.cast(x, "float32") if x.dtype in NARROW_FLOATS else x
    return cx.cast(cx.elementwise(lambda a: function(a, lambda c: tirx.const(c, wide.dtype)), wide, name=name), x.dtype)


@onnx_op("Relu")
def relu(cx: Context, x: Value) -> Value:
    return cx.op(relax.op.nn.relu(x.expr))


@onnx_op("LeakyRelu")
def leaky_relu(cx: Context, x: Value, *, alpha: float = 0.01) -> Value:
    return cx.te(topi.nn.leaky_relu, x, alpha)


@onnx_op("PRelu", since=7)
def prelu(cx: Context, x: Value, slope: Value) -> Value:
    return cx.elementwise(lambda a, s: tirx.Select(a < tirx.const(0, x.dtype), a * s, a), x, slope)


@onnx_op("Gelu", since=20)
def gelu(cx: Context, x: Value, *, approximate: str = "none") -> Value:
    if approximate not in ("none", "tanh"):
        raise cx.error(f"approximate is '{approximate}'; it is none or tanh")
    return in_float32(cx, relax.op.nn.gelu if approximate == "none" else relax.op.nn.gelu_tanh, x)


def _hard_sigmoid(cx: Context, x: Value, alpha: float, beta: float) -> Value:
    scaled = relax.op.add(relax.op.multiply(x.expr, scalar(alpha, x)), scalar(beta, x))
    return cx.op(relax.op.minimum(scalar(1, x), relax.op.maximum(scalar(0, x), scaled)))


@onnx_op("HardSigmoid")
def hard_sigmoid(cx: Context, x: Value, *, alpha: float = 0.2, beta: float = 0.5) -> Value:
    return _hard_sigmoid(cx, x, alpha, beta)


@onnx_op("HardSwish", since=14)
def hard_swish(cx: Context, x: Value) -> Value:
    return cx.op(relax.op.multiply(x.expr, _hard_sigmoid(cx, x, 1 / 6, 0.5).expr))


@onnx_op("Swish", since=24)
def swish(cx: Context, x: Value, *, alpha: float = 1.0) -> Value:
    def function(e: Any) -> Any:
        wide = scalar(alpha, x) if x.dtype not in NARROW_FLOATS else relax.const(alpha, "float32")
        return relax.op.multiply(e, relax.op.sigmoid(relax.op.multiply(e, wide)))

    return in_float32(cx, relax.op.nn.silu if alpha == 1 else function, x)


def _softplus(a: Any, c: Callable[[float], Any]) -> Any:
    """log(1 + exp(a)) without overflow, and without loss where exp(a) is small."""
    return tirx.max(a, c(0)) + tirx.log1p(tirx.exp(-tirx.abs(a)))


@onnx_op("Softplus")
def softplus(cx: Context, x: Value) -> Value:
    return _each(cx, x, _softplus, "softplus")


@onnx_op("Mish", since=18)
def mish(cx: Context, x: Value) -> Value:
    return _each(cx, x, lambda a, c: a * tirx.tanh(_softplus(a, c)), "mish")


@onnx_op("Softsign")
def softsign(cx: Context, x: Value) -> Value:
    return cx.op(relax.op.divide(x.expr, relax.op.add(scalar(1, x), relax.op.abs(x.expr))))


def _expm1(a: Any, c: Callable[[float], Any]) -> Any:
    """exp(a) - 1 for a of at most 0. Larger arguments, which are not wanted, are cut off: a branch not taken must not overflow."""
    return tirx.exp(tirx.min(a, c(0))) - c(1)


@onnx_op("Elu")
def elu(cx: Context, x: Value, *, alpha: float = 1.0) -> Value:
    return _each(cx, x, lambda a, c: tirx.Select(a < c(0), c(alpha) * _expm1(a, c), a), "elu")


@onnx_op("Selu")
def selu(cx: Context, x: Value, *, alpha: float = 1.67326319217681884765625, gamma: float = 1.05070102214813232421875) -> Value:
    return _each(cx, x, lambda a, c: c(gamma) * tirx.Select(a < c(0), c(alpha) * _expm1(a, c), a), "selu")


@onnx_op("Celu", since=12)
def celu(cx: Context, x: Value, *, alpha: float = 1.0) -> Value:
    return _each(cx, x, lambda a, c: tirx.max(a, c(0)) + tirx.min(c(alpha) * _expm1(a / c(alpha), c), c(0)), "celu")


@onnx_op("ThresholdedRelu")
def thresholded_relu(cx: Context, x: Value, *, alpha: float = 1.0) -> Value:
    return _each(cx, x, lambda a, c: tirx.Select(a > c(alpha), a, c(0)), "thresholded_relu")


@onnx_op("Shrink", since=9)
def shrink(cx: Context, x: Value, *, bias: float = 0.0, lambd: float = 0.5) -> Value:
    if x.dtype.startswith(("int", "uint")):  # the threshold and the bias are not whole: computed in float64, then truncated
        return cx.cast(shrink(cx, cx.cast(x, "float64"), bias=bias, lambd=lambd), x.dtype)
    return _each(cx, x, lambda a, c: tirx.Select(a < c(-lambd), a + c(bias), tirx.Select(a > c(lambd), a - c(bias), c(0))), "shrink")
