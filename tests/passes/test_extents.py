"""Composite extents of TIR functions get names, and functions that differ in them alone become one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper
from tvm import tirx

import ingot
from ingot.importer.model import import_model
from ingot.lower import targets
from ingot.lower.cpu.abi import is_buffer
from ingot.passes.pipeline import optimize
from ingot.passes.settings import Settings


def strided_convolutions(count: int) -> onnx.ModelProto:
    """``count`` convolutions of stride 2 in a row, 8 channels each, on images of symbolic height and width."""
    weight = np.random.default_rng(0).standard_normal((8, 8, 3, 3)).astype(np.float32) / 8
    nodes = [helper.make_node("Conv", [f"x{i}", "w"], [f"x{i + 1}"], strides=[2, 2], pads=[1, 1, 1, 1]) for i in range(count)]
    graph = helper.make_graph(nodes, "strided", [helper.make_tensor_value_info("x0", TensorProto.FLOAT, ["batch", 8, "height", "width"])],
                              [helper.make_tensor_value_info(f"x{count}", TensorProto.FLOAT, None)],
                              [helper.make_tensor("w", TensorProto.FLOAT, weight.shape, weight.tobytes(), raw=True)])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])


def functions(model: onnx.ModelProto) -> list[tirx.PrimFunc]:
    optimized = optimize(import_model(model, source="strided"), Settings(targets.find("cpu:x86-64-v3"), "f32"))
    return [f for _, f in optimized.mod.functions_items() if isinstance(f, tirx.PrimFunc)]


def test_the_extents_of_arguments_are_numbers_or_symbols_and_offsets() -> None:
    for function in functions(strided_convolutions(4)):
        for parameter in function.params:
            for extent in parameter.ty.shape if is_buffer(parameter) else ():
                plain = extent.a if isinstance(extent, tirx.Add) and isinstance(extent.b, tirx.IntImm) else extent
                assert isinstance(plain, (tirx.Var, tirx.IntImm)), function


def test_layers_that_differ_in_symbolic_extents_share_their_functions() -> None:
    assert len(functions(strided_convolutions(6))) == len(functions(strided_convolutions(3)))


def test_a_model_whose_functions_have_named_extents_agrees_with_onnxruntime(tmp_path: Path) -> None:
    import onnxruntime

    model = strided_convolutions(4)
    ingot.compile(model, tmp_path / "strided.ingot", samples=0)
    compiled, session = ingot.load(tmp_path / "strided.ingot"), onnxruntime.InferenceSession(model.SerializeToString())
    for shape in ((1, 8, 64, 48), (3, 8, 33, 100)):
        x = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
        (expected,) = session.run(None, {"x0": x})
        np.testing.assert_allclose(compiled.run({"x0": x})["x4"], expected, rtol=1e-4, atol=1e-5)
