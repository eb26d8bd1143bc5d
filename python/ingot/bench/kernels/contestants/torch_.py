"""PyTorch's operators."""

from __future__ import annotations

from typing import Any

import numpy as np

from ingot.bench.kernels.attention import Attention, AttentionInputs
from ingot.bench.kernels.problem import Contestant, Loaded, Setting, Unsupported, copies
from ingot.bench.kernels.quantized_matmul import MatmulInputs, QuantizedMatmul


def _torch(setting: Setting) -> Any:
    import torch

    torch.set_num_threads(setting.threads)
    torch.set_grad_enabled(False)
    return torch


def _dynamic_int8(problem: QuantizedMatmul, inputs: MatmulInputs, setting: Setting) -> Loaded:
    """What ``torch.ao.nn.quantized.dynamic.Linear`` calls, with its rounding of activations to 7 bits."""
    if problem.kind.name != "int8" or problem.group:
        raise Unsupported("it has int8 weights with one scale for each column")
    torch = _torch(setting)
    weight = torch._make_per_channel_quantized_tensor(torch.from_numpy(inputs.codes), torch.from_numpy(inputs.scales[:, 0].astype(np.float64)),
                                                      torch.zeros(problem.n, dtype=torch.int64), 0)
    packed = [torch.ops.quantized.linear_prepack(weight.clone(), None) for _ in range(setting.sets)]
    x = torch.from_numpy(inputs.x)
    return Loaded(lambda which: torch.ops.quantized.linear_dynamic(x, packed[which], True), "int8",
                  note=f"engine {torch.backends.quantized.engine}")


def _weight_int4(problem: QuantizedMatmul, inputs: MatmulInputs, setting: Setting) -> Loaded:
    """Weights of 4 bits in groups, times bfloat16: what torchao calls on CPUs. With float32 it takes a path without vectors."""
    if problem.kind.name != "int4":
        raise Unsupported("it has weights of int4")
    torch = _torch(setting)
    if not hasattr(torch.ops.aten, "_weight_int4pack_mm_for_cpu"):
        raise Unsupported("this build of PyTorch has no int4 product for CPUs")
    if inputs.group_size not in (32, 64, 128, 256) or problem.k % inputs.group_size:
        raise Unsupported("its groups have 32, 64, 128 or 256 k, and divide K")
    if problem.n % 16:
        raise Unsupported("its columns are a multiple of 16")
    codes = torch.from_numpy(inputs.codes.astype(np.int32))
    scales = torch.from_numpy(np.stack([inputs.scales, np.zeros_like(inputs.scales)], axis=2)).bfloat16()
    scales = scales.transpose(0, 1).contiguous()  # [groups, N, scale and zero]
    packed = [(torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes, 1), scales.clone()) for _ in range(setting.sets)]
    x = torch.from_numpy(inputs.x).bfloat16()
    return Loaded(lambda which: torch.ops.aten._weight_int4pack_mm_for_cpu(x, packed[which][0], inputs.group_size, packed[which][1]), "bf16")


def _sdpa(problem: Attention, inputs: AttentionInputs, setting: Setting) -> Loaded:
    torch = _torch(setting)
    if problem.causal and 1 < problem.queries != problem.keys:
        raise Unsupported("its causal mask begins at the first key, not so that the last query sees the last key")

    def tensor(array: Any) -> Any:  # [B, S, H, D] in memory, seen as [B, H, S, D]
        given = torch.from_numpy(array)
        return (given.view(torch.bfloat16) if problem.dtype == "bf16" else given).transpose(1, 2)

    sets = setting.sets if problem.rotating else 1
    q, keys, values = tensor(inputs.q), [tensor(a) for a in copies(inputs.k, sets)], [tensor(a) for a in copies(inputs.v, sets)]
    attend = torch.nn.functional.scaled_dot_product_attention
    options = {"is_causal": problem.causal and problem.queries > 1, "enable_gqa": problem.heads != problem.kv_heads}

    def run(which: int) -> Any:
        found = attend(q, keys[which % sets], values[which % sets], **options)
        return found.transpose(1, 2)

    # NumPy has no bfloat16: the result is only widened where it is looked at.
    return Loaded(run, problem.dtype)


ROWS = (Contestant("torch dynamic int8", "quantized_matmul", _dynamic_int8, "torch"),
        Contestant("torch weight int4", "quantized_matmul", _weight_int4, "torch"),
        Contestant("torch sdpa", "attention", _sdpa, "torch"))
