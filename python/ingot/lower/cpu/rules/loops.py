"""The rule for everything else: element-wise chains are inlined, and outer loops run on all threads."""

from __future__ import annotations

from tvm import s_tir

from ingot.lower.cpu.rules.common import blocks, inline_chains, spread
from ingot.lower.targets import Target


def schedule(sch: s_tir.Schedule, target: Target) -> str | None:
    """Schedules any function."""
    inline_chains(sch)
    for block in blocks(sch):
        spread(sch, block)
    return "loops"
