"""Text of a language model on an emulated GPU: the model chooses the tokens, and they are those of a CPU."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ingot
from ingot.generate import Batch, Generation, Options, Sampling
from ingot.lower.cuda import nvcc
from ingot.runtime import Artifact
from ingot.runtime.model import StateInfo, TensorInfo
from tests.generate.families import save
from tests.lower.cuda.interpreter import Program, by_emulator, by_numpy

pytestmark = pytest.mark.skipif(importlib.util.find_spec("transformers") is None, reason="transformers is not installed")

PROMPTS = [[5, 9, 100, 3], [1, 2, 3, 1, 2, 3, 1]]
DRAWN = Sampling(temperature=0.9, top_k=40, top_p=0.95, min_p=0.01, seed=7)
PENALIZED = Sampling(temperature=0.9, repetition_penalty=1.3, seed=7)


class EmulatedModel:
    """What a batch needs of a model, of a program for a GPU."""

    path = "emulated"
    device = "cuda:0"
    tokenizer = None

    def __init__(self, program: Program) -> None:
        self.program = program
        self.manifest = program.manifest
        self.outputs = [TensorInfo(o["name"], o["dtype"], tuple(o["shape"])) for o in self.manifest["outputs"]]
        self.states = [StateInfo(s["name"], s["dtype"], tuple(s["shape"]), "ring" if s.get("ring") else s["kind"]) for s in self.manifest["states"]]
        self.read: list[str] = []  # outputs that came to the CPU

    def session(self) -> EmulatedSession:
        return EmulatedSession(self)


class EmulatedSession:
    """Rows of states, the first of which counts tokens."""

    def __init__(self, model: EmulatedModel) -> None:
        self.model = model
        self.dims: dict[str, int] = {}
        self.states: list[np.ndarray] = []
        self.rows = slice(None)

    def set_dimension(self, name: str, extent: int) -> None:
        self.dims[name] = extent
        if {"batch", "context"} <= self.dims.keys():
            self.states = self.model.program.first_states(**self.dims)

    def select_rows(self, first: int = 0, count: int = 0) -> None:
        self.rows = slice(first, first + count) if count else slice(None)

    def run(self, inputs: Mapping[str, np.ndarray], device: Mapping[str, str] | None = None) -> dict[str, Any]:
        states = [state[self.rows] for state in self.states]
        outputs = self.model.program.run(inputs, states)
        for state, new in zip(self.states, states, strict=True):
            state[self.rows] = new
        read = {name: array for name, array in outputs.items() if (device or {}).get(name) != self.model.device}
        self.model.read += read
        return read

    def reset(self, row: int) -> None:
        self.states[0][row] = 0

    def truncate(self, length: int, row: int) -> None:
        self.states[0][row] = length

    def copy_row(self, source: int, target: int) -> None:
        for state in self.states:
            state[target] = state[source]


def _run_kernel(name: str, *call: Any) -> Any:
    return (by_emulator if name == "sample" else by_numpy)(name, *call)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save("llama", tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def on_gpu(directory: Path) -> EmulatedModel:
    return EmulatedModel(Program(str(directory), run_kernel=_run_kernel))


@pytest.fixture(scope="module")
def on_cpu(directory: Path, tmp_path_factory: pytest.TempPathFactory) -> ingot.Model:
    """The same model for a CPU alone, which knows nothing of choosing tokens."""
    path = tmp_path_factory.mktemp("cpu") / "m.ingot"
    ingot.compile(directory, path)
    return ingot.load(path, threads=1)


@pytest.fixture(scope="module")
def beside(directory: Path, tmp_path_factory: pytest.TempPathFactory) -> ingot.Model:
    """The CPU's part of an artifact for both."""
    path = tmp_path_factory.mktemp("both") / "m.ingot"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nvcc, "build", lambda source, architectures, jobs=2: nvcc.Fatbin(b"no code", {}))
        patch.setattr(nvcc, "find_nvcc", lambda: "none is needed")
        ingot.compile(directory, path, target=["cpu", "cuda:sm_90"])
    return ingot.load(path, threads=1, target=Artifact.open(path).manifest["targets"][1]["name"])


