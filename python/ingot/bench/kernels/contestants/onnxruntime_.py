"""onnxruntime's operators, each in a model of one node."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ingot.bench.kernels.attention import Attention, AttentionInputs
from ingot.bench.kernels.problem import Array, Contestant, Loaded, Setting, Unsupported, copies
from ingot.bench.kernels.quantized_matmul import MatmulInputs, QuantizedMatmul


@functools.cache
def _use_one_pool(threads: int) -> None:
    """All sessions of this process share one thread pool: pools of their own would wait for work next to the one that has some."""
    import onnxruntime

    onnxruntime.set_default_logger_severity(3)
    onnxruntime.set_global_thread_pool_sizes(threads, 1)


class _Sessions:
    """Sessions of one model on one thread pool: as many as there are sets of weights, which each packs into memory of its own."""

    def __init__(self, node: Any, inputs: Mapping[str, Array], weights: Mapping[str, Array], domains: Mapping[str, int], threads: int,
                 sets: int) -> None:
        import onnx
        import onnxruntime
        from onnx import helper, numpy_helper

        _use_one_pool(threads)
        graph = helper.make_graph(
            [node], "kernel",
            [helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape) for name, a in inputs.items()],
            [helper.make_empty_tensor_value_info(node.output[0])], [numpy_helper.from_array(a, name) for name, a in weights.items()])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid(d, v) for d, v in domains.items()], ir_version=10)
        if node.domain:  # onnx knows nothing of other domains: their outputs' types are the inputs'
            first = next(iter(inputs.values()))
            model.graph.output[0].CopyFrom(helper.make_tensor_value_info(node.output[0], helper.np_dtype_to_tensor_dtype(first.dtype), None))
        else:
            model = onnx.shape_inference.infer_shapes(model)
        options = onnxruntime.SessionOptions()
        options.use_per_session_threads = False
        written = model.SerializeToString()
        self._sessions = [onnxruntime.InferenceSession(written, options, providers=["CPUExecutionProvider"]) for _ in range(sets)]
        self._inputs = dict(inputs)

    def run(self, which: int, inputs: Mapping[str, Array] | None = None) -> Any:
        return self._sessions[which % len(self._sessions)].run(None, inputs or self._inputs)[0]


def _mat_mul_n_bits(problem: QuantizedMatmul, inputs: MatmulInputs, setting: Setting) -> Loaded:
    from onnx import helper

    if problem.kind.name not in ("int4", "int8"):
        raise Unsupported(f"MatMulNBits has no {problem.kind.name}")
    group = inputs.group_size
    if group < 16 or group & (group - 1):
        raise Unsupported(f"MatMulNBits has no scale for {group} k: a block is a power of two")
    node = helper.make_node("MatMulNBits", ["x", "w", "scales"], ["y"], domain="com.microsoft", K=problem.k, N=problem.n, bits=problem.kind.bits,
                            block_size=group, accuracy_level=4)
    weights = {"w": _blocks(inputs.codes, group, problem.kind.bits), "scales": inputs.scales}
    sessions = _Sessions(node, {"x": inputs.x}, weights, {"": 21, "com.microsoft": 1}, setting.threads, setting.sets)
    return Loaded(sessions.run, "int8")


def _blocks(codes: Array, group: int, bits: int) -> Array:
    """Codes [N, K] as [N, blocks, bytes] of MatMulNBits: unsigned, the lower nibble first, the last block padded with what stands for 0."""
    rows, depth = codes.shape
    blocks, zero = -(-depth // group), 1 << (bits - 1)
    padded = np.full((rows, blocks * group), zero, np.uint8)
    padded[:, :depth] = codes if bits == 4 else codes.astype(np.int16) + zero
    padded = padded.reshape(rows, blocks, group)
    return padded if bits == 8 else np.ascontiguousarray(padded[:, :, ::2] | padded[:, :, 1::2] << 4)


def _dynamic_quantize_mat_mul(problem: QuantizedMatmul, inputs: MatmulInputs, setting: Setting) -> Loaded:
    from onnx import helper

    if problem.kind.name != "int8" or problem.group:
        raise Unsupported("DynamicQuantizeMatMul has int8 weights with one scale for each column")
    node = helper.make_node("DynamicQuantizeMatMul", ["x", "w", "scales"], ["y"], domain="com.microsoft")
    weights = {"w": np.ascontiguousarray(inputs.codes.T), "scales": np.ascontiguousarray(inputs.scales[:, 0])}
    sessions = _Sessions(node, {"x": inputs.x}, weights, {"": 21, "com.microsoft": 1}, setting.threads, setting.sets)
    return Loaded(sessions.run, "int8")


def _multi_head_attention(problem: Attention, inputs: AttentionInputs, setting: Setting) -> Loaded:
    from onnx import helper

    if problem.heads != problem.kv_heads:
        raise Unsupported("MultiHeadAttention has as many heads of keys as heads")
    _check(problem)
    node = helper.make_node("MultiHeadAttention", ["q", "k", "v"], ["y"], domain="com.microsoft", num_heads=problem.heads,
                            unidirectional=int(problem.causal and problem.queries > 1))
    flat = [a.reshape(*a.shape[:2], -1) for a in (inputs.q, inputs.k, inputs.v)]  # [B, S, H D]
    return _attend(problem, node, flat, {"": 21, "com.microsoft": 1}, setting)


def _attention(problem: Attention, inputs: AttentionInputs, setting: Setting) -> Loaded:
    from onnx import helper

    _check(problem)
    node = helper.make_node("Attention", ["q", "k", "v"], ["y"], q_num_heads=problem.heads, kv_num_heads=problem.kv_heads, scale=problem.scale,
                            is_causal=int(problem.causal and problem.queries > 1))
    return _attend(problem, node, [a.reshape(*a.shape[:2], -1) for a in (inputs.q, inputs.k, inputs.v)], {"": 23}, setting)


def _check(problem: Attention) -> None:
    if problem.dtype == "bf16":
        raise Unsupported("its CPU kernels have no bfloat16")
    if problem.causal and 1 < problem.queries != problem.keys:
        raise Unsupported("its causal mask begins at the first key, not so that the last query sees the last key")


def _attend(problem: Attention, node: Any, arrays: Sequence[Array], domains: Mapping[str, int], setting: Setting) -> Loaded:
    q, k, v = arrays
    sets = setting.sets if problem.rotating else 1
    keys, values = copies(k, sets), copies(v, sets)
    sessions = _Sessions(node, {"q": q, "k": k, "v": v}, {}, domains, setting.threads, 1)
    return Loaded(lambda which: sessions.run(0, {"q": q, "k": keys[which % sets], "v": values[which % sets]}), problem.dtype)


ROWS = (Contestant("onnxruntime MatMulNBits", "quantized_matmul", _mat_mul_n_bits, "onnxruntime"),
        Contestant("onnxruntime DynamicQuantizeMatMul", "quantized_matmul", _dynamic_quantize_mat_mul, "onnxruntime"),
        Contestant("onnxruntime MultiHeadAttention", "attention", _multi_head_attention, "onnxruntime"),
        Contestant("onnxruntime Attention", "attention", _attention, "onnxruntime"))
