"""What models of every age look like: opsets from 7 on, sparse initializers, initializers that are inputs, data beyond 2 GB of a file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import ingot
from ingot.backend import prepare

RNG = np.random.default_rng(0)
#: The opsets from which operators of the network below are written in another way, and the newest.
TURNS = (7, 9, 10, 11, 13, 18, onnx.defs.onnx_opset_version())
OPSETS = [pytest.param(opset, marks=[pytest.mark.extended] * (opset not in TURNS)) for opset in range(7, TURNS[-1] + 1)]


def network(opset: int) -> onnx.ModelProto:
    """Images [batch, 3, 8, 8] → what operators give that opset after opset say in other ways: attributes, then inputs."""
    nodes: list[onnx.NodeProto] = []
    weights: dict[str, np.ndarray] = {"w": RNG.standard_normal((4, 3, 3, 3)).astype(np.float32), "m": RNG.standard_normal((64, 5)).astype(np.float32),
                                      "c": RNG.standard_normal(5).astype(np.float32)}
    weights |= {name: np.abs(RNG.standard_normal(4)).astype(np.float32) + 0.5 for name in ("scale", "shift", "mean", "variance")}

    def add(op: str, inputs: list[str], outputs: list[str], old: int = 0, values: dict[str, Any] | None = None, **attributes: Any) -> None:
        """A node whose ``values`` are attributes before opset ``old``, and inputs from then on."""
        for name, value in (values or {}).items():
            if opset < old:
                attributes[name] = value
            else:
                constant = f"{outputs[0]}_{name}"
                weights[constant] = np.asarray(value, np.float32 if name in ("min", "max", "value", "scales") else np.int64)
                inputs = [*inputs, constant]
        nodes.append(helper.make_node(op, inputs, outputs, **attributes))

    add("Conv", ["x", "w"], ["conv"], pads=[1, 1, 1, 1])
    add("BatchNormalization", ["conv", "scale", "shift", "mean", "variance"], ["normal"], **({"spatial": 1} if opset < 9 else {}))
    add("Clip", ["normal"], ["clipped"], 11, {"min": -1.0, "max": 2.0})
    add("Pad", ["clipped"], ["padded"], 11, {"pads": [0, 0, 1, 0, 0, 0, 1, 2], "value": 0.25})
    add("MaxPool", ["padded"], ["pooled"], kernel_shape=[2, 2], strides=[2, 2])
    add("Slice", ["pooled"], ["cut"], 10, {"starts": [0, 1], "ends": [3, 2**31 - 1], "axes": [2, 3]})
    if opset >= 11:
        add("Resize", ["cut", "roi" if opset < 13 else "", "doubled"], ["resized"], mode="nearest", coordinate_transformation_mode="asymmetric",
            nearest_mode="floor")
        weights |= {"doubled": np.array([1, 1, 2, 2], np.float32), **({"roi": np.zeros(0, np.float32)} if opset < 13 else {})}
    else:
        add("Resize" if opset == 10 else "Upsample", ["cut"], ["resized"], 9, {"scales": [1.0, 1.0, 2.0, 2.0]}, mode="nearest")
    add("ReduceMean", ["resized"], ["rows"], 18, {"axes": [3]}, keepdims=1)
    add("ReduceSum", ["rows"], ["sums"], 13, {"axes": [2]}, keepdims=0)
    add("Squeeze", ["sums"], ["squeezed"], 13, {"axes": [2]})
    add("Unsqueeze", ["squeezed"], ["wide"], 13, {"axes": [1]})
    add("Softmax", ["wide"], ["likely"], axis=2)
    if opset >= 10:
        weights["k"] = np.array([3], np.int64)
    add("TopK", ["likely", *(["k"] if opset >= 10 else [])], ["best", "places"], axis=2, **({} if opset >= 10 else {"k": 3}))
    add("Split", ["resized"], ["left", "right"], 13, {"split": [1, 3]}, axis=1)
    add("Dropout", ["right"], ["kept"])
    add("Flatten", ["conv"], ["flat"])
    add("Reshape", ["flat", "shape"], ["shaped"])
    weights["shape"] = np.array([-1, 64], np.int64)
    add("Gemm", ["shaped", "m", "c"], ["y"])
    add("Cast", ["places"], ["numbers"], to=TensorProto.FLOAT)
    names = ["y", "best", "numbers", "kept", "left", "likely"]
    graph = helper.make_graph(nodes, "network", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, 8, 8])],
                              [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in names],
                              [numpy_helper.from_array(a, n) for n, a in weights.items()])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=4 if opset < 11 else 8 if opset < 21 else 11)


@pytest.mark.parametrize("opset", OPSETS)
def test_a_model_of_every_opset_agrees_with_onnxruntime(opset: int) -> None:
    model = network(opset)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    ours = prepare(model)
    for batch in (1, 3):
        x = np.random.default_rng(batch).standard_normal((batch, 3, 8, 8)).astype(np.float32)
        for found, wanted in zip(ours.run([x]), session.run(None, {"x": x}), strict=True):
            assert found.shape == wanted.shape
            np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


def product(depth: int, columns: int, more: Sequence[onnx.ValueInfoProto] = (), opset: int = 18, **initializers: Any) -> onnx.ModelProto:
    """Rows [n, depth] times w [depth, columns]."""
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", extent]) for n, extent in (("x", depth), ("y", columns)))
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "product", [x, *more], [y], **initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8 if opset > 8 else 3)


@pytest.mark.parametrize("linear", [False, True])
def test_sparse_initializers_are_dense_weights(linear: bool) -> None:
    dense = np.zeros((6, 5), np.float32)
    dense[[0, 2, 5], [4, 0, 3]] = [1.5, -2, 3]
    places = np.flatnonzero(dense) if linear else np.argwhere(dense)
    values, at = (numpy_helper.from_array(a, n) for a, n in ((dense[dense != 0], "w"), (places.astype(np.int64), "at")))
    model = product(6, 5, sparse_initializer=[helper.make_sparse_tensor(values, at, [6, 5])])
    x = RNG.standard_normal((3, 6)).astype(np.float32)
    np.testing.assert_allclose(prepare(model).run([x])[0], x @ dense, rtol=1e-6)


def test_an_initializer_that_is_an_input_too_is_a_constant() -> None:
    w = RNG.standard_normal((6, 5)).astype(np.float32)
    ours = prepare(product(6, 5, [helper.make_tensor_value_info("w", TensorProto.FLOAT, [6, 5])], 8, initializer=[numpy_helper.from_array(w, "w")]))
    assert ours.input_names == ["x"]
    x = RNG.standard_normal((2, 6)).astype(np.float32)
    np.testing.assert_allclose(ours.run([x])[0], x @ w, rtol=1e-5)


def test_external_data_lies_beyond_4_gb_of_a_file(tmp_path: Path) -> None:
    """The file is mostly a hole, which takes no room on disk."""
    w = RNG.standard_normal((600, 8)).astype(np.float32)
    offset = 2**32 + 4096
    with open(tmp_path / "weights.bin", "wb") as file:
        file.seek(offset)
        file.write(w.tobytes())
    if os.stat(tmp_path / "weights.bin").st_blocks * 512 > 2**24:
        pytest.skip("the file system has no holes")
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=w.shape, data_location=TensorProto.EXTERNAL)
    for key, value in (("location", "weights.bin"), ("offset", offset), ("length", w.nbytes)):
        tensor.external_data.add(key=key, value=str(value))
    onnx.save(product(600, 8, initializer=[tensor]), tmp_path / "far.onnx")
    ingot.compile(tmp_path / "far.onnx", tmp_path / "far.ingot", samples=0)
    x = RNG.standard_normal((3, 600)).astype(np.float32)
    np.testing.assert_allclose(ingot.load(tmp_path / "far.ingot").run(x=x)["y"], x.astype(np.float64) @ w, rtol=1e-4, atol=1e-4)
