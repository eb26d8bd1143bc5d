"""Finds the problems of a model, measures those that no file remembers, and chooses."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ingot.errors import FileError, TargetError
from ingot.lower.cpu.choices import Choice, Choices, CostModel, Problem
from ingot.lower.cpu.tiles import Tile
from ingot.lower.cpu.winograd import Tiling
from ingot.lower.targets import Target
from ingot.tune import file
from ingot.tune.candidates import candidates
from ingot.tune.file import Machine, Result
from ingot.tune.measure import Build, Measured, measure
from ingot.tune.trial import Trial

_MARGIN = 0.03  # by which a candidate must beat the cost model's choice: times of two tunings of the same products differed by 1 to 3 % on Zen 3
_TOGETHER = 8  # problems for each artifact: what an interrupted compile may lose
_WEIGHTS = 256 << 20  # bytes of weights for each artifact, unless one problem has more

#: Tells how far the work is: the part that is done, and what is at hand.
Advance = Callable[["float | None", str], None]


def default_file() -> Path:
    """Where results are remembered unless the caller says otherwise: ``ingot/tuning.json`` in the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "ingot" / "tuning.json"


@dataclass
class Recorder:
    """The cost model's choices; notes what it was asked."""

    model: CostModel
    problems: dict[str, Problem] = field(default_factory=dict)

    @staticmethod
    def of(target: Target) -> Recorder:
        """One for a target."""
        return Recorder(CostModel(target))

    def winograd(self, problem: Problem) -> Tiling | None:
        """See :class:`ingot.lower.cpu.choices.Choices`."""
        self.problems.setdefault(problem.key(), problem)
        return self.model.winograd(problem)

    def tile(self, problem: Problem) -> Tile:
        """See :class:`ingot.lower.cpu.choices.Choices`."""
        if not problem.winograd:
            self.problems.setdefault(problem.key(), problem)
        return self.model.tile(problem)


@dataclass
class Remembered:
    """Choices by problem; the cost model's for problems that are not among them."""

    model: CostModel
    chosen: Mapping[str, Choice]

    def winograd(self, problem: Problem) -> Tiling | None:
        """See :class:`ingot.lower.cpu.choices.Choices`."""
        choice = self.chosen.get(problem.key())
        if choice is None:
            return self.model.winograd(problem)
        return problem.tiling(choice.winograd) if choice.winograd else None

    def tile(self, problem: Problem) -> Tile:
        """See :class:`ingot.lower.cpu.choices.Choices`."""
        choice = self.chosen.get(problem.key())
        return choice.tile if choice is not None else self.model.tile(problem)


