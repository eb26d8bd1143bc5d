"""The roofline of kernels as PNG, with matplotlib."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import util
from pathlib import Path
from typing import Any

from ingot.bench.kernels.points import ROOFS, colours, points
from ingot.bench.svg import Axis
from ingot.errors import InputError

_ROOF = "#7a3aa0"  # the colour of page.html's roofs


def need_matplotlib() -> None:
    """Raises :class:`InputError` where matplotlib is not installed."""
    if util.find_spec("matplotlib") is None:
        raise InputError("--png needs matplotlib, which is not installed: pip install 'ingot[bench]'; --html has the same picture without it")


def draw(path: Path, found: Mapping[str, Any]) -> None:
    """Writes a PNG with a roofline for each number of threads.

    Raises:
        InputError: matplotlib is not installed.
    """
    need_matplotlib()
    from matplotlib.figure import Figure

    measured, colour = found["measured"], colours(found)
    figure = Figure(figsize=(8 * len(measured), 5), layout="constrained")
    for axes, limits in zip(figure.subplots(1, len(measured), squeeze=False)[0], measured, strict=True):
        drawn = points(found, limits["threads"])
        bandwidth = limits["bandwidth_gb_s"]
        ridges = [limits[key] / bandwidth for key in ROOFS]
        peaks = [limits[key] for key in ROOFS]
        x = Axis([min(ridges) / 10, max(ridges) * 10, *(p.intensity for p in drawn)], 0, 1)
        y = Axis([max(peaks), min(peaks) / 100, *(p.rate for p in drawn)], 0, 1)
        for key, said in ROOFS.items():
            corners = [x.least, limits[key] / bandwidth, x.most]
            axes.plot(corners, [min(limits[key], i * bandwidth) for i in corners], color=_ROOF, linewidth=1.5)
            axes.annotate(f"{said}: {limits[key]:.0f} Gop/s", (x.most, limits[key]), xytext=(-4, 3), textcoords="offset points", ha="right",
                          va="bottom", color=_ROOF, fontsize=8, zorder=4, bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.6, "pad": 0.5})
        for program in dict.fromkeys(p.program for p in drawn):
            own = [p for p in drawn if p.program == program]
            axes.scatter([p.intensity for p in own], [p.rate for p in own], color=colour[program], label=program, alpha=0.8, zorder=3)
        axes.grid(color="#d8dde2", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.set(xscale="log", yscale="log", xlim=(x.least, x.most), ylim=(y.least, y.most * 2), xlabel="operations per byte", ylabel="Gop/s",
                 title=f"{limits['threads']} thread{'s' if limits['threads'] != 1 else ''}, {bandwidth:.1f} GB/s read")
        if drawn:
            axes.legend(frameon=False, loc="lower right")
    figure.savefig(path, format="png", dpi=150)
