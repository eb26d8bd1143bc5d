"""GroupQueryAttention of com.microsoft: attention with a cache of keys and values, of which each batch has filled as much as its tokens need."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from tvm import relax, te, tirx

from ingot.importer import dims
from ingot.importer.context import Context
from ingot.importer.dims import Dim
from ingot.importer.ops.attention import HEAD_FIRST, SEQUENCE_FIRST, Heads, Window, attend, split_heads
from ingot.importer.ops.checks import check_equal, check_shape
from ingot.importer.ops.contrib.common import microsoft_op, refuse, wanted
from ingot.importer.ops.contrib.heads import Past, columns
from ingot.importer.ops.contrib.rotary import rotated
from ingot.importer.ops.normalize import rms_normalization
from ingot.importer.values import Value


@microsoft_op("GroupQueryAttention")
def group_query_attention(cx: Context, query: Value, key: Value | None = None, value: Value | None = None, past_key: Value | None = None,
                          past_value: Value | None = None, seqlens_k: Value | None = None, total_sequence_length: Value | None = None,
                          cos_cache: Value | None = None, sin_cache: Value | None = None, position_ids: Value | None = None,
                          attention_bias: Value | None = None, head_sink: Value | None = None, k_scale: Value | None = None,
                          v_scale: Value | None = None, q_norm_weight: Value | None = None, k_norm_weight: Value | None = None,
                          query_seqlens: Value | None = None, *, num_heads: int, kv_num_heads: int, causal: int = 1, do_rotary: int = 0,
                          k_norm_epsilon: float | None = None, k_quant_type: str = "NONE", kv_cache_bit_width: int = 0, local_window_size: int = -1,
                          q_norm_epsilon: float | None = None, qk_norm_epsilon: float = 1e-6, qk_output: int = 0, rotary_interleaved: int = 0,
                          scale: float = 0.0, sliding_window_cache: int = 0, smooth_softmax: int = -1, softcap: float = 0.0,
                          v_quant_type: str = "NONE") -> tuple[Value, ...]:
    quantized = k_scale is not None or v_scale is not None or k_quant_type != "NONE" or v_quant_type != "NONE"
    refuse(cx, quantized, "a quantized cache is not supported; keep keys and values as they are computed")
    refuse(cx, bool(sliding_window_cache), "a cache of the size of the window is not supported; keep all keys and values (sliding_window_cache=0)")
    refuse(cx, bool(qk_output) or wanted(cx, 3), "scores as a fourth output are not supported; remove it and set qk_output=0")
    refuse(cx, (past_key is None) != (past_value is None), "past_key and past_value go together, but only one is given")
    refuse(cx, (q_norm_weight is None) != (k_norm_weight is None), "q_norm_weight and k_norm_weight go together, but only one is given")
    refuse(cx, not causal and local_window_size >= 0, "a local window is for causal attention; set local_window_size=-1")
    if seqlens_k is None or total_sequence_length is None:
        raise cx.error("seqlens_k and total_sequence_length are needed")
    q, k, v = split_query(cx, query, key, value, num_heads, kv_num_heads)
    if q_norm_weight is not None and k_norm_weight is not None:
        q = rms_normalization(cx, q, q_norm_weight, epsilon=qk_norm_epsilon if q_norm_epsilon is None else q_norm_epsilon)
        k = rms_normalization(cx, k, k_norm_weight, epsilon=qk_norm_epsilon if k_norm_epsilon is None else k_norm_epsilon)
    past = Past(past_key, past_value) if past_key is not None and past_value is not None else None
    tokens = _tokens(cx, q, past, seqlens_k, total_sequence_length, query_seqlens)
    if do_rotary:
        if cos_cache is None or sin_cache is None:
            raise cx.error("do_rotary needs cos_cache and sin_cache")
        positions = _positions(cx, tokens, position_ids)
        q, k = (rotated(cx, t, SEQUENCE_FIRST, positions, cos_cache, sin_cache, bool(rotary_interleaved)) for t in (q, k))
    layout = SEQUENCE_FIRST if past is None else HEAD_FIRST
    keys, values = (k, v) if past is None else (_written(cx, past.key, k, tokens), _written(cx, past.value, v, tokens))
    heads = Heads(q, SEQUENCE_FIRST, keys, values, layout)
    window = Window(local_window_size - 1 if local_window_size > 0 else -1, 0 if causal else -1, 0, _lengths(cx, tokens, bool(causal)))
    if head_sink is not None:
        check_shape(cx, head_sink, [num_heads], "'head_sink'")
    elif smooth_softmax > 0:  # a sink of 0: the denominator grows by e^0
        head_sink = cx.op(relax.op.zeros([num_heads], "float32"))
    y, _ = attend(cx, heads, attention_bias, window, scale or None, softcap, sinks=head_sink)
    y = cx.reshape(y, [*y.shape[:2], dims.product(y.shape[2:])])
    if not (wanted(cx, 1) or wanted(cx, 2)):
        return (y,)
    return y, *(cx.transpose(t, [0, 2, 1, 3]) if past is None else t for t in (keys, values))


@dataclass(frozen=True)
class _Tokens:
    """Where the new tokens of each batch stand.

    ``before`` [batch] is how many tokens it has before them, None for none; ``new`` [batch] how many of them are not padding, None for all.
    """

    batch: Dim
    count: Dim
    keys: Dim  # the extent of the cache after this step
    before: Value | None
    new: Value | None
    lengths: Value  # [batch], one less than the tokens that each has after this step
    first: Any  # whether no batch has tokens before: a bool, or a TIR condition


def _tokens(cx: Context, q: Value, past: Past | None, lengths: Value, total: Value, new: Value | None) -> _Tokens:
    batch, count = q.shape[:2]
    lengths = cx.reshape(lengths, [batch]) if lengths.ndim == 2 else lengths
    check_shape(cx, lengths, [batch], "'seqlens_k'")
    whole = cx.dims(total, "total_sequence_length")[0]
    if past is None:
        check_equal(cx, whole, count, "without past_key, total_sequence_length is the number of tokens")
        return _Tokens(batch, count, count, None, None, lengths, True)
    if new is not None:
        check_shape(cx, new, [batch], "'query_seqlens'")
    keys = cx.let([dims.maximum(whole, past.key.shape[2])])[0]
    known = dims.equal(whole, count) or (isinstance(whole, int) and isinstance(count, int))
    same = dims.equal(whole, count) if known else dims.expr(whole).equal(dims.expr(count))
    first = False if new is not None else same
    if first is True:
        return _Tokens(batch, count, keys, None, None, lengths, True)

    def compute(t: te.Tensor, *filled: te.Tensor) -> te.Tensor:
        def body(n: Any) -> Any:
            fresh = filled[0](n).astype("int64") if filled else dims.expr(count)
            # Never negative, and never so large that keys would lie behind the cache, whatever the lengths say.
            start = tirx.max(tirx.min(t(n).astype("int64") + 1, dims.expr(keys)) - fresh, 0)
            return start if isinstance(first, bool) else tirx.Select(first, tirx.IntImm("int64", 0), start)

        return te.compute([dims.expr(batch)], body, name="before")

    before = cx.te(compute, lengths, *([new] if new is not None else []), name="before")
    return _Tokens(batch, count, keys, before, new, lengths, first)


def _lengths(cx: Context, tokens: _Tokens, causal: bool) -> Value | None:
    """How many keys each batch has. With causal attention these end at the last query, padding or not: that puts queries where they stand."""
    if causal and tokens.before is None:
        return None
    ends = tokens.lengths if not causal or tokens.before is None else tokens.before
    more = 1 if ends is tokens.lengths else tokens.count

    def compute(t: te.Tensor) -> te.Tensor:
        def body(n: Any) -> Any:
            return tirx.max(tirx.min(t(n).astype("int64") + dims.expr(more), dims.expr(tokens.keys)), 0)

        return te.compute([dims.expr(tokens.batch)], body, name="lengths")

    return cx.wrap(cx.te(compute, ends, name="lengths"))


def _positions(cx: Context, tokens: _Tokens, given: Value | None) -> Value:
    """The positions of new tokens, [batch or 1, sequence]. In a first prompt all count from the first given one, as onnxruntime has it."""
    optional = [t for t in (given, tokens.before) if t is not None]

    def compute(*tensors: te.Tensor) -> te.Tensor:
        def body(n: Any, i: Any) -> Any:
            if given is None:
                return tensors[0](n) + i if tensors else i
            listed, counted = tensors[0](n, i).astype("int64"), tensors[0](0, 0).astype("int64") + i
            if isinstance(tokens.first, bool):
                return counted if tokens.first else listed
            return tirx.Select(tokens.first, counted, listed)

        return te.compute([dims.expr(tokens.batch if optional else 1), dims.expr(tokens.count)], body, name="positions")

    if given is not None:
        check_shape(cx, given, [tokens.batch, tokens.count], "'position_ids'")
    return cx.wrap(cx.te(compute, *optional, name="positions"))


def _written(cx: Context, past: Value, new: Value, tokens: _Tokens) -> Value:
    """The cache [batch, heads, keys, size] with the new keys or values, which are [batch, sequence, heads, size], behind the ones before."""
    check_shape(cx, past, [new.shape[0], new.shape[2], past.shape[2] if past.ndim == 4 else 0, new.shape[3]], "a past key or value")
    optional = [t for t in (tokens.before, tokens.new) if t is not None]
    zero = tirx.const(0, new.dtype)

    def compute(old: te.Tensor, fresh: te.Tensor, *rest: te.Tensor) -> te.Tensor:
        def body(n: Any, h: Any, t: Any, d: Any) -> Any:
            i = t - rest[0](n) if tokens.before is not None else t
            count = rest[-1](n).astype("int64") if tokens.new is not None else dims.expr(tokens.count)
            kept = tirx.if_then_else(t < old.shape[2], old(n, h, t, d), zero)
            return tirx.if_then_else(tirx.all(i >= 0, i < count), fresh(n, i, h, d), kept)

        shape = [new.shape[0], new.shape[2], tokens.keys, new.shape[3]]
        return te.compute([dims.expr(e) for e in shape], body, name="cache")

    return cx.wrap(cx.te(compute, cx.cast(past, new.dtype), new, *optional, name="cache"))


def split_query(cx: Context, query: Value, key: Value | None, value: Value | None, heads: int, kv_heads: int) -> tuple[Value, Value, Value]:
    """Q, K and V as [batch, sequence, heads, size]."""
    refuse(cx, kv_heads < 1 or heads % max(kv_heads, 1) != 0, f"{heads} heads of queries do not share {kv_heads} heads of keys evenly")
    refuse(cx, query.ndim != 3, f"queries of shape {dims.text(query.shape)} are not supported; they are [batch, sequence, hidden size]")
    if key is None or value is None:
        refuse(cx, key is not value, "key and value go together, but only one is given")
        size = dims.floordiv(query.shape[2], heads + 2 * kv_heads)
        ends = [0, dims.dim(heads * size), dims.dim((heads + kv_heads) * size), dims.dim((heads + 2 * kv_heads) * size)]
        check_equal(cx, query.shape[2], ends[3], f"packed queries, keys and values do not make up {dims.show(query.shape[2])} elements")
        query, key, value = (columns(cx, query, start, dims.dim(end - start)) for start, end in pairwise(ends))
    for tensor, what in ((key, "'key'"), (value, "'value'")):
        check_shape(cx, tensor, [*query.shape[:2], tensor.shape[2] if tensor.ndim == 3 else 0], what)
    q, k, v = split_heads(cx, query, heads, "query"), split_heads(cx, key, kv_heads, "key"), split_heads(cx, value, kv_heads, "value")
    return q, k, v
