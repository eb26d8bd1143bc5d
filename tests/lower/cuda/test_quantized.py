"""Statically quantized models for a GPU, with what follows products as part of their kernels, beside onnxruntime (int8) and float64 (float8)."""

from __future__ import annotations

import importlib.util
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import ingot
from ingot.cli.main import main
from ingot.runtime import Artifact
from tests.lower.cuda import float8
from tests.lower.cuda.interpreter import Program, by_emulator, by_numpy

needs_onnxruntime = pytest.mark.skipif(importlib.util.find_spec("onnxruntime") is None, reason="onnxruntime is not installed")


def residual_network() -> onnx.ModelProto:
    """The parts of a ResNet at odd sizes: a wide first window, strides, a residual, one with a projection, and a depthwise convolution."""
    return _model("""g (float[n, 3, h, w] x) => (float[n, 10] y) {
        a = Conv<pads = [3, 3, 3, 3], strides = [2, 2], kernel_shape = [7, 7]>(x, w0, b0)
        ar = Relu(a)
        p = MaxPool<pads = [1, 1, 1, 1], strides = [2, 2], kernel_shape = [3, 3]>(ar)
        b = Conv<pads = [1, 1, 1, 1], kernel_shape = [3, 3]>(p, w1, b1)
        br = Relu(b)
        c = Conv<pads = [1, 1, 1, 1], kernel_shape = [3, 3]>(br, w2, b2)
        s = Add(c, p)
        sr = Relu(s)
        d = Conv<pads = [1, 1, 1, 1], strides = [2, 2], kernel_shape = [3, 3]>(sr, w3, b3)
        e = Conv<strides = [2, 2], kernel_shape = [1, 1]>(sr, w4, b4)
        t = Add(d, e)
        tr = Relu(t)
        f = Conv<pads = [1, 1, 1, 1], kernel_shape = [3, 3], group = 36>(tr, w5, b5)
        g = Clip(f, zero, six)
        i = Conv<kernel_shape = [1, 1]>(g, w6, b6)
        q = GlobalAveragePool(i)
        r = Flatten(q)
        y = Gemm<transB = 1>(r, w7, b7)
    }""", {"w0": (20, 3, 7, 7), "w1": (20, 20, 3, 3), "w2": (20, 20, 3, 3), "w3": (36, 20, 3, 3), "w4": (36, 20, 1, 1), "w5": (36, 1, 3, 3),
           "w6": (33, 36, 1, 1), "w7": (10, 33)}, {"zero": np.float32(0), "six": np.float32(6)})


def encoder() -> onnx.ModelProto:
    """A layer of a BERT: products with biases, attention, residuals, layer normalization and the feed-forward network."""
    return _model("""g (float[n, t, 52] x) => (float[n, t, 52] y) {
        q = MatMul(x, wq)  qb = Add(q, bq)  qr = Reshape(qb, heads)  qt = Transpose<perm = [0, 2, 1, 3]>(qr)
        k = MatMul(x, wk)  kb = Add(k, bk)  kr = Reshape(kb, heads)  kt = Transpose<perm = [0, 2, 3, 1]>(kr)
        v = MatMul(x, wv)  vb = Add(v, bv)  vr = Reshape(vb, heads)  vt = Transpose<perm = [0, 2, 1, 3]>(vr)
        s = MatMul(qt, kt)  sd = Div(s, root)  m = Softmax<axis = -1>(sd)
        o = MatMul(m, vt)  ot = Transpose<perm = [0, 2, 1, 3]>(o)  or = Reshape(ot, whole)
        p = MatMul(or, wp)  pb = Add(p, bp)  pr = Add(pb, x)
        l = LayerNormalization<axis = -1>(pr, g1, e1)
        f = MatMul(l, wf)  fb = Add(f, bf)  fd = Div(fb, sqrt2)  fe = Erf(fd)  fa = Add(fe, one)  fm = Mul(fb, fa)  fg = Mul(fm, half)
        h = MatMul(fg, wh)  hb = Add(h, bh)  hr = Add(hb, l)
        y = LayerNormalization<axis = -1>(hr, g2, e2)
    }""", {**{f"w{n}": (52, 52) for n in "qkvp"}, "wf": (52, 100), "wh": (100, 52)},
        {"heads": np.array([0, 0, 4, 13]), "whole": np.array([0, 0, 52]), "root": np.sqrt(np.float32(13)), "sqrt2": np.sqrt(np.float32(2)),
         "one": np.float32(1), "half": np.float32(0.5)})


