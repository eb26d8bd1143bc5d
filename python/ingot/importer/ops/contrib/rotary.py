"""Rotary embeddings: pairs of elements are rotated by angles that depend on where a token stands."""

from __future__ import annotations

from typing import Any

from tvm import relax, te

from ingot.importer import dims
from ingot.importer.context import Context
from ingot.importer.ops.attention import HEAD_FIRST, SEQUENCE_FIRST, split_heads
from ingot.importer.ops.checks import check_shape
from ingot.importer.ops.contrib.common import microsoft_op, refuse
from ingot.importer.ops.contrib.heads import columns
from ingot.importer.ops.elementwise import NARROW_FLOATS
from ingot.importer.ops.move import concat
from ingot.importer.ops.shape import gather
from ingot.importer.values import Value


def rotated(cx: Context, x: Value, layout: int, positions: Value, cos: Value, sin: Value, interleaved: bool) -> Value:
    """Heads with the first elements of each rotated.

    Args:
        cx: Where it is emitted.
        x: Heads of four axes, in either layout.
        layout: SEQUENCE_FIRST or HEAD_FIRST.
        positions: Integers [batch or 1, sequence].
        cos: Cosines [positions, half of the elements to rotate].
        sin: Sines, likewise.
        interleaved: Whether a pair is two elements in a row; else they lie half of the elements apart.
    """
    half = cos.shape[-1]
    check_shape(cx, sin, cos.shape, "'sin_cache'")
    refuse(cx, not (isinstance(half, int) and isinstance(x.shape[3], int) and 0 < 2 * half <= x.shape[3]),
           f"heads of {dims.show(x.shape[3])} elements cannot be rotated by {dims.show(half)} angles")
    wide = cx.cast(x, "float32") if x.dtype in NARROW_FLOATS else x
    at = 1 if layout == HEAD_FIRST else 2
    cosines, sines = (_spread(cx, cx.cast(gather(cx, t, positions, axis=0), wide.dtype), at) for t in (cos, sin))
    head, rest = columns(cx, wide, 0, 2 * half), columns(cx, wide, 2 * half, dims.dim(x.shape[3] - 2 * half))
    if interleaved:
        pairs = cx.reshape(head, [*head.shape[:3], half, 2])
        first, second = (cx.reshape(columns(cx, pairs, i, 1), [*head.shape[:3], half]) for i in (0, 1))
    else:
        first, second = columns(cx, head, 0, half), columns(cx, head, half, half)

    def turned(a: Value, b: Value, operator: Any) -> Value:
        """A · cos ± b · sin."""
        return cx.op(operator(relax.op.multiply(a.expr, cosines.expr), relax.op.multiply(b.expr, sines.expr)))

    low, high = turned(first, second, relax.op.subtract), turned(second, first, relax.op.add)
    if interleaved:
        both = cx.reshape(concat(cx, *(cx.reshape(t, [*t.shape, 1]) for t in (low, high)), axis=4), head.shape)
        return cx.cast(concat(cx, both, rest, axis=3), x.dtype)
    return cx.cast(concat(cx, low, high, rest, axis=3), x.dtype)


def _spread(cx: Context, angles: Value, axis: int) -> Value:
    """[batch, sequence, half] with an axis for the heads."""
    return cx.reshape(angles, [*angles.shape[:axis], 1, *angles.shape[axis:]])


def positions_from(cx: Context, first: Value, count: dims.Dim) -> Value:
    """Positions [1, count] from a first one of shape [1] on."""

    def compute(t: te.Tensor) -> te.Tensor:
        return te.compute([1, dims.expr(count)], lambda _, i: t(0).astype("int64") + i, name="positions")

    return cx.wrap(cx.te(compute, first, name="positions"))


@microsoft_op("RotaryEmbedding")
def rotary_embedding(cx: Context, x: Value, position_ids: Value, cos_cache: Value, sin_cache: Value, *, interleaved: int = 0,
                     is_packed_batching: int = 0, num_heads: int = 0, rotary_embedding_dim: int = 0, scale: float = 1.0) -> Value:
    refuse(cx, bool(is_packed_batching), "is_packed_batching is not supported; export with a batch of padded sequences")
    refuse(cx, scale != 1, f"a scale of {scale} is not supported; scale the cosines and sines")
    refuse(cx, x.ndim not in (3, 4), f"an input of shape {dims.text(x.shape)} is not supported; it has 3 or 4 axes")
    if x.ndim == 4:
        heads, layout = x, HEAD_FIRST
    else:
        size = 2 * cos_cache.shape[-1]
        refuse(cx, bool(rotary_embedding_dim) and not num_heads, "num_heads is needed with rotary_embedding_dim")
        count = num_heads or dims.floordiv(x.shape[2], size)
        refuse(cx, not isinstance(count, int), "the number of heads must be known while compiling")
        heads, layout = split_heads(cx, x, count, "input"), SEQUENCE_FIRST
    sequence = heads.shape[2 if layout == HEAD_FIRST else 1]
    if position_ids.ndim == 1:
        check_shape(cx, position_ids, [1], "a first position")
        position_ids = positions_from(cx, position_ids, sequence)
    return cx.reshape(rotated(cx, heads, layout, position_ids, cos_cache, sin_cache, bool(interleaved)), x.shape)
