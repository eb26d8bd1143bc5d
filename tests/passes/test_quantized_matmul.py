"""Products with quantized weights become calls of the kernel, together with what follows them, and compute what they did."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import ingot
from ingot.runtime.artifact import Artifact

DEPTH, COLUMNS = 96, 72
RNG_SEED = 7


def steps(path: Path) -> list[dict[str, Any]]:
    """The steps of an artifact's program."""
    return list(Artifact(path).manifest["targets"][0]["program"]["functions"][0]["steps"])


def kernels(path: Path) -> list[str]:
    """The names of the kernels and functions that run, in order."""
    return [s.get("name") or s.get("function", s["op"]) for s in steps(path)]


def weights(dtype: str, axis: int, block: int, zeros: bool, transposed: bool) -> list[onnx.TensorProto]:
    """w, s and z of a DequantizeLinear; w is [K, N], or [N, K] if it is to be transposed."""
    rng = np.random.default_rng(RNG_SEED)
    kind = getattr(onnx.TensorProto, dtype.upper())
    low, high = {"int8": (-128, 128), "uint8": (0, 256), "int4": (-8, 8), "uint4": (0, 16)}[dtype]
    shape = (COLUMNS, DEPTH) if transposed else (DEPTH, COLUMNS)
    groups = tuple(-(-d // block) if i == axis else d for i, d in enumerate(shape)) if block else () if axis < 0 else (shape[axis],)
    w = helper.make_tensor("w", kind, shape, rng.integers(low, high, shape).ravel().tolist())
    s = numpy_helper.from_array(rng.uniform(0.01, 0.02, groups).astype(np.float32), "s")
    z = helper.make_tensor("z", kind, groups, rng.integers(low, high, groups).ravel().tolist() if groups else [int(rng.integers(low, high))])
    return [w, s, z] if zeros else [w, s]


def model(body: str, initializers: list[onnx.TensorProto], inputs: str = f"float[m,{DEPTH}] x", opset: int = 21) -> onnx.ModelProto:
    text = f'<ir_version: 10, opset_import: ["" : {opset}]> g ({inputs}) => (float[m,{COLUMNS}] y) {{ {body} }}'
    made = onnx.parser.parse_model(text)
    made.graph.initializer.extend(initializers)
    return made


def check(made: onnx.ModelProto, feeds: dict[str, np.ndarray], folder: Path, expected: list[str] | None) -> None:
    """The compiled model gives what ONNX's reference gives, within float32's rounding of sums of DEPTH products."""
    path = folder / "model.ingot"
    ingot.compile(made, path)
    reference = ReferenceEvaluator(made).run(None, feeds)[0]
    found = np.asarray(ingot.load(path).run(feeds)["y"])
    np.testing.assert_allclose(found, reference, rtol=0, atol=(DEPTH + 8) * 2**-23 * np.abs(reference).max())
    if expected is not None:
        assert kernels(path) == expected


def x(rows: int = 5) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(1).standard_normal((rows, DEPTH)).astype(np.float32)}


@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("dtype", ["int8", "uint8", "int4", "uint4"])
@pytest.mark.parametrize(("axis", "block", "transposed"), [(1, 0, False), (0, 0, True), (0, 32, False), (1, 64, True), (-1, 0, False), (-1, 0, True)],
                         ids=["columns", "columns transposed", "blocks", "blocks transposed", "one", "one transposed"])
def test_a_product_with_a_dequantized_weight_reads_it_as_it_is(dtype: str, zeros: bool, axis: int, block: int, transposed: bool,
                                                               tmp_path: Path) -> None:
    names = "w, s, z" if zeros else "w, s"
    attributes = f"<axis={max(axis, 0)}, block_size={block}>"
    body = f"d = DequantizeLinear{attributes}({names}) " + ("t = Transpose<perm=[1,0]>(d) y = MatMul(x, t)" if transposed else "y = MatMul(x, d)")
    check(model(body, weights(dtype, axis, block, zeros, transposed)), x(), tmp_path, ["quantized_matmul"])


def test_gemm_with_a_dequantized_weight_has_its_bias_in_the_kernel(tmp_path: Path) -> None:
    bias = numpy_helper.from_array(np.linspace(-1, 1, COLUMNS, dtype=np.float32), "b")
    body = "d = DequantizeLinear<axis=0>(w, s) y = Gemm<transB=1>(x, d, b)"
    check(model(body, [*weights("int8", 0, 0, False, True), bias]), x(), tmp_path, ["quantized_matmul"])


AFTER = {
    "relu": "y = Relu(p)",
    "gelu": 'y = Gelu<approximate="none">(p)',
    "gelu tanh": 'y = Gelu<approximate="tanh">(p)',
    "gelu written out": """
        r = Constant<value_float=1.4142135623730951>() one = Constant<value_float=1.0>() half = Constant<value_float=0.5>()
        q = Div(p, r) e = Erf(q) f = Add(e, one) g = Mul(p, f) y = Mul(g, half)""",
    "silu": "g = Sigmoid(p) y = Mul(p, g)",
    "residual": "y = Add(r, p)",
    "relu and residual": "a = Relu(p) y = Add(a, r)",
}


@pytest.mark.parametrize("after", AFTER.values(), ids=AFTER)
def test_what_follows_a_product_is_in_the_kernel(after: str, tmp_path: Path) -> None:
    bias = numpy_helper.from_array(np.linspace(-1, 1, COLUMNS, dtype=np.float32), "b")
    residual = "Add(r, p)" in after or "Add(a, r)" in after
    body = f"d = DequantizeLinear<axis=0, block_size=32>(w, s) m = MatMul(x, d) p = Add(m, b) {after}"
    made = model(body, [*weights("int4", 0, 32, False, False), bias],
                 f"float[m,{DEPTH}] x" + (f", float[m,{COLUMNS}] r" if residual else ""))
    feeds = x()
    if residual:
        feeds["r"] = np.random.default_rng(2).standard_normal((5, COLUMNS)).astype(np.float32)
    check(made, feeds, tmp_path, ["quantized_matmul"])


def test_a_product_that_is_read_twice_stays_by_itself(tmp_path: Path) -> None:
    body = "d = DequantizeLinear<axis=0, block_size=32>(w, s) m = MatMul(x, d) a = Relu(m) b = Neg(m) y = Max(a, b)"
    made = model(body, weights("int4", 0, 32, False, False))
    check(made, x(), tmp_path, None)
    assert kernels(tmp_path / "model.ingot").count("quantized_matmul") == 1


def test_a_scale_for_each_k_stays_a_product_of_floats(tmp_path: Path) -> None:
    body = "d = DequantizeLinear<axis=0>(w, s) y = MatMul(x, d)"
    check(model(body, weights("int4", 0, 0, False, False)), x(), tmp_path, None)
    assert "quantized_matmul" not in kernels(tmp_path / "model.ingot")


def test_inspect_names_the_kernel(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from ingot.cli.main import main

    path = tmp_path / "model.ingot"
    ingot.compile(model("d = DequantizeLinear<axis=0, block_size=32>(w, s) y = MatMul(x, d)", weights("int4", 0, 32, False, False)), path)
    assert main(["inspect", str(path)]) == 0
    assert "quantized_matmul" in capsys.readouterr().out


DYNAMIC = """
    q, sx, zx = DynamicQuantizeLinear(x) p = MatMulInteger(q, w, zx{zero}) f = Cast<to=1>(p)
    c = Mul(sx, s) r = Mul(f, c) y = Add(r, b)
"""


@pytest.mark.parametrize("axis", [1, -1], ids=["columns", "one"])
@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_a_dynamically_quantized_product_is_one_kernel(dtype: str, zeros: bool, axis: int, tmp_path: Path) -> None:
    bias = numpy_helper.from_array(np.linspace(-1, 1, COLUMNS, dtype=np.float32), "b")
    initializers = weights(dtype, axis, 0, zeros, False)
    made = model(DYNAMIC.format(zero=", z" if zeros else ""), [*initializers, bias])
    path = tmp_path / "model.ingot"
    ingot.compile(made, path)
    assert kernels(path) == ["quantized_matmul"]
    feeds = x()
    values = {i.name: numpy_helper.to_array(i).astype(np.float64) for i in initializers}
    w = (values["w"] - values.get("z", 0)) * values["s"]
    exact = feeds["x"].astype(np.float64) @ w + numpy_helper.to_array(bias)
    # Rounding x to int8 errs by half a unit of each row.
    rounding = 0.501 * np.abs(feeds["x"]).max(axis=1, keepdims=True) / 127 * np.abs(w).sum(axis=0)
    assert (np.abs(np.asarray(ingot.load(path).run(feeds)["y"]) - exact) <= rounding + 1e-4).all()


def test_a_product_without_the_zero_point_of_x_stays_one_of_integers(tmp_path: Path) -> None:
    body = "q, sx, zx = DynamicQuantizeLinear(x) p = MatMulInteger(q, w) f = Cast<to=1>(p) c = Mul(sx, s) y = Mul(f, c)"
    check(model(body, weights("int8", 1, 0, False, False)), x(), tmp_path, None)
    assert "quantized_matmul" not in kernels(tmp_path / "model.ingot")
