"""Measures problems: contestants are checked, then timed in turn, and compared with what the machine reaches in the same turns."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib import util
from pathlib import Path
from typing import Any

import numpy as np

from ingot.bench.kernels import registry
from ingot.bench.kernels.limits import LIMITS
from ingot.bench.kernels.problem import ARITHMETICS, Contestant, Problem
from ingot.bench.process import Process
from ingot.bench.statistics import summarize
from ingot.errors import ExecutionError, InputError

#: Rotating operands together are this many times the last-level cache, so that what it keeps of one is gone when its turn comes again.
_CACHES = 2
#: But no more sets than this: operands that are too small for it lie in the caches in models as well.
_MOST_SETS = 64
#: Linux's names of products for which no peak is measured: with them no share of a roofline is said.
_UNMEASURED = {"f16": {"avx512_fp16", "asimdhp"}}


@dataclass(frozen=True)
class Options:
    """How to measure.

    Attributes:
        threads: With which numbers of threads.
        rounds: How many turns each contestant has.
        seconds: About how long a turn is.
        sets: How many copies of rotating operands there are; None is as many as exceed the last-level cache.
        paths: Whether Ingot's kernels also run with each instruction set by itself.
        only: Names of contestants; all where it is empty. ``torch`` stands for all that begin so.
        modules: Files that register contestants.
    """

    threads: Sequence[int] = (1,)
    rounds: int = 6
    seconds: float = 0.2
    sets: int | None = None
    paths: bool = False
    only: Sequence[str] = ()
    modules: Sequence[str] = field(default_factory=tuple)


def measure(problems: Sequence[Problem], options: Options, progress: Callable[[str, float | None, str], None] = lambda *_: None) -> dict[str, Any]:
    """Measures each problem with each number of threads.

    Returns:
        JSON values: ``machine``, ``versions``, ``measured`` (for each number of threads the rates of ``limits.LIMITS``)
        and ``cases``, one for each problem and number of threads with its ``contestants``: ``status`` is ``"ok"``, ``"wrong"`` or ``"left out"``.

    Raises:
        InputError: ``only`` names nobody.
    """
    from ingot.cli import doctor
    from ingot.runtime import machine

    found: dict[str, Any] = {"machine": machine(), "versions": doctor.versions(), "rounds": options.rounds, "measured": [], "cases": []}
    chosen = {name: _chosen(name, options) for name in dict.fromkeys(p.kernel for p in problems)}
    with tempfile.TemporaryDirectory() as folder:
        for threads in options.threads:
            progress("measuring the machine", None, f"{threads} threads")
            before = _limits(threads)
            for kernel, contestants in chosen.items():
                own = [p for p in problems if p.kernel == kernel]
                with _workers(contestants, threads, options.modules) as workers, _roofline(threads) as roofline:
                    for number, problem in enumerate(own):
                        progress(f"{kernel}, {threads} threads", number / len(own), str(problem))
                        found["cases"].append(_Case(problem, workers, roofline, threads, options).measure(before, Path(folder)))
            after = _limits(threads)
            found["measured"].append({name: max(before[name], after[name]) for name in before})
    return found


def _chosen(kernel: str, options: Options) -> list[Contestant]:
    rows = registry.contestants(kernel, paths=options.paths)
    if not options.only:
        return rows
    chosen = [c for c in rows if any(c.name == name or c.name.startswith(name + " ") for name in options.only)]
    if not chosen:
        raise InputError(f"nobody that computes {kernel} is called {' or '.join(options.only)}; there are: {', '.join(c.name for c in rows)}")
    return chosen


def _limits(threads: int) -> dict[str, float]:
    """What the machine reaches at its best."""
    return {"threads": threads, **{name: limit(threads, 0.4).best for name, limit in LIMITS.items()}}


def _roofline(threads: int) -> Process:
    """The process that measures what the machine reaches, on the cores of the contestants."""
    return Process("measuring the machine", ["-m", "ingot.bench.kernels.limits", str(threads)], threads)


@dataclass
class _Worker:
    """A contestant, with its process while it has one."""

    contestant: Contestant
    start: Callable[[], Process]
    process: Process | None = None
    missing: str = ""

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Asks its process, which is started where there is none; what ended it is an answer too."""
        self.process = self.process or self.start()
        try:
            return self.process.ask(request)
        except ExecutionError as error:
            self.stop()
            return {"unsupported": " ".join(str(error).split())}

    def stop(self) -> None:
        """Ends its process."""
        if self.process is not None:
            self.process.__exit__(None, None, None)
            self.process = None


@contextmanager
def _workers(contestants: Sequence[Contestant], threads: int, modules: Sequence[str]) -> Iterator[list[_Worker]]:
    workers = [_Worker(c, _starter(c, threads, modules), missing="" if _installed(c.module) else f"{c.module} is not installed") for c in contestants]
    with ExitStack() as stack:
        for worker in workers:
            stack.callback(worker.stop)
        yield workers


def _starter(contestant: Contestant, threads: int, modules: Sequence[str]) -> Callable[[], Process]:
    arguments = ["-m", "ingot.bench.kernels.worker", contestant.kernel, contestant.name, *modules]
    return lambda: Process(contestant.name, arguments, threads, contestant.environment)


def _installed(module: str) -> bool:
    return util.find_spec(module) is not None


