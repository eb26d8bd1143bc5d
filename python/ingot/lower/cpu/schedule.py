"""Schedules for CPU: a table of rules, tried in order; the first that fits a function decides how it runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tvm import s_tir, tirx

from ingot.lower.cpu.codegen import EXACT
from ingot.lower.cpu.fused import Fused, combination, read
from ingot.lower.cpu.math import expand
from ingot.lower.cpu.nest import product
from ingot.lower.cpu.rules import columns, contraction, convolution, loops, maps, matmul, matrices, rows, winograd
from ingot.lower.cpu.winograd import SCHEDULED
from ingot.lower.targets import Target


@dataclass(frozen=True)
class Scheduled:
    """A TIR function that is ready for code generation, and what ``ingot inspect`` calls its schedule.

    ``operations`` are those of its reduction for each element of its result, a multiply-add counted as two; 0 if it has none or they depend on
    symbolic extents.
    """

    function: tirx.PrimFunc
    kernel: str
    operations: int = 0


#: Rules that write a function's loops anew: they return it and the schedule's name, or None if they do not fit.
WRITTEN: tuple[Callable[[Fused, Target], tuple[tirx.PrimFunc, str] | None], ...] = (
    matrices.rule, contraction.rule, winograd.rule, maps.rule, columns.rule, rows.rule)
#: Rules that transform a function's loops in place and return the schedule's name, or return None without a change.
TRANSFORMED: tuple[Callable[[s_tir.Schedule, Target], str | None], ...] = (matmul.schedule, convolution.schedule, loops.schedule)


def schedule(function: tirx.PrimFunc, target: Target) -> Scheduled:
    """Schedules one TIR function for a target."""
    if SCHEDULED in (function.attrs or {}):
        return Scheduled(expand(function).with_attr(EXACT, True), str(function.attrs[SCHEDULED]))
    fused = read(function)
    for write in WRITTEN if fused is not None else ():
        assert fused is not None
        written = write(fused, target)
        if written is not None:
            return Scheduled(expand(written[0]).with_attr(EXACT, True), written[1], operations(fused))
    for transform in TRANSFORMED:
        sch: Any = s_tir.Schedule(function)
        name = transform(sch, target)
        if name is not None:
            return Scheduled(expand(sch.mod["main"]), name)
    return Scheduled(expand(function), "plain loops")


def operations(fused: Fused) -> int:
    """The operations of a function's one reduction for each element of its result; 0 where that cannot be said."""
    heavy = [s for s in fused.stages if s.init is not None]
    if len(heavy) != 1 or any(len(o.axes) != len(heavy[0].axes) for o in fused.outputs):
        return 0
    count = product(heavy[0].reduced_extents)
    combine = combination(heavy[0])
    return count * (2 if combine is not None and isinstance(combine.operand, tirx.Mul) else 1) if isinstance(count, int) else 0
