"""Attention and QAttention of com.microsoft: the projections to Q, K and V are inside."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ingot.importer import dims
from ingot.importer.context import Context
from ingot.importer.dims import Dim
from ingot.importer.ops.attention import SEQUENCE_FIRST, Heads, split_heads
from ingot.importer.ops.contrib.common import microsoft_op, plus, refuse, wanted
from ingot.importer.ops.contrib.heads import FILTER, columns, padding, self_attention, sizes_of, stacked, unstacked
from ingot.importer.ops.contrib.integer import dequantized_product
from ingot.importer.ops.linear import matmul
from ingot.importer.values import Value


def _projected(cx: Context, project: Callable[[Dim, Dim], Value], sizes: Sequence[Dim], bias: Value | None, heads: int) -> Heads:
    """Q, K and V, each a product of its own: the kernel reads them where they lie, and nothing is cut out of a common product."""
    parts, start = [], 0
    for size, name in zip(sizes, "QKV", strict=True):
        part = plus(cx, project(start, size), columns(cx, bias, start, size) if bias is not None else None)
        parts.append(split_heads(cx, part, heads, name))
        start = dims.dim(start + size)
    return Heads(parts[0], SEQUENCE_FIRST, parts[1], parts[2], SEQUENCE_FIRST)


def _attended(cx: Context, heads: Heads, mask_index: Value | None, past: Value | None, attention_bias: Value | None, *, low: float,
              scale: float, causal: bool) -> tuple[Value, ...]:
    """The result and, if it is wanted, keys and values of all tokens."""
    before = unstacked(cx, past)
    batch, _, _, keys = heads.shape()
    total = dims.dim(keys + (before.key.shape[2] if before is not None else 0))
    mask = padding(cx, mask_index, batch, total, low, heads.q.dtype)
    if attention_bias is not None:
        mask = plus(cx, attention_bias, mask)
    keep = wanted(cx, 1)
    y, everything, _ = self_attention(cx, heads, before, mask, scale=scale, causal=causal, keep=keep)
    return (y, stacked(cx, everything.k, everything.v)) if keep else (y,)


def _refuse_options(cx: Context, do_rotary: int, share: int) -> None:
    refuse(cx, bool(do_rotary), "do_rotary is not supported; export with RotaryEmbedding or GroupQueryAttention")
    refuse(cx, bool(share), "past_present_share_buffer is not supported; export with past and present as tensors of their own")


@microsoft_op("Attention")
def attention(cx: Context, x: Value, weights: Value, bias: Value | None = None, mask_index: Value | None = None, past: Value | None = None,
              attention_bias: Value | None = None, past_sequence_length: Value | None = None, *, num_heads: int, do_rotary: int = 0,
              mask_filter_value: float = FILTER, past_present_share_buffer: int = 0, qkv_hidden_sizes: list[int] | None = None,
              rotary_embedding_dim: int = 0, scale: float = 0.0, unidirectional: int = 0) -> tuple[Value, ...]:
    _refuse_options(cx, do_rotary, past_present_share_buffer or int(past_sequence_length is not None))
    sizes = sizes_of(cx, weights.shape[-1], qkv_hidden_sizes, num_heads)
    heads = _projected(cx, lambda start, count: matmul(cx, x, columns(cx, weights, start, count)), sizes, bias, num_heads)
    return _attended(cx, heads, mask_index, past, attention_bias, low=mask_filter_value, scale=scale, causal=bool(unidirectional))


@microsoft_op("QAttention")
def quantized_attention(cx: Context, x: Value, weight: Value, bias: Value, x_scale: Value, weight_scale: Value, mask_index: Value | None = None,
                        x_zero: Value | None = None, weight_zero: Value | None = None, past: Value | None = None, *, num_heads: int,
                        do_rotary: int = 0, mask_filter_value: float = FILTER, past_present_share_buffer: int = 0, scale: float = 0.0,
                        unidirectional: int = 0) -> tuple[Value, ...]:
    _refuse_options(cx, do_rotary, past_present_share_buffer)
    sizes = sizes_of(cx, weight.shape[-1], None, num_heads)

    def per_column(value: Value | None, start: Dim, count: Dim) -> Value | None:
        return value if value is None or value.ndim == 0 or dims.equal(value.shape[-1], 1) else columns(cx, value, start, count)

    def project(start: Dim, count: Dim) -> Value:
        scales = per_column(weight_scale, start, count)
        assert scales is not None
        return dequantized_product(cx, x, columns(cx, weight, start, count), x_scale, scales, x_zero, per_column(weight_zero, start, count))

    heads = _projected(cx, project, sizes, bias, num_heads)
    return _attended(cx, heads, mask_index, past, None, low=mask_filter_value, scale=scale, causal=bool(unidirectional))
