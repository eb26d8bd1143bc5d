"""A sweep as a table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from ingot.cli import printing


def _known(value: Any, text: Callable[[Any], str]) -> str:
    return "" if value is None else text(value)


def _between(key: str, row: Mapping[str, Any]) -> str:
    return _known(row[key], printing.duration)


#: Heading → the text of a case and one contestant's row.
_TIMES: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "first token": lambda r: printing.duration(r["time_to_first_token"]),
    **{f"p{p}": partial(_between, f"time_between_tokens_p{p}") for p in (50, 95, 99)},
    "prefill/s": lambda r: f"{r['prefill_tokens_per_second']:.1f}",
    "decode/s": lambda r: _known(r["decode_tokens_per_second"], lambda v: f"{v:.1f}"),
    "caches": lambda r: _known(r["cache_bytes"], printing.size),
}
COLUMNS = ("prompt", "output", "batch", "program", *_TIMES)
#: Below the table.
EXPLAINED = ("first token: the median time from the start to a text's first token; p50, p95, p99: from one token to the next; prefill/s, "
             "decode/s: tokens in a second, all texts together")


def rows(found: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """One row for each case and contestant; one that does not run a case says why."""
    lines = []
    for case in found:
        lengths = tuple(str(case[key]) for key in ("prompt", "output", "batch"))
        for name, row in case["contestants"].items():
            told = (row["unsupported"], *[""] * (len(_TIMES) - 1)) if "unsupported" in row else tuple(text(row) for text in _TIMES.values())
            lines.append((*lengths, name, *told))
    return lines
