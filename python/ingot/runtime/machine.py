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


def measure_bandwidth(threads: int | None = None) -> float:
    """The read bandwidth of memory beyond the last-level cache in GB/s (10^9 bytes); takes about half a second."""
    return float(_native.measure_bandwidth(threads or machine()["threads"]))


def measure_fma(threads: int | None = None) -> float:
    """The fused multiply-add peak in GFLOP/s (f32); takes about half a second."""
    return float(_native.measure_fma(threads or machine()["threads"]))
