"""Writes docs/performance.md and its picture from what `make bench` measured: ``python -m benchmarks.report build/bench.json docs/performance.md``.

Several JSON files may be named before the page: groups that were measured one after another, on one machine.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from benchmarks.groups import GROUPS, Setting
from benchmarks.results import Results, name_of, read

HEAD = """# Performance

Whole models, and some operators by themselves. Each runtime has a process of its own; they take turns within one run; times are medians in
milliseconds. In brackets: how many times as long as Ingot. `make bench` measures this again, `make report` writes this page.
"""

#: Instruction sets that decide speed, by the beginnings of Linux's names; a machine has many more features.
_INSTRUCTION_SETS = ("avx", "fma", "f16c", "amx", "asimd", "sve", "bf16", "i8mm")


def main(*arguments: str) -> None:
    """Reads pytest-benchmark's JSON reports and writes the page, and the picture beside it."""
    try:
        from benchmarks.plot import draw
    except ImportError:
        raise SystemExit("the picture needs matplotlib: pip install '.[bench]'") from None
    *sources, target = map(Path, arguments)
    results = read(sources)
    picture = target.with_suffix(".svg")
    draw(results, picture)
    target.write_text(page(results, picture.name), encoding="utf-8")


def page(results: Results, picture: str) -> str:
    """The page in Markdown, with a link to the picture."""
    lines = [HEAD, *_machine(results), f"![How many times as long as Ingot each runtime takes]({picture})", ""]
    for name in GROUPS:
        lines += _group(results, name)
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).rstrip() + "\n"


def _machine(results: Results) -> list[str]:
    here, versions = results.around["machine"], results.around["versions"]
    sets = [f for f in here["features"] if f.startswith(_INSTRUCTION_SETS)]
    limits = [f"{m['fma_gflop_s']:.0f} GFLOP/s (fused multiply-add, f32) and {m['bandwidth_gb_s']:.1f} GB/s (read) on {_threads(m['threads'])}"
              for m in results.around["measured"]]
    measured = sorted({name for found in results.times.values() for name in found})
    return [f"- Machine: {here['model']}, {here['logical_cpus']} logical CPUs, {', '.join(sets)}; best target `{here['targets'][0]}`",
            f"- Its measured limits: {'; '.join(limits)}",
            f"- Versions: {', '.join(f'{name_of(name)} {versions[name]}' for name in measured)}, Python {versions['python']}",
            f"- Measured on {results.date}", ""]


def _group(results: Results, name: str) -> list[str]:
    group, settings = GROUPS[name], results.settings(name)
    if not settings:
        return []
    peers, several = results.peers(settings), len(group.batches) > 1
    heads = ["model", *(["batch"] if several else []), "threads", "Ingot", *map(name_of, peers), "faster peer / Ingot"]
    lines = [f"## {group.title}", "", group.about, "", "| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for setting in settings:
        best = results.best_ratio(setting)
        cells = [setting.model, *([str(setting.batch)] if several else []), str(setting.threads), _time(results, setting, "ingot"),
                 *(_time(results, setting, peer) for peer in peers), f"{best:.2f}" if best else ""]
        lines.append("| " + " | ".join(cells) + " |")
    return [*lines, "", *_means(results, settings), *_notes(results, name, settings), ""]


def _time(results: Results, setting: Setting, contestant: str) -> str:
    if contestant not in results.times[setting]:
        return "refused" if contestant == "ingot" else ""
    ratio = results.ratio(setting, contestant) if contestant != "ingot" else None
    milliseconds = results.times[setting][contestant]["median"] * 1e3
    return f"{milliseconds:.{2 if milliseconds >= 1 else 4}f}" + (f" ({ratio:.2f})" if ratio else "")


def _means(results: Results, settings: Sequence[Setting]) -> list[str]:
    parts = []
    for threads in sorted({s.threads for s in settings}):
        ratios = [r for s in settings if s.threads == threads and (r := results.best_ratio(s)) is not None]
        if ratios:
            mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
            parts.append(f"{mean:.3f} on {_threads(threads)} (least {min(ratios):.2f})")
    return [f"Geometric mean of the last column: {'; '.join(parts)}."] if parts else []


def _notes(results: Results, name: str, settings: Sequence[Setting]) -> Iterable[str]:
    """What a reader must know to read the table right: who computed in something else, and what Ingot refused."""
    asked = GROUPS[name].precision
    instead = {(c, found["precision"]) for s in settings for c, found in results.times[s].items() if found.get("precision", asked) != asked}
    for contestant, precision in sorted(instead):
        yield from ("", f"{name_of(contestant)} was asked for {asked}, but computes in {precision}: this CPU has no {asked} arithmetic that it uses.")
    reasons: dict[str, list[str]] = {}
    for (group, model), reason in results.refused.items():
        if group == name:
            reasons.setdefault(reason, []).append(model)
    for reason, models in reasons.items():
        yield from ("", f"Ingot refuses {', '.join(models)}: {reason.rstrip('.')}.")


def _threads(count: int) -> str:
    return f"{count} thread{'s' if count != 1 else ''}"


if __name__ == "__main__":
    main(*sys.argv[1:])
