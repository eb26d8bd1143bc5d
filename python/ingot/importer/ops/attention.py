"""Attention: one call of the runtime's kernel, or its steps where the scores are wanted too or the kernel does not reach."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tvm import relax, te, tirx

from ingot.importer import dims
from ingot.importer.context import Context
from ingot.importer.dims import Dim
from ingot.importer.ops.checks import check_equal, check_shape
from ingot.importer.registry import onnx_op
from ingot.importer.values import Value

# kernels/cpu/attention/attention.h: AttentionLayout, kMostAttentionSize.
SEQUENCE_FIRST, HEAD_FIRST = 0, 1
_MOST_SIZE = 256


@dataclass(frozen=True)
class Window:
    """Which keys a query at position ``p = query + offset`` sees: ``p - left`` to ``p + right``, -1 for no bound.

    With ``lengths``, the keys that each batch has, the last query stands at the last key instead.
    """

    left: int
    right: int
    offset: Dim
    lengths: Value | None

    def at_end(self, queries: Dim, keys: Dim) -> bool | None:
        """Whether the last query stands at the last key, or None if queries start neither there nor at the first key."""
        if self.lengths is not None or (self.left < 0 and self.right < 0) or dims.equal(self.offset, dims.dim(keys - queries)):
            return True
        return False if dims.equal(self.offset, 0) else None


@onnx_op("Attention", since=23)
def attention(cx: Context, q: Value, k: Value, v: Value, attn_mask: Value | None = None, past_key: Value | None = None,
              past_value: Value | None = None, nonpad_kv_seqlen: Value | None = None, *, is_causal: int = 0, kv_num_heads: int | None = None,
              left_window_size: int = -1, q_num_heads: int | None = None, qk_matmul_output_mode: int = 0, right_window_size: int = -1,
              scale: float | None = None, softcap: float = 0.0, softmax_precision: int | None = None) -> list[Value]:
    wanted = [bool(name) for name in cx.node.output] if cx.node is not None else [True]
    wanted += [False] * (4 - len(wanted))
    flat = q.ndim == 3
    _check(cx, q, k, v, past_key, past_value, nonpad_kv_seqlen, q_num_heads, kv_num_heads)
    if flat:
        q, k, v = (split_heads(cx, t, heads or 0, what) for t, heads, what in ((q, q_num_heads, "Q"), (k, kv_num_heads, "K"), (v, kv_num_heads, "V")))
    layout = SEQUENCE_FIRST if flat else HEAD_FIRST
    keys = layout
    if flat and (past_key is not None or wanted[1] or wanted[2] or wanted[3]):
        k, v, keys = cx.transpose(k, [0, 2, 1, 3]), cx.transpose(v, [0, 2, 1, 3]), HEAD_FIRST
    if past_key is not None and past_value is not None:
        k, v = joined(cx, past_key, k), joined(cx, past_value, v)
    window = Window(left_window_size, 0 if is_causal else right_window_size, 0 if past_key is None else past_key.shape[2], nonpad_kv_seqlen)
    y, scores = attend(cx, Heads(q, layout, k, v, keys), attn_mask, window, scale, softcap, qk_matmul_output_mode if wanted[3] else None)
    if flat:
        y = cx.reshape(y, [*y.shape[:2], dims.product(y.shape[2:])])
    return [y, k, v, scores if scores is not None else y][:max(i + 1 for i, w in enumerate(wanted) if w)]


def attend(cx: Context, heads: Heads, mask: Value | None, window: Window, scale: float | None = None, softcap: float = 0.0,
           scores_mode: int | None = None, sinks: Value | None = None) -> tuple[Value, Value | None]:
    """The result of attention in Q's layout, and the scores [batch, heads, queries, keys] that a mode asks for.

    Args:
        cx: Where it is emitted.
        heads: Q, K and V of four axes. Heads of queries are a multiple of heads of keys.
        mask: bool, or numbers to add to scores; it can be broadcast to [batch, heads, queries, keys], and keys that it leaves out are masked.
        window: Which keys a query sees.
        scale: The factor of products; None is 1 / sqrt(size of a head).
        softcap: c in c tanh(score / c), or 0.
        scores_mode: Which scores are wanted: 0 scaled products, 1 with the softcap, 2 with masks, 3 after the softmax; None for none.
        sinks: [heads], for each head one more score in its softmax, which belongs to no key.

    Raises:
        UnsupportedError: The mask does not fit, or the scale depends on a size that is not known while compiling.
    """
    size, value_size = heads.size, heads.v.shape[-1]
    factor = scale if scale is not None else (1.0 / float(size) ** 0.5 if isinstance(size, int) else None)
    if factor is None:
        raise cx.error(f"the size of a head must be known while compiling, but it is {size}")
    mask = None if mask is None else _fitting(cx, mask, heads)
    small = isinstance(size, int) and size <= _MOST_SIZE and isinstance(value_size, int) and value_size <= _MOST_SIZE
    reached = heads.q.dtype in ("float32", "float16", "bfloat16") and heads.k.dtype == heads.v.dtype and small
    if reached and window.at_end(*heads.shape()[2:]) is not None and scores_mode is None:
        return _fused(cx, heads, mask, window, factor, softcap, sinks), None
    y, scores = _explicit(cx, heads, mask, window, factor, softcap, scores_mode or 0, scores_mode is not None, sinks)
    return y if heads.layout == HEAD_FIRST else cx.transpose(y, [0, 2, 1, 3]), scores


@dataclass(frozen=True)
class Heads:
    """Q, K and V of four axes, and whether those are [batch, sequence, head, size] or [batch, head, sequence, size]."""

    q: Value
    layout: int
    k: Value
    v: Value
    keys: int

    @property
    def size(self) -> Dim:
        """The size of a head of Q and K."""
        return self.q.shape[3]

    def shape(self) -> list[Dim]:
        """[batch, query heads, queries, keys]."""
        head, sequence = (1, 2) if self.layout == HEAD_FIRST else (2, 1)
        return [self.q.shape[0], self.q.shape[head], self.q.shape[sequence], self.k.shape[2 if self.keys == HEAD_FIRST else 1]]

    def key_heads(self) -> Dim:
        """The number of heads of K and V."""
        return self.k.shape[1 if self.keys == HEAD_FIRST else 2]


def _check(cx: Context, q: Value, k: Value, v: Value, past_key: Value | None, past_value: Value | None, lengths: Value | None,
           q_heads: int | None, kv_heads: int | None) -> None:
    if q.ndim not in (3, 4) or k.ndim != q.ndim or v.ndim != q.ndim:
        raise cx.error(f"Q, K and V have {q.ndim}, {k.ndim} and {v.ndim} axes; they all have 3 or all have 4")
    if (past_key is None) != (past_value is None):
        raise cx.error("past_key and past_value go together, but only one is given")
    if lengths is not None and past_key is not None:
        raise cx.error("nonpad_kv_seqlen does not go with past_key")
    if q.ndim == 3 and not (q_heads and kv_heads):
        raise cx.error("q_num_heads and kv_num_heads are needed when Q, K and V have 3 axes")
    query_heads, key_heads = (q_heads, kv_heads) if q.ndim == 3 else (q.shape[1], k.shape[1])
    if isinstance(query_heads, int) and isinstance(key_heads, int) and (key_heads < 1 or query_heads % key_heads):
        raise cx.error(f"{query_heads} heads of queries do not share {key_heads} heads of keys evenly")
    if lengths is not None:
        check_shape(cx, lengths, [q.shape[0]], "nonpad_kv_seqlen")


def split_heads(cx: Context, x: Value, heads: int, what: str) -> Value:
    """[batch, sequence, heads x size] with an axis for the heads."""
    size = dims.floordiv(x.shape[2], heads)
    check_equal(cx, x.shape[2], dims.dim(size * heads), f"'{what}' has {x.shape[2]} elements for each token, which {heads} heads do not share evenly")
    return cx.reshape(x, [*x.shape[:2], heads, size])


def joined(cx: Context, past: Value, new: Value) -> Value:
    """Past keys or values [batch, heads, sequence, size] with the new ones behind them."""
    check_shape(cx, past, [*new.shape[:2], past.shape[2] if past.ndim == 4 else 0, new.shape[3]], "a past key or value")
    return cx.op(relax.op.concat([cx.cast(past, new.dtype).expr, new.expr], 2))


def _fitting(cx: Context, mask: Value, heads: Heads) -> Value:
    """A mask as [batch or 1, heads or 1, queries or 1, keys]; keys that it leaves out are masked."""
    if mask.ndim > 4 or not mask.ndim:
        raise cx.error(f"a mask of shape {dims.text(mask.shape)} is not supported; it has 1 to 4 axes")
    mask = cx.reshape(mask, [*[1] * (4 - mask.ndim), *mask.shape])
    whole = heads.shape()
    for given, extent in zip(mask.shape[:3], whole[:3], strict=True):
        if not dims.equal(given, 1):
            check_equal(cx, given, extent, f"a mask of shape {dims.text(mask.shape)} does not fit scores of {dims.text(whole)}")
    if dims.equal(mask.shape[3], whole[3]):
        return mask

    def compute(t: te.Tensor) -> te.Tensor:
        nothing = tirx.const(False, "bool") if mask.dtype == "bool" else tirx.const(float("-inf"), mask.dtype)

        def body(*i: Any) -> Any:
            return tirx.if_then_else(i[3] < t.shape[3], t(*i), nothing)

        return te.compute([*t.shape[:3], dims.expr(whole[3])], body, name="mask")

    return cx.te(compute, mask, name="mask")


def attention_call(cx: Context, q: Value, k: Value, v: Value, layouts: Sequence[int], *, scale: float, softcap: float = 0.0, left: int = -1,
                   right: int = -1, at_end: bool = False, sink_keys: int = 0, mask: Value | None = None, lengths: Value | None = None,
                   slopes: Value | None = None, sinks: Value | None = None, k_scales: Value | None = None, v_scales: Value | None = None,
                   pages: Value | None = None, ring: Value | None = None, sink_queries: Value | None = None) -> Value:
    """A call of the kernel, whose operands and shapes kernels/cpu/attention/attention.h describes.

    Args:
        cx: Where it is emitted.
        q: Queries of four axes.
        k: Keys of four axes: of each batch, or of each page.
        v: Values like them.
        layouts: Those of Q, K and V. The result has Q's layout and type.
        scale: The factor of products.
        softcap: c in c tanh(score / c), or 0.
        left: How far behind a query keys are seen, -1 for no bound.
        right: How far ahead.
        at_end: Whether the last query stands at the last key; otherwise the first one at the first key.
        sink_keys: How many of the first keys are never too far behind, and stay where they are in a ring.
        mask: bool, or numbers to add; broadcast to [batch, heads, queries, keys].
        lengths: [batch], int32 or int64, how many keys there are.
        slopes: [heads] of float32, of ALiBi.
        sinks: [heads] of float32, one more score of each head.
        k_scales: [batch, keys, key heads] of float32, for keys of int8.
        v_scales: The same for values.
        pages: [batch, most pages] of int32; K and V are then pools of pages.
        ring: [batch, 2], int32 or int64: position and slot of the oldest key of a ring.
        sink_queries: Like q, in whose place the first sink_keys keys are multiplied by them.
    """
    optional = [mask, lengths, slopes, sinks, k_scales, v_scales, pages, ring, sink_queries]
    while optional and optional[-1] is None:
        optional.pop()
    result: Value = cx.kernel("attention", [q, k, v, *optional], [([*q.shape[:3], v.shape[3]], q.dtype)],
                              ints=[*layouts, layouts[0], left, right, int(at_end), sink_keys], floats=[scale, softcap])
    return result


def _fused(cx: Context, heads: Heads, mask: Value | None, window: Window, scale: float, softcap: float, sinks: Value | None) -> Value:
    """A call of the kernel, which gives Q's layout."""
    return attention_call(cx, heads.q, heads.k, heads.v, [heads.layout, heads.keys, heads.keys], scale=scale, softcap=softcap, left=window.left,
                          right=window.right, at_end=bool(window.at_end(*heads.shape()[2:])), mask=mask, lengths=window.lengths,
                          sinks=None if sinks is None else cx.cast(sinks, "float32"))


