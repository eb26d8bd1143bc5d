"""The rule for everything else: element-wise chains are inlined, and outer loops run on all threads."""

from __future__ import annotations

from tvm import s_tir

from ingot.lower.cpu.rules.common import blocks, extent, inline_chains, spread
from ingot.lower.targets import Target


def schedule(sch: s_tir.Schedule, target: Target) -> str | None:
    """Schedules any function."""
    inline_chains(sch)
    for block in blocks(sch):
        spread(sch, block)
        if any(extent(sch, loop) is None for loop in block.reduction):
            # A reduction starts its result in its first iteration, and a symbolic one may have none: it starts before the loop.
            sch.decompose_reduction(block.rv, block.reduction[0])
    return "loops"
