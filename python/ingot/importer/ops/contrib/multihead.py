"""MultiHeadAttention of com.microsoft: Q, K and V come projected, but for their bias, and in several packings."""

from __future__ import annotations

import numpy as np
from tvm import relax

from ingot.importer import dims
from ingot.importer.context import Context
from ingot.importer.ops.attention import HEAD_FIRST, SEQUENCE_FIRST, Heads, split_heads
from ingot.importer.ops.contrib.common import microsoft_op, plus, refuse, wanted
from ingot.importer.ops.contrib.heads import FILTER, Past, biased, padding, self_attention
from ingot.importer.ops.move import window_of
from ingot.importer.values import Value

_QK_MODE = 2  # the fourth output has scores as they enter the softmax
_LOWEST = float(np.finfo(np.float32).min)


@microsoft_op("MultiHeadAttention")
def multi_head_attention(cx: Context, query: Value, key: Value | None = None, value: Value | None = None, bias: Value | None = None,
                         key_padding_mask: Value | None = None, attention_bias: Value | None = None, past_key: Value | None = None,
                         past_value: Value | None = None, past_sequence_length: Value | None = None, cache_indirection: Value | None = None, *,
                         num_heads: int, mask_filter_value: float = FILTER, scale: float = 0.0, unidirectional: int = 0) -> tuple[Value, ...]:
    refuse(cx, past_sequence_length is not None or cache_indirection is not None,
           "buffers that past and present share are not supported; export with past and present as tensors of their own")
    refuse(cx, (past_key is None) != (past_value is None), "past_key and past_value go together, but only one is given")
    heads = _heads(cx, query, key, value, bias, num_heads)
    past = Past(past_key, past_value) if past_key is not None and past_value is not None else None
    batch, _, _, keys = heads.shape()
    total = dims.dim(keys + (past.key.shape[2] if past is not None else 0))
    mask = padding(cx, key_padding_mask, batch, total, mask_filter_value, query.dtype)
    if attention_bias is not None:
        mask = plus(cx, attention_bias, mask)
    y, everything, scores = self_attention(cx, heads, past, mask, scale=scale, causal=bool(unidirectional), keep=wanted(cx, 1) or wanted(cx, 2),
                                           scores_mode=_QK_MODE if wanted(cx, 3) else None)
    if scores is not None and unidirectional:  # onnxruntime hides keys behind this number
        scores = cx.cast(cx.op(relax.op.maximum(cx.cast(scores, "float32").expr, relax.const(_LOWEST, "float32"))), scores.dtype)
    results = [y, everything.k, everything.v, *([scores] if scores is not None else [])]
    return tuple(results[:max(i + 1 for i in range(len(results)) if wanted(cx, i))])


def _heads(cx: Context, query: Value, key: Value | None, value: Value | None, bias: Value | None, count: int) -> Heads:
    if query.ndim == 5 or (key is not None and key.ndim == 5):
        return _packed(cx, query, key, value, bias, count)
    if key is None or value is None or query.ndim != 3 or key.ndim != value.ndim or key.ndim not in (3, 4):
        shapes = ", ".join("none" if t is None else dims.text(t.shape) for t in (query, key, value))
        raise cx.error(f"Q, K and V of shapes {shapes} are not supported; they are [batch, sequence, hidden size], or K and V [batch, heads, "
                       "sequence, size], or packed: [batch, sequence, heads, 3, size], or K and V [batch, sequence, heads, 2, size]")
    hidden = query.shape[2]
    q = biased(cx, query, bias, 0)
    assert q is not None
    if key.ndim == 4:  # keys of an encoder, which are kept as they are
        return Heads(split_heads(cx, q, count, "Q"), SEQUENCE_FIRST, key, value, HEAD_FIRST)
    k, v = biased(cx, key, bias, hidden), biased(cx, value, bias, dims.dim(2 * hidden))
    assert k is not None and v is not None
    return Heads(split_heads(cx, q, count, "Q"), SEQUENCE_FIRST, split_heads(cx, k, count, "K"), split_heads(cx, v, count, "V"), SEQUENCE_FIRST)


def _packed(cx: Context, query: Value, key: Value | None, value: Value | None, bias: Value | None, count: int) -> Heads:
    """Q, K and V, or K and V, that stand side by side for each head."""
    if bias is not None:
        raise cx.error("a bias does not go with packed Q, K and V; add it before they are packed")
    packed = query if query.ndim == 5 else key
    parts = 3 if query.ndim == 5 else 2
    if packed is None or value is not None or (query.ndim == 5 and key is not None) or packed.shape[3] != parts or packed.shape[2] != count:
        raise cx.error(f"packed tensors of {count} heads are [batch, sequence, {count}, 3, size] alone, or Q [batch, sequence, hidden size] and "
                       f"[batch, sequence, {count}, 2, size]")
    shape = [*packed.shape[:3], packed.shape[4]]
    taken = [cx.op(relax.op.reshape(window_of(cx, packed, {3: (i, 1, 1)}).expr, [dims.expr(d) for d in shape])) for i in range(parts)]
    q = taken[0] if parts == 3 else split_heads(cx, query, count, "Q")
    return Heads(q, SEQUENCE_FIRST, taken[-2], taken[-1], SEQUENCE_FIRST)
