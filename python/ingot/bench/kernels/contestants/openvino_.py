"""OpenVINO's CPU plugin, on models of one product or one attention."""

from __future__ import annotations

from typing import Any

import numpy as np

from ingot.bench.kernels.attention import Attention, AttentionInputs
from ingot.bench.kernels.problem import Contestant, Loaded, Setting, Unsupported, copies
from ingot.bench.kernels.quantized_matmul import MatmulInputs, QuantizedMatmul


def _compiled(model: Any, threads: int, precision: str = "f32") -> Any:
    import openvino

    return openvino.Core().compile_model(model, "CPU", {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1,
                                                        "INFERENCE_PRECISION_HINT": precision})


def _compressed(problem: QuantizedMatmul, inputs: MatmulInputs, setting: Setting) -> Loaded:
    """A product with compressed weights, as NNCF writes them: codes, a conversion, a scale for each group."""
    import openvino
    from openvino import opset13 as ops

    if problem.kind.name not in ("int4", "int8"):
        raise Unsupported(f"weights of {problem.kind.name} are not tried: NNCF writes int4 and int8")
    group = inputs.group_size
    if problem.k % group:
        raise Unsupported("its groups divide K")
    if problem.k % 2:
        raise Unsupported("two codes share a byte: K is even")
    groups = problem.k // group
    shape = [problem.n, groups, group] if groups > 1 else [problem.n, problem.k]
    scales = inputs.scales.astype(np.float16).reshape([problem.n, groups, 1] if groups > 1 else [problem.n, 1])

    shared: list[Any] = []  # the constants' memory, which models share

    def model() -> Any:
        x = ops.parameter([-1, problem.k], np.float32, "x")
        if problem.kind.bits == 4:
            shared.append(_nibbles(inputs.codes))
            codes = openvino.op.Constant(openvino.Tensor(shared[-1], openvino.Shape(shape), openvino.Type.u4))
            w = ops.subtract(ops.convert(codes, "f16"), ops.convert(ops.constant(np.array(8, np.uint8)), "f16"))
        else:
            w = ops.convert(ops.constant(inputs.codes.reshape(shape)), "f16")
        w = ops.multiply(w, ops.constant(scales))
        if groups > 1:
            w = ops.reshape(w, ops.constant(np.array([problem.n, problem.k])), False)
        return openvino.Model([ops.matmul(x, ops.convert(w, "f32"), False, True)], [x])

    compiled = [_compiled(model(), setting.threads) for _ in range(setting.sets)]
    requests = [c.create_infer_request() for c in compiled]

    def run(which: int) -> Any:
        assert shared or problem.kind.bits == 8
        return next(iter(requests[which].infer({0: inputs.x}, share_inputs=True, share_outputs=True).values()))

    return Loaded(run, "int8" if _rounds(run(0), inputs) else "f32")


def _rounds(result: Any, inputs: MatmulInputs) -> bool:
    """Whether activations were rounded to int8 (by 1 %): the plugin decides by the CPU and the shape, and does not say."""
    exact = inputs.x[:1] @ inputs.weights().T
    return bool(np.linalg.norm(result[:1] - exact) > 1e-3 * np.linalg.norm(exact))


def _nibbles(codes: Any) -> Any:
    """The lower nibble first."""
    return np.ascontiguousarray(codes[:, ::2] | codes[:, 1::2] << 4).reshape(-1)


def _sdpa(problem: Attention, inputs: AttentionInputs, setting: Setting) -> Loaded:
    import openvino
    from openvino import opset13 as ops

    if problem.causal and 1 < problem.queries != problem.keys:
        raise Unsupported("its causal mask begins at the first key, not so that the last query sees the last key")
    if problem.heads != problem.kv_heads:
        raise Unsupported("its operator has as many heads of keys as heads: others are repeated before it")
    kind = {"f32": openvino.Type.f32, "bf16": openvino.Type.bf16, "f16": openvino.Type.f16}[problem.dtype]
    parameters = [ops.parameter(list(a.shape), kind) for a in (inputs.q, inputs.k, inputs.v)]
    order = ops.constant(np.array([0, 2, 1, 3]))
    heads_first = [ops.transpose(p, order) for p in parameters]  # as models do it, which keep [B, S, H, D]; the plugin fuses it
    found = ops.scaled_dot_product_attention(*heads_first, causal=problem.causal and problem.queries > 1)
    model = openvino.Model([ops.transpose(found, order)], parameters)
    compiled = _compiled(model, setting.threads, problem.dtype)
    request = compiled.create_infer_request()
    sets = setting.sets if problem.rotating else 1

    def tensor(array: Any) -> Any:
        return openvino.Tensor(array, list(array.shape), kind) if problem.dtype == "bf16" else openvino.Tensor(array, shared_memory=True)

    # Arrays live as long as the tensors that share their memory.
    arrays = [copies(inputs.q, 1), copies(inputs.k, sets), copies(inputs.v, sets)]
    q, keys, values = ([tensor(a) for a in group] for group in arrays)

    def run(which: int) -> Any:
        assert arrays
        found = next(iter(request.infer({0: q[0], 1: keys[which % sets], 2: values[which % sets]}, share_inputs=True, share_outputs=True).values()))
        return found.view(np.uint16) if problem.dtype == "bf16" else found  # NumPy has no bfloat16: the plugin gives float16 of the same bits

    # Where the CPU has no arithmetic of 16 bits it widens operands, but what it keeps in between may be rounded.
    return Loaded(run, problem.dtype)


ROWS = (Contestant("openvino", "quantized_matmul", _compressed, "openvino"), Contestant("openvino sdpa", "attention", _sdpa, "openvino"))