def _explicit(cx: Context, heads: Heads, mask: Value | None, window: Window, scale: float, softcap: float, mode: int,
              wanted: bool, sinks: Value | None) -> tuple[Value, Value | None]:
    """The result [batch, heads, queries, size], and the scores that ``mode`` asks for, step by step in float32 or float64."""
    wide = "float64" if heads.q.dtype == "float64" else "float32"
    q, k, v = (cx.cast(t if layout == HEAD_FIRST else cx.transpose(t, [0, 2, 1, 3]), wide)
               for t, layout in ((heads.q, heads.layout), (heads.k, heads.keys), (heads.v, heads.keys)))
    shape = heads.shape()
    groups = dims.floordiv(shape[1], heads.key_heads())
    together = [shape[0], heads.key_heads(), dims.dim(groups * shape[2])]  # the queries of all heads that share keys, as one matrix

    def stage(function: Any, *values: Value) -> Value:
        return cx.elementwise(function, *values)

    product = cx.op(relax.op.matmul(cx.reshape(q, [*together, heads.size]).expr, relax.op.permute_dims(k.expr, [0, 1, 3, 2])))
    raw = stage(lambda s: s * tirx.const(scale, wide), cx.reshape(product, shape))
    capped = raw if not softcap else stage(lambda s: tirx.tanh(s / tirx.const(softcap, wide)) * tirx.const(softcap, wide), raw)
    biased = _masked(cx, capped, mask, window, shape, wide)
    weights = _softmax(cx, biased, wide, sinks)
    scores = cx.cast([raw, capped, biased, weights][mode], heads.q.dtype) if wanted else None
    y = cx.op(relax.op.matmul(cx.reshape(weights, [*together, shape[3]]).expr, v.expr))
    return cx.cast(cx.reshape(y, [*shape[:3], heads.v.shape[3]]), heads.q.dtype), scores


