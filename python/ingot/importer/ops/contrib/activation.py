"""Activations, some with a bias added before them."""

from __future__ import annotations

from typing import Any

from tvm import relax

from ingot.importer import dims
from ingot.importer.context import Context
from ingot.importer.ops.contrib.common import microsoft_op, plus
from ingot.importer.ops.elementwise import in_float32
from ingot.importer.ops.move import window_of
from ingot.importer.values import Value


@microsoft_op("Gelu")
def gelu(cx: Context, x: Value) -> Value:
    return in_float32(cx, relax.op.nn.gelu, x)


@microsoft_op("BiasGelu")
def bias_gelu(cx: Context, x: Value, bias: Value) -> Value:
    return gelu(cx, plus(cx, x, bias))


@microsoft_op("BiasAdd")
def bias_add(cx: Context, x: Value, bias: Value, skip: Value) -> Value:
    return plus(cx, plus(cx, x, bias), skip)


@microsoft_op("FastGelu")
def fast_gelu(cx: Context, x: Value, bias: Value | None = None) -> Value:
    return in_float32(cx, relax.op.nn.gelu_tanh, plus(cx, x, bias))


@microsoft_op("QuickGelu")
def quick_gelu(cx: Context, x: Value, *, alpha: float = 1.702) -> Value:
    def function(e: Any) -> Any:
        return relax.op.multiply(e, relax.op.sigmoid(relax.op.multiply(e, relax.const(alpha, e.ty.dtype))))

    return in_float32(cx, relax.op.nn.silu if alpha == 1 else function, x)


@microsoft_op("BiasSplitGelu")
def bias_split_gelu(cx: Context, x: Value, bias: Value) -> Value:
    half = dims.floordiv(x.shape[-1], 2)
    left, right = (window_of(cx, part, {part.ndim - 1: (start, half, 1)}) for part in (plus(cx, x, bias),) for start in (0, half))
    return cx.op(relax.op.multiply(left.expr, gelu(cx, right).expr))