def _model(text: str, weights: Mapping[str, tuple[int, ...]], constants: Mapping[str, Any]) -> onnx.ModelProto:
    """Weights w..., with a bias b... for each, are random; scales and biases of normalizations likewise."""
    rng = np.random.default_rng(0)
    graph = onnx.parser.parse_graph(text)
    arrays = {n: np.asarray(c) for n, c in constants.items()}
    for name, shape in weights.items():
        matrix = len(shape) == 2 and name[1:].isalpha()
        columns, depth = (shape[1], shape[0]) if matrix else (shape[0], int(np.prod(shape[1:])))
        arrays[name] = (rng.standard_normal(shape) / np.sqrt(depth)).astype(np.float32)
        arrays[f"b{name[1:]}"] = (rng.standard_normal(columns) * 0.3).astype(np.float32)
    arrays |= {n: rng.uniform(0.5, 1.5, 52).astype(np.float32) for n in ("g1", "e1", "g2", "e2") if n in text}
    graph.initializer.extend(numpy_helper.from_array(a, n) for n, a in arrays.items())
    for node in graph.node:
        node.name = node.output[0]
    return helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])


def feeds_of(model: onnx.ModelProto, seed: int, n: int, *sizes: int) -> dict[str, np.ndarray]:
    fixed = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
    free = iter((n, *sizes))
    return {"x": np.random.default_rng(seed).standard_normal([d or next(free) for d in fixed]).astype(np.float32)}


def quantized(model: onnx.ModelProto, folder: Path, activations: str, sizes: tuple[int, ...], exclude: Sequence[str] = ()) -> onnx.ModelProto:
    """The model as onnxruntime's quantizer writes it, with scales for each channel of weights; ``exclude`` are left as they are."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Batches(CalibrationDataReader):
        def __init__(self) -> None:
            self.rest = iter([feeds_of(model, seed, 2, *sizes) for seed in range(3)])

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.rest, None)

    onnx.save(model, folder / "float.onnx")
    quantize_static(str(folder / "float.onnx"), str(folder / "quantized.onnx"), Batches(), quant_format=QuantFormat.QDQ, per_channel=True,
                    nodes_to_exclude=[*exclude], activation_type=QuantType[f"Q{activations}"], weight_type=QuantType.QInt8)
    return onnx.load(folder / "quantized.onnx")


def last_step(model: onnx.ModelProto) -> float:
    """The scale of the output's codes."""
    arrays = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    (node,) = (n for n in model.graph.node if model.graph.output[0].name in n.output)
    return float(arrays[node.input[1]]) if node.op_type == "DequantizeLinear" else 0.02


def named(program: Program, *names: str) -> list[dict[str, Any]]:
    return [s for s in program.steps if s.get("name") in names]


