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


def run(built: onnx.ModelProto, feeds: Mapping[str, np.ndarray], threads: int = 2,
        **options: Any) -> tuple[dict[str, np.ndarray], list[str]]:
    """The outputs by name, and the kernel or schedule of each step; ``options`` are those of ``ingot.compile``."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "test.ingot"
        ingot.compile(built, path, samples=0, **options)
        loaded = ingot.load(path, threads=threads)
        steps = loaded.manifest["targets"][0]["program"]["functions"][0]["steps"]
        return dict(loaded.run(dict(feeds))), [str(s.get("kernel", s["op"])) for s in steps]


def relative_error(actual: np.ndarray, expected: np.ndarray) -> float:
    """The relative norm error."""
    wide = expected.astype(np.float64)
    return float(np.linalg.norm(actual.astype(np.float64) - wide) / max(float(np.linalg.norm(wide)), 1e-30))


def product_and_sums(rows: int, depth: int, columns: int, known: bool,
                     seed: int) -> tuple[onnx.ModelProto, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """A model of y = x w + b + r with random operands in float32, and these: x [rows, depth], w [depth, columns], b [columns], r [rows, columns].

    ``known`` is whether the number of rows is, while the model is compiled.
    """
    rng = np.random.default_rng(seed)
    x, r = rng.standard_normal((rows, depth)).astype(np.float32), rng.standard_normal((rows, columns)).astype(np.float32)
    w, b = rng.standard_normal((depth, columns)).astype(np.float32), rng.standard_normal(columns).astype(np.float32)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["p"]), helper.make_node("Add", ["p", "b"], ["s"]), helper.make_node("Add", ["s", "r"], ["y"])]
    extent = rows if known else "rows"
    built = model(nodes, {"x": ("float32", [extent, depth]), "r": ("float32", [extent, columns])}, ["y"], {"w": w, "b": b})
    return built, x, w, b, r
