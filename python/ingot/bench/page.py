"""A profiled run as one HTML page that needs nothing else: the machine, the times, a roofline and a table of steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from ingot.bench.roofline import placed, roofline_svg
from ingot.cli import printing

#: The table of steps: heading → the value that it sorts by, and its text. Columns of numbers sort the largest first.
_COLUMNS: Mapping[str, tuple[Callable[[Mapping[str, Any]], Any], Callable[[Any], str]]] = {
    "step": (lambda s: s["step"], str),
    "time": (lambda s: s["seconds"], printing.duration),
    "share": (lambda s: s["share"], lambda v: f"{v:.1%}"),
    "GFLOP/s": (lambda s: s["gflop_s"], lambda v: f"{v:.1f}"),
    "GB/s": (lambda s: s["gb_s"], lambda v: f"{v:.1f}"),
    "of roofline": (lambda s: s["roofline"], lambda v: f"{v:.0%}"),
    "operations": (lambda s: s["flops"], lambda v: f"{v:,}"),
    "bytes": (lambda s: s["bytes"], lambda v: f"{v:,}"),
    "runs": (lambda s: s["runs"], str),
    "from": (lambda s: s["node"], str),
}
_TEXT_COLUMNS = ("runs", "from")


def html_page(found: Mapping[str, Any], machine: Mapping[str, str]) -> str:
    """The page: ``found`` is what ``ingot bench --json`` prints, with steps; ``machine`` has names and values for a person."""
    steps, limits = found["steps"], found["measured"]
    beside = 1 - sum(s["share"] for s in placed(steps))
    threads = f"{found['threads']} thread{'s' if found['threads'] != 1 else ''}"
    values = {
        "title": escape(f"{Path(found['file']).name}: {found['target']}, {threads}"),
        "summary": _fields(_summary(found)),
        "machine": _fields({**machine, "measured": f"{limits['bandwidth_gb_s']:.1f} GB/s read, {limits['fma_gflop_s']:.0f} GFLOP/s, on {threads}"}),
        "caption": f"A circle is a step, its area the share of the time; it says what it is under the pointer. "
                   f"{max(beside, 0):.1%} of the time is in steps that are not shown: no operations are counted for them.",
        "roofline": roofline_svg(steps, limits["fma_gflop_s"], limits["bandwidth_gb_s"]),
        "runs": str(found["profiled_runs"]),
        "steps": _table(steps),
    }
    return Template(Path(__file__).with_name("page.html").read_text(encoding="utf-8")).substitute(values)


def _summary(found: Mapping[str, Any]) -> dict[str, str]:
    seconds = found["seconds"]
    times = {name: printing.duration(seconds[key]) for name, key in
             (("median", "median"), ("minimum", "minimum"), ("5th percentile", "p5"), ("95th percentile", "p95"), ("99th percentile", "p99"))}
    inputs = {f"input {name}": f"{i['dtype']} {printing.shape(i['shape'])}" for name, i in found["inputs"].items()}
    return {**times, "runs": f"{seconds['runs']} after {found['warmup']} to warm up; {seconds['per_second']:.4g} in a second",
            "file": str(found["file"]), **inputs}


def _fields(pairs: Mapping[str, str]) -> str:
    return "<dl>\n" + "\n".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in pairs.items()) + "\n</dl>"


def _table(steps: Sequence[Mapping[str, Any]]) -> str:
    heads = "".join(f'<th scope="col" class="{_kind(name)}"><button type="button">{escape(name)}</button></th>' for name in _COLUMNS)
    rows = "\n".join(f'<tr id="step-{step["step"]}">' + "".join(_cell(name, step) for name in _COLUMNS) + "</tr>" for step in steps)
    return f'<table id="steps">\n<thead><tr>{heads}</tr></thead>\n<tbody>\n{rows}\n</tbody>\n</table>'


def _cell(name: str, step: Mapping[str, Any]) -> str:
    value_of, text = _COLUMNS[name]
    value = value_of(step)
    known = value is not None
    key = value if known else -1  # unknown numbers sort below all others
    return f'<td class="{_kind(name)}" data-value="{escape(str(key))}">{escape(text(value)) if known else ""}</td>'


def _kind(name: str) -> str:
    return name if name in _TEXT_COLUMNS else "number"
