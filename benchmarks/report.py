"""Writes docs/performance.md from what `make bench` measured: ``python benchmarks/report.py build/bench.json docs/performance.md``."""

from __future__ import annotations

import json
import math
import sys
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ingot.runtime.machine import machine, measure_bandwidth, measure_fma

HEAD = """# Performance

Whole models at batch 1, float32. Each runtime has a process of its own; they take turns within one run; times are medians in milliseconds.
In brackets: how many times as long as Ingot. `make bench` measures this again, `benchmarks/report.py` writes this page.
"""


def main(source: str, target: str) -> None:
    """Reads pytest-benchmark's JSON report and writes the page."""
    report = json.loads(Path(source).read_text())
    rows: dict[tuple[int, str], dict[str, Mapping[str, Any]]] = defaultdict(dict)
    for bench in report["benchmarks"]:
        parameters = bench["params"]
        rows[parameters["threads"], parameters["model"]][parameters["contestant"]] = bench["extra_info"]
    lines = [HEAD, *_machine(report)]
    for threads in sorted({t for t, _ in rows}):
        lines += _table(threads, {m: found for (t, m), found in rows.items() if t == threads})
    Path(target).write_text("\n".join(lines) + "\n", encoding="utf-8")


def _machine(report: Mapping[str, Any]) -> list[str]:
    here = machine()
    counts = dict.fromkeys((1, here["threads"]))
    roofline = "; ".join(f"{measure_fma(t):.0f} GFLOP/s and {measure_bandwidth(t):.1f} GB/s on {t} threads" for t in counts)
    return [f"Machine: {here['model']}, {here['logical_cpus']} logical CPUs, best target {here['targets'][0]}; its measured roofline: {roofline}.",
            f"Measured on {report['datetime'][:10]}.", ""]


def _table(threads: int, models: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> list[str]:
    peers = sorted({c for found in models.values() for c in found} - {"ingot"})
    lines = [f"## {threads} thread{'s' if threads > 1 else ''}", "", "| model | Ingot | " + " | ".join(peers) + " | faster peer / Ingot |",
             "|---|---|" + "---|" * len(peers) + "---|"]
    ratios = []
    for model, found in models.items():
        own = found["ingot"]["median"]
        best = min(found[p]["median"] for p in peers if p in found) / own
        ratios.append(best)
        cells = [f"{found[p]['median'] * 1e3:.2f} ({found[p]['median'] / own:.2f})" if p in found else "" for p in peers]
        lines.append(f"| {model} | {own * 1e3:.2f} | " + " | ".join(cells) + f" | {best:.2f} |")
    mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
    return [*lines, "", f"Geometric mean of the last column: {mean:.3f}; least: {min(ratios):.2f}.", ""]


if __name__ == "__main__":
    main(*sys.argv[1:3])