def _sets(problem: Problem, options: Options) -> int:
    if not problem.rotating:
        return 1
    return options.sets or int(np.clip(-(-_CACHES * _cache() // problem.rotating), 1, _MOST_SETS))


def _cache() -> int:
    """The bytes of the last-level cache."""
    from ingot.runtime import machine

    return max((int(c["bytes"]) for c in machine()["caches"]), default=32 << 20)


def _ready(worker: _Worker, problem: Problem, threads: int, sets: int, reference: Path) -> dict[str, Any]:
    """A contestant's row before it is timed."""
    if worker.missing:
        return {"status": "left out", "reason": worker.missing}
    loaded = worker.ask({"load": json.loads(registry.request(problem)), "threads": threads, "sets": sets})
    if "unsupported" in loaded:
        return {"status": "left out", "reason": loaded["unsupported"]}
    checked = worker.ask({"check": str(reference)})
    if "unsupported" in checked:
        return {"status": "left out", "reason": checked["unsupported"]}
    reason = checked.pop("problem")
    return {"status": "wrong" if reason else "ok", "reason": reason, **loaded, **checked}


class _Case:
    """A problem that is being measured with a number of threads."""

    def __init__(self, problem: Problem, workers: Sequence[_Worker], roofline: Process, threads: int, options: Options) -> None:
        self._problem, self._workers, self._roofline, self._threads, self._options = problem, workers, roofline, threads, options
        self._sets = _sets(problem, options)
        self._from_memory = problem.rotating * self._sets > _cache()
        self._rows: dict[str, dict[str, Any]] = {}

    def measure(self, limits: Mapping[str, float], folder: Path) -> dict[str, Any]:
        """The case in the results. ``limits`` tell which of the machine's limits is the one that binds each contestant."""
        problem, reference = self._problem, folder / "reference.npy"
        np.save(reference, problem.reference(problem.inputs()))
        self._rows = {w.contestant.name: _ready(w, problem, self._threads, self._sets, reference) for w in self._workers}
        running = [w for w in self._workers if self._rows[w.contestant.name]["status"] == "ok"]
        bounds = {w.contestant.name: self._bound(self._rows[w.contestant.name]["arithmetic"], limits) for w in running}
        times, reached = self._times(running, sorted({name for name, _ in bounds.values()}))
        self._add_rates(times, reached, bounds)
        for worker in self._workers:
            if worker.process is not None:
                worker.ask({"unload": True})
        return {"kernel": problem.kernel, "shape": problem.shape, "dtype": problem.dtype, "flags": list(problem.flags), "threads": self._threads,
                "flops": problem.flops, "bytes": problem.bytes, "sets": self._sets, "from_memory": self._from_memory,
                "reached": {name: float(np.median([rates[name] for rates in reached])) for name in (reached[0] if reached else ())},
                "contestants": [{"name": name, **row} for name, row in self._rows.items()]}

    def _bound(self, arithmetic: str, limits: Mapping[str, float]) -> tuple[str, float]:
        """The limit that allows the longer time, and how many 10^9 bytes or operations count.

        Bytes count only where the caches do not hold the operands.
        """
        amounts = {ARITHMETICS[arithmetic]: self._problem.flops * 1e-9}
        if self._from_memory:
            amounts["bandwidth_gb_s"] = self._problem.bytes * 1e-9
        return max(amounts.items(), key=lambda of: of[1] / limits[of[0]])

    def _times(self, workers: Sequence[_Worker], limits: Sequence[str]) -> tuple[dict[str, list[list[float]]], list[dict[str, float]]]:
        """The seconds of each contestant's runs in each turn, and what the machine reached in that turn.

        They take turns, forwards and backwards, so that whatever slows the machine down slows all.
        """
        seconds = self._options.seconds
        counts: dict[str, int] = {}
        times: dict[str, list[list[float]]] = {w.contestant.name: [] for w in workers}
        reached: list[dict[str, float]] = []
        for worker in workers:
            fastest = self._asked(worker, {"warm_up": seconds / 2}).get("fastest", seconds)
            counts[worker.contestant.name] = max(1, min(10000, int(seconds / fastest)))
        for turn in range(self._options.rounds if workers else 0):
            for one in [None, *workers] if turn % 2 == 0 else [*reversed(workers), None]:
                if one is None:
                    reached.append(self._roofline.ask({"measure": limits, "seconds": seconds}))
                    continue
                name = one.contestant.name
                if self._rows[name]["status"] == "ok":
                    if counts[name] > 1:  # what the others left in the caches is not counted
                        self._asked(one, {"runs": 1})
                    times[name].append(self._asked(one, {"runs": counts[name]}).get("seconds", []))
        return {name: found for name, found in times.items() if self._rows[name]["status"] == "ok"}, reached

    def _asked(self, worker: _Worker, request: dict[str, Any]) -> dict[str, Any]:
        answer = worker.ask(request)
        if "unsupported" in answer:
            self._rows[worker.contestant.name].update(status="left out", reason=answer["unsupported"])
        return answer

    def _add_rates(self, times: Mapping[str, list[list[float]]], reached: Sequence[Mapping[str, float]],
                   bounds: Mapping[str, tuple[str, float]]) -> None:
        """Adds times, rates, ratios to the first contestant, and the median of the turns' shares of the roofline.

        A turn's share is the least time that what the machine reached in that turn allows, over the turn's median.
        """
        from ingot.runtime import machine

        features, first = set(machine()["features"]), 0.0
        for name, turns in times.items():
            row, (limit, amount) = self._rows[name], bounds[name]
            seconds = summarize([s for turn in turns for s in turn])
            first = first or seconds.median
            share = float(np.median([amount / rates[limit] / np.median(turn) for turn, rates in zip(turns, reached, strict=True)]))
            row.update(seconds=seconds.as_dict(), gflop_s=self._problem.flops / seconds.median * 1e-9,
                       gb_s=self._problem.bytes / seconds.median * 1e-9, ratio=seconds.median / first,
                       roofline=None if _UNMEASURED.get(row["arithmetic"], set()) & features else share)
