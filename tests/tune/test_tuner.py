"""Tuning: measured and remembered choices are what the artifact is made of, and no choice changes what a model computes."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ingot
from ingot.cli.main import main
from ingot.errors import FileError, TargetError
from ingot.lower import targets
from ingot.lower.cpu.choices import Choice, CostModel, Problem
from ingot.passes.pipeline import optimize
from ingot.passes.settings import Settings
from ingot.tune import file, tuner
from ingot.tune import measure as measuring
from ingot.tune.candidates import candidates
from ingot.tune.file import Machine, Result
from ingot.tune.measure import Measured
from ingot.tune.trial import Forced, Trial, in_turn, trial_model
from tests.lower.build import relative_error
from tests.tune.problems import CONVOLUTION, PRODUCT, expected, problems, single, small_network

#: As in tests/lower/test_contraction.py: Winograd's F(4x4) loses a digit.
TOLERANCE = 5e-5
TARGETS = ("cpu:x86-64-v2", "cpu:x86-64-v3", "cpu:x86-64-v4", "cpu:aarch64")


def kernels(path: Path) -> str:
    return "; ".join(str(s.get("kernel")) for s in ingot.Artifact.open(path).manifest["targets"][0]["program"]["functions"][0]["steps"])


def shared(path: Path, target: str, **choices: str) -> Path:
    """A file of results of some other machine."""
    keys = {"convolution": CONVOLUTION, "product": PRODUCT}
    file.merge(path, Machine(target, "A CPU of somebody else's", 64), {keys[k]: Result(c, {}) for k, c in choices.items()})
    return path


# ---- Measuring ----------------------------------------------------------------------------------------------


def test_a_tuned_model_computes_the_same_with_the_choices_that_were_fastest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "_SETTLED", float("inf"))  # whatever else this machine is doing
    stages: list[tuple[str, str]] = []
    path, results = tmp_path / "m.ingot", tmp_path / "tuning.json"
    report = ingot.compile(small_network(), path, samples=0, tune=True, tune_file=results, tune_threads=1,
                           progress=lambda stage, fraction, detail: stages.append((stage, detail)))
    (machine, found), = file.read(results).items()
    assert machine == Machine(report.targets[0], ingot.machine()["model"], 1)
    assert sorted(found) == sorted([CONVOLUTION, PRODUCT])
    for key, result in found.items():
        model = str(CostModel(targets.find("cpu")).choice(problem_of(key)))
        assert result.microseconds[result.choice] == min(result.microseconds.values()) or result.choice == model
        assert result.choice.rpartition(", ")[2] in kernels(path)
    assert any(stage == "tune" and detail.startswith("problem 2 of 2: ") for stage, detail in stages)
    assert any("2 of them measured now, with 1 threads" in line for line in report.log)
    x = np.random.default_rng(3).standard_normal((2, 32, 20, 20)).astype(np.float32)
    assert relative_error(ingot.load(path).run([x])["y"], expected(x)) < TOLERANCE

    monkeypatch.setattr(tuner, "measure", None)  # nothing is measured twice
    ingot.compile(small_network(), tmp_path / "again.ingot", samples=0, tune=True, tune_file=results, tune_threads=1)
    assert (tmp_path / "again.ingot").read_bytes() == path.read_bytes()


def test_times_that_do_not_repeat_decide_nothing_and_are_not_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def measured(trials: Sequence[Trial], *rest: object) -> list[Measured]:
        return [Measured(tuple(range(9, 9 - len(t.candidates), -1)), (True,) * (len(t.candidates) - 1) + (False,)) for t in trials]

    monkeypatch.setattr(tuner, "measure", measured)
    report = ingot.compile(small_network(), tmp_path / "m.ingot", samples=0, tune=True, tune_file=tmp_path / "t.json")
    ingot.compile(small_network(), tmp_path / "plain.ingot", samples=0)
    assert any("2 problems keep the cost model's choice" in line for line in report.log)
    assert list(file.read(tmp_path / "t.json").values()) == [{}]
    assert (tmp_path / "m.ingot").read_bytes() == (tmp_path / "plain.ingot").read_bytes()


def problem_of(key: str) -> Problem:
    return {CONVOLUTION: Problem((3, 3), (1, 1), (1, 1), (1,) * 4, 1, 32, 48, (None, 20, 20), ("float32", "float32")),
            PRODUCT: Problem((), (), (), (), 1, 48, 40, (None,), ("float32", "float32"))}[key]


def test_keys_do_not_change() -> None:
    assert [problem_of(k).key() for k in (CONVOLUTION, PRODUCT)] == [CONVOLUTION, PRODUCT]


@pytest.mark.parametrize(("seconds", "best"), [([1.0, 0.5, 0.7], 1), ([1.0, 0.99, 1.2], 0), ([1.0, 2.0, 3.0], 0)])
def test_the_cost_models_choice_stays_unless_it_is_clearly_beaten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: list[float],
                                                                  best: int) -> None:
    def measured(trials: Sequence[Trial], *rest: object) -> list[Measured]:
        return [Measured((*seconds, *[9.0] * (len(t.candidates) - 3)), (True,) * len(t.candidates)) for t in trials]

    monkeypatch.setattr(tuner, "measure", measured)
    ingot.compile(small_network(), tmp_path / "m.ingot", samples=0, tune=True, tune_file=tmp_path / "t.json")
    (found,) = file.read(tmp_path / "t.json").values()
    assert found[PRODUCT].choice == str(candidates(targets.find("cpu"), problem_of(PRODUCT))[best])


def test_an_interrupted_compile_keeps_what_was_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def measured(trials: Sequence[Trial], *rest: object) -> list[Measured]:
        if trials[0].problem.key() == PRODUCT:
            raise KeyboardInterrupt
        return [Measured((1.0,) * len(t.candidates), (True,) * len(t.candidates)) for t in trials]

    monkeypatch.setattr(tuner, "_TOGETHER", 1)
    monkeypatch.setattr(tuner, "measure", measured)
    with pytest.raises(KeyboardInterrupt):
        ingot.compile(small_network(), tmp_path / "m.ingot", samples=0, tune=True, tune_file=tmp_path / "t.json")
    (found,) = file.read(tmp_path / "t.json").values()
    assert list(found) == [CONVOLUTION] and not (tmp_path / "m.ingot").exists()


def test_a_target_that_this_machine_cannot_run_is_not_tuned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    foreign = "cpu:aarch64" if ingot.machine()["architecture"] == "x86_64" else "cpu:x86-64-v3"
    with pytest.raises(TargetError, match=f"{foreign} cannot be tuned on this machine.*--tune-file FILE alone"):
        ingot.compile(small_network(), tmp_path / "m.ingot", target=["cpu", foreign], tune=True, tune_file=tmp_path / "t.json")
    assert main(["compile", str(tmp_path / "missing.onnx"), "-o", str(tmp_path / "m.ingot"), "--tune", "--target", foreign]) == 1
    assert "cannot be tuned on this machine" in capsys.readouterr().err


# ---- Remembering --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("target", "product", "convolution", "shown"), [
    ("cpu:x86-64-v3", "tile 3x8", "winograd 2x2, tile 2x32", ["winograd 2x2, input", "tile 2x32", "winograd 2x2, output"]),
    ("cpu:x86-64-v4", "tile 7x32", "tile 2x16", ["3x3 convolution, tile 2x16"]),
    ("cpu:aarch64", "tile 5x8", "winograd 4x4, tile 3x16", ["winograd 4x4, input", "tile 3x16", "winograd 4x4, output"])])
def test_a_shared_file_decides_elsewhere_without_measuring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str, product: str,
                                                           convolution: str, shown: list[str]) -> None:
    monkeypatch.setattr(tuner, "measure", None)
    results = shared(tmp_path / "t.json", target, product=product, convolution=convolution)
    report = ingot.compile(small_network(), tmp_path / "m.ingot", samples=0, target=target, tune_file=results)
    found = kernels(tmp_path / "m.ingot")
    assert all(s in found for s in [*shown, f"matmul, {product}"])
    assert any("2 of 2 problems are in" in line and "somebody else's with 64 threads" in line for line in report.log)


def test_what_a_file_does_not_know_is_left_to_the_cost_model(tmp_path: Path) -> None:
    results = shared(tmp_path / "t.json", "cpu:x86-64-v3", product="tile 3x8")
    for name, extra in (("plain", {}), ("partly", {"tune_file": results})):
        ingot.compile(small_network(), tmp_path / name, samples=0, target="cpu:x86-64-v3", **extra)  # type: ignore[arg-type]
    assert "matmul, tile 3x8" in kernels(tmp_path / "partly") and "matmul, tile 3x8" not in kernels(tmp_path / "plain")
    assert kernels(tmp_path / "partly").split("matmul, tile")[0] == kernels(tmp_path / "plain").split("matmul, tile")[0]


def test_builds_do_not_depend_on_the_cache_unless_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    ingot.compile(small_network(), tmp_path / "a.ingot", samples=0, target="cpu:x86-64-v3")
    shared(tuner.default_file(), "cpu:x86-64-v3", product="tile 3x8")
    assert (tmp_path / "cache" / "ingot" / "tuning.json").exists()
    ingot.compile(small_network(), tmp_path / "b.ingot", samples=0, target="cpu:x86-64-v3")
    assert (tmp_path / "a.ingot").read_bytes() == (tmp_path / "b.ingot").read_bytes()


@pytest.mark.parametrize("choice", ["", "fast", "tile 6x17", "tile 99x16", "tile 6x64", "winograd 3x3, tile 6x16", "winograd 2x2, tile 6x16"])
def test_a_choice_that_does_not_exist_is_refused_by_name(tmp_path: Path, choice: str) -> None:
    results = shared(tmp_path / "t.json", "cpu:x86-64-v3", product=choice)  # a matrix product has no Winograd
    with pytest.raises(FileError, match=re.escape(f"t.json' choose '{choice}' for '{PRODUCT}', which cpu:x86-64-v3 does not have")):
        ingot.compile(small_network(), tmp_path / "m.ingot", samples=0, target="cpu:x86-64-v3", tune_file=results)


def test_a_missing_or_malformed_file_ends_a_compile_before_it_starts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def compile(*options: object) -> str:
        assert main(["compile", str(tmp_path / "missing.onnx"), "-o", str(tmp_path / "m.ingot"), *map(str, options)]) == 1
        return capsys.readouterr().err

    assert "no file" in compile("--tune-file", tmp_path / "t.json") and "t.json" in compile("--tune-file", tmp_path / "t.json")
    (tmp_path / "t.json").write_text(json.dumps({"format": "shopping list"}))
    assert "not a file of tuning results" in compile("--tune-file", tmp_path / "t.json")
    assert "not a file of tuning results" in compile("--tune", "--tune-file", tmp_path / "t.json")


# ---- Candidates and trials ----------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(problem=problems(), target=st.sampled_from(TARGETS))
def test_candidates_start_with_the_cost_models_and_can_be_written_and_read(problem: Problem, target: str) -> None:
    found = candidates(targets.find(target), problem)
    assert found[0] == CostModel(targets.find(target)).choice(problem)
    assert 2 <= len(found) == len(set(map(str, found))) <= 9
    assert [Choice.parse(str(c), problem, targets.find(target)) for c in found] == found


@settings(max_examples=10, deadline=None)
@given(drawn=st.lists(problems(), min_size=1, max_size=2, unique_by=lambda p: p.key()), target=st.sampled_from(TARGETS))
def test_a_trial_asks_exactly_the_questions_that_its_problems_came_from(drawn: list[Problem], target: str) -> None:
    found = targets.find(target)
    turns = in_turn([Trial(p, tuple(candidates(found, p))) for p in drawn])
    forced = Forced(turns)
    optimized = optimize(trial_model(turns, found).imported, Settings(found, "f32", forced))
    assert not any(forced._waiting.values())
    assert len(optimized.weights["main"]) == len(turns)


@pytest.mark.parametrize(("target", "precision", "arithmetic", "dtypes"), [
    ("cpu:x86-64-v3", "f32", "float64", ("float64", "float64")), ("cpu:x86-64-v3", "f32", "float16", ("float16", "float16")),
    ("cpu:x86-64-v3", "bf16", "bfloat16 weights", ("float32", "uint16")), ("cpu:x86-64-v4+vnni+bf16", "bf16", "bfloat16 dot", ("uint16", "uint16")),
    ("cpu:x86-64-v3", "f16", "float16 weights", ("float32", "float16")), ("cpu:x86-64-v3", "f32", "int16 pairs", ("int16", "int8")),
    ("cpu:x86-64-v4+vnni+bf16", "f32", "int8 dot", ("uint8", "int8")), ("cpu:aarch64+dotprod+i8mm", "f32", "int8 dot", ("int8", "int8"))])
def test_a_trial_asks_its_questions_in_every_arithmetic(target: str, precision: str, arithmetic: str, dtypes: tuple[str, str]) -> None:
    found = targets.find(target)
    drawn = [Problem((), (), (), (), 1, 50, 70, (None, None), dtypes, arithmetic),
             Problem((3, 3), (1, 1), (1, 1), (1,) * 4, 1, 32, 48, (None, 20, 20), dtypes, arithmetic)]
    turns = in_turn([Trial(p, tuple(candidates(found, p))) for p in drawn])
    forced = Forced(turns)
    optimize(trial_model(turns, found).imported, Settings(found, precision, forced))
    assert not any(forced._waiting.values())


@settings(max_examples=6, deadline=None)
@given(problem=problems(), pick=st.integers(0, 99), seed=st.integers(0, 99))
def test_every_candidate_computes_the_same(tmp_path_factory: pytest.TempPathFactory, problem: Problem, pick: int, seed: int) -> None:
    folder = tmp_path_factory.mktemp("candidate")
    built, x, reference = single(problem, seed)
    here = targets.find("cpu")
    choice = candidates(here, problem)[pick % len(candidates(here, problem))]
    file.merge(folder / "t.json", Machine(here.name, "any", 1), {problem.key(): Result(str(choice), {})})
    report = ingot.compile(built, folder / "m.ingot", samples=0, tune_file=folder / "t.json")
    assert any("1 of 1 problems are in" in line for line in report.log)
    assert str(choice).rpartition(", ")[2] in kernels(folder / "m.ingot")
    assert relative_error(ingot.load(folder / "m.ingot").run([x])["y"], reference) < TOLERANCE
