"""The picture of docs/performance.md: how many times as long as Ingot each runtime takes, a row of plots for each group."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot as plt

from benchmarks.groups import GROUPS, Setting
from benchmarks.results import Results, name_of

plt.switch_backend("svg")  # no display is needed

#: Colours that people with colour-blindness can tell apart (Okabe and Ito), one a runtime.
_COLOURS = {"onnxruntime": "#0072b2", "openvino": "#e69f00"}
#: The same picture from the same numbers, text that stays text.
_STYLE: dict[Any, Any] = {"svg.hashsalt": "ingot", "svg.fonttype": "none", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False}
_BAR = 0.36


def draw(results: Results, target: Path) -> None:
    """Writes an SVG: for each group with ratios and each number of threads, the bars of each model."""
    shown = {name: settings for name in GROUPS if (settings := [s for s in results.settings(name) if results.best_ratio(s)])}
    threads = sorted({s.threads for settings in shown.values() for s in settings})
    if not shown:
        raise SystemExit("there is nothing to draw: no setting has times of Ingot and of another runtime")
    # Height by rows: half a centimetre or so for each bar, a margin for title and axis.
    heights = [0.9 + 0.42 * max(sum(s.threads == t for s in settings) for t in threads) for settings in shown.values()]
    with mpl.rc_context(_STYLE):
        figure, grid = plt.subplots(len(shown), len(threads), squeeze=False, figsize=(5 * len(threads), sum(heights)), layout="constrained",
                                    gridspec_kw={"height_ratios": heights})
        for row, (name, settings) in zip(grid, shown.items(), strict=True):
            for axes, count in zip(row, threads, strict=True):
                axes.set_title(f"{GROUPS[name].title}, {count} thread{'s' if count != 1 else ''}", loc="left", fontsize=10)
                _bars(axes, results, [s for s in settings if s.threads == count])
        handles = {text: handle for axes in figure.axes for handle, text in zip(*axes.get_legend_handles_labels(), strict=True)}
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=len(handles), frameon=False)
        figure.savefig(target, format="svg", metadata={"Date": None}, facecolor="white")
        plt.close(figure)


def _bars(axes: Any, results: Results, settings: list[Setting]) -> None:
    if not settings:
        axes.set_axis_off()
        return
    peers = results.peers(settings)
    for i, peer in enumerate(peers):
        ratios = [results.ratio(s, peer) or 0.0 for s in settings]
        places = [k + (i - (len(peers) - 1) / 2) * _BAR for k in range(len(settings))]
        bars = axes.barh(places, ratios, _BAR, color=_COLOURS.get(peer), label=f"{name_of(peer)} / Ingot")
        axes.bar_label(bars, [f"{r:.2f}" if r else "" for r in ratios], padding=3, fontsize=8)
    several = len(GROUPS[settings[0].group].batches) > 1
    axes.set_yticks(range(len(settings)), [f"{s.model}, batch {s.batch}" if several else s.model for s in settings])
    axes.set_ylim(len(settings) - 0.5, -0.5)  # the first on top
    axes.set_xlim(0, 1.12 * max(1.0, *(r for s in settings for peer in peers if (r := results.ratio(s, peer)))))  # room for the numbers
    axes.axvline(1, color="#444444", linewidth=1, linestyle="--", label="Ingot's time")
    axes.set_xlabel("time over Ingot's: above 1, Ingot is faster")
