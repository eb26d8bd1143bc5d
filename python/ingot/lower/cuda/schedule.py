"""Schedules for GPUs: rules that write a fused function as kernels, tried in order; the first that fits decides."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from tvm import tirx

from ingot.lower.cpu.fused import Fused, read
from ingot.lower.cpu.schedule import operations
from ingot.lower.cuda.kernel import Generated
from ingot.lower.cuda.rules import maps, nests, rows, serial

RULES: tuple[Callable[[Fused], Generated | None], ...] = (maps.rule, rows.rule, serial.rule)


def schedule(function: tirx.PrimFunc) -> Generated:
    """One TIR function as kernels."""
    fused = read(function)
    for rule in RULES if fused is not None else ():
        assert fused is not None
        found = rule(fused)
        if found is not None:
            return replace(found, operations=operations(fused))
    return nests.rule(function)
