"""Compiles and times trials: every candidate of several problems in one artifact, which runs again and again."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ingot.lower.cpu.choices import Choices
from ingot.lower.targets import Target
from ingot.tune.trial import Forced, Trial, in_turn, trial_model

#: Compiles a model for the one target with these choices, into a file.
Build = Callable[[Any, Choices, Path], None]

_LEAST_ROUNDS, _MOST_ROUNDS = 5, 60
_SECONDS = 2.0  # of measuring for each artifact, unless the fewest rounds take longer


def measure(trials: Sequence[Trial], target: Target, threads: int, build: Build) -> list[list[float]]:
    """The seconds that each candidate of each trial takes: the least of several rounds.

    A round runs every candidate once, so that candidates take turns and a machine that slows down slows all of them. Each reads weights of
    its own, which the others' have driven out of the caches since, as those of other layers do in a model. What disturbs a run only makes it
    longer, hence the least.
    """
    candidates = in_turn(trials)
    model = trial_model(candidates, target)
    with tempfile.TemporaryDirectory(prefix="ingot-tune-") as folder:
        path = Path(folder) / "trials.ingot"
        build(model.imported, Forced(candidates), path)
        least = _rounds(path, target, threads, model.imported.nodes, model.inputs, model.outputs)
    found = [[0.0] * len(t.candidates) for t in trials]
    places = {id(t): f for t, f in zip(trials, found, strict=True)}
    for candidate, seconds in zip(candidates, least, strict=True):
        if candidate.number is not None:
            places[id(candidate.trial)][candidate.number] = seconds
    return found


def _rounds(path: Path, target: Target, threads: int, nodes: Sequence[str], inputs: Sequence[Any], outputs: Sequence[Any]) -> list[float]:
    from ingot.runtime import Model

    model = Model(path, threads=threads, target=target.name)
    numbers = {node: number for number, node in enumerate(nodes)}
    step_nodes = [numbers.get(step.get("node", "")) for step in model.manifest["targets"][0]["program"]["functions"][0]["steps"]]
    least = [float("inf")] * len(nodes)
    with model.session() as session:
        for info, array in zip(model.inputs, inputs, strict=True):
            session.set_input(info.name, array)
        for info, array in zip(model.outputs, outputs, strict=True):
            session.bind_output(info.name, array)
        session.run()  # touches all memory, and plans it
        session.profiling = True
        before, rounds, end = [0] * len(step_nodes), 0, time.perf_counter() + _SECONDS
        while rounds < _LEAST_ROUNDS or (rounds < _MOST_ROUNDS and time.perf_counter() < end):
            session.run()
            after, _ = session.profile()
            taken = [0.0] * len(nodes)
            for node, start, stop in zip(step_nodes, before, after, strict=True):
                if node is not None:
                    taken[node] += (stop - start) * 1e-9
            least = [min(a, b) for a, b in zip(least, taken, strict=True)]
            before, rounds = after, rounds + 1
    return least
