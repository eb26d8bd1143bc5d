"""Results as tables: on the terminal, as CSV, and the words that all outputs share."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping
from typing import Any

from ingot.cli.printing import duration

#: The columns of a case: heading → the text of a contestant's row.
COLUMNS: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "contestant": lambda r: str(r["name"]),
    "median": lambda r: duration(r["seconds"]["median"]),
    "p5": lambda r: duration(r["seconds"]["p5"]),
    "p95": lambda r: duration(r["seconds"]["p95"]),
    "ratio": lambda r: f"{r['ratio']:.2f}",
    "Gop/s": lambda r: f"{r['gflop_s']:.1f}",
    "GB/s": lambda r: f"{r['gb_s']:.1f}",
    "of roofline": lambda r: f"{r['roofline']:.0%}" if r["roofline"] is not None else "",
    "error": lambda r: f"{r['error']:.1e}",
    "multiplies": lambda r: str(r["arithmetic"]) + (f" ({r['note']})" if r["note"] else ""),
}

#: The columns of CSV: of the case, of the contestant, of its times.
_CASE = ("kernel", "shape", "dtype", "flags", "threads", "flops", "bytes", "sets")
_ROW = ("name", "status", "reason", "arithmetic", "note", "gflop_s", "gb_s", "roofline", "ratio", "error", "tolerance")
_TIMES = ("runs", "median", "minimum", "p5", "p95", "p99")


#: What the machine reaches, in words: the limit's key → the form of its rate.
_REACHED: Mapping[str, str] = {"bandwidth_gb_s": "{:.1f} GB/s read", "fma_gflop_s": "{:.0f} GFLOP/s",
                               "bf16_gflop_s": "{:.0f} GFLOP/s of bfloat16 products", "int8_gop_s": "{:.0f} Gop/s of byte products"}


def title(case: Mapping[str, Any]) -> str:
    """A case in one line, with what the machine reached in its turns."""
    threads = f"{case['threads']} thread{'s' if case['threads'] != 1 else ''}"
    sets = f", {case['sets']} sets in turn" if case["sets"] > 1 else ""
    reached = "".join(f"; in turn with {_REACHED[name].format(rate)}" for name, rate in case["reached"].items())
    return " ".join((case["kernel"], case["shape"], case["dtype"], *case["flags"])) + f": {threads}{sets}{reached}"


def limits_text(limits: Mapping[str, Any]) -> str:
    """What the machine reaches with a number of threads, in one line."""
    threads = f"{limits['threads']} thread{'s' if limits['threads'] != 1 else ''}"
    return (f"measured with {threads}: {limits['bandwidth_gb_s']:.1f} GB/s read, {limits['fma_gflop_s']:.0f} GFLOP/s of fused multiply-adds (f32), "
            f"{limits['bf16_gflop_s']:.0f} GFLOP/s of bfloat16 products, {limits['int8_gop_s']:.0f} Gop/s of byte products")


def csv_text(found: Mapping[str, Any]) -> str:
    """One line for each case and contestant, times in seconds; what is not known is empty."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*_CASE, "contestant", *_ROW[1:], *_TIMES])
    for case in found["cases"]:
        for row in case["contestants"]:
            times = row.get("seconds", {})
            values = [*(case[name] for name in _CASE), *(row.get(name) for name in _ROW), *(times.get(name) for name in _TIMES)]
            writer.writerow([" ".join(v) if isinstance(v, list) else v for v in values])
    return out.getvalue()
