"""Writes what the benchmarks of CUDA kernels measured as a page.

Run as `python -m benchmarks.cuda.report docs/performance-cuda.md --date 2026-01-31 build/cuda-results/*.json`. The report of bench_models.py becomes
a section of whole models, every other one a section of one kernel.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

_VARIANTS = ("tile ", "direct ", "bulk ", "tiles ", "wgmma ", "mma ", "matvec", "streamed ")
_HEAD = """# Performance on a GPU

Written by `python -m benchmarks.cuda.report` from what `make bench-cuda` measured. Times of kernels are medians of replays of a CUDA graph, over
operands that the caches do not hold; each script checked its results before timing them. A ratio is the fastest other's time over Ingot's: above 1,
Ingot is faster. Copies count bytes read and written.
"""
_MODELS = """Whole models with
random weights, run through libingot's C ABI with inputs and outputs on the GPU, one run after another: medians of the time between events before and
behind a run. PyTorch's are the same architectures in bfloat16, in a CUDA graph, as they are and compiled by its inductor."""


def _is_variant(contestant: str) -> bool:
    """Whether a contestant is one of Ingot's with a path forced, which a page of results leaves out."""
    return contestant.startswith("Ingot ") and (contestant.removeprefix("Ingot ").startswith(_VARIANTS) or "parts" in contestant)


def _models(report: dict[str, Any]) -> list[str]:
    """The table of whole models."""
    cases: dict[tuple[str, str, str], dict[str, dict[str, Any]]] = {}
    for record in report["records"]:
        if record.get("ms"):
            cases.setdefault((record["model"], record["dtype"], record["case"]), {})[record["contestant"]] = record
    lines = ["| model | type | case | Ingot | tokens/s | in a graph | fastest PyTorch | ratio |", "|---|---|---|---|---|---|---|---|"]
    for (model, dtype, case), contestants in cases.items():
        ours = contestants.pop("Ingot", None)
        if ours is None:
            continue
        best = min(((r["ms"], name) for name, r in contestants.items()), default=None)
        other, ratio = (f"{best[0]:.3f} ms, {best[1]}", f"{best[0] / ours['ms']:.2f}") if best else ("", "")
        tokens = f"{ours['tokens_per_second']:.0f}" if "tokens_per_second" in ours else ""
        graph = f"no: {ours['reason']}" if ours["reason"] else "yes" if ours["replayed"] else "no"
        lines.append(f"| {model} | {dtype} | {case} | {ours['ms']:.3f} ms | {tokens} | {graph} | {other} | {ratio} |")
    return lines


def _kernels(report: dict[str, Any]) -> list[str]:
    """The table of a kernel."""
    cases: dict[str, dict[str, dict[str, Any]]] = {}
    for record in report["records"]:
        if record.get("ms") and not _is_variant(record["contestant"]):
            cases.setdefault(record["case"], {})[record["contestant"]] = record
    lines = ["| case | Ingot | TFLOP/s | GB/s | fastest other | ratio |", "|---|---|---|---|---|---|"]
    for case, contestants in cases.items():
        ours = contestants.pop("Ingot", None)
        others = [(r["ms"], n) for n, r in contestants.items() if not n.startswith("Ingot")]
        if ours is None:
            continue
        seconds = ours["ms"] / 1e3
        rates = [f"{ours[key] / seconds / scale:.0f}" if ours.get(key) else "" for key, scale in (("flops", 1e12), ("bytes", 1e9))]
        best = min(others) if others else None
        other = f"{1e3 * best[0]:.1f} us, {best[1]}" if best else ""
        ratio = f"{best[0] / ours['ms']:.2f}" if best else ""
        lines.append(f"| {case} | {1e3 * ours['ms']:.1f} us | {rates[0]} | {rates[1]} | {other} | {ratio} |")
    return lines


def _peaks(report: dict[str, Any]) -> str:
    """What kernels are compared with beside others' times."""
    peaks = report["peaks"]
    copies = f"copies {peaks['bytes_per_second'] / 1e9:.0f} GB/s, " if any(r.get("bytes") for r in report["records"]) else ""
    return f"Measured in the same run: {copies}cuBLAS bf16 {peaks['flops_per_second'] / 1e12:.0f} TFLOP/s."


#: For benchmarks that are not of a kernel: what stands below their heading, and their table.
_OTHERS: dict[str, tuple[Callable[[dict[str, Any]], str], Callable[[dict[str, Any]], list[str]]]] = {"models": (lambda report: _MODELS, _models)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path)
    parser.add_argument("reports", nargs="+", type=Path)
    parser.add_argument("--date", required=True)
    parser.add_argument("--note", default="", help="a sentence for the top of the page")
    arguments = parser.parse_args()
    parts = [_HEAD, f"\n{arguments.note}\n" if arguments.note else ""]
    for path in arguments.reports:
        report = json.loads(path.read_text())
        title = report["benchmark"].replace("_", " ")
        describe, table = _OTHERS.get(report["benchmark"], (_peaks, _kernels))
        machine = f"{report['device']}, PyTorch {report['torch']}, {arguments.date}. {describe(report)}"
        parts.append(f"\n## {title}\n\n{machine}\n\n" + "\n".join(table(report)) + "\n")
    arguments.page.write_text("".join(parts))


if __name__ == "__main__":
    main()
