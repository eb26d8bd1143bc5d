"""Decoders whose caches are of 8 bits, rings or rings behind sinks, compiled for a GPU: what they give is what the CPU's artifact gives."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ingot
from ingot.errors import CompileError
from tests.lower.build import relative_error
from tests.lower.cuda.interpreter import Program, by_emulator, by_numpy

pytestmark = pytest.mark.skipif(importlib.util.find_spec("transformers") is None, reason="transformers is not installed")

WINDOW, SINKS, CHUNK = 6, 2, 4
SLOTS = SINKS + WINDOW + CHUNK - 1
#: Tokens of each run, which go round the ring twice: prompts, single tokens, several.
RUNS = (4, 3, 1, 1, 4, 2, 1, 4, 4, 1)
#: Sums of float32 in another order.
_SINGLE = 1e-4
#: What lies between two codes of int8 may be either: in one element of a head that is 2^-8 of the largest.
_CODES = 2.0**-8
#: Elements of float8_e4m3fn are off by up to 2^-4 of themselves; the CPU's are float32.
_SMALL_FLOATS = 2.0**-4
#: Half of a unit in the last place of bfloat16 through three layers, as tests/lower/cuda/test_models.py has it.
_NARROW = 3e-2
RING = {"window": WINDOW}
STREAM = {"window": WINDOW, "sinks": SINKS}


@dataclass(frozen=True)
class Case:
    """A family with its options, how far the result may be off, and which inputs a layer's step changes in place."""

    family: str
    cache: str
    options: dict[str, Any] = field(default_factory=dict)
    precision: str = "f32"
    tolerance: float = _SINGLE

    @property
    def in_place(self) -> list[int]:
        """Of one layer."""
        return [0, 1, -1, 8, 9] if self.cache == "int8" else [0, 1]


CASES = {
    "int8": Case("llama", "int8", tolerance=_CODES),
    "int8, heads of one product in bfloat16": Case("llama", "int8", precision="bf16", tolerance=_NARROW),
    "int8, nothing rotated": Case("gpt2", "int8", tolerance=_CODES),
    "int8, rings in every other layer": Case("gemma2", "int8", tolerance=_CODES),
    "fp8": Case("llama", "fp8", tolerance=_SMALL_FLOATS),
    "sinks of fp8 in bfloat16": Case("llama", "fp8", STREAM, "bf16", _SMALL_FLOATS),
    "a ring": Case("llama", "f32", RING),
    "a ring of int8": Case("qwen3", "int8", RING, tolerance=_CODES),
    "sinks": Case("llama", "f32", STREAM),
    "sinks, nothing rotated": Case("gpt2", "f32", STREAM),
    "sinks, a part of each head rotated": Case("phi", "f32", STREAM),
    "sinks, shorter rings in every other layer": Case("gemma2", "f32", STREAM),
    "sinks in bfloat16": Case("llama", "bf16", STREAM, "bf16", _NARROW),
    "sinks of int8": Case("llama", "int8", STREAM, tolerance=_CODES),
    "sinks of int8 in bfloat16": Case("llama", "int8", STREAM, "bf16", _NARROW),
}
#: What shows the most: a ring without sinks, sinks without scales, and both in 16 bits.
SHORT = ("fp8", "a ring of int8", "sinks", "sinks of int8 in bfloat16")


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    from tests.generate.families import save

    return lambda name: save(name, tmp_path_factory.mktemp(name))


def runs() -> list[dict[str, Any]]:
    """Inputs of one run after another; of one run the second row has a token less."""
    rng = np.random.default_rng(1)
    feeds: list[dict[str, Any]] = []
    for number, count in enumerate(RUNS):
        counts = np.array([count, count - (number == 1)])
        feeds.append({"input_ids": rng.integers(2, 300, (2, count)), "token_counts": counts, "logits_at": np.tile(np.arange(count), (2, 1))})
    return feeds


def check(case: Case, folder: Path, output: Path, **options: Any) -> Program:
    """Runs both."""
    program = Program(str(folder), precision=case.precision, cache=case.cache, **case.options, **options)
    ingot.compile(str(folder), output, precision=case.precision, cache="f32" if case.cache == "fp8" else case.cache, **case.options)
    sizes = {"batch": 2, **{d["name"]: d["max"] for d in program.manifest["dims"] if d["max"] is not None}}
    states = program.first_states(**{**sizes, "context": 160})
    with ingot.load(output, threads=1).session() as session:
        for feeds in runs():
            shape = feeds["logits_at"].shape
            choice = {"sampling": np.zeros((*shape, 4), np.float32), "random": np.zeros(shape, np.float32)}  # a GPU's model chooses tokens
            expected, found = session.run(**feeds)["logits"], program.run({**feeds, **choice}, states)["logits"]
            assert relative_error(found, expected) <= case.tolerance
        for entry, state in zip(program.manifest["states"], states, strict=True):
            known = session.state(entry["name"])
            if state.dtype == np.int8 and case.precision == "f32":
                assert np.abs(state[:, : known.shape[1]].astype(int) - known).max() <= 1, entry["name"]
    return program


@pytest.mark.parametrize("name", [n if n in SHORT else pytest.param(n, marks=pytest.mark.extended) for n in CASES])
def test_a_decoder_gives_what_it_gives_on_the_cpu(name: str, directory: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
                                                  ) -> None:
    monkeypatch.setattr("ingot.export.decoder.CHUNK", CHUNK)
    case = CASES[name]
    program = check(case, directory(case.family), tmp_path / "cpu.ingot")
    kernels = [s["name"] for s in program.steps if s["op"] == "kernel"]
    # Rotation, rounding and the caches of a layer are one step, sinks and scales included.
    assert "tensor_scatter" not in kernels and not any(s.get("host") for s in program.steps)
    assert [s["in_place"] for s in program.steps if "in_place" in s] == [case.in_place] * 3
    rings = [s["ints"][::3] for s in program.steps if s.get("name") == "rotary_cache"]
    assert case.options == {} or [1, case.options.get("sinks", 0)] in rings


def test_caches_that_only_gpus_have_are_not_compiled_for_cpus(directory: Callable[[str], Path], tmp_path: Path) -> None:
    for target in ("cpu", ["cuda:sm_90", "cpu:x86-64-v3"]):
        with pytest.raises(CompileError, match=r"caches of fp8 are for GPUs, and cpu:.* is none; caches that CPUs have are f32, f16, bf16, int8"):
            ingot.compile(str(directory("llama")), tmp_path / "m.ingot", target=target, cache="fp8")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["int8", "fp8", "sinks", "sinks of int8", "sinks of int8 in bfloat16"])
def test_kernels_take_the_steps(name: str, directory: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernels of kernels/cuda themselves, emulated."""

    def run_kernel(kernel: str, *call: Any) -> Any:
        return (by_emulator if kernel in ("rotary_cache", "attention") else by_numpy)(kernel, *call)

    monkeypatch.setattr("ingot.export.decoder.CHUNK", CHUNK)
    check(CASES[name], directory(CASES[name].family), tmp_path / "cpu.ingot", run_kernel=run_kernel)
