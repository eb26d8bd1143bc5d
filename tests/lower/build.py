"""Small ONNX models for tests of lowering: built, compiled for this machine and run in one call."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

import ingot


def model(nodes: Sequence[onnx.NodeProto], inputs: Mapping[str, tuple[str, Sequence[Any]]], outputs: Sequence[str],
          weights: Mapping[str, np.ndarray] | None = None, opset: int = 21) -> onnx.ModelProto:
    """A model of nodes; ``inputs`` gives each input's dtype and shape (names are symbolic extents)."""
    declared = [helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(np.dtype(d)), list(s)) for n, (d, s) in inputs.items()]
    results = [helper.make_value_info(o, onnx.TypeProto()) for o in outputs]
    constants = [numpy_helper.from_array(a, n) for n, a in (weights or {}).items()]
    graph = helper.make_graph(list(nodes), "test", declared, results, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def run(built: onnx.ModelProto, feeds: Mapping[str, np.ndarray], threads: int = 2) -> tuple[dict[str, np.ndarray], list[str]]:
    """The outputs by name, and the kernel or schedule of each step."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "test.ingot"
        ingot.compile(built, path, samples=0)
        loaded = ingot.load(path, threads=threads)
        steps = loaded.manifest["targets"][0]["program"]["functions"][0]["steps"]
        return dict(loaded.run(dict(feeds))), [str(s.get("kernel", s["op"])) for s in steps]


def relative_error(actual: np.ndarray, expected: np.ndarray) -> float:
    """The relative norm error."""
    wide = expected.astype(np.float64)
    return float(np.linalg.norm(actual.astype(np.float64) - wide) / max(float(np.linalg.norm(wide)), 1e-30))