def _masked(cx: Context, scores: Value, mask: Value | None, window: Window, shape: Sequence[Dim], wide: str) -> Value:
    """Scores with the mask added, and -inf where a query does not see a key."""
    if mask is None and window.lengths is None and window.left < 0 and window.right < 0:
        return scores
    optional = [t for t in (mask, window.lengths) if t is not None]

    def compute(s: te.Tensor, *rest: te.Tensor) -> te.Tensor:
        lengths = rest[-1] if window.lengths is not None else None
        nothing = tirx.const(float("-inf"), wide)

        def body(*i: Any) -> Any:
            value = s(*i)
            seen: list[Any] = []
            if mask is not None:
                given = rest[0](*(tirx.IntImm("int64", 0) if dims.equal(e, 1) else k for k, e in zip(i, mask.shape, strict=True)))
                if mask.dtype == "bool":
                    seen.append(given)
                else:
                    value = value + given.astype(wide)
            count = dims.expr(shape[3]) if lengths is None else lengths(i[0]).astype("int64")
            position = i[2] + (dims.expr(window.offset) if lengths is None else count - dims.expr(shape[2]))
            if lengths is not None:
                seen.append(i[3] < count)
            if window.right >= 0:
                seen.append(i[3] <= position + window.right)
            if window.left >= 0:
                seen.append(i[3] >= position - window.left)
            return tirx.if_then_else(tirx.all(*seen), value, nothing) if seen else value

        return te.compute(s.shape, body, name="masked")

    return cx.te(compute, scores, *optional, name="masked")


