"""What is drawn of results: a point for each contestant of each case, under the roofs of a number of threads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

#: Colours that people with colour-blindness can tell apart (Okabe and Ito, 2008): Ingot's first, then one for each program as it comes.
COLOURS = ("#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#666666")
#: The roofs: the measured peak's key → what it is.
ROOFS: Mapping[str, str] = {"fma_gflop_s": "fused multiply-adds, f32", "bf16_gflop_s": "bfloat16 products", "int8_gop_s": "byte products"}


@dataclass(frozen=True)
class Point:
    """A contestant's place: operations per byte, and 10^9 operations a second."""

    program: str
    intensity: float
    rate: float
    said: str


def points(found: Mapping[str, Any], threads: int) -> list[Point]:
    """The points of what was timed with a number of threads."""
    return list(_points(found, threads))


def _points(found: Mapping[str, Any], threads: int) -> Iterator[Point]:
    for case in found["cases"]:
        for row in case["contestants"] if case["threads"] == threads else ():
            if row["status"] == "ok" and case["flops"] and case["bytes"]:
                said = f"{row['name']}: {case['kernel']} {case['shape']} {case['dtype']}, {row['gflop_s']:.1f} Gop/s, {row['gb_s']:.1f} GB/s"
                yield Point(row["name"].split()[0], case["flops"] / case["bytes"], row["gflop_s"], said)


def colours(found: Mapping[str, Any]) -> dict[str, str]:
    """A colour for each program."""
    programs: Sequence[str] = list(dict.fromkeys(["ingot", *(row["name"].split()[0] for case in found["cases"] for row in case["contestants"]
                                                             if row["status"] == "ok")]))
    return {program: COLOURS[min(i, len(COLOURS) - 1)] for i, program in enumerate(programs)}
