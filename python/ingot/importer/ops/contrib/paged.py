"""PagedAttention of com.microsoft: tokens of many sequences side by side, whose keys and values lie in pages of common pools."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm import te, tirx

from ingot.importer import dims
from ingot.importer.context import Context
from ingot.importer.dims import Dim
from ingot.importer.ops.attention import SEQUENCE_FIRST, attention_call
from ingot.importer.ops.checks import check_shape
from ingot.importer.ops.contrib.common import microsoft_op, refuse, wanted
from ingot.importer.ops.contrib.grouped import split_query
from ingot.importer.ops.contrib.rotary import rotated
from ingot.importer.ops.indexing import scatter_nd
from ingot.importer.ops.normalize import rms_normalization
from ingot.importer.values import Value


@microsoft_op("PagedAttention")
def paged_attention(cx: Context, query: Value, key: Value | None, value: Value | None, key_cache: Value, value_cache: Value | None,
                    cumulative_sequence_length: Value, past_seqlens: Value, block_table: Value, cos_cache: Value | None = None,
                    sin_cache: Value | None = None, slot_mapping: Value | None = None, head_sink: Value | None = None,
                    q_norm_weight: Value | None = None, k_norm_weight: Value | None = None, k_scale: Value | None = None,
                    v_scale: Value | None = None, attention_metadata: Value | None = None, *, num_heads: int, kv_num_heads: int, do_rotary: int = 0,
                    is_causal: int = 1, k_cache_dtype: str = "", k_quant_type: str = "NONE", kv_cache_layout: str = "SEPARATE",
                    local_window_size: int = -1, qk_norm_epsilon: float = 1e-6, rotary_interleaved: int = 0, rotary_offset: int = 0,
                    scale: float = 0.0, softcap: float = 0.0, v_cache_dtype: str = "", v_head_size: int = 0,
                    v_quant_type: str = "NONE") -> tuple[Value, ...]:
    floats = ("float32", "float16", "bfloat16")
    quantized = k_scale is not None or v_scale is not None or key_cache.dtype not in floats or bool(k_cache_dtype or v_cache_dtype)
    refuse(cx, quantized or (k_quant_type, v_quant_type) != ("NONE", "NONE"), "a quantized cache is not supported; keep keys and values as they are")
    if kv_cache_layout != "SEPARATE" or value_cache is None or v_head_size:
        raise cx.error("keys and values in one pool are not supported; give a value_cache (kv_cache_layout='SEPARATE')")
    refuse(cx, slot_mapping is not None, "slot_mapping is not supported; leave it out, so that block_table says where new keys go")
    refuse(cx, bool(rotary_offset), "a rotary_offset is not supported; rotate the first elements of heads (rotary_offset=0)")
    refuse(cx, not is_causal and local_window_size >= 0, "a local window is for causal attention; set local_window_size=-1")
    refuse(cx, (q_norm_weight is None) != (k_norm_weight is None), "q_norm_weight and k_norm_weight go together, but only one is given")
    refuse(cx, query.ndim != 2, f"queries of shape {dims.text(query.shape)} are not supported; they are [tokens, hidden size]")
    alone = [None if t is None else cx.reshape(t, [t.shape[0], 1, *t.shape[1:]]) for t in (query, key, value)]  # each token is a batch
    assert alone[0] is not None
    q, k, v = split_query(cx, alone[0], alone[1], alone[2], num_heads, kv_num_heads)
    size = q.shape[3]
    refuse(cx, not isinstance(size, int) or size > 256, f"heads of {dims.show(size)} elements are not supported; they have at most 256")
    for pool, what in ((key_cache, "'key_cache'"), (value_cache, "'value_cache'")):
        check_shape(cx, pool, [*(key_cache.shape[:2] if key_cache.ndim == 4 else (0, 0)), kv_num_heads, size], what)
    refuse(cx, key_cache.dtype != value_cache.dtype, f"keys of {key_cache.dtype} and values of {value_cache.dtype} are not supported")
    tokens = _Tokens(q.shape[0], key_cache.shape[1], cumulative_sequence_length, past_seqlens, block_table)
    check_shape(cx, block_table, [past_seqlens.shape[0], block_table.shape[1] if block_table.ndim == 2 else 0], "'block_table'")
    check_shape(cx, cumulative_sequence_length, [dims.dim(past_seqlens.shape[0] + 1)], "'cumulative_sequence_length'")
    if q_norm_weight is not None and k_norm_weight is not None:
        q, k = (rms_normalization(cx, t, w, epsilon=qk_norm_epsilon) for t, w in ((q, q_norm_weight), (k, k_norm_weight)))
    if do_rotary:
        if cos_cache is None or sin_cache is None:
            raise cx.error("do_rotary needs cos_cache and sin_cache")
        positions = tokens.compute(cx, [1], "int64", lambda t, _: t.position)
        q, k = (rotated(cx, t, SEQUENCE_FIRST, positions, cos_cache, sin_cache, bool(rotary_interleaved)) for t in (q, k))
    if head_sink is not None:
        check_shape(cx, head_sink, [num_heads], "'head_sink'")
    slots = tokens.compute(cx, [2], "int64", lambda t, i: tirx.Select(i.equal(0), t.page(t.position // t.page_size), t.position % t.page_size))
    keys, values = (scatter_nd(cx, pool, slots, cx.reshape(cx.cast(new, pool.dtype), [new.shape[0], *new.shape[2:]]))
                    for pool, new in ((key_cache, k), (value_cache, v)))
    lengths = tokens.compute(cx, [], "int64", lambda t: t.position + 1 if is_causal else t.end)
    pages = tokens.compute(cx, [block_table.shape[1]], "int32", lambda t, i: t.page(i))
    y = attention_call(cx, q, keys, values, [SEQUENCE_FIRST] * 3, scale=scale or float(size) ** -0.5, softcap=softcap,
                       left=local_window_size - 1 if local_window_size > 0 else -1, at_end=True, lengths=lengths, pages=pages,
                       sinks=None if head_sink is None else cx.cast(head_sink, "float32"))
    y = cx.reshape(y, [y.shape[0], dims.product(y.shape[2:])])
    return (y, keys, values) if wanted(cx, 1) or wanted(cx, 2) else (y,)


@dataclass(frozen=True)
class _Token:
    """One token in TIR: where it stands in its sequence, how many tokens that has, and its row of pages."""

    position: Any
    end: Any
    page: Any
    page_size: Any


@dataclass(frozen=True)
class _Tokens:
    """Tokens of several sequences side by side. What would lie outside the tables, whatever the lengths say, is moved inside."""

    count: Dim
    page_size: Dim
    starts: Value  # [sequences + 1], the first token of each
    past: Value  # [sequences]
    table: Value  # [sequences, pages]

    def compute(self, cx: Context, rest: list[Dim], dtype: str, function: Any) -> Value:
        """A tensor [tokens, *rest] of ``function(token, *indices)``."""
        size, zero = dims.expr(self.page_size), tirx.IntImm("int64", 0)

        def build(starts: te.Tensor, past: te.Tensor, table: te.Tensor) -> te.Tensor:
            j = te.reduce_axis((0, past.shape[0]), name="j")
            ended = te.compute([dims.expr(self.count)], lambda n: te.sum(
                tirx.Select(starts(j + 1).astype("int64") <= n, tirx.IntImm("int64", 1), zero), axis=j), name="ended")

            def body(n: Any, *i: Any) -> Any:
                which = tirx.min(ended(n), past.shape[0] - 1)
                room = table.shape[1] * size
                before, first = past(which).astype("int64"), starts(which).astype("int64")
                position = tirx.max(tirx.min(before + n - first, room - 1), zero)
                end = tirx.max(tirx.min(before + starts(which + 1).astype("int64") - first, room), zero)
                return function(_Token(position, end, lambda p: table(which, p).astype("int64"), size), *i).astype(dtype)

            return te.compute([dims.expr(d) for d in (self.count, *rest)], body, name="tokens")

        return cx.wrap(cx.te(build, self.starts, self.past, self.table, name="tokens"))
