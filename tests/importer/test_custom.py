"""Operators of one's own: ``ingot.onnx_op`` and ``ingot.torch_op``."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

import ingot
from ingot.importer import registry


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    """What a test registers is gone after it."""
    import ingot.importer.ops  # noqa: F401
    from ingot.export import translations

    tables = registry._operators, registry._for_strings
    saved = [{key: list(versions) for key, versions in table.items()} for table in tables]
    exports = dict(translations._translations)
    yield
    for table, before in zip(tables, saved, strict=True):
        table.clear()
        table.update(before)
    translations._translations.clear()
    translations._translations.update(exports)


def model(operator: str, domain: str, **attributes: Any) -> onnx.ModelProto:
    node = helper.make_node(operator, ["x"], ["y"], domain=domain, **attributes)
    graph = helper.make_graph([node], "custom", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 5])],
                              [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 5])])
    opsets = [helper.make_opsetid("", 20)] + ([helper.make_opsetid(domain, 3)] if domain else [])
    return helper.make_model(graph, opset_imports=opsets)


def outputs(source: onnx.ModelProto, folder: Path, x: np.ndarray) -> np.ndarray:
    ingot.compile(source, folder / "custom.ingot", samples=0)
    result: np.ndarray = ingot.load(folder / "custom.ingot").run({"x": x})["y"]
    return result


X = np.random.default_rng(0).standard_normal((3, 5)).astype(np.float32)


def test_a_model_with_an_unknown_operator_is_refused_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(ingot.UnsupportedError, match=r"mine\.Halve.*\n.*ingot\.onnx_op"):
        outputs(model("Halve", "mine"), tmp_path, X)


def test_a_custom_operator_of_relax_operators_compiles_and_runs(tmp_path: Path) -> None:
    from tvm import relax

    @ingot.onnx_op("Halve", domain="mine")
    def halve(cx: Any, x: Any, *, times: int = 1) -> Any:
        for _ in range(times):
            x = cx.op(relax.op.multiply(x.expr, relax.const(0.5, x.dtype)))
        return x

    np.testing.assert_array_equal(outputs(model("Halve", "mine", times=2), tmp_path, X), X / 4)


def test_a_custom_operator_may_be_a_tir_function(tmp_path: Path) -> None:
    from tvm import te, tirx

    @ingot.onnx_op("Reverse", domain="mine")
    def reverse(cx: Any, x: Any) -> Any:
        rows = tirx.Var("rows", "int64")
        source = te.placeholder((rows, x.shape[1]), x.dtype, name="source")
        function = te.create_prim_func([source, te.compute((rows, x.shape[1]), lambda i, j: source(i, x.shape[1] - 1 - j), name="reversed")])
        return cx.tir(function, [x], [(x.shape, x.dtype)], "reverse")

    np.testing.assert_array_equal(outputs(model("Reverse", "mine"), tmp_path, X), X[:, ::-1])


def test_the_newest_implementation_for_the_models_opset_counts(tmp_path: Path) -> None:
    for since, factor in ((1, 2.0), (3, 3.0), (4, 4.0)):
        ingot.onnx_op("Scale", domain="mine", since=since)(lambda cx, x, factor=factor: cx.elementwise(lambda v: v * np.float32(factor), x))
    np.testing.assert_array_equal(outputs(model("Scale", "mine"), tmp_path, X), X * 3)


def test_a_custom_function_replaces_ingots_own(tmp_path: Path) -> None:
    ingot.onnx_op("Relu")(lambda cx, x: cx.elementwise(lambda v: v + np.float32(1), x))
    np.testing.assert_array_equal(outputs(model("Relu", ""), tmp_path, X), X + 1)


def test_an_attribute_that_the_function_does_not_name_is_refused(tmp_path: Path) -> None:
    ingot.onnx_op("Halve", domain="mine")(lambda cx, x: x)
    with pytest.raises(ingot.UnsupportedError, match=r"mine\.Halve.*'times'"):
        outputs(model("Halve", "mine", times=2), tmp_path, X)


def test_a_custom_pytorch_operator_is_exported_as_it_was_said(tmp_path: Path) -> None:
    from onnxscript import opset20 as op

    @torch.library.custom_op("ingot_test::third_power", mutates_args=())
    def third_power(x: torch.Tensor, plus: float) -> torch.Tensor:
        return x * x * x + plus

    @third_power.register_fake
    def _(x: torch.Tensor, plus: float) -> torch.Tensor:
        return torch.empty_like(x)

    @ingot.torch_op("ingot_test::third_power")
    def export(x, plus: float):  # type: ignore[no-untyped-def]
        return op.Add(op.Pow(x, op.Constant(value_float=3.0)), op.Constant(value_float=plus))

    class Cube(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return third_power(x, 2.0)

    ingot.compile(Cube(), tmp_path / "cube.ingot", inputs=(torch.from_numpy(X),))
    np.testing.assert_allclose(ingot.load(tmp_path / "cube.ingot").run({"x": X[:2]})["output"], X[:2] ** 3 + 2, rtol=1e-5)


@pytest.mark.parametrize("name", ["nothing", "::clip", "mine::", "my-ops::clip"])
def test_what_is_no_name_of_a_pytorch_operator_is_refused(name: str) -> None:
    with pytest.raises(ingot.CompileError, match="namespace::name"):
        ingot.torch_op(name)


def test_an_operator_that_pytorch_lacks_is_named_when_a_module_is_exported(tmp_path: Path) -> None:
    ingot.torch_op("ingot_test::missing")(lambda x: x)
    with pytest.raises(ingot.CompileError, match="ingot_test::missing"):
        ingot.compile(torch.nn.Linear(5, 5), tmp_path / "m.ingot", inputs=(torch.from_numpy(X),))


def test_importing_ingot_imports_no_compiler_for_the_sake_of_operators() -> None:
    check = "import sys, ingot; assert 'onnx_op' in dir(ingot) or ingot.__all__; assert not {'tvm', 'onnx', 'torch'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", check], check=True)


def test_the_example_runs(root: Path) -> None:
    result = subprocess.run([sys.executable, str(root / "examples/python/custom_operator.py")], capture_output=True, text=True, check=False)
    assert result.returncode == 0 and "largest difference" in result.stdout, result.stderr
