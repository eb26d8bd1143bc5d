"""Compares programs on one model: each in a process of its own, taking turns, on the same inputs."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ingot.bench.process import Process
from ingot.bench.statistics import Summary, summarize

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass(frozen=True)
class Comparison:
    """The times of each contestant, what it computed in, and how far its outputs are from those of the first as relative norm error."""

    threads: int
    times: dict[str, Summary]
    load_seconds: dict[str, float]
    errors: dict[str, float]
    precisions: dict[str, str]

    def ratio(self, name: str, to: str = "ingot") -> float:
        """How many times as long ``name`` takes as ``to``, by the medians."""
        return self.times[name].median / self.times[to].median

    def as_dict(self) -> dict[str, Any]:
        """JSON values."""
        first = next(iter(self.times))
        return {"threads": self.threads, "contestants": {
            name: {**summary.as_dict(), "load": self.load_seconds[name], "ratio": self.ratio(name, first), "relative_norm_error": self.errors[name],
                   "precision": self.precisions[name]}
            for name, summary in self.times.items()}}


def compare(models: Mapping[str, str | Path], inputs: Mapping[str, npt.NDArray[Any]], *, threads: int, precision: str = "f32",
            rounds: int = 32, seconds: float = 0.125, warmup: int = 3) -> Comparison:
    """Measures each contestant (``models``: its name → its model file) ``rounds`` times, for about ``seconds`` each.

    Turns are short, so that all meet the same states of a machine that others use too: cores whose speed changes for seconds at a time. Models that
    run longer than a turn get fewer, in the same time, but 8 at the least.

    ``precision`` is what they are asked to compute floats in.

    Raises:
        ExecutionError: A contestant failed; the message has what it wrote.
    """
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        stored = Path(folder) / "inputs.npz"
        np.savez(stored, **inputs)  # type: ignore[arg-type]
        workers = {name: stack.enter_context(_Worker(name, path, threads, precision, stored)) for name, path in models.items()}
        outputs = {name: worker.outputs(Path(folder) / f"{name}.npz") for name, worker in workers.items()}
        runs = {name: min(worker.times(warmup)) for name, worker in workers.items()}
        counts = {name: max(1, min(1000, int(seconds / run))) for name, run in runs.items()}
        rounds = min(rounds, max(8, int(rounds * seconds / max(runs.values()))))
        times: dict[str, list[float]] = {name: [] for name in workers}
        for turn in range(rounds):
            order = list(workers) if turn % 2 == 0 else list(reversed(workers))
            for name in order:
                if counts[name] > 1:  # what the others left in the caches is not counted; a run as long as a turn does not notice it
                    workers[name].times(1)
                times[name] += workers[name].times(counts[name])
        first = outputs[next(iter(outputs))]
        return Comparison(threads, {name: summarize(t) for name, t in times.items()}, {name: w.load_seconds for name, w in workers.items()},
                          {name: _error(own, first) for name, own in outputs.items()}, {name: w.precision for name, w in workers.items()})


def _error(arrays: list[npt.NDArray[Any]], reference: list[npt.NDArray[Any]]) -> float:
    """The largest relative norm error over all outputs, in float64."""
    worst = 0.0
    for actual, expected in zip(arrays, reference, strict=True):
        a, e = actual.astype(np.float64), expected.astype(np.float64)
        worst = max(worst, float(np.linalg.norm(a - e) / (np.linalg.norm(e) or 1.0)))
    return worst


class _Worker(Process):
    """A process that holds one contestant."""

    def __init__(self, name: str, model: str | Path, threads: int, precision: str, inputs: Path) -> None:
        super().__init__(name, ["-m", "ingot.bench.worker", name, str(model), str(threads), precision, str(inputs)], threads)
        self.load_seconds = 0.0
        self.precision = precision

    def __enter__(self) -> Self:
        answer = self.answer()
        self.load_seconds, self.precision = float(answer["load"]), str(answer["precision"])
        return self

    def times(self, runs: int) -> list[float]:
        """The seconds of each of ``runs`` runs."""
        seconds: list[float] = self.ask({"runs": runs})["seconds"]
        return seconds

    def outputs(self, path: Path) -> list[npt.NDArray[Any]]:
        """The outputs of one run, in order."""
        self.ask({"outputs": str(path)})
        with np.load(path) as stored:
            return [stored[key] for key in stored.files]
