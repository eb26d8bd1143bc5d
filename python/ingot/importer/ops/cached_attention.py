"""Operators of Ingot's own domain: caches that ONNX's do not reach, of int8 or in rings that keep their first steps, and what chooses tokens.

    ingot.CachedAttention(q [batch, sequence, heads * size], k [batch, slots, key heads * size], v like k, lengths [batch],
                          ring [batch, 2]?, k_scales [batch, slots, key heads]?, v_scales?,
                          bias, can be broadcast to [batch, heads, sequence, slots]?, sink_q like q?) -> [batch, sequence, heads * size]

With `causal` the last query stands at the last key and none sees a later one; without, every query sees all of its batch's keys. The first
`sinks` keys are never too far behind for `left_window_size`; with `sink_q` they are multiplied by it in place of q.
Operands are those of kernels/cpu/attention/attention.h.

    ingot.TensorScatter(past, update, first [batch]) -> like past

As ONNX's, but that in a ring (`mode` "circular") the first `sinks` steps stay in the slots of their numbers, and the others go round behind them.

    ingot.Sample(logits [..., vocabulary], random [...], sampling [..., 4]) -> tokens [...] int64

The tokens that kernels/cuda/sampling/sampling.h chooses by random numbers of [0, 1) and each row's temperature, top k, top p and min p.
"""

from __future__ import annotations

from ingot.importer import dims
from ingot.importer.context import Context
from ingot.importer.ops.attention import SEQUENCE_FIRST, attention_call, split_heads
from ingot.importer.ops.indexing import scatter_steps
from ingot.importer.registry import onnx_op
from ingot.importer.values import Value

DOMAIN = "ingot"


@onnx_op("CachedAttention", domain=DOMAIN)
def cached_attention(cx: Context, q: Value, k: Value, v: Value, lengths: Value, ring: Value | None = None, k_scales: Value | None = None,
                     v_scales: Value | None = None, bias: Value | None = None, sink_q: Value | None = None, *, num_heads: int,
                     kv_num_heads: int, scale: float, left_window_size: int = -1, softcap: float = 0.0, causal: int = 1, sinks: int = 0) -> Value:
    q, k, v = (split_heads(cx, t, heads, what) for t, heads, what in ((q, num_heads, "q"), (k, kv_num_heads, "k"), (v, kv_num_heads, "v")))
    if ring is not None and left_window_size >= 0:
        # What a run's last tokens replace has to be out of its first one's sight.
        cx.check(q.shape[1] <= k.shape[1] - left_window_size - sinks,
                 f"a run of more tokens than a ring of {dims.show(k.shape[1])} slots has room for beside {sinks} sinks and a window of "
                 f"{left_window_size + 1}; give a long text in several runs")
    sink_queries = None if sink_q is None else split_heads(cx, sink_q, num_heads, "sink_q")
    y = attention_call(cx, q, k, v, [SEQUENCE_FIRST] * 3, scale=scale, softcap=softcap, left=left_window_size, right=0 if causal else -1, at_end=True,
                       sink_keys=sinks, mask=bias, lengths=lengths, ring=ring, k_scales=k_scales, v_scales=v_scales, sink_queries=sink_queries)
    return cx.reshape(y, [*y.shape[:2], dims.product(y.shape[2:])])


@onnx_op("TensorScatter", domain=DOMAIN)
def tensor_scatter(cx: Context, past: Value, update: Value, first: Value, *, axis: int = -2, mode: str = "linear", sinks: int = 0) -> Value:
    return scatter_steps(cx, past, update, first, axis, mode, sinks)


@onnx_op("Sample", domain=DOMAIN)
def sample(cx: Context, logits: Value, random: Value, sampling: Value) -> Value:
    # Numbers for all rows, in place of which each has its own.
    found: Value = cx.kernel("sample", [logits, random, sampling], [(logits.shape[:-1], "int64")], ints=[0], floats=[0, 1, 0])
    return found
