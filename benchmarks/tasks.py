"""What is measured beside the zoo: ensembles of trees, models of other tasks at their real sizes, operators by themselves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from benchmarks.operators import OPERATORS
from benchmarks.trees import TREES, data, export


@dataclass(frozen=True)
class Task:
    """A model.

    Attributes:
        write: Writes ``model.onnx`` into a folder.
        inputs: Makes inputs by name for a batch size.
        sources: The files that decide what is written, relative to the repository.
    """

    write: Callable[[Path], None]
    inputs: Callable[[int], dict[str, np.ndarray]]
    sources: tuple[str, ...]


#: Half a minute of a page read aloud would be 3,000 frames of 10 ms; a sentence is about 500.
_FRAMES, _BANDS = 500, 80
_PIXELS = (480, 640)


def _tree(name: str) -> Task:
    return Task(lambda folder: onnx.save(export(name), folder / "model.onnx"), lambda n: {"x": data()[0][:n]}, ("benchmarks/trees.py",))


def _operator(name: str) -> Task:
    def inputs(n: int) -> dict[str, np.ndarray]:
        if n != 1:
            raise ValueError(f"{name} is measured at batch 1, not {n}")
        return OPERATORS[name]()[1]

    return Task(lambda folder: onnx.save(OPERATORS[name]()[0], folder / "model.onnx"), inputs, ("benchmarks/operators.py",))


def _lstm_ctc() -> Task:
    """A bidirectional LSTM of two layers of 512 each way behind two convolutions, with CTC's probabilities."""

    def inputs(n: int) -> dict[str, np.ndarray]:
        return {"features": np.random.default_rng(n).standard_normal((n, _FRAMES, _BANDS), np.float32)}

    def write(folder: Path) -> None:
        import torch

        from ingot.export import export_module
        from tests.models.speech.networks import LstmCtc

        torch.manual_seed(0)
        export_module(LstmCtc(_BANDS, 512).eval(), inputs(2), folder, dynamic_shapes={"features": {0: "batch", 1: "frames"}},
                      output_names=["log_probabilities"], exporter="torchscript")

    return Task(write, inputs, ("python/ingot/export", "tests/models/speech/networks.py", "benchmarks/tasks.py"))


def _faster_rcnn() -> Task:
    """ResNet-50, a pyramid of 256 channels, up to 1,000 proposals of the four scales, 90 classes; all of it in the graph."""

    def inputs(n: int) -> dict[str, np.ndarray]:
        from tests.models.vision.layers import images

        return {"images": images(n, *_PIXELS)}

    def write(folder: Path) -> None:
        from ingot.export import export_module
        from tests.models.vision.layers import settled
        from tests.models.vision.rcnn import FasterRcnn

        heads = ({"proposals.score": (2.0, 0.0), "proposals.box": (0.3, 0.0)}, {"label": (1.5, 0.0), "box": (0.5, 0.0)})
        module = settled(lambda: FasterRcnn(width=64, channels=256, classes=90, before=1000, after=250, most=100), (160, 192), heads)
        export_module(module, inputs(2), folder, dynamic_shapes={"images": {0: "batch", 2: "height", 3: "width"}})

    return Task(write, inputs, ("python/ingot/export", "tests/models/vision", "benchmarks/tasks.py"))


#: Every model by name.
TASKS: Mapping[str, Task] = {
    "lstm_ctc": _lstm_ctc(),
    "faster_rcnn": _faster_rcnn(),
    **{name: _tree(name) for name in TREES},
    **{name: _operator(name) for name in OPERATORS},
}
