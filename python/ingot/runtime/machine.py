"""What this machine is, and what its memory and arithmetic reach."""

from __future__ import annotations

import json
from typing import Any

from ingot.runtime import _native


def machine() -> dict[str, Any]:
    """This machine, as a dict.

    Its keys are ``architecture``, ``model``, ``cores``, ``logical_cpus``, ``threads`` (the default of a model's), ``features`` (Linux's names),
    ``caches`` (level, type and bytes of each) and ``targets`` (those of the compiler's that it can run, the best first).
    """
    found: dict[str, Any] = json.loads(_native.machine())
    return found


def measure_bandwidth(threads: int | None = None, seconds: float = 0.4) -> float:
    """The read bandwidth of memory beyond the last-level cache in GB/s (10^9 bytes); the best of what is measured for so many seconds."""
    return float(_native.measure_bandwidth(threads or machine()["threads"], seconds))


def measure_fma(threads: int | None = None, seconds: float = 0.4) -> float:
    """The fused multiply-add peak in GFLOP/s (f32); the best of what is measured for so many seconds."""
    return float(_native.measure_fma(threads or machine()["threads"], seconds))


def measure_int8(threads: int | None = None, seconds: float = 0.4) -> float:
    """The peak of products of bytes that are added up, in 10^9 operations a second (two for a product); the best of what is measured for so many seconds.

    It is that of the machine's fastest instruction for vectors: dot products where there are some, else products of pairs that are added up
    in 16 bits.
    """
    return float(_native.measure_int8(threads or machine()["threads"], seconds))


def kernels() -> list[dict[str, Any]]:
    """The library's kernels: ``name``, ``contract`` (the tensors and attributes that it takes) and ``instruction_sets``.

    The last are those of its versions that this machine can run, worst first; the environment variable ``INGOT_ISA`` limits them.
    """
    found: list[dict[str, Any]] = json.loads(_native.kernels())
    return found
