"""Ingot's kernels, called as a model calls them."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

import ingot
from ingot.bench.kernels.attention import Attention, AttentionInputs
from ingot.bench.kernels.problem import Contestant, Loaded, Setting, Unsupported, aligned, copies
from ingot.bench.kernels.quantized_matmul import MatmulInputs, QuantizedMatmul
from ingot.lower.cpu.quantized_weights import pack_codes, pack_groups

#: Up to so many rows are vectors' (kernels/cpu/attention/unit.h, kMostDirectRows; attention_amx.cpp, kMostRowsOfVectors). Those of bfloat16 are
#: so where heads are not of whole registers (direct_matrices.h).
_FEW_ROWS = {"bfloat16": 8, "float32": 64, "float16": 64}
_REGISTER = 32
_DTYPES = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}


def _matmul(problem: QuantizedMatmul, inputs: MatmulInputs, setting: Setting, *, integers: bool) -> Loaded:
    if integers and problem.kind.name == "nf4":
        raise Unsupported("NF4 numbers are rounded for products of integers; 'ingot float' multiplies them as they are")
    from ingot.bench.kernels.one_kernel import session

    codes = copies(pack_codes(problem.kind, inputs.codes), setting.sets)
    scales = inputs.scales
    if problem.kind.name == "mxfp4":  # powers of two by their exponents
        scales = (np.log2(scales) + 127).astype(np.uint8)
    packed = copies(pack_groups(scales), setting.sets)
    x, y = aligned(inputs.x), aligned(np.zeros((problem.m, problem.n), np.float32))
    # Rows of X are rounded by one scale for each group of weights, as the compiler asks for it; a whole row where that is the group.
    ints = [problem.kind.code, problem.group, int(integers), problem.group if integers else 0, 0]
    call = session("quantized_matmul", [("float32", x.shape), ("uint8", codes[0].shape), (str(packed[0].dtype), packed[0].shape)],
                   ("float32", y.shape), ints=ints, threads=setting.threads)
    call.set_input(0, x)
    call.bind_output(0, y)

    def run(which: int) -> Any:
        call.set_input(1, codes[which])
        call.set_input(2, packed[which])
        call.run()
        return y

    return Loaded(run, "int8" if integers else "f32")


def _integers(problem: QuantizedMatmul, inputs: MatmulInputs, setting: Setting) -> Loaded:
    return _matmul(problem, inputs, setting, integers=True)


def _floats(problem: QuantizedMatmul, inputs: MatmulInputs, setting: Setting) -> Loaded:
    return _matmul(problem, inputs, setting, integers=False)


def _attention(problem: Attention, inputs: AttentionInputs, setting: Setting) -> Loaded:
    from ingot.bench.kernels.one_kernel import session

    dtype = _DTYPES[problem.dtype]
    arrays = [inputs.q, inputs.k, inputs.v]
    if dtype == "bfloat16":
        import ml_dtypes

        arrays = [a.view(ml_dtypes.bfloat16) for a in arrays]
    q, y = aligned(arrays[0]), aligned(np.zeros_like(arrays[0]))
    sets = setting.sets if problem.rotating else 1
    keys, values = copies(arrays[1], sets), copies(arrays[2], sets)
    ints = [0, 0, 0, 0, -1, 0 if problem.causal else -1, 1, 0]  # [B, S, H, D] all; the last query stands at the last key
    call = session("attention", [(dtype, q.shape), (dtype, keys[0].shape), (dtype, values[0].shape), None, None], (dtype, q.shape), ints=ints,
                   floats=[problem.scale, 0.0], threads=setting.threads)
    call.set_input(0, q)
    call.bind_output(0, y)

    def run(which: int) -> Any:
        call.set_input(1, keys[which % sets])
        call.set_input(2, values[which % sets])
        call.run()
        return y

    # Whatever the operands' type is, the kernel's arithmetic is float32's, but for products of bfloat16 by matrices; few rows are vectors'.
    whole = dtype == "bfloat16" and problem.size % _REGISTER == 0
    matrices = (whole or problem.queries * (problem.heads // problem.kv_heads) > _FEW_ROWS[dtype]) and _matrices()
    if matrices and dtype == "bfloat16":
        return Loaded(run, "bf16")
    return Loaded(run, note="sums of three bf16" if matrices else "")


def _matrices() -> bool:
    """Whether kernels may use AMX: it is the last instruction set of x86-64 that ``INGOT_ISA`` can name."""
    return "amx_bf16" in ingot.machine()["features"] and os.environ.get("INGOT_ISA", "amx") in ("", "amx")


ROWS = (Contestant("ingot", "quantized_matmul", _integers, "ingot"), Contestant("ingot float", "quantized_matmul", _floats, "ingot"),
        Contestant("ingot", "attention", _attention, "ingot"))
