"""A sweep as PNG, with matplotlib."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from importlib import util
from pathlib import Path
from typing import Any

from ingot.errors import InputError

_LINES = {"p50": "-", "p95": "--", "p99": ":"}


def need_matplotlib() -> None:
    """Raises :class:`InputError` where matplotlib is not installed."""
    if util.find_spec("matplotlib") is None:
        raise InputError("--png needs matplotlib, which is not installed: pip install 'ingot[bench]'; --json has the same figures without it")


def draw(path: Path, found: Sequence[Mapping[str, Any]], title: str) -> None:
    """Writes a PNG: time to the first token and between tokens by the length of the prompt, and the decode rate by the number of texts.

    Of several output lengths the longest is shown.

    Raises:
        InputError: matplotlib is not installed.
    """
    need_matplotlib()
    from matplotlib.figure import Figure

    longest = max(case["output"] for case in found)
    shown = [case for case in found if case["output"] == longest]
    figure = Figure(figsize=(16, 5), layout="constrained")
    figure.suptitle(title)
    first, between, rate = figure.subplots(1, 3)
    for program, batch, own in _series(shown, "batch"):
        label = f"{program}, {batch} text{'s' if batch != 1 else ''}"
        xs = [x["prompt"] for x in own]
        (drawn,) = first.plot(xs, [1e3 * x["time_to_first_token"] for x in own], marker="o", label=label)
        for percentile, style in _LINES.items():
            known = [(x["prompt"], 1e3 * x[f"time_between_tokens_{percentile}"]) for x in own if x[f"time_between_tokens_{percentile}"] is not None]
            between.plot([k[0] for k in known], [k[1] for k in known], style, marker="o", color=drawn.get_color(), label=f"{label}, {percentile}")
    for program, prompt, own in _series(shown, "prompt"):
        known = [(x["batch"], x["decode_tokens_per_second"]) for x in own if x["decode_tokens_per_second"] is not None]
        rate.plot([k[0] for k in known], [k[1] for k in known], marker="o", label=f"{program}, prompt of {prompt}")
    first.set(xscale="log", yscale="log", xlabel="tokens of the prompt", ylabel="ms to the first token")
    between.set(xscale="log", xlabel="tokens of the prompt", ylabel="ms between tokens", ylim=(0, None))
    rate.set(xlabel="texts at once", ylabel=f"tokens/s of decoding, outputs of {longest}", ylim=(0, None))
    for axes, key in ((first, "prompt"), (between, "prompt"), (rate, "batch")):
        measured = sorted({case[key] for case in shown})
        axes.set_xticks(measured, [str(m) for m in measured])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
        axes.legend(frameon=False, fontsize=8)
    figure.savefig(path, format="png", dpi=150)


def _series(found: Sequence[Mapping[str, Any]], key: str) -> Iterator[tuple[str, int, list[dict[str, Any]]]]:
    """Program, value of ``key``, and the rows that have both, with their case's lengths."""
    for program in dict.fromkeys(name for case in found for name in case["contestants"]):
        for value in dict.fromkeys(case[key] for case in found):
            own = [{**case["contestants"][program], **{k: case[k] for k in ("prompt", "batch")}} for case in found
                   if case[key] == value and "unsupported" not in case["contestants"][program]]
            if own:
                yield program, value, sorted(own, key=lambda x: (x["prompt"], x["batch"]))
