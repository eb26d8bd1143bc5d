"""Schedules for CPU: a table of rules, tried in order; the first that fits a function decides how it runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tvm import s_tir, tirx

from ingot.lower.cpu.rules import convolution, loops, matmul
from ingot.lower.targets import Target


@dataclass(frozen=True)
class Scheduled:
    """A TIR function that is ready for code generation, and what ``ingot inspect`` calls its schedule."""

    function: tirx.PrimFunc
    kernel: str


#: Each rule schedules in place and returns the schedule's name, or returns None without a change if it does not fit.
RULES: tuple[Callable[[s_tir.Schedule, Target], str | None], ...] = (matmul.schedule, convolution.schedule, loops.schedule)


def schedule(function: tirx.PrimFunc, target: Target) -> Scheduled:
    """Schedules one TIR function for a target."""
    for rule in RULES:
        sch: Any = s_tir.Schedule(function)
        name = rule(sch, target)
        if name is not None:
            return Scheduled(sch.mod["main"], name)
    return Scheduled(function, "plain loops")
