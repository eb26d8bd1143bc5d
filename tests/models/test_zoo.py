"""Real architectures at their real sizes: one artifact with a symbolic batch agrees with PyTorch at several batch sizes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import ingot
from tests.cache import BATCHES, Case
from tests.models.zoo import ZOO

#: float32 with sums in another order: unit roundoff 6e-8, times the square root of the longest sums (some 4,600 terms), through up to
#: 120 layers, stays an order of magnitude below this.
TOLERANCE = 1e-4
#: Smaller models of these architectures are tests/models/vision, text and speech; what is trained is tested with every change.
EACH = pytest.mark.parametrize("name", [
    pytest.param(name, marks=[pytest.mark.xdist_group(name), *([] if name == "minilm" else [pytest.mark.extended])]) for name in ZOO])


@pytest.mark.slow
@EACH
def test_a_model_agrees_with_pytorch_at_every_batch_size(zoo: Callable[[str], Case], name: str) -> None:
    case = zoo(name)
    model = ingot.load(case.artifact)
    assert model.inputs[0].shape[0] == "batch"
    for batch in BATCHES:
        outputs = model.run(case.inputs(batch))
        for output, expected in case.expected(batch).items():
            actual = outputs[output].astype(np.float64)
            assert actual.shape == expected.shape
            error = np.linalg.norm(actual - expected) / np.linalg.norm(expected.astype(np.float64))
            assert error < TOLERANCE, f"{output} at batch {batch}: relative norm error {error:.2e}"


@pytest.mark.slow
@EACH
def test_the_artifact_verifies_itself(zoo: Callable[[str], Case], name: str) -> None:
    from ingot.cli.main import main

    assert main(["verify", str(zoo(name).artifact), "--tolerance", str(TOLERANCE)]) == 0


@pytest.mark.slow
@pytest.mark.xdist_group("minilm")
def test_one_model_serves_many_threads(zoo: Callable[[str], Case]) -> None:
    from concurrent.futures import ThreadPoolExecutor

    case = zoo("minilm")
    model = ingot.load(case.artifact, threads=1)
    inputs, expected = case.inputs(1), case.expected(1)["sentence_embedding"]
    with ThreadPoolExecutor(4) as pool:
        for outputs in pool.map(lambda _: model.run(inputs), range(8)):
            np.testing.assert_allclose(outputs["sentence_embedding"], expected, atol=1e-5)
