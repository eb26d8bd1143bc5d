"""Contestants of a shared library: C functions by fixed names."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from ctypes import c_char_p, c_int, c_int64, c_void_p
from pathlib import Path
from typing import Any

import numpy as np

from ingot.bench.kernels.attention import Attention, AttentionInputs
from ingot.bench.kernels.problem import Contestant, Loaded, Setting, Unsupported, aligned, copies
from ingot.bench.kernels.quantized_matmul import MatmulInputs, QuantizedMatmul
from ingot.errors import FileError, InputError

_DTYPES = {"f32": 0, "f16": 1, "bf16": 2}


def load_library(file: Path) -> list[Contestant]:
    """The contestants that a library exports, named after the file: a function of a kernel's name with ``ingot_bench_`` before it.

    Raises:
        FileError: It cannot be loaded.
        InputError: It exports none.
    """
    try:
        library = ctypes.CDLL(str(file.resolve()))
    except OSError as error:
        raise FileError(f"'{file}' is neither a Python file (.py) nor a shared library that can be loaded: {error}") from error
    found = [Contestant(file.stem, kernel, _prepared(library, kernel, prepare)) for kernel, prepare in _KERNELS.items()
             if hasattr(library, f"ingot_bench_{kernel}")]
    if not found:
        raise InputError(f"'{file}' exports no kernel; it can export {' and '.join(f'ingot_bench_{k}' for k in _KERNELS)}")
    return found


def _prepared(library: ctypes.CDLL, kernel: str, prepare: Callable[..., Loaded]) -> Any:
    function = getattr(library, f"ingot_bench_{kernel}")
    function.restype, function.argtypes = c_int, _ARGUMENTS[kernel]
    arithmetic = "f32"
    if hasattr(library, f"ingot_bench_{kernel}_arithmetic"):
        named = getattr(library, f"ingot_bench_{kernel}_arithmetic")
        named.restype = c_char_p
        arithmetic = named().decode()

    def call(*arguments: Any) -> None:
        status = function(*arguments)
        if status:
            raise Unsupported(f"it returned {status}, which says that it cannot compute this")

    return lambda problem, inputs, setting: prepare(problem, inputs, setting, call, arithmetic)


#: (x [M, K], codes, scales [N, groups], y [M, N], M, K, N, bits, group, threads) and (q, k, v, o, B, S, T, Hq, Hkv, D, dtype, causal, threads).
_ARGUMENTS = {"quantized_matmul": (*(c_void_p,) * 4, *(c_int64,) * 6), "attention": (*(c_void_p,) * 4, *(c_int64,) * 9)}


def _matmul(problem: QuantizedMatmul, inputs: MatmulInputs, setting: Setting, call: Callable[..., None], arithmetic: str) -> Loaded:
    if problem.kind.name not in ("int4", "int8"):
        raise Unsupported(f"shared libraries are given int4 and int8, not {problem.kind.name}")
    if problem.kind.bits == 4 and problem.k % 2:
        raise Unsupported("two codes of int4 share a byte: K is even")
    rows = inputs.codes if problem.kind.bits == 8 else inputs.codes[:, ::2] | inputs.codes[:, 1::2] << 4
    codes, scales = copies(np.ascontiguousarray(rows), setting.sets), copies(inputs.scales, setting.sets)
    x, y = aligned(inputs.x), aligned(np.zeros((problem.m, problem.n), np.float32))
    sizes = (problem.m, problem.k, problem.n, problem.kind.bits, inputs.group_size, setting.threads)

    def run(which: int) -> Any:
        call(x.ctypes.data, codes[which].ctypes.data, scales[which].ctypes.data, y.ctypes.data, *sizes)
        return y

    return Loaded(run, arithmetic)


def _attention(problem: Attention, inputs: AttentionInputs, setting: Setting, call: Callable[..., None], arithmetic: str) -> Loaded:
    sets = setting.sets if problem.rotating else 1
    q, keys, values = aligned(inputs.q), copies(inputs.k, sets), copies(inputs.v, sets)
    o = aligned(np.zeros_like(inputs.q))
    sizes = (problem.batch, problem.queries, problem.keys, problem.heads, problem.kv_heads, problem.size, _DTYPES[problem.dtype],
             int(problem.causal), setting.threads)

    def run(which: int) -> Any:
        call(q.ctypes.data, keys[which % sets].ctypes.data, values[which % sets].ctypes.data, o.ctypes.data, *sizes)
        return o

    return Loaded(run, arithmetic)


_KERNELS: dict[str, Callable[..., Loaded]] = {"quantized_matmul": _matmul, "attention": _attention}
