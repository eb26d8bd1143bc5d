"""The roofline of kernels as SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from ingot.bench.kernels.points import ROOFS, Point
from ingot.bench.svg import Axis, grid, text

#: The size of the picture and the space for the labels around the plot: left, right, top, bottom.
_WIDTH, _HEIGHT = 900, 480
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 20, 40, 52
_RADIUS = 5


def roofline_svg(points: Sequence[Point], limits: Mapping[str, Any], colours: Mapping[str, str]) -> str:
    """Operations per byte against Gop/s on logarithmic axes: a circle for each point, under the roof of each kind of arithmetic.

    Args:
        points: See :func:`ingot.bench.kernels.points.points`.
        limits: The machine's peaks and its bandwidth: a row of ``measured`` in the results.
        colours: A colour for each program.
    """
    bandwidth, peaks = limits["bandwidth_gb_s"], {said: limits[key] for key, said in ROOFS.items()}
    ridges = [peak / bandwidth for peak in peaks.values()]
    x = Axis([min(ridges) / 10, max(ridges) * 10, *(p.intensity for p in points)], _LEFT, _WIDTH - _RIGHT)
    y = Axis([max(peaks.values()), min(peaks.values()) / 100, *(p.rate for p in points)], _HEIGHT - _BOTTOM, _TOP)
    lines = [f'<svg class="roofline" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="Roofline: operations per byte against Gop/s">']
    lines += grid(x, y, _LEFT, _WIDTH - _RIGHT, _TOP, _HEIGHT - _BOTTOM)
    lines += [text("label middle", (_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 8, "operations per byte"), text("label", 8, _TOP - 10, "Gop/s")]
    # A roof is the slope of memory up to its ridge, then flat. The slope starts where it enters the picture.
    start = max(x.least, y.least / bandwidth)
    for said, peak in peaks.items():
        corners = [(start, start * bandwidth), (peak / bandwidth, peak), (x.most, peak)]
        lines += ['<polyline class="roof" points="' + " ".join(f"{x(i):.1f},{y(r):.1f}" for i, r in corners) + '"/>',
                  text("roof-label end", _WIDTH - _RIGHT - 4, y(peak) - 6, f"{said}: {peak:.0f} Gop/s")]
    lines.append(text("roof-label end", x(min(ridges)) - 14, y(min(peaks.values())) + 4, f"memory: {bandwidth:.1f} GB/s"))
    for point in points:
        lines.append(f'<circle cx="{x(point.intensity):.1f}" cy="{y(point.rate):.1f}" r="{_RADIUS}" fill="{colours[point.program]}">'
                     f"<title>{escape(point.said)}</title></circle>")
    return "\n".join([*lines, *_legend(dict.fromkeys(p.program for p in points), colours), "</svg>"])


def _legend(programs: Mapping[str, Any], colours: Mapping[str, str]) -> list[str]:
    lines, at = [], _LEFT + 20.0
    for program in programs:
        lines += [f'<circle cx="{at:.1f}" cy="12" r="{_RADIUS}" fill="{colours[program]}"/>', text("label", at + 9, 16, program)]
        at += 32 + 8 * len(program)  # a letter of the font is no wider
    return lines
