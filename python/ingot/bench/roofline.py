"""The roofline of a profiled run as SVG: what each step reaches, under what memory and arithmetic allow."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from ingot.bench.svg import Axis, grid, text

#: The size of the picture and the space for the labels around the plot: left, right, top, bottom.
_WIDTH, _HEIGHT = 900, 480
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 20, 24, 52
#: The radius of a step that takes all of the time, and the least at which one can still be pointed at.
_LARGEST, _SMALLEST = 40.0, 2.0


def placed(steps: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The steps that have a place in the picture: those whose operations, bytes and time are known and not 0."""
    return [s for s in steps if s["flops"] and s["bytes"] and s["seconds"]]


def roofline_svg(steps: Sequence[Mapping[str, Any]], peak: float, bandwidth: float) -> str:
    """Operations per byte against GFLOP/s on logarithmic axes: a circle for each of :func:`placed`, its area the share of time.

    Args:
        steps: Steps of ``ingot bench --json``.
        peak: The machine's arithmetic in GFLOP/s.
        bandwidth: The machine's read bandwidth in GB/s.
    """
    points = [(s, s["flops"] / s["bytes"], s["flops"] / s["seconds"] / 1e9) for s in placed(steps)]
    ridge = peak / bandwidth
    x = Axis([ridge / 10, ridge * 10, *(i for _, i, _ in points)], _LEFT, _WIDTH - _RIGHT)
    y = Axis([peak, peak / 100, *(r for _, _, r in points)], _HEIGHT - _BOTTOM, _TOP)
    lines = [f'<svg class="roofline" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="Roofline: operations per byte against GFLOP/s">']
    lines += grid(x, y, _LEFT, _WIDTH - _RIGHT, _TOP, _HEIGHT - _BOTTOM)
    lines += [text("label middle", (_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 8, "operations per byte"), text("label", 8, _TOP - 8, "GFLOP/s")]
    # The roof: the slope of memory up to the ridge, then flat. The slope starts where it enters the picture.
    start = max(x.least, y.least / bandwidth)
    corners = [(start, start * bandwidth), (ridge, peak), (x.most, peak)]
    lines += ['<polyline class="roof" points="' + " ".join(f"{x(i):.1f},{y(r):.1f}" for i, r in corners) + '"/>',
              text("roof-label end", _WIDTH - _RIGHT - 4, y(peak) - 6, f"measured peak, {peak:.0f} GFLOP/s"),
              text("roof-label end", x(ridge) - 14, y(peak) + 4, f"measured bandwidth, {bandwidth:.1f} GB/s")]
    # The largest first, so that no circle hides under another.
    for step, intensity, rate in sorted(points, key=lambda p: -p[0]["share"]):
        radius = max(_SMALLEST, _LARGEST * math.sqrt(step["share"]))
        said = [f"step {step['step']}: {step['runs']}", step["node"],
                f"{step['share']:.1%} of the time, {rate:.1f} GFLOP/s, {step['gb_s']:.1f} GB/s, {intensity:.3g} operations per byte"]
        title = escape("\n".join(filter(None, said)))
        lines.append(f'<a href="#step-{step["step"]}"><circle class="step" cx="{x(intensity):.1f}" cy="{y(rate):.1f}" r="{radius:.1f}">'
                     f"<title>{title}</title></circle></a>")
    return "\n".join([*lines, "</svg>"])
