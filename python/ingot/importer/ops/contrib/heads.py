"""What attention operators of com.microsoft share: heads in hidden sizes, masks of padding, keys and values that are kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import relax, te, tirx

from ingot.importer import dims
from ingot.importer.context import Context
from ingot.importer.dims import Dim
from ingot.importer.ops.attention import HEAD_FIRST, SEQUENCE_FIRST, Heads, Window, attend, joined
from ingot.importer.ops.checks import check_shape
from ingot.importer.ops.contrib.common import plus
from ingot.importer.ops.move import window_of
from ingot.importer.values import Value

#: What onnxruntime adds to the scores of padding, unless the node says otherwise.
FILTER = -10000.0


def columns(cx: Context, value: Value, start: Dim, count: Dim) -> Value:
    """A stretch of the last axis; that of a constant is cut out while compiling."""
    if dims.equal(start, 0) and dims.equal(count, value.shape[-1]):
        return value
    if value.weight is not None and isinstance(start, int) and isinstance(count, int):
        shape = (*value.weight.shape[:-1], count)
        weight = value.weight.map(lambda a: np.ascontiguousarray(a[..., start:start + count]), shape, f":{start}+{count}")
        return Value(cx, value.dtype, shape, value.name, weight=weight)
    return window_of(cx, value, {value.ndim - 1: (start, count, 1)})


def sizes_of(cx: Context, total: Dim, given: Sequence[int] | None, heads: int) -> list[Dim]:
    """The hidden sizes of Q, K and V, which stand side by side."""
    sizes: list[Dim] = list(given) if given else [dims.floordiv(total, 3)] * 3
    if len(sizes) != 3 or not dims.equal(sum(sizes), total):
        raise cx.error(f"sizes {dims.text(sizes)} of Q, K and V do not make up the {dims.show(total)} columns of their weights")
    if any(isinstance(s, int) and (s < heads or s % heads) for s in sizes) or not dims.equal(sizes[0], sizes[1]):
        raise cx.error(f"sizes {dims.text(sizes)} of Q, K and V are not supported: {heads} heads share each, and those of Q and K are equal")
    return sizes


def biased(cx: Context, x: Value | None, bias: Value | None, start: Dim) -> Value | None:
    """A tensor with its stretch of the bias of Q, K and V added."""
    return plus(cx, x, columns(cx, bias, start, x.shape[-1])) if x is not None and bias is not None else x


@dataclass(frozen=True)
class Past:
    """Keys and values [batch, heads, sequence, size] of earlier tokens."""

    key: Value
    value: Value


def self_attention(cx: Context, q: Heads, past: Past | None, mask: Value | None, *, scale: float | None, causal: bool,
                   scores_mode: int | None = None, keep: bool = False) -> tuple[Value, Heads, Value | None]:
    """Attention with what is kept of earlier tokens.

    Args:
        cx: Where it is emitted.
        q: Q, K and V of the new tokens.
        past: Keys and values of earlier ones.
        mask: Numbers to add to scores.
        scale: The factor of products; None or 0 is 1 / sqrt(size of a head).
        causal: Whether a token sees only itself and earlier ones.
        scores_mode: As ``attend`` takes it.
        keep: Whether keys and values are wanted too.

    Returns:
        The result [batch, sequence, hidden size], the heads with all keys and values (with the head first if past or kept), and the scores.
    """
    k, v, layout = q.k, q.v, q.keys
    if layout == SEQUENCE_FIRST and (past is not None or keep or scores_mode is not None):
        k, v, layout = cx.transpose(k, [0, 2, 1, 3]), cx.transpose(v, [0, 2, 1, 3]), HEAD_FIRST
    offset: Dim = 0
    if past is not None:
        offset = past.key.shape[2]
        k, v = joined(cx, past.key, k), joined(cx, past.value, v)
    heads = Heads(q.q, q.layout, k, v, layout)
    y, scores = attend(cx, heads, mask, Window(-1, 0 if causal else -1, offset, None), scale or None, scores_mode=scores_mode)
    return cx.reshape(y, [*y.shape[:2], dims.product(y.shape[2:])]), heads, scores


def padding(cx: Context, mask: Value | None, batch: Dim, keys: Dim, low: float, dtype: str) -> Value | None:
    """A mask of padding as numbers to add to scores, [batch, 1, 1 or queries, keys]: 0 for tokens, and ``low`` for padding.

    Args:
        cx: Where it is emitted.
        mask: Integers [batch, keys] or [batch, queries, keys], positive for tokens; [batch], how many tokens each batch has; or
            [2 · batch], where they end and then where they start.
        batch: The number of batches.
        keys: The number of keys.
        low: What hides a score.
        dtype: The type of the result.
    """
    if mask is None:
        return None
    if mask.ndim in (2, 3):
        shape = [mask.shape[0], 1, *([1] if mask.ndim == 2 else []), *mask.shape[1:]]
        return cx.elementwise(lambda m: tirx.Select(m > 0, tirx.const(0, dtype), tirx.const(low, dtype)), cx.reshape(mask, shape), name="padding")
    if mask.ndim != 1:
        raise cx.error(f"a mask of shape {dims.text(mask.shape)} is not supported; it is [batch, keys], [batch, queries, keys], [batch] or "
                       "[2 · batch]")
    starts = not dims.equal(mask.shape[0], batch)
    if starts:
        check_shape(cx, mask, [dims.dim(2 * batch)], "a mask that says where tokens end and start")

    def compute(t: te.Tensor) -> te.Tensor:
        def body(n: Any, _: Any, __: Any, key: Any) -> Any:
            seen = key < t(n).astype("int64")
            if starts:
                seen = tirx.all(seen, key >= t(n + dims.expr(batch)).astype("int64"))
            return tirx.Select(seen, tirx.const(0, dtype), tirx.const(low, dtype))

        return te.compute([dims.expr(d) for d in (batch, 1, 1, keys)], body, name="padding")

    return cx.wrap(cx.te(compute, mask, name="padding"))


def stacked(cx: Context, key: Value, value: Value) -> Value:
    """Keys and values as one tensor [2, ...]."""
    return cx.op(relax.op.concat([cx.reshape(t, [1, *t.shape]).expr for t in (key, value)], 0))


def unstacked(cx: Context, both: Value | None) -> Past | None:
    """Keys and values from one tensor [2, batch, heads, sequence, size]."""
    if both is None:
        return None
    if both.ndim != 5 or not dims.equal(both.shape[0], 2):
        raise cx.error(f"'past' has shape {dims.text(both.shape)}; it is [2, batch, heads, sequence, size]")
    key, value = (cx.reshape(window_of(cx, both, {0: (i, 1, 1)}), both.shape[1:]) for i in (0, 1))
    return Past(key, value)
