"""Tables, fields and progress: with rich on a terminal where it is installed, as plain text elsewhere."""

from __future__ import annotations

import contextlib
import json
import sys
import time
import warnings as standard_warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

#: What a compiler calls to say where it is: the stage, how much of it is done (or None), and what it works on.
Progress: TypeAlias = Callable[[str, "float | None", str], None]


def heading(text: str) -> None:
    """A title above a block."""
    print(f"\n{text}")


def fields(pairs: Mapping[str, object]) -> None:
    """Names and values, aligned."""
    width = max((len(name) for name in pairs), default=0)
    for name, value in pairs.items():
        print(f"  {name:<{width}}  {value}")


def table(columns: Sequence[str], rows: Sequence[Sequence[object]], *, right: Sequence[int] = ()) -> None:
    """A table; the columns in ``right`` are aligned to the right."""
    texts = [[str(cell) for cell in row] for row in rows]
    if sys.stdout.isatty() and _has_rich():
        _rich_table(columns, texts, right)
        return
    widths = [max(len(line[i]) for line in [list(columns), *texts]) for i in range(len(columns))]
    for line in [list(columns), *texts]:
        cells = [cell.rjust(width) if i in right else cell.ljust(width) for i, (cell, width) in enumerate(zip(line, widths, strict=True))]
        print(("  " + "  ".join(cells)).rstrip())


def as_json(value: object) -> None:
    """One JSON document on stdout."""
    print(json.dumps(value, indent=2))


def size(count: float) -> str:
    """Bytes for a person: ``436.0 MB`` (10^6)."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError


def duration(seconds: float) -> str:
    """A time for a person, with three digits."""
    for limit, factor, unit in ((1e-6, 1e9, "ns"), (1e-3, 1e6, "us"), (1.0, 1e3, "ms")):
        if seconds < limit:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds:.1f} s" if seconds < 60 else f"{int(seconds // 60)} min {seconds % 60:.0f} s"


def shape(extents: Sequence[object]) -> str:
    """``[batch, 3, 224, 224]``."""
    return "[" + ", ".join(str(extent) for extent in extents) + "]"


@contextlib.contextmanager
def warnings() -> Iterator[None]:
    """Shows warnings as one line each on stderr."""
    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        print(f"warning: {message}", file=sys.stderr)

    with standard_warnings.catch_warnings():
        standard_warnings.showwarning = show
        yield


@contextlib.contextmanager
def progress() -> Iterator[Progress]:
    """Shows the stages of a long piece of work on stderr."""
    if sys.stderr.isatty() and _has_rich():
        with _rich_progress() as report:
            yield report
    else:
        yield _PlainProgress()


class _PlainProgress:
    """One line for each stage, and one every few seconds within it."""

    _INTERVAL = 5.0

    def __init__(self) -> None:
        self._stage = ""
        self._shown = 0.0

    def __call__(self, stage: str, fraction: float | None, detail: str) -> None:
        now = time.monotonic()
        if stage == self._stage and now - self._shown < self._INTERVAL:
            return
        done = f" {fraction:.0%}" if fraction is not None and stage == self._stage else ""
        self._stage, self._shown = stage, now
        print(f"{stage}{done}" + (f": {detail}" if detail else ""), file=sys.stderr, flush=True)


@contextlib.contextmanager
def _rich_progress() -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    tasks: dict[str, Any] = {}
    with Progress(SpinnerColumn(finished_text="✓"), TextColumn("{task.description:<16}"), BarColumn(bar_width=24), TimeElapsedColumn(),
                  TextColumn("{task.fields[detail]}", markup=False), console=Console(stderr=True)) as bars:

        def report(stage: str, fraction: float | None, detail: str) -> None:
            if stage not in tasks:
                for task in tasks.values():
                    bars.update(task, total=1.0, completed=1.0, detail="")
                tasks[stage] = bars.add_task(stage, total=None, detail="")
            total = None if fraction is None else 1.0
            bars.update(tasks[stage], total=total, completed=fraction or 0.0, detail=detail[:60])

        yield report
        for task in tasks.values():
            bars.update(task, total=1.0, completed=1.0, detail="")


def _rich_table(columns: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=None, pad_edge=True)
    for i, column in enumerate(columns):
        drawn.add_column(column, justify="right" if i in right else "left", overflow="fold")
    for row in rows:
        drawn.add_row(*(Text(cell) for cell in row))
    Console().print(drawn)


def _has_rich() -> bool:
    try:
        import rich  # noqa: F401
    except ImportError:
        return False
    return True
