"""Results as one HTML page that needs nothing else: the machine, rooflines, a table for each case."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from ingot.bench.kernels.plot import roofline_svg
from ingot.bench.kernels.points import colours, points
from ingot.bench.kernels.table import COLUMNS, limits_text, title

_TEXTS = ("contestant", "multiplies")


def html_page(found: Mapping[str, Any], machine: Mapping[str, str]) -> str:
    """The page: ``found`` is what ``ingot kernels bench --json`` writes; ``machine`` has names and values for a person."""
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items() if version)
    measured = "; ".join(limits_text(limits) for limits in found["measured"])
    return Template(Path(__file__).with_name("page.html").read_text(encoding="utf-8")).substitute(
        machine="\n".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>"
                          for name, text in {**machine, "versions": versions, "limits": measured}.items()),
        rooflines="\n".join(f"<h3>{limits['threads']} thread{'s' if limits['threads'] != 1 else ''}</h3>\n"
                            + roofline_svg(points(found, limits["threads"]), limits, colours(found)) for limits in found["measured"]),
        cases="\n".join(map(_case, found["cases"])))


def _case(case: Mapping[str, Any]) -> str:
    timed = [row for row in case["contestants"] if row["status"] == "ok"]
    parts = [f"<h3>{escape(title(case))}</h3>"]
    if timed:
        heads = "".join(f'<th scope="col" class="{_kind(name)}">{escape(name)}</th>' for name in COLUMNS)
        rows = "\n".join("<tr>" + "".join(f'<td class="{_kind(name)}">{escape(text(row))}</td>' for name, text in COLUMNS.items()) + "</tr>"
                         for row in timed)
        parts.append(f'<div class="wide"><table>\n<thead><tr>{heads}</tr></thead>\n<tbody>\n{rows}\n</tbody>\n</table></div>')
    others = [row for row in case["contestants"] if row["status"] != "ok"]
    if others:
        said = {"wrong": "is <strong>wrong</strong> and was not timed", "left out": "is left out"}
        items = "\n".join(f"<li>{escape(row['name'])} {said[row['status']]}: {escape(row['reason'])}</li>" for row in others)
        parts.append(f'<ul class="note">\n{items}\n</ul>')
    return "\n".join(parts)


def _kind(name: str) -> str:
    return "text" if name in _TEXTS else "number"
