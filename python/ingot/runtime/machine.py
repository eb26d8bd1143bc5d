"""What this machine is, and what its memory and arithmetic reach."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from ingot.runtime import _native


def machine() -> dict[str, Any]:
    """This machine, as a dict.

    Its keys are ``architecture``, ``model``, ``cores``, ``logical_cpus``, ``threads`` (the default of a model's), ``features`` (Linux's names),
    ``caches`` (level, type and bytes of each) and ``targets`` (those of the compiler's that it can run, the best first).
    """
    found: dict[str, Any] = json.loads(_native.machine())
    return found


class Rate(NamedTuple):
    """What the machine reached in many equal pieces of work: the best of them, and the one in the middle.

    The best is what it can do; the median is what it does, which on a shared machine is less.
    """

    best: float
    median: float


def measure_bandwidth(threads: int | None = None, seconds: float = 0.4) -> Rate:
    """The read bandwidth of memory beyond the last-level cache in GB/s (10^9 bytes), measured for so many seconds.

    Raises:
        InputError: ``threads`` is not 1 to 1,024, or ``seconds`` not 0 to 60.
    """
    return Rate(*_native.measure_bandwidth(threads or machine()["threads"], seconds))


def measure_fma(threads: int | None = None, seconds: float = 0.4) -> Rate:
    """The fused multiply-add peak in GFLOP/s (f32), as :func:`measure_bandwidth`."""
    return Rate(*_native.measure_fma(threads or machine()["threads"], seconds))


def measure_bf16(threads: int | None = None, seconds: float = 0.4) -> Rate:
    """The peak of products of bfloat16 that are added up in float32, in 10^9 operations a second (two for a product), as :func:`measure_bandwidth`.

    It is that of the fastest of matrices, dot products and, of numbers that are widened first, multiply-adds of float32.
    """
    return Rate(*_native.measure_bf16(threads or machine()["threads"], seconds))


def measure_int8(threads: int | None = None, seconds: float = 0.4) -> Rate:
    """The peak of products of bytes that are added up, in 10^9 operations a second (two for a product), as :func:`measure_bandwidth`.

    It is that of the machine's fastest instruction: matrices, dot products, else products of pairs that are added up in 16 bits.
    """
    return Rate(*_native.measure_int8(threads or machine()["threads"], seconds))


def kernels() -> list[dict[str, Any]]:
    """The library's kernels: ``name``, ``contract`` (the tensors and attributes that it takes) and ``instruction_sets``.

    The last are those of its versions that this machine can run, worst first; the environment variable ``INGOT_ISA`` limits them.
    """
    found: list[dict[str, Any]] = json.loads(_native.kernels())
    return found
