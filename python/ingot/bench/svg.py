"""What plots are drawn with: logarithmic axes, lines and texts of SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape


class Axis:
    """Maps values to positions by their logarithm, over whole powers of ten that hold all ``values``."""

    def __init__(self, values: Sequence[float], start: float, end: float) -> None:
        self._low = math.floor(math.log10(min(values)))
        self._high = max(math.ceil(math.log10(max(values))), self._low + 1)
        self._start, self._end = start, end
        self.least, self.most = 10.0**self._low, 10.0**self._high

    def __call__(self, value: float) -> float:
        """The position of a value."""
        return self._start + (self._end - self._start) * (math.log10(value) - self._low) / (self._high - self._low)

    def powers(self) -> range:
        """The powers of ten from one end to the other."""
        return range(self._low, self._high + 1)


def grid(x: Axis, y: Axis, left: float, right: float, top: float, bottom: float) -> list[str]:
    """Lines at the powers of ten, with their numbers below and to the left."""
    lines = []
    for power in x.powers():
        lines += [line("grid", x(10.0**power), top, x(10.0**power), bottom), text("tick middle", x(10.0**power), bottom + 18, f"{10.0**power:g}")]
    for power in y.powers():
        lines += [line("grid", left, y(10.0**power), right, y(10.0**power)), text("tick end", left - 8, y(10.0**power) + 4, f"{10.0**power:g}")]
    return lines


def line(kind: str, x1: float, y1: float, x2: float, y2: float) -> str:
    """A line of a class."""
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def text(kind: str, x: float, y: float, said: str) -> str:
    """A text of a class."""
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}">{escape(said)}</text>'
