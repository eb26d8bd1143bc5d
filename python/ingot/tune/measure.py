"""Compiles and times trials: every candidate of several problems in one artifact, which runs again and again."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ingot.lower.cpu.choices import Choices
from ingot.lower.targets import Target
from ingot.tune.trial import Forced, Trial, TrialModel, in_turn, trial_model

#: Compiles a model for the one target with these choices, into a file.
Build = Callable[[Any, Choices, Path], None]

_LEAST_ROUNDS = 10
_SECONDS = 8.0  # of measuring for each artifact, at the most, unless half the least rounds take longer
#: A time has settled when the three least lie this close together: on an idle machine those of the first rounds do.
_SETTLED = 0.03


@dataclass(frozen=True)
class Measured:
    """The seconds of each candidate of a trial, and whether each had settled when time was up: on a busy machine some may not."""

    seconds: tuple[float, ...]
    settled: tuple[bool, ...]


def measure(trials: Sequence[Trial], target: Target, threads: int, build: Build) -> list[Measured]:
    """The seconds that each candidate of each trial takes: the least of several rounds, as many as it takes until all have settled.

    A round runs every candidate once, so that candidates take turns and a machine that slows down slows all of them. Each reads weights of
    its own, which the others' have driven out of the caches since, as those of other layers do in a model. What disturbs a run only makes it
    longer, hence the least.
    """
    candidates = in_turn(trials)
    model = trial_model(candidates, target)
    with tempfile.TemporaryDirectory(prefix="ingot-tune-") as folder:
        path = Path(folder) / "trials.ingot"
        build(model.imported, Forced(candidates), path)
        rounds = _rounds(path, target, threads, model)
    least = np.sort(rounds, axis=0)[:3]
    settled = least[-1] <= (1 + _SETTLED) * least[0]
    places = {(id(c.trial), c.number): i for i, c in enumerate(candidates)}
    of_trials = [[places[id(t), n] for n in range(len(t.candidates))] for t in trials]
    return [Measured(tuple(float(least[0, i]) for i in of), tuple(bool(settled[i]) for i in of)) for of in of_trials]


def _rounds(path: Path, target: Target, threads: int, trial: TrialModel) -> np.ndarray:
    """The seconds of each node in each round."""
    from ingot.runtime import Model

    model = Model(path, threads=threads, target=target.name)
    nodes = trial.imported.nodes
    step_nodes = [nodes.index(step["node"]) for step in model.manifest["targets"][0]["program"]["functions"][0]["steps"]]
    with model.session() as session:
        for info, array in zip(model.inputs, trial.inputs, strict=True):
            session.set_input(info.name, array)
        for info, array in zip(model.outputs, trial.outputs, strict=True):
            session.bind_output(info.name, array)
        session.run()  # touches all memory, and plans it
        session.profiling = True
        before = np.zeros(len(step_nodes), np.int64)
        rounds: list[np.ndarray] = []
        end, settled = time.perf_counter() + _SECONDS, False
        while not settled and (len(rounds) < _LEAST_ROUNDS // 2 or time.perf_counter() < end):
            session.run()
            after = np.array(session.profile()[0], np.int64)
            rounds.append(np.bincount(step_nodes, (after - before) * 1e-9, len(nodes)))
            before = after
            least = np.sort(rounds, axis=0)[:3]
            settled = len(rounds) >= _LEAST_ROUNDS and bool((least[2] <= (1 + _SETTLED) * least[0]).all())
    return np.array(rounds)
