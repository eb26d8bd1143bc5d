"""Models of speech agree with PyTorch at two lengths and two batch sizes from one artifact, whichever of its exporters wrote them."""

from __future__ import annotations

import numpy as np
import pytest

import ingot
from tests.models.agreement import cases, compare, compiled
from tests.models.speech.tasks import TASKS


@pytest.mark.parametrize(("name", "exporter"), cases(TASKS))
def test_a_model_of_speech_agrees_with_pytorch(name: str, exporter: str) -> None:
    compare(TASKS[name], compiled(TASKS[name], name, exporter, "tests/models/speech"))


@pytest.mark.xdist_group("lstm-ctc-torchscript")
def test_greedy_ctc_decodes_what_pytorch_s_probabilities_say() -> None:
    task = TASKS["lstm-ctc"]
    folder = compiled(task, "lstm-ctc", "torchscript", "tests/models/speech")
    model = ingot.load(folder / "model.ingot", threads=1)
    for number in range(len(task.shapes)):
        with np.load(folder / f"inputs-{number}.npz") as inputs, np.load(folder / f"outputs-{number}.npz") as expected:
            found = model.run(dict(inputs))["log_probabilities"]
            wanted = greedy(expected["log_probabilities"])
        assert greedy(found) == wanted
        assert all(wanted)


def greedy(log_probabilities: np.ndarray, blank: int = 0) -> list[list[int]]:
    """The likeliest symbol of each frame [batch, frames, symbols]; repetitions are one symbol, and blanks none."""
    best = log_probabilities.argmax(-1)
    changes = np.pad(best[:, 1:] != best[:, :-1], ((0, 0), (1, 0)), constant_values=True)
    return [row[changed & (row != blank)].tolist() for row, changed in zip(best, changes, strict=True)]
