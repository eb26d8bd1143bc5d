"""Measures problems: contestants are checked, then timed in turn, and compared with what the machine reaches in the same run."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib import util
from pathlib import Path
from typing import Any

import numpy as np

from ingot.bench.kernels import registry
from ingot.bench.kernels.problem import ARITHMETICS, Contestant, Problem
from ingot.bench.process import Process
from ingot.bench.statistics import summarize
from ingot.errors import ExecutionError, InputError

#: Rotating operands together are this many times the last-level cache, so that what it keeps of one is gone when its turn comes again.
_CACHES = 2
#: But no more sets than this: operands that are too small for it lie in the caches in models as well.
_MOST_SETS = 64
#: Linux's names of products for which no peak is measured: with them no share of a roofline is said.
_UNMEASURED = {"bf16": {"avx512_bf16", "amx_bf16", "bf16"}, "f16": {"avx512_fp16", "asimdhp"}, "int8": {"amx_int8"}}


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
        JSON values: ``machine``, ``versions``, ``measured`` (for each number of threads ``bandwidth_gb_s``, ``fma_gflop_s`` and ``int8_gop_s``)
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
            before, cases = _limits(threads), []
            for kernel, contestants in chosen.items():
                own = [p for p in problems if p.kernel == kernel]
                with _workers(contestants, threads, options.modules) as workers:
                    for number, problem in enumerate(own):
                        progress(f"{kernel}, {threads} threads", number / len(own), str(problem))
                        cases.append(_case(problem, workers, threads, options, Path(folder)))
            after = _limits(threads)
            found["measured"].append({name: max(before[name], after[name]) for name in before})
            for case in cases:
                _add_rates(case, found["measured"][-1])
            found["cases"] += cases
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
    from ingot.runtime import measure_bandwidth, measure_fma, measure_int8

    return {"threads": threads, "bandwidth_gb_s": measure_bandwidth(threads), "fma_gflop_s": measure_fma(threads),
            "int8_gop_s": measure_int8(threads)}


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


def _case(problem: Problem, workers: Sequence[_Worker], threads: int, options: Options, folder: Path) -> dict[str, Any]:
    sets = _sets(problem, options)
    reference = folder / "reference.npy"
    np.save(reference, problem.reference(problem.inputs()))
    rows = {w.contestant.name: _ready(w, problem, threads, sets, reference) for w in workers}
    running = [w for w in workers if rows[w.contestant.name]["status"] == "ok"]
    times = _times(running, options, rows)
    for name, seconds in times.items():
        rows[name]["seconds"] = summarize(seconds).as_dict()
    for worker in workers:
        if worker.process is not None:
            worker.ask({"unload": True})
    return {"kernel": problem.kernel, "shape": problem.shape, "dtype": problem.dtype, "flags": list(problem.flags), "threads": threads,
            "flops": problem.flops, "bytes": problem.bytes, "sets": sets, "from_memory": problem.rotating * sets > _cache(),
            "contestants": [{"name": name, **row} for name, row in rows.items()]}


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


def _times(workers: Sequence[_Worker], options: Options, rows: dict[str, dict[str, Any]]) -> dict[str, list[float]]:
    """The seconds of each contestant's runs. They take turns, forwards and backwards, so that whatever slows the machine down slows all."""
    counts: dict[str, int] = {}
    times: dict[str, list[float]] = {w.contestant.name: [] for w in workers}

    def asked(worker: _Worker, request: dict[str, Any]) -> dict[str, Any]:
        answer = worker.ask(request)
        if "unsupported" in answer:
            rows[worker.contestant.name].update(status="left out", reason=answer["unsupported"])
        return answer

    for worker in workers:
        fastest = asked(worker, {"warm_up": options.seconds / 2}).get("fastest", options.seconds)
        counts[worker.contestant.name] = max(1, min(10000, int(options.seconds / fastest)))
    for turn in range(options.rounds):
        for worker in workers if turn % 2 == 0 else reversed(workers):
            name = worker.contestant.name
            if rows[name]["status"] == "ok":
                if counts[name] > 1:  # what the others left in the caches is not counted
                    asked(worker, {"runs": 1})
                times[name] += asked(worker, {"runs": counts[name]}).get("seconds", [])
    return {name: found for name, found in times.items() if found and rows[name]["status"] == "ok"}


def _add_rates(case: dict[str, Any], limits: dict[str, float]) -> None:
    """Adds rates, ratios to the first contestant, and the share of the least time that the measured peak and bandwidth allow.

    Bytes count for the least time only where the caches do not hold the operands.
    """
    from ingot.runtime import machine

    features = set(machine()["features"])
    timed = [row for row in case["contestants"] if row["status"] == "ok"]
    for row in timed:
        median, arithmetic = row["seconds"]["median"], row["arithmetic"]
        memory = case["bytes"] / limits["bandwidth_gb_s"] if case["from_memory"] else 0
        least = max(case["flops"] / limits[ARITHMETICS[arithmetic]], memory) * 1e-9
        row.update(gflop_s=case["flops"] / median * 1e-9, gb_s=case["bytes"] / median * 1e-9, ratio=median / timed[0]["seconds"]["median"],
                   roofline=None if _UNMEASURED.get(arithmetic, set()) & features else least / median)
