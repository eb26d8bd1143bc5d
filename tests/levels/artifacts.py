"""Artifacts of the small models with code for every instruction-set level, and the outputs that each level must give."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper
from onnx.reference import ReferenceEvaluator

import ingot
from ingot.lower import targets
from tests.cache import made
from tests.levels.models import MODELS, Feeds, Model
from tests.levels.networks import NETWORKS
from tests.lower.build import relative_error

#: Models are compiled for code of 512 bits where they name it alone: it takes LLVM longer than all other levels together, and most other tests run it
#: on a machine that has it.
LEVELS = ("cpu:x86-64-v2", "cpu:x86-64-v3", "cpu:aarch64")
NARROW = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16)
NAMES = sorted({**MODELS, **NETWORKS})
SOURCES = ("tests/levels/models.py", "tests/levels/networks.py", "tests/levels/artifacts.py", "tests/lower/build.py")


@dataclass(frozen=True)
class Compiled:
    """A model of the tables as a file with all levels, and what its steps are for each."""

    model: Model
    path: Path
    steps: Mapping[str, list[dict[str, Any]]]
    outputs: Mapping[str, np.dtype]
    expected: list[dict[str, np.ndarray]]

    def check(self, run: int, found: Mapping[str, np.ndarray]) -> None:
        """Compares the outputs of a run with the reference."""
        for name, expected in self.expected[run].items():
            assert found[name].shape == expected.shape
            error = relative_error(np.asarray(found[name]), expected)
            assert error <= self.model.tolerance, f"{name} of run {run}: relative norm error {error:.2e} where {self.model.tolerance} is allowed"

    def shapes(self, run: int) -> dict[str, tuple[np.dtype, tuple[int, ...]]]:
        """The types and shapes that the outputs of a run have."""
        return {name: (self.outputs[name], array.shape) for name, array in self.expected[run].items()}


def compiled(name: str) -> Compiled:
    """A model by name, compiled once for all levels."""
    model = ({**MODELS, **NETWORKS})[name]()
    folder = made("levels", name, SOURCES, lambda folder: _compile(model, folder))
    described = json.loads((folder / "described.json").read_text())
    expected = []
    for run in range(len(model.feeds)):
        with np.load(folder / f"expected-{run}.npz") as stored:
            expected.append(dict(stored))
    return Compiled(model, folder / "model.ingot", described["steps"], {n: np.dtype(t) for n, t in described["outputs"].items()}, expected)


def here(target: str) -> bool:
    """Whether this machine can run a target."""
    needed = targets.find(target)
    return needed.arch == ingot.machine()["architecture"] and set(needed.features) <= set(ingot.machine()["features"])


def reference(built: onnx.ModelProto, feeds: Feeds) -> dict[str, np.ndarray]:
    """The outputs by the definitions of the operators, in float64."""
    wide = onnx.ModelProto()
    wide.CopyFrom(built)
    _widen(wide.graph)
    given = {n: a.astype(np.float64) if a.dtype.kind == "f" else a for n, a in feeds.items()}
    names = [o.name for o in built.graph.output]
    return dict(zip(names, ReferenceEvaluator(wide).run(None, given), strict=True))


def _widen(graph: onnx.GraphProto) -> None:
    """Makes every narrower float of a graph and of the graphs in it a float64."""
    for tensor in graph.initializer:
        if tensor.data_type in NARROW:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float64), tensor.name))
    for value in (*graph.input, *graph.output, *graph.value_info):
        if value.type.tensor_type.elem_type in NARROW:
            value.type.tensor_type.elem_type = TensorProto.DOUBLE
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                _widen(attribute.g)
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i in NARROW:
                attribute.i = TensorProto.DOUBLE


def _compile(model: Model, folder: Path) -> None:
    path = folder / "model.ingot"
    built = model.build()
    wanted = sorted({*LEVELS, *model.extended})
    ingot.compile(built, path, samples=0, precision=model.precision, target=wanted)
    manifest = ingot.Artifact.open(path).manifest
    described = {"steps": {t["name"]: t["program"]["functions"][0]["steps"] for t in manifest["targets"]},
                 "outputs": {o["name"]: o["dtype"] for o in manifest["outputs"]}}
    (folder / "described.json").write_text(json.dumps(described))
    for run, feeds in enumerate(model.feeds):
        np.savez(folder / f"expected-{run}.npz", **(model.expected[run] if model.expected else reference(built, feeds)))
