"""Models of a task, each exported by one of PyTorch's exporters and compiled once; how its artifact is compared with PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import ingot
from tests.cache import made

SEED = 1234
EXPORTERS = ("dynamo", "torchscript")
#: float32 with sums in another order: unit roundoff 6e-8, times the square root of the longest sums (some thousand terms), through
#: tens of layers, stays an order of magnitude below this.
TOLERANCE = 1e-4

Inputs = dict[str, np.ndarray]


@dataclass(frozen=True)
class Task:
    """A model of a table.

    Attributes:
        build: Makes the module; it is called after the seed is set.
        inputs: Makes inputs by name for a batch size and a length.
        axes: The symbolic dimensions, as :func:`ingot.export.export_module` takes them.
        outputs: Names of the outputs.
        labels: Outputs whose largest element along the last axis must be PyTorch's.
        shapes: (batch, length) to compare at. The first is also what the model is exported with.
        attention: How often the artifact calls the attention kernel.
        exporters: PyTorch's exporters that manage the model.
        extended: Those of them that show nothing about the model or the exporter that other rows do not.
    """

    build: Callable[[], torch.nn.Module]
    inputs: Callable[[int, int], Inputs]
    axes: Mapping[str, Mapping[int, str]]
    outputs: list[str]
    labels: tuple[str, ...] = ()
    shapes: tuple[tuple[int, int], ...] = ((2, 7), (1, 7), (3, 12))
    attention: int = 0
    exporters: tuple[str, ...] = EXPORTERS
    extended: tuple[str, ...] = ()


class Results(torch.nn.Module):
    """Some results of a transformers model, by name."""

    exported_prefix = "model."

    def __init__(self, model: torch.nn.Module, *names: str) -> None:
        super().__init__()
        self.model = model
        self._names = names

    def forward(self, **inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        results = self.model(**inputs)
        return tuple(getattr(results, name) for name in self._names)


class Decoder(torch.nn.Module):
    """One step of an encoder-decoder: the encoder's result and the tokens so far → scores of each next token."""

    exported_prefix = "model."

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, encoder_hidden_states: torch.Tensor, decoder_input_ids: torch.Tensor,
                attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        from transformers.modeling_outputs import BaseModelOutput

        results = self.model(encoder_outputs=BaseModelOutput(last_hidden_state=encoder_hidden_states), attention_mask=attention_mask,
                             decoder_input_ids=decoder_input_ids)
        scores: torch.Tensor = results.logits
        return scores


def cases(tasks: Mapping[str, Task], *before: Any) -> list[Any]:
    """(*before, name, exporter) for each model and exporter as pytest's parameters. All tests of one go to one process, which makes it."""
    return [pytest.param(*before, name, exporter, id=f"{name}-{exporter}",
                         marks=[pytest.mark.xdist_group(f"{name}-{exporter}"), *[pytest.mark.extended] * (exporter in task.extended)])
            for name, task in tasks.items() for exporter in task.exporters]


def compiled(task: Task, name: str, exporter: str, source: str) -> Path:
    """The folder with a task's ``model.onnx`` and ``model.ingot``, and for each of its shapes inputs and PyTorch's outputs.

    ``source`` is the folder that holds the table, relative to the repository.
    """

    def make(folder: Path) -> None:
        from ingot.export import export_module

        torch.manual_seed(SEED)
        module = task.build().eval()
        found = export_module(module, task.inputs(*task.shapes[0]), folder, dynamic_shapes=task.axes, output_names=task.outputs, exporter=exporter)
        for number, shape in enumerate(task.shapes):
            inputs = task.inputs(*shape)
            np.savez(folder / f"inputs-{number}.npz", **inputs)
            np.savez(folder / f"outputs-{number}.npz", **found.reference(inputs))
        ingot.compile(folder / "model.onnx", folder / "model.ingot", name=name, samples=0)

    return made("task", f"{name}-{exporter}", (source, "tests/models/agreement.py"), make)


def compare(task: Task, folder: Path) -> None:
    """One artifact agrees with PyTorch at every shape of the task."""
    model = ingot.load(folder / "model.ingot", threads=1)
    for number, shape in enumerate(task.shapes):
        inputs, expected = (_read(folder / f"{kind}-{number}.npz") for kind in ("inputs", "outputs"))
        outputs = model.run({name: inputs[name] for name in [i.name for i in model.inputs]})
        for name, wanted in expected.items():
            found = outputs[name]
            where = f"{name} at batch {shape[0]}, length {shape[1]}"
            assert found.shape == wanted.shape, where
            if wanted.dtype.kind in "iub":
                assert found.tolist() == wanted.tolist(), where
                continue
            error = np.linalg.norm(found.astype(np.float64) - wanted) / np.linalg.norm(wanted.astype(np.float64))
            assert error < TOLERANCE, f"{where}: relative norm error {error:.2e}"
            if name in task.labels:
                assert found.argmax(-1).tolist() == wanted.argmax(-1).tolist(), where


def kernel_calls(artifact: Path, kernel: str) -> int:
    """How many steps of an artifact call a kernel."""
    functions = ingot.load(artifact).manifest["targets"][0]["program"]["functions"]
    return sum(step["op"] == "kernel" and step["name"] == kernel for function in functions for step in function["steps"])


def tokens(batch: int, length: int, vocabulary: int, *, first: int = 3) -> np.ndarray:
    """Random token ids [batch, length]; those of padding, start and end are left out."""
    return np.random.default_rng([batch, length]).integers(first, vocabulary, (batch, length))


def padding(batch: int, length: int, shorter: int = 2) -> np.ndarray:
    """A mask [batch, length]: the first row is whole, each further one ends ``shorter`` earlier."""
    lengths = np.maximum(1, length - shorter * np.arange(batch))
    return (np.arange(length) < lengths[:, None]).astype(np.int64)


def _read(path: Path) -> dict[str, Any]:
    with np.load(path) as stored:
        return {key: stored[key] for key in stored.files}

