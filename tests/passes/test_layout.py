"""Transposes around convolutions are put off until they meet and vanish."""

from __future__ import annotations

import numpy as np
from onnx import helper

from tests.lower.build import model, relative_error, run


def test_a_network_of_convolutions_transposes_its_input_and_output_alone() -> None:
    rng = np.random.default_rng(0)
    w1, w2 = rng.standard_normal((16, 3, 1, 1)).astype(np.float32), rng.standard_normal((8, 16, 1, 1)).astype(np.float32)
    scale = rng.standard_normal((1, 16, 1, 1)).astype(np.float32)
    nodes = [helper.make_node("Conv", ["x", "w1"], ["a"]), helper.make_node("Mul", ["a", "scale"], ["b"]), helper.make_node("Relu", ["b"], ["c"]),
             helper.make_node("MaxPool", ["c"], ["d"], kernel_shape=[2, 2], strides=[2, 2]),
             helper.make_node("Conv", ["d", "w2"], ["y"])]
    x = rng.standard_normal((2, 3, 9, 9)).astype(np.float32)
    outputs, kernels = run(model(nodes, {"x": ("float32", ["n", 3, 9, 9])}, ["y"], {"w1": w1, "w2": w2, "scale": scale}), {"x": x})
    a = np.maximum(np.einsum("nchw,oc->nohw", x, w1[:, :, 0, 0]) * scale, 0)
    pooled = a[:, :, :8, :8].reshape(2, 16, 4, 2, 4, 2).max((3, 5))
    assert relative_error(outputs["y"], np.einsum("nchw,oc->nohw", pooled, w2[:, :, 0, 0])) < 1e-6
    assert sum(k.startswith("map") for k in kernels) == 2, kernels


def test_a_mean_over_height_and_width_needs_no_transpose() -> None:
    rng = np.random.default_rng(0)
    w = rng.standard_normal((16, 3, 1, 1)).astype(np.float32)
    nodes = [helper.make_node("Conv", ["x", "w"], ["a"]), helper.make_node("GlobalAveragePool", ["a"], ["b"]),
             helper.make_node("Flatten", ["b"], ["y"])]
    x = rng.standard_normal((2, 3, 7, 5)).astype(np.float32)
    outputs, kernels = run(model(nodes, {"x": ("float32", ["n", 3, 7, 5])}, ["y"], {"w": w}), {"x": x})
    assert relative_error(outputs["y"], np.einsum("nchw,oc->nohw", x, w[:, :, 0, 0]).mean((2, 3))) < 1e-6
    assert sum(k.startswith("map") for k in kernels) == 1, kernels  # of the input


def test_slices_and_nearest_resizing_need_no_transposes() -> None:
    rng = np.random.default_rng(0)
    w1, w2 = rng.standard_normal((16, 3, 1, 1)).astype(np.float32), rng.standard_normal((5, 24, 1, 1)).astype(np.float32)
    nodes = [helper.make_node("Conv", ["x", "w1"], ["a"]), helper.make_node("Split", ["a", "halves"], ["b", "c"], axis=1),
             helper.make_node("Resize", ["b", "", "sizes"], ["d"], mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor"),
             helper.make_node("Slice", ["d", "starts", "ends", "axes", "steps"], ["e"]), helper.make_node("Concat", ["e", "a"], ["f"], axis=1),
             helper.make_node("Conv", ["f", "w2"], ["y"])]
    x = rng.standard_normal((2, 3, 6, 9)).astype(np.float32)
    constants = {"w1": w1, "w2": w2, "halves": np.array([8, 8]), "sizes": np.array([1, 1, 2, 2], np.float32), "starts": np.array([1, 17]),
                 "ends": np.array([7, -19]), "axes": np.array([2, 3]), "steps": np.array([1, -2])}
    outputs, kernels = run(model(nodes, {"x": ("float32", ["n", 3, 6, 9])}, ["y"], constants), {"x": x})
    a = np.einsum("nchw,oc->nohw", x, w1[:, :, 0, 0])
    sliced = a[:, :8].repeat(2, axis=2).repeat(2, axis=3)[:, :, 1:7, ::-2]
    assert relative_error(outputs["y"], np.einsum("nchw,oc->nohw", np.concatenate([sliced, a], 1), w2[:, :, 0, 0])) < 1e-6
    assert sum("transpose" in k for k in kernels) == 0, kernels


def test_a_move_whose_index_depends_on_another_axis_keeps_its_transpose() -> None:
    rng = np.random.default_rng(0)
    w = rng.standard_normal((8, 3, 1, 1)).astype(np.float32)
    nodes = [helper.make_node("Conv", ["x", "w"], ["a"]), helper.make_node("DepthToSpace", ["a"], ["y"], blocksize=2)]
    x = rng.standard_normal((2, 3, 4, 5)).astype(np.float32)
    outputs, _ = run(model(nodes, {"x": ("float32", ["n", 3, 4, 5])}, ["y"], {"w": w}), {"x": x})
    a = np.einsum("nchw,oc->nohw", x, w[:, :, 0, 0])
    expected = a.reshape(2, 2, 2, 2, 4, 5).transpose(0, 3, 4, 1, 5, 2).reshape(2, 2, 8, 10)
    assert relative_error(outputs["y"], expected) < 1e-6
