"""Attention sinks: each head has a number that takes part in its softmax like a score, but belongs to no key."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tvm import relax, te, tirx

from ingot.importer import dims
from ingot.importer.context import Context
from ingot.importer.ops.attention import HEAD_FIRST, Heads, Window
from ingot.importer.ops.checks import check_shape
from ingot.importer.values import Value


def with_sink(cx: Context, heads: Heads, mask: Value | None, window: Window, before: Value | None,
              sink: Value | None) -> tuple[Heads, Value | None, Window]:
    """Attention with a sink as attention without: a key and a value of zeros stand before all others, and the mask adds the sink to its score.

    Args:
        cx: Where it is emitted.
        heads: Q, K and V.
        mask: Numbers to add to scores, [batch or 1, heads or 1, queries, keys].
        window: Which keys a query sees.
        before: [batch], how many keys stand before the first query; None for none.
        sink: [heads], or None for sinks of 0.
    """
    batch, count, queries, keys = heads.shape()
    if sink is not None:
        check_shape(cx, sink, [count], "'head_sink'")
    axis = 2 if heads.keys == HEAD_FIRST else 1
    k, v = (_after_zeros(cx, t, axis) for t in (heads.k, heads.v))
    dtype = heads.q.dtype
    nothing = tirx.const(float("-inf"), dtype)
    bounded = window.left >= 0  # the window leaves out old keys, but never the sink: the mask says so in its place
    optional = [t for t in (sink, mask, before if bounded else None) if t is not None]

    def compute(*tensors: te.Tensor) -> te.Tensor:
        def body(n: Any, h: Any, i: Any, t: Any) -> Any:
            given = list(tensors)
            own = given.pop(0)(h).astype(dtype) if sink is not None else tirx.const(0, dtype)
            added: Any = tirx.const(0, dtype)
            if mask is not None:
                bias = given.pop(0)
                at = [tirx.IntImm("int64", 0) if dims.equal(e, 1) else j for e, j in zip(mask.shape[:3], (n, h, i), strict=True)]
                added = tirx.if_then_else(t <= bias.shape[3], bias(*at, tirx.max(t - 1, 0)).astype(dtype), nothing)
            if bounded:
                position = i + (given.pop(0)(n) if before is not None else 0)
                added = tirx.if_then_else(t - 1 >= position - window.left, added, nothing)
            return tirx.if_then_else(t.equal(0), own, added)

        shape = [batch if mask is not None or bounded else 1, count, queries if mask is not None or bounded else 1, dims.dim(keys + 1)]
        return te.compute([dims.expr(e) for e in shape], body, name="sink")

    whole = cx.wrap(cx.te(compute, *optional, name="sink"))
    longer = None if window.lengths is None else cx.op(relax.op.add(window.lengths.expr, relax.const(1, window.lengths.dtype)))
    moved = replace(window, left=-1, offset=dims.dim(window.offset + 1), lengths=longer)
    return replace(heads, k=k, v=v), whole, moved


def _after_zeros(cx: Context, x: Value, axis: int) -> Value:
    shape = [1 if i == axis else d for i, d in enumerate(x.shape)]
    zeros = cx.op(relax.op.zeros([dims.expr(d) for d in shape], x.dtype))
    return cx.op(relax.op.concat([zeros.expr, x.expr], axis))