def agrees(program: Program, model: onnx.ModelProto, feeds: Mapping[str, np.ndarray]) -> None:
    """Each number is at most one step of its quantization off, and few are: ties are decided differently in some places before."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL  # as the operators are defined
    expected = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"]).run(None, dict(feeds))[0]
    found = program.run(feeds)["y"]
    off = np.abs(found - expected) / last_step(model)
    assert found.shape == expected.shape and np.ptp(expected) > 30 * last_step(model)
    assert off.max() <= 1.01 and np.mean(off > 0.5) < 0.05, (off.max(), np.mean(off > 0.5))


def convolutions_of(program: Program) -> list[dict[str, Any]]:
    """The convolutions of ``residual_network``, all of whose layers are computed from codes on the GPU."""
    assert not any(s.get("host") for s in program.steps) and not named(program, "convolution", "matmul", "quantized_matmul")
    convolutions = named(program, "qlinear_conv")
    assert len(convolutions) == 6 and len(named(program, "qlinear_matmul")) == 1
    assert any("depthwise" in s.get("function", "") for s in program.steps)
    return convolutions


@needs_onnxruntime
@pytest.mark.parametrize("run_kernel", [by_numpy, pytest.param(by_emulator, marks=pytest.mark.slow)])
@pytest.mark.parametrize("activations", ["UInt8", "Int8"])
def test_a_network_of_convolutions_runs_in_int8(tmp_path: Path, activations: str, run_kernel: Callable[..., Any]) -> None:
    model = quantized(residual_network(), tmp_path, activations, (41, 37))
    program = Program(model, run_kernel=run_kernel)
    convolutions = convolutions_of(program)
    # Convolutions give codes, but where a mean reads them, and residuals are added by the kernels.
    values = program.target["program"]["functions"][0]["values"]
    assert [values[s["outputs"][0]]["dtype"] for s in convolutions] == [*["int8"] * 5, "float32"]
    assert not any(s.get("function", "").startswith("dequantize") for s in program.steps)
    assert sum(s["inputs"][5] >= 0 for s in convolutions) == 2
    for n, h, w in ((1, 41, 37), (3, 32, 19)):
        agrees(program, model, feeds_of(model, 7, n, h, w))


@needs_onnxruntime
@pytest.mark.parametrize("run_kernel", [by_numpy, pytest.param(by_emulator, marks=pytest.mark.slow)])
@pytest.mark.parametrize("activations", ["UInt8", "Int8"])
def test_a_transformer_runs_in_int8(tmp_path: Path, activations: str, run_kernel: Callable[..., Any]) -> None:
    # No target rounds what lies between the products of attention (docs/architecture.md): so the model does not say it. erf + 1 has the scale of erf,
    # 2 / 255: half of its numbers would be ties.
    model = quantized(encoder(), tmp_path, activations, (9,), ("s", "m", "o", "fa"))
    program = Program(model, run_kernel=run_kernel)
    assert not any(s.get("host") for s in program.steps) and not named(program, "matmul", "quantized_matmul")
    assert len(named(program, "qlinear_matmul")) == 6 and len(named(program, "attention")) == 1
    for n, t in ((1, 9), (2, 14)):
        agrees(program, model, feeds_of(model, 7, n, t))


@needs_onnxruntime
@pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not installed")
def test_inspect_shows_what_runs_in_int8(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = quantized(residual_network(), tmp_path, "UInt8", (41, 37))
    ingot.compile(model, tmp_path / "m.ingot", target="cuda:sm_80+sm_90", samples=0)
    assert main(["inspect", str(tmp_path / "m.ingot")]) == 0
    shown = capsys.readouterr().out
    assert "it has code for sm_80, sm_90" in shown and "on the CPU" not in shown
    assert shown.count("kernel qlinear_conv") == 6 and shown.count("kernel qlinear_matmul") == 1
    launches = [launch for entry in Artifact.open(tmp_path / "m.ingot").manifest["targets"][0]["code"]["functions"].values()
                for launch in entry["launches"]]
    assert launches and all(launch["spills"] == 0 for launch in launches)


# ---- float8_e4m3fn -------------------------------------------------------------------------------------------------


def same(found: np.ndarray, model: onnx.ModelProto, feeds: Mapping[str, np.ndarray]) -> None:
    """Sums and scales are float32; a number that is close to a tie before may become the next code, an eighth of it away, and few are."""
    expected = float8.reference(model, feeds)
    off = np.abs(found - expected) / np.abs(expected).max()
    assert found.shape == expected.shape and off.max() <= 1 / 16 and np.mean(off > 1e-5) < 0.05, (off.max(), np.mean(off > 1e-5))


@pytest.mark.parametrize("run_kernel", [by_numpy, pytest.param(by_emulator, marks=pytest.mark.slow)])
@pytest.mark.parametrize("results", [False, True])
def test_a_network_of_convolutions_runs_in_float8(results: bool, run_kernel: Callable[..., Any]) -> None:
    network = residual_network()
    model = float8.quantized(network, feeds_of(network, 0, 2, 41, 37), results)
    program = Program(model, run_kernel=run_kernel)
    convolutions = convolutions_of(program)
    values = program.target["program"]["functions"][0]["values"]
    assert {values[s["inputs"][i]]["dtype"] for s in convolutions for i in range(2)} == {"float8_e4m3fn"}
    assert sum(s["inputs"][5] >= 0 for s in convolutions) == 2  # residuals are added by the kernels
    for n, h, w in ((1, 41, 37), (3, 32, 19)):
        feeds = feeds_of(network, 7, n, h, w)
        same(program.run(feeds)["y"], model, feeds)


@pytest.mark.parametrize("run_kernel", [by_numpy, pytest.param(by_emulator, marks=pytest.mark.slow)])
def test_a_transformer_runs_in_float8(run_kernel: Callable[..., Any]) -> None:
    layer = encoder()
    model = float8.quantized(layer, feeds_of(layer, 0, 2, 9), False)
    program = Program(model, run_kernel=run_kernel)
    assert not any(s.get("host") for s in program.steps) and not named(program, "matmul", "quantized_matmul")
    assert len(named(program, "qlinear_matmul")) == 6 and len(named(program, "attention")) == 1
    for n, t in ((1, 9), (2, 14)):
        feeds = feeds_of(layer, 7, n, t)
        same(program.run(feeds)["y"], model, feeds)


def test_gpus_without_float8_compute_such_models_in_float32() -> None:
    network = residual_network()
    model = float8.quantized(network, feeds_of(network, 0, 2, 41, 37), True)
    program = Program(model, target="cuda:sm_80+sm_90")
    assert not named(program, "qlinear_conv", "qlinear_matmul") and len(named(program, "convolution")) == 6
    feeds = feeds_of(network, 7, 2, 23, 35)
    same(program.run(feeds)["y"], model, feeds)


def test_cpus_compute_such_models_in_float32(tmp_path: Path) -> None:
    layer = encoder()
    model = float8.quantized(layer, feeds_of(layer, 0, 2, 9), False)
    ingot.compile(model, tmp_path / "m.ingot", samples=0)
    feeds = feeds_of(layer, 7, 2, 14)
    same(ingot.load(tmp_path / "m.ingot").run(feeds)["y"], model, feeds)


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not installed")
def test_inspect_shows_what_runs_in_float8(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    network = residual_network()
    ingot.compile(float8.quantized(network, feeds_of(network, 0, 2, 41, 37), True), tmp_path / "m.ingot", target="cuda:sm_90", samples=0)
    assert main(["inspect", str(tmp_path / "m.ingot")]) == 0
    shown = capsys.readouterr().out
    assert "on the CPU" not in shown and shown.count("kernel qlinear_conv") == 6 and shown.count("kernel qlinear_matmul") == 1


@pytest.mark.parametrize("target", ["cpu", "cuda:sm_80"])
def test_numbers_become_float8_and_back_with_a_scale_for_each_position_of_an_axis(tmp_path: Path, target: str) -> None:
    graph = onnx.parser.parse_graph("""g (float[n, 3, m] x) => (float8e4m3fn[n, 3, m] codes, float[n, 3, m] y) {
        codes = QuantizeLinear<axis = 1>(x, scale, zero)
        y = DequantizeLinear<axis = 1>(codes, scale, zero)
    }""")
    scale = np.array([0.5, 3.0, 0.01], np.float32)
    graph.initializer.extend([numpy_helper.from_array(scale, "scale"), numpy_helper.from_array(np.zeros(3, float8.E4M3), "zero")])
    model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 20)])
    rng = np.random.default_rng(0)
    numbers = np.concatenate([[np.inf, -np.inf, np.nan, -0.0, 1e-45, 448, 464, 465, 1e38], np.arange(-40, 40) / 2**9,
                              rng.standard_normal(240) * 2.0 ** rng.integers(-12, 12, 240)])
    x = np.stack([np.stack([numbers * s for s in scale.tolist()]), np.stack([numbers[::-1]] * 3)]).astype(np.float32)
    if target == "cpu":
        ingot.compile(model, tmp_path / "m.ingot", target=target, samples=0)
        found = dict(ingot.load(tmp_path / "m.ingot").run({"x": x}))
    else:
        found = Program(model, target=target).run({"x": x})
    with np.errstate(all="ignore"):
        codes = np.clip(x / scale[:, None], -448, 448).astype(float8.E4M3)
    np.testing.assert_array_equal(np.asarray(found["codes"]).view(np.uint8), codes.view(np.uint8))
    np.testing.assert_array_equal(found["y"], codes.astype(np.float32) * scale[:, None])


@pytest.mark.parametrize("run_kernel", [by_numpy, pytest.param(by_emulator, marks=pytest.mark.slow)])
@pytest.mark.parametrize("precision", ["f32", "bf16"])
def test_weights_with_a_scale_for_each_column_are_multiplied_by_rows_of_int8(precision: str, run_kernel: Callable[..., Any], tmp_path: Path) -> None:
    """As on a CPU, in the same integers; rows are rounded once for all products that read them.

    A number of bfloat16 is off by 2^-9 of it, and what it is rounded to by up to another step of 127.
    """
    rng = np.random.default_rng(5)
    model = onnx.parser.parse_model('''<ir_version: 10, opset_import: ["" : 21]> g (float[n, t, 96] x) => (float[n, t, 96] y, float[n, t, 80] z) {
        a = MatMul(x, w0)  b = Add(a, b0)  c = Relu(b)  d = MatMul(c, w1)  e = Add(d, b1)  y = Add(e, x)  z = MatMul(x, w2) }''')
    arrays = {"w0": rng.standard_normal((96, 132)) / 10, "b0": rng.standard_normal(132), "w1": rng.standard_normal((132, 96)) / 10,
              "b1": rng.standard_normal(96), "w2": rng.standard_normal((96, 80))}
    model.graph.initializer.extend(numpy_helper.from_array(a.astype(np.float32), n) for n, a in arrays.items())
    program = Program(model, run_kernel=run_kernel, precision=precision, quantize="int8:row")
    assert Counter(s["name"] for s in program.steps if s["op"] == "kernel") == {"quantize_rows": 2, "matmul_int8": 3}
    ingot.compile(model, tmp_path / "cpu.ingot", samples=0, quantize="int8:row")
    on_cpu = ingot.load(tmp_path / "cpu.ingot")
    for shape in ((1, 1), (2, 7), (3, 40)):
        x = rng.standard_normal((*shape, 96)).astype(np.float32)
        expected = on_cpu.run({"x": x})
        for name, found in program.run({"x": x}).items():
            assert np.linalg.norm(found - expected[name]) <= (2**-7 if precision == "bf16" else 2**-12) * np.linalg.norm(expected[name])