@dataclass
class Tuner:
    """What a compile was asked for: to measure or only to remember, in which file, with how many threads (None: one for each core)."""

    path: Path
    measures: bool
    threads: int | None = None

    def check(self, targets: Sequence[Target]) -> None:
        """Refuses what cannot work before any work is done.

        Raises:
            TargetError: This machine cannot run a target that is to be measured.
            FileError: The file is missing where nothing is to be measured, or is no file of tuning results.
        """
        from ingot.runtime import machine

        here = machine()
        for target in targets if self.measures else ():
            missing = [f for f in target.features if f not in here["features"]]
            if target.arch != here["architecture"] or missing:
                lacks = f"it is {here['architecture']}" if target.arch != here["architecture"] else f"it lacks {', '.join(missing)}"
                raise TargetError(f"{target.name} cannot be tuned on this machine, which cannot run it: {lacks}. Tune on one that can, with "
                                  "--tune --tune-file FILE, and compile here with --tune-file FILE alone")
        if not self.measures or self.path.exists():
            file.read(self.path)

    def choices(self, target: Target, problems: Mapping[str, Problem], build: Build, advance: Advance, note: Callable[[str], None]) -> Choices:
        """The choices for a model's problems: remembered ones, and with ``measures`` those that it measures now and remembers.

        Raises:
            FileError: The file is malformed or names a choice that does not exist.
            CompileError: It is not known which of several CPUs' measurements are meant.
        """
        model = CostModel(target)
        if not self.measures:
            found = file.select(self.path, file.read(self.path), self._machine(target))
            machine, results = found if found is not None else (self._machine(target), {})
            chosen = {k: self._parsed(results[k].choice, p, target) for k, p in problems.items() if k in results}
            known = f" measured on {machine.cpu} with {machine.threads} threads" if found is not None else ""
            self._report(model, problems, chosen, results, f"{len(chosen)} of {len(problems)} problems are in {self.path}{known}", note)
            return Remembered(model, chosen)
        machine = self._machine(target)
        results = dict(file.read(self.path).get(machine, {})) if self.path.exists() else {}
        chosen = {k: choice for k, p in problems.items() if k in results and (choice := Choice.parse(results[k].choice, p, target)) is not None}
        unknown = {k: p for k, p in problems.items() if k not in chosen}
        disturbed = self._measure(machine, target, unknown, results, chosen, build, advance)
        if disturbed:
            note(f"{disturbed} problems keep the cost model's choice, since other programs disturbed their measurements: --tune measures them again")
        counts = f"{len(problems)} problems, {len(unknown) - disturbed} of them measured now, with {machine.threads} threads"
        self._report(model, problems, chosen, results, f"{counts}; results are in {self.path}", note)
        return Remembered(model, chosen)

    def _measure(self, machine: Machine, target: Target, problems: Mapping[str, Problem], results: dict[str, Result], chosen: dict[str, Choice],
                 build: Build, advance: Advance) -> int:
        """Measures problems, chooses and remembers; returns of how many the times did not settle, which are not remembered."""
        trials = [Trial(p, tuple(candidates(target, p))) for p in problems.values()]
        done = disturbed = 0
        for group in _groups(trials):
            count = sum(len(t.candidates) for t in group)
            advance(done / len(trials), f"problems {done + 1} to {done + len(group)} of {len(trials)}: compiling {count} candidates")
            fresh: dict[str, Result] = {}
            for trial, measured in zip(group, measure(group, target, machine.threads, build), strict=True):
                done += 1
                key = trial.problem.key()
                best = _best(measured)
                if best is None:
                    disturbed += 1
                    advance(done / len(trials), f"problem {done} of {len(trials)}: {key}: other programs disturbed the measurement")
                    continue
                times = {str(c): round(s * 1e6, 2) for c, s in zip(trial.candidates, measured.seconds, strict=True)}
                fresh[key] = Result(str(trial.candidates[best]), times)
                chosen[key] = trial.candidates[best]
                advance(done / len(trials), f"problem {done} of {len(trials)}: {_line(key, fresh[key], str(trial.candidates[0]))}")
            file.merge(self.path, machine, fresh)  # at once, so that an interrupted compile keeps it
            results.update(fresh)
        return disturbed

    def _machine(self, target: Target) -> Machine:
        from ingot.runtime import machine

        here: dict[str, Any] = machine()
        return Machine(target.name, str(here["model"]), self.threads or int(here["threads"]))

    def _parsed(self, text: str, problem: Problem, target: Target) -> Choice:
        choice = Choice.parse(text, problem, target)
        if choice is None:
            raise FileError(f"the tuning results '{self.path}' choose '{text}' for '{problem.key()}', which {target.name} does not have: "
                            "remove that entry, or measure again with --tune")
        return choice

    def _report(self, model: CostModel, problems: Mapping[str, Problem], chosen: Mapping[str, Choice], results: Mapping[str, Result], summary: str,
                note: Callable[[str], None]) -> None:
        changed = {k: str(model.choice(problems[k])) for k, choice in chosen.items() if choice != model.choice(problems[k])}
        note(f"{summary}; {len(changed)} differ from the cost model's choice")
        for key, default in changed.items():
            note(_line(key, results[key], default))


def _best(measured: Measured) -> int | None:
    """The fastest candidate, or the first, the cost model's, where that is about as fast; None if either time is not to be relied on."""
    best = min(range(len(measured.seconds)), key=measured.seconds.__getitem__)
    if not (measured.settled[0] and measured.settled[best]):
        return None
    return best if measured.seconds[best] <= (1 - _MARGIN) * measured.seconds[0] else 0


def _line(key: str, result: Result, default: str) -> str:
    """What was found for a problem, for a person."""
    def time(choice: str) -> str:
        return f" ({result.microseconds[choice]:.0f} us)" if choice in result.microseconds else ""

    better = "" if result.choice == default else f" instead of {default}{time(default)}"
    return f"{key}: {result.choice}{time(result.choice)}{better}"


def _groups(trials: Sequence[Trial]) -> list[list[Trial]]:
    """Trials by the artifact."""
    groups: list[list[Trial]] = []
    for trial in trials:
        last = groups[-1] if groups else None
        if last is None or len(last) == _TOGETHER or sum(t.weight_bytes for t in last) + trial.weight_bytes > _WEIGHTS:
            groups.append([trial])
        else:
            last.append(trial)
    return groups
