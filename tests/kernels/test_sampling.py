"""The kernel `sample` of CPUs against what chooses tokens in Python."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

import ingot
from ingot.errors import ExecutionError
from ingot.generate.sampling import Sampler, Sampling

NONE = np.array([], np.int64)


class _Given(Sampler):
    """Chooses by a number that is given."""

    def __init__(self, sampling: Sampling, vocabulary: int, number: float) -> None:
        super().__init__(sampling, NONE, vocabulary)
        self._number = number

    def number(self) -> float:
        return self._number


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ingot.Model:
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
              for name, shape in (("logits", ["n", "v"]), ("random", ["n"]), ("sampling", ["n", "settings"]))]
    node = helper.make_node("Sample", ["logits", "random", "sampling"], ["tokens"], domain="ingot")
    graph = helper.make_graph([node], "g", inputs, [helper.make_tensor_value_info("tokens", TensorProto.INT64, None)])
    path = tmp_path_factory.mktemp("sample") / "m.ingot"
    opsets = [helper.make_opsetid("", 24), helper.make_opsetid("ingot", 1)]
    ingot.compile(helper.make_model(graph, opset_imports=opsets), Path(path), samples=0)
    return ingot.load(path, threads=2)


def run(model: ingot.Model, logits: np.ndarray, numbers: np.ndarray, *sampling: float) -> np.ndarray:
    rows = np.tile(np.array(sampling, np.float32), (len(logits), 1))
    tokens: np.ndarray = model.run(logits=logits, random=numbers, sampling=rows)["tokens"]
    return tokens


@pytest.mark.parametrize("size", [1, 7, 300, 5000])
@pytest.mark.parametrize("sampling", [
    Sampling(), Sampling(temperature=1), Sampling(temperature=0.25, top_k=3), Sampling(temperature=2.5, top_p=0.75),
    Sampling(temperature=1, min_p=0.125), Sampling(temperature=1.5, top_k=50, top_p=0.9, min_p=0.03125), Sampling(temperature=100, top_k=1)], ids=str)
def test_tokens_are_those_of_the_sampler(model: ingot.Model, size: int, sampling: Sampling) -> None:
    rng = np.random.default_rng(size)
    logits = (rng.standard_normal((40, size)) * 3).astype(np.float32)
    logits[:20] = np.where(rng.random((20, size)) < 0.3, -np.inf, logits[:20])
    logits[:20, size // 2] = 1
    logits[30:] = np.round(logits[30:])  # many are equal
    numbers = rng.random(40, np.float32)
    found = run(model, logits, numbers, *sampling.settings)
    assert found.tolist() == [_Given(sampling, size, float(n)).choose(row) for row, n in zip(logits, numbers, strict=True)]


def test_equal_logits_are_all_drawn_in_order(model: ingot.Model) -> None:
    numbers = np.array([0, 0.1, 0.5, 0.9, 0.99999994], np.float32)
    found = run(model, np.zeros((5, 3000), np.float32), numbers, 0.7, 1000, 1, 0)
    assert found.tolist() == np.floor(numbers.astype(np.float64) * 1000).tolist()


def test_what_is_no_number_is_never_chosen(model: ingot.Model) -> None:
    logits = np.full((3, 9), np.nan, np.float32)
    logits[1, 4:] = [1, np.nan, 3, -np.inf, 3]
    logits[2] = -np.inf
    for temperature in (0, 1):
        assert run(model, logits, np.full(3, 0.2, np.float32), temperature, 0, 0.5, 0).tolist() == [0, 6, 0]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(width=32), min_size=1, max_size=9), st.lists(st.floats(width=32), min_size=5, max_size=5))
def test_any_numbers_give_a_token(model: ingot.Model, logits: list[float], numbers: list[float]) -> None:
    found = run(model, np.array([logits], np.float32), np.array(numbers[:1], np.float32), *numbers[1:])
    assert 0 <= found[0] < len(logits)


def test_what_does_not_fit_is_refused(model: ingot.Model) -> None:
    with pytest.raises(ExecutionError, match=r"tokens \[2\] cannot be chosen from logits \[2, 5\], numbers \[2\] and settings \[2, 3\]"):
        run(model, np.zeros((2, 5), np.float32), np.zeros(2, np.float32), 1, 0, 1)
    with pytest.raises(ExecutionError, match="rows have 1 to 1048576 logits"):
        run(model, np.zeros((2, 0), np.float32), np.zeros(2, np.float32), 1, 0, 1, 0)
