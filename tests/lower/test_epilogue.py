"""What follows a heavy stage and has another shape is not computed in its epilogue."""

from __future__ import annotations

import numpy as np
import torch
from onnx import helper

from tests.lower.build import model, relative_error, run


def test_squeeze_and_excitation() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 16, 9, 7)).astype(np.float32)
    w = rng.standard_normal((16, 16, 1, 1)).astype(np.float32)
    b = rng.standard_normal(16).astype(np.float32)
    nodes = [helper.make_node("GlobalAveragePool", ["x"], ["m"]), helper.make_node("Conv", ["m", "w", "b"], ["c"]),
             helper.make_node("Sigmoid", ["c"], ["s"]), helper.make_node("Mul", ["x", "s"], ["y"])]
    outputs, _ = run(model(nodes, {"x": ("float32", ["n", 16, 9, 7])}, ["y"], {"w": w, "b": b}), {"x": x})
    wide = torch.from_numpy(x).double()
    gate = torch.sigmoid(torch.nn.functional.conv2d(wide.mean((2, 3), keepdim=True), torch.from_numpy(w).double(), torch.from_numpy(b).double()))
    assert relative_error(outputs["y"], (wide * gate).numpy()) < 1e-6


def test_a_product_that_is_broadcast_over_what_it_is_added_to() -> None:
    rng = np.random.default_rng(0)
    x, r = rng.standard_normal((1, 5)).astype(np.float32), rng.standard_normal((3, 4, 24)).astype(np.float32)
    w = rng.standard_normal((5, 24)).astype(np.float32)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["p"]), helper.make_node("Add", ["p", "r"], ["y"])]
    outputs, _ = run(model(nodes, {"x": ("float32", [1, 5]), "r": ("float32", ["a", 4, 24])}, ["y"], {"w": w}), {"x": x, "r": r})
    assert relative_error(outputs["y"], x.astype(np.float64) @ w + r) < 1e-6


def test_a_reduction_whose_result_is_broadcast() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((3, 5, 32)).astype(np.float32)
    nodes = [helper.make_node("ReduceMean", ["x", "axes"], ["m"], keepdims=1), helper.make_node("Sub", ["x", "m"], ["y"])]
    for axes in ([1], [2], [1, 2]):
        outputs, _ = run(model(nodes, {"x": ("float32", ["a", 5, 32])}, ["y"], {"axes": np.array(axes)}), {"x": x})
        wide = x.astype(np.float64)
        assert relative_error(outputs["y"], wide - wide.mean(tuple(axes), keepdims=True)) < 1e-6