def _texts(model: Any, options: Options, rows: int = 2) -> list[Generation]:
    batch = Batch(model, rows, context=64)
    texts = [batch.add(prompt, options) for prompt in PROMPTS]
    batch.run()
    return texts


def _tokens(texts: list[Generation]) -> list[list[int]]:
    return [text.tokens for text in texts]


@pytest.mark.parametrize(("sampling", "lookup"), [(Sampling(), 0), (Sampling(), 3), (DRAWN, 0)], ids=["greedy", "drafted", "drawn"])
def test_the_model_chooses_what_a_cpu_does_and_logits_stay(on_gpu: EmulatedModel, on_cpu: ingot.Model, sampling: Sampling, lookup: int) -> None:
    on_gpu.read.clear()
    options = Options(max_new_tokens=8, sampling=sampling, lookup=lookup)
    rows = 1 if lookup else 2  # one text alone is drafted
    found, expected = _texts(on_gpu, options, rows), _texts(on_cpu, options, rows)
    assert _tokens(found) == _tokens(expected)
    assert set(on_gpu.read) == {"tokens"}
    assert [t.stats.chosen_by_model for t in found] == [8, 8] and [t.stats.chosen_by_model for t in expected] == [0, 0]


@pytest.mark.parametrize("sampling", [PENALIZED, Sampling(temperature=0.9, seed=7, logprobs=2)], ids=["penalized", "logprobs"])
def test_texts_that_need_logits_choose_from_them(on_gpu: EmulatedModel, on_cpu: ingot.Model, sampling: Sampling) -> None:
    on_gpu.read.clear()
    options = Options(max_new_tokens=6, sampling=sampling)
    found = _texts(on_gpu, options)
    assert _tokens(found) == _tokens(_texts(on_cpu, options))
    assert "logits" in on_gpu.read
    assert [t.stats.chosen_by_model for t in found] == [0, 0]


def test_a_text_is_the_same_beside_one_that_needs_logits(on_gpu: EmulatedModel, on_cpu: ingot.Model) -> None:
    batch = Batch(on_gpu, 2, context=64)  # type: ignore[arg-type]
    drawn = batch.add(PROMPTS[0], Options(max_new_tokens=8, sampling=DRAWN))
    penalized = batch.add(PROMPTS[1], Options(max_new_tokens=3, sampling=PENALIZED))
    batch.run()
    assert drawn.tokens == _texts(on_cpu, Options(max_new_tokens=8, sampling=DRAWN))[0].tokens
    assert 0 < drawn.stats.chosen_by_model < 8 and penalized.stats.chosen_by_model == 0


def test_the_cpu_code_of_an_artifact_for_both_chooses_too(beside: ingot.Model, on_cpu: ingot.Model) -> None:
    assert [o.name for o in beside.outputs] == ["logits", "tokens"] and beside.device == "cpu"
    assert [i.name for i in beside.inputs] == ["input_ids", "token_counts", "logits_at", "sampling", "random"]
    for sampling in (Sampling(), DRAWN, PENALIZED):
        options = Options(max_new_tokens=24, sampling=sampling)
        found = _texts(beside, options)
        assert _tokens(found) == _tokens(_texts(on_cpu, options))
        assert [t.stats.chosen_by_model for t in found] == ([0, 0] if sampling is PENALIZED else [24, 24])


def test_steps_run_on_the_gpu_whole(on_gpu: EmulatedModel) -> None:
    assert [s["name"] for s in on_gpu.program.steps if s["op"] == "kernel"][-1] == "sample"
    assert not any(s.get("host") for s in on_gpu.program.steps)


def test_reference_samples_are_of_logits_alone(directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvcc, "build", lambda source, architectures, jobs=2: nvcc.Fatbin(b"no code", {}))
    monkeypatch.setattr(nvcc, "find_nvcc", lambda: "none is needed")
    ingot.compile(directory, tmp_path / "m.ingot", target="cuda:sm_90", samples=1)
    assert [o["name"] for o in Artifact.open(tmp_path / "m.ingot").manifest["outputs"]] == ["logits"]