def _softmax(cx: Context, scores: Value, wide: str, sinks: Value | None) -> Value:
    """Softmax over the last axis, with one more score for each head if there are sinks; rows that are -inf throughout become 0."""
    nothing = tirx.const(float("-inf"), wide)

    def compute(s: te.Tensor, *rest: te.Tensor) -> te.Tensor:
        j, k = (te.reduce_axis((0, s.shape[3]), name=name) for name in "jk")
        most = te.compute(s.shape[:3], lambda *i: te.max(s(*i, j), axis=j), name="most")
        if rest:
            most = te.compute(s.shape[:3], lambda *i, seen=most: tirx.max(seen(*i), rest[0](i[1]).astype(wide)), name="most_of_all")

        def raised(score: Any, top: Any) -> Any:
            return tirx.if_then_else(top.equal(nothing), tirx.const(0, wide), tirx.exp(score - top))

        parts = te.compute(s.shape, lambda *i: raised(s(*i), most(*i[:-1])), name="exponential")
        total = te.compute(s.shape[:3], lambda *i: te.sum(parts(*i, k), axis=k), name="total")
        if rest:
            total = te.compute(s.shape[:3], lambda *i, seen=total: seen(*i) + raised(rest[0](i[1]).astype(wide), most(*i)), name="total_of_all")

        def divided(*i: Any) -> Any:
            return parts(*i) / tirx.if_then_else(total(*i[:-1]).equal(0), tirx.const(1, wide), total(*i[:-1]))

        return te.compute(s.shape, divided, name="softmax")

    return cx.te(compute, scores, *([] if sinks is None else [sinks]), name="masked_softmax")
