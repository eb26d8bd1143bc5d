"""SmoothQuant and AWQ: factors that leave the model as it was in floats, and have quantized products lose less."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper
from tvm import relax

import ingot
from ingot.cli.main import main
from ingot.errors import CompileError
from ingot.importer.model import import_model
from ingot.passes.graph import Graph
from ingot.passes.migrate import migrate
from ingot.passes.products import Migrated, Selection
from ingot.quantize.calibration import Statistics, collect
from ingot.quantize.method import METHODS, parse_method
from ingot.quantize.migration import awq, numbers_of, smoothquant
from ingot.quantize.rounding import round_rows
from ingot.quantize.runner import Onnxruntime
from ingot.quantize.scheme import parse_scheme
from tests.passes.test_quantize import kernels, manifest

WIDTH, HEADS = 64, 4


def array(*shape: int, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(shape) / shape[0] ** 0.5).astype(np.float32)


def outliers(rows: int, depth: int, seed: int) -> np.ndarray:
    """Data with a few channels that are much larger than the others, as transformers' activations have them."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((rows, depth))
    x[:, rng.permutation(depth)[: depth // 16]] *= 30
    return x.astype(np.float32)


def statistics(x: np.ndarray) -> Statistics:
    return Statistics(x.T @ x, np.abs(x).max(axis=0), np.abs(x).mean(axis=0))


def lost(scheme: Any, w: np.ndarray, x: np.ndarray, factors: np.ndarray | None, rows: bool) -> float:
    """The relative error of x w^T, w [N, K], by the definition: w times factors is rounded, and rows of x over factors to int8 if asked.

    With factors clipping is searched for the data, as the methods that have factors do.
    """
    moments = None if factors is None else x.T @ x / np.outer(factors, factors)
    factors = np.ones(w.shape[1], np.float32) if factors is None else factors
    rounded = numbers_of(scheme, round_rows(scheme, w * factors, moments)).astype(np.float64)
    divided = x.astype(np.float64) / factors
    if rows:
        step = np.abs(divided).max(axis=1, keepdims=True) / 127
        divided = np.rint(divided / step) * step
    exact = x.astype(np.float64) @ w.T
    return float(np.linalg.norm(divided @ rounded.T - exact) / np.linalg.norm(exact))


@settings(max_examples=20, deadline=None)
@given(depth=st.integers(32, 200), seed=st.integers(0, 999), strength=st.sampled_from([0.3, 0.5, 0.8]))
def test_smoothquant_s_factors_are_those_of_the_paper_up_to_one_for_all(depth: int, seed: int, strength: float) -> None:
    x, weights = outliers(50, depth, seed), [array(20, depth, seed=seed), array(7, depth, seed=seed + 1)]
    found = smoothquant(parse_scheme("int8:row"), weights, statistics(x), parse_method(f"smoothquant:{strength}", True))
    assert found is not None
    largest = np.abs(np.concatenate(weights)).max(axis=0).astype(np.float64)
    expected = np.abs(x).max(axis=0).astype(np.float64) ** strength / largest ** (1 - strength)
    np.testing.assert_allclose(found.values / found.values[0], expected / expected[0], rtol=1e-4)


def test_smoothquant_loses_less_where_activations_have_outliers() -> None:
    x, w, scheme = outliers(200, 256, 1), array(96, 256, seed=2), parse_scheme("int8:row")
    found = smoothquant(scheme, [w], statistics(x), METHODS["smoothquant"])
    assert found is not None
    assert lost(scheme, w, x, found.values, True) < 0.6 * lost(scheme, w, x, None, True)


@pytest.mark.parametrize("text", ["int4", "uint4", "int4:g128"])
def test_awq_loses_less_where_some_channels_matter_most(text: str) -> None:
    x, w, scheme = outliers(400, 256, 3), array(96, 256, seed=4), parse_scheme(text)
    found = awq(scheme, [w], statistics(x), METHODS["awq"])
    assert found is not None and 0 < found.strength < 1
    assert lost(scheme, w, x, found.values, False) < 0.8 * lost(scheme, w, x, None, False)


def test_channels_without_data_keep_their_weights() -> None:
    x, w = outliers(50, 64, 5), array(8, 64, seed=6)
    x[:, 9] = 0
    for found in (smoothquant(parse_scheme("int8"), [w], statistics(x), METHODS["smoothquant"]),
                  awq(parse_scheme("int4"), [w], statistics(x), METHODS["awq"])):
        assert found is not None and found.values[9] == 1 and np.isfinite(found.values).all()
    nothing = statistics(np.zeros((5, 64), np.float32))
    assert smoothquant(parse_scheme("int8"), [w], nothing, METHODS["smoothquant"]) is None
    assert awq(parse_scheme("int4"), [w], nothing, METHODS["awq"]) is None


def test_clipping_is_searched_for_the_products_with_the_data() -> None:
    x, w, scheme = outliers(400, 128, 7), array(64, 128, seed=8), parse_scheme("int4")
    moments = x.T @ x
    errors = [float(np.linalg.norm(x @ (numbers_of(scheme, found) - w).T)) for found in (round_rows(scheme, w, moments), round_rows(scheme, w))]
    assert errors[0] < errors[1]


# ---- In a model ----------------------------------------------------------------------------------------------------

NORM = "n = LayerNormalization<axis=-1>(x, g, b) "
#: Graphs, the names of the weights to quantize, and whether factors move into what made their operand.
GRAPHS: dict[str, tuple[str, list[str], dict[str, bool]]] = {
    "a normalization that several products read": (NORM + "p = MatMul(n, w) q = MatMul(n, v) y = Add(p, q)", ["w", "v"], {"w": True, "v": True}),
    "a normalization that a sum reads too": (NORM + "p = MatMul(n, w) y = Add(p, n)", ["w"], {"w": False}),
    "an RMS normalization written out": (
        "s = Mul(x, x) m = ReduceMean(s, last) e = Sqrt(m) d = Div(x, e) n = Mul(d, g) y = MatMul(n, w)", ["w"], {"w": True}),
    "a linear layer behind a ReLU": ("p = MatMul(x, w) a = Add(p, b) r = Relu(a) y = MatMul(r, v)", ["w", "v"], {"w": False, "v": True}),
    "a linear layer behind a GELU": ("p = MatMul(x, w) r = Gelu(p) y = MatMul(r, v)", ["w", "v"], {"w": False, "v": False}),
    "a gated layer": ("p = MatMul(x, w) g0 = Sigmoid(p) u = MatMul(x, v) h = Mul(g0, u) y = MatMul(h, z)", ["w", "v", "z"],
                      {"w": False, "v": False, "z": True}),
    "transposed weights": ("wt = Transpose<perm=[1,0]>(w) p = MatMul(x, wt) r = Relu(p) vt = Transpose<perm=[1,0]>(v) y = MatMul(r, vt)", ["w", "v"],
                           {"w": False, "v": True}),
    "the values of attention": (
        "q0 = MatMul(x, w) k0 = MatMul(x, v) v0 = MatMul(x, z) va = Add(v0, b) q1 = Reshape(q0, split) k1 = Reshape(k0, split)"
        " v1 = Reshape(va, split) q2 = Transpose<perm=[0,2,1,3]>(q1) k2 = Transpose<perm=[0,2,3,1]>(k1) v2 = Transpose<perm=[0,2,1,3]>(v1)"
        " s = MatMul(q2, k2) p = Softmax(s) o = MatMul(p, v2) t = Transpose<perm=[0,2,1,3]>(o) j = Reshape(t, join) y = MatMul(j, u)",
        ["w", "v", "z", "u"], {"w": False, "v": False, "z": False, "u": True}),
    "a piece of a split": ("c = MatMul(x, c0) f, h = Split<axis=-1, num_outputs=2>(c) k = Tanh(f) y0 = MatMul(h, w) y = Add(y0, k)", ["c0", "w"],
                           {"c0": False, "w": False}),
}


def model(body: str, used: list[str]) -> onnx.ModelProto:
    made = onnx.parser.parse_model('<ir_version: 10, opset_import: ["" : 21]> g (float[batch,5,64] x) => (float[batch,5,n] y) { ' + body + " }")
    given = {name: array(WIDTH, 2 * WIDTH if name == "c0" else WIDTH, seed=i) for i, name in enumerate(used)}
    given |= {"g": 1 + 0.3 * array(WIDTH, seed=20) * WIDTH**0.5, "b": array(WIDTH, seed=21)}
    constants = {"last": np.array([-1]), "split": np.array([0, 5, HEADS, WIDTH // HEADS]), "join": np.array([0, 5, WIDTH])}
    names = {name for node in made.graph.node for name in node.input}
    made.graph.initializer.extend(numpy_helper.from_array(a, name) for name, a in {**given, **constants}.items() if name in names)
    return made


def data(count: int = 4) -> list[dict[str, np.ndarray]]:
    return [{"x": outliers(15, WIDTH, 30).reshape(3, 5, WIDTH)} for _ in range(count)]


def reference(made: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    import onnxruntime

    session = onnxruntime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    found: np.ndarray = session.run(["y"], {"x": x})[0]
    return found


@pytest.mark.parametrize("method", ["smoothquant", "awq"])
@pytest.mark.parametrize("name", GRAPHS)
def test_the_model_is_in_floats_what_it_was_before(name: str, method: str, tmp_path: Path) -> None:
    body, used, folded = GRAPHS[name]
    made = model(body, used)
    imported = import_model(made, source="model", base_dir=".")
    moments = collect(made, Onnxruntime(made, "."), data(), {}, tmp_path)
    canonical = tvm.transform.Sequential([relax.transform.CanonicalizeBindings()])(imported.mod)
    graph, report = migrate(Graph(canonical, tuple(imported.weights)), imported.nodes, parse_scheme("int4"), METHODS[method], Selection(), moments)
    assert all(found["folded"] == folded[_weight_of(made, node)] for node, found in report.items())
    assert len(report) == len(used) or method == "awq"  # where AWQ finds that factors do not help, there are none
    assert sum(isinstance(w, Migrated) for w in graph.weights) == len(report)
    found = run(graph, imported, data()[0]["x"], tmp_path)
    expected = reference(made, data()[0]["x"]).astype(np.float64)
    # Each number is rounded twice more, to 2^-24 of itself; sums of a product add up to a few of these.
    assert np.linalg.norm(found - expected) < 5e-6 * np.linalg.norm(expected)


def _weight_of(made: onnx.ModelProto, node: str) -> str:
    name = next(n.input[1] for n in made.graph.node if n.output[0] == node)
    return name.removesuffix("t")


def run(graph: Graph, imported: Any, x: np.ndarray, folder: Path) -> np.ndarray:
    """What a graph computes, compiled without quantization."""
    from dataclasses import replace
    from unittest.mock import patch

    changed = replace(imported, mod=graph.mod, weights=list(graph.weights))
    made = onnx.parser.parse_model('<ir_version: 10, opset_import: ["" : 21]> g (float[batch,5,64] x) => (float[batch,5,n] y) { y = Relu(x) }')
    with patch("ingot.importer.model.import_model", lambda *a, **k: changed):
        ingot.compile(made, folder / "m.ingot", samples=0)
    return np.asarray(ingot.load(folder / "m.ingot").run({"x": x})["y"]).astype(np.float64)


@pytest.mark.parametrize(("scheme", "method"), [("int8:row", "smoothquant"), ("int4", "awq"), ("uint4", "awq+gptq"), ("int4", "gptq-ordered"),
                                                ("int8:row", "smoothquant+gptq"), ("int4", "awq+gptq-ordered")])
def test_a_method_loses_less_than_the_nearest_and_the_report_says_which_it_was(scheme: str, method: str, tmp_path: Path) -> None:
    made = model(*GRAPHS["a normalization that several products read"][:2])
    x = data()[0]["x"]
    exact = reference(made, x).astype(np.float64)
    path = tmp_path / "m.ingot"
    errors = []
    for name in ("nearest", method):
        report = ingot.compile(made, path, quantize=scheme, calibration=data(), quantize_method=name, samples=0)
        errors.append(np.linalg.norm(np.asarray(ingot.load(path).run({"x": x})["y"]) - exact) / np.linalg.norm(exact))
        assert kernels(path).count("quantized_matmul") == 2
    assert errors[1] < errors[0]
    found = manifest(path)["quantization"]
    assert report.quantization == found and found["method"] == f"{METHODS[method].text}, 4 cases"
    loss = found["loss"]["calibration"]
    assert loss["cases"] == 4 and loss["problem"] is None and loss["outputs"][0]["output"] == "y"
    assert loss["outputs"][0]["relative_error"] == pytest.approx(errors[1], rel=1e-3)  # all cases are alike
    for layer in found["layers"]:
        assert layer.get("folded", True) and 0 < layer["output_error"] < 0.2
        assert ("strength" in layer) == bool(METHODS[method].migration)


def test_layers_that_are_not_quantized_read_what_they_did(tmp_path: Path) -> None:
    made = model(*GRAPHS["a normalization that several products read"][:2])
    report = ingot.compile(made, tmp_path / "m.ingot", quantize="int8", calibration=data(), quantize_method="smoothquant", quantize_exclude=["q"])
    assert report.quantization is not None
    (layer,) = report.quantization["layers"]
    assert layer["node"] == "p" and layer["folded"] is False
    x = data()[0]["x"]
    exact = reference(made, x).astype(np.float64)
    assert np.linalg.norm(np.asarray(ingot.load(tmp_path / "m.ingot").run({"x": x})["y"]) - exact) < 0.02 * np.linalg.norm(exact)


def test_the_command_takes_a_method(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnx.save(model(*GRAPHS["a linear layer behind a ReLU"][:2]), tmp_path / "m.onnx")
    np.savez(tmp_path / "data.npz", **data()[0])
    command = ["compile", str(tmp_path / "m.onnx"), "-o", str(tmp_path / "m.ingot"), "--quantize", "int8"]
    assert main([*command, "--calibration", str(tmp_path / "data.npz"), "--quantize-method", "smoothquant:0.6"]) == 0
    shown = capsys.readouterr().out
    assert "SmoothQuant, 1 case" in shown and "1 calibration case, y: relative error" in shown
    assert main(["inspect", str(tmp_path / "m.ingot")]) == 0
    assert "0.60, folded" in capsys.readouterr().out
    assert {layer["strength"] for layer in manifest(tmp_path / "m.ingot")["quantization"]["layers"]} == {0.6}
    assert main([*command, "--quantize-method", "awq"]) != 0
    assert "--calibration" in capsys.readouterr().err


def test_unknown_methods_are_refused_with_those_that_exist() -> None:
    with pytest.raises(CompileError, match="there is no quantization method 'smooth'; they are nearest, gptq"):
        parse_method("smooth", True)
    for text in ("smoothquant:2", "awq:0.5"):
        with pytest.raises(CompileError, match="strength of 0 to 1"):
            parse_method(text, True)
    assert parse_method(None, True).name == "gptq" and parse_method(None, False).name == "nearest"
