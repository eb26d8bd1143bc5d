"""Whole models as onnxruntime's optimizers and quantizers leave them, full of com.microsoft's operators: they compile and agree with onnxruntime."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static
from onnxruntime.transformers import optimizer
from onnxruntime.transformers.fusion_options import FusionOptions

from ingot.backend import prepare
from tests.ops.contrib_models import FLOAT_EPSILON, numbers
from tests.ops.contrib_networks import HEADS, HIDDEN, POSITIONS, VOCABULARY, Bert, Gpt, export, seeded

pytestmark = pytest.mark.xdist_group("contrib-models")  # one process exports them

SHAPES = ((1, 1), (2, 7), (3, POSITIONS))
# Two layers of four normalizations, each of which passes on the rounding of sums of 4 * HIDDEN products before it.
ROUNDING = 8 * 4 * HIDDEN * FLOAT_EPSILON
Feeds = dict[str, np.ndarray]
Make = Callable[[Path, Path], None]


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """The quantizer advises to run its pre-processing, through the root logger."""
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


def feeds(kind: str, batch: int, sequence: int) -> Feeds:
    ids = np.random.default_rng(batch).integers(0, VOCABULARY, (batch, sequence))
    if kind == "gpt2":
        return {"input_ids": ids}
    lengths = np.arange(1, batch + 1)[:, None] * 3 % sequence + 1
    return {"input_ids": ids, "attention_mask": (np.arange(sequence) < lengths).astype(np.int64), "token_type_ids": ids % 2}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The networks as PyTorch exports them, by the optimizer's names for them."""
    folder = tmp_path_factory.mktemp("networks")
    for kind, module in (("bert", Bert), ("gpt2", Gpt)):
        export(seeded(module), {n: torch.from_numpy(a) for n, a in feeds(kind, 2, 7).items()}, folder / f"{kind}.onnx")
    return {kind: folder / f"{kind}.onnx" for kind in ("bert", "gpt2")}


def fused(kind: str, separate: bool = False) -> Make:
    """By onnxruntime.transformers.optimizer. ``separate`` leaves projections outside of attention."""

    def make(source: Path, target: Path) -> None:
        options = FusionOptions(kind)
        options.use_multi_head_attention = separate
        model = optimizer.optimize_model(str(source), model_type=kind, num_heads=HEADS, hidden_size=HIDDEN, opt_level=0, optimization_options=options)
        model.save_model_to_file(str(target))

    return make


def extended(source: Path, target: Path) -> None:
    """By the optimizer inside onnxruntime's sessions."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(target)
    options.log_severity_level = 3  # it warns that the written model may be for this machine alone
    onnxruntime.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])


def fused_and_quantized(kind: str) -> Make:
    def make(source: Path, target: Path) -> None:
        middle = target.with_suffix(".fused.onnx")
        fused(kind)(source, middle)
        quantize_dynamic(str(middle), str(target), weight_type=QuantType.QInt8, reduce_range=True,
                         op_types_to_quantize=["MatMul", "Attention", "EmbedLayerNormalization"],
                         extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT})

    return make


def quantized_and_extended(source: Path, target: Path) -> None:
    middle = target.with_suffix(".quantized.onnx")
    quantize_dynamic(str(source), str(middle), weight_type=QuantType.QInt8, per_channel=True, reduce_range=True)
    extended(middle, target)


def run(path: Path, given: Feeds) -> np.ndarray:
    """What onnxruntime gives for a model as it is."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    result: np.ndarray = session.run(None, {i.name: given[i.name] for i in session.get_inputs()})[0]
    return result


def operators(model: onnx.ModelProto) -> set[str]:
    """The operators of com.microsoft in a model."""
    return {n.op_type for n in model.graph.node if n.domain == "com.microsoft"}


@pytest.mark.parametrize(("kind", "make", "expected"), [
    ("bert", fused("bert"), {"EmbedLayerNormalization", "Attention", "SkipLayerNormalization", "BiasGelu"}),
    ("bert", fused("bert", separate=True), {"EmbedLayerNormalization", "MultiHeadAttention", "SkipLayerNormalization", "BiasGelu"}),
    ("gpt2", fused("gpt2"), {"Attention", "SkipLayerNormalization", "FastGelu"}),
    ("bert", extended, {"FusedMatMul", "BiasGelu"}),
    ("gpt2", extended, {"FusedMatMul", "FastGelu"}),
])
def test_optimized_transformers_agree(exported: dict[str, Path], tmp_path: Path, kind: str, make: Make, expected: set[str]) -> None:
    make(exported[kind], tmp_path / "model.onnx")
    model = onnx.load(tmp_path / "model.onnx")
    assert expected <= operators(model)
    compiled = prepare(model)
    for batch, sequence in SHAPES:
        given = feeds(kind, batch, sequence)
        want = run(tmp_path / "model.onnx", given)
        (got,) = compiled.run({n: given[n] for n in compiled.input_names})
        np.testing.assert_allclose(got, want, rtol=0, atol=ROUNDING * np.abs(want).max())


@pytest.mark.parametrize(("kind", "make", "expected"), [
    ("bert", fused_and_quantized("bert"), {"QEmbedLayerNormalization", "QAttention", "SkipLayerNormalization", "BiasGelu"}),
    ("gpt2", fused_and_quantized("gpt2"), {"QAttention", "SkipLayerNormalization", "FastGelu"}),
    ("bert", quantized_and_extended, {"DynamicQuantizeMatMul", "MatMulIntegerToFloat", "SkipLayerNormalization"}),
    ("gpt2", quantized_and_extended, {"DynamicQuantizeMatMul", "FastGelu"}),
])
def test_quantized_transformers_agree(exported: dict[str, Path], tmp_path: Path, kind: str, make: Make, expected: set[str]) -> None:
    """Activations are rounded to 8 bits: one unit in the last place of a float decides about a step, and steps may be finer than asked for."""
    make(exported[kind], tmp_path / "model.onnx")
    model = onnx.load(tmp_path / "model.onnx")
    assert expected <= operators(model)
    compiled = prepare(model)
    for batch, sequence in SHAPES[1:]:
        given = feeds(kind, batch, sequence)
        exact = run(exported[kind], given)
        want = run(tmp_path / "model.onnx", given)
        (got,) = compiled.run({n: given[n] for n in compiled.input_names})
        lost = np.linalg.norm(want - exact)
        assert np.linalg.norm(got - want) <= lost  # no further from onnxruntime than it is from the model before
        assert np.linalg.norm(got - exact) <= 1.5 * lost


class _Images(CalibrationDataReader):
    def __init__(self) -> None:
        self.rest = iter([{"x": numbers(seed, 4, 3, 12, 12)} for seed in range(4)])

    def get_next(self) -> Feeds | None:
        return next(self.rest, None)


def residual_network() -> onnx.ModelProto:
    """Convolutions, a sum that skips one, pools and a classifier."""
    graph = onnx.parser.parse_graph("""g (float[n, 3, 12, 12] x) => (float[n, 10] y) {
        a = Conv<pads = [1, 1, 1, 1], strides = [1, 1], kernel_shape = [3, 3]>(x, w0, b0)
        ar = Relu(a)
        b = Conv<pads = [1, 1, 1, 1], kernel_shape = [3, 3]>(ar, w1, b1)
        c = Add(ar, b)
        cr = LeakyRelu<alpha = 0.1>(c)
        d = AveragePool<kernel_shape = [2, 2], strides = [2, 2]>(cr)
        s = Sigmoid(d)
        e = Mul(d, s)
        f = Concat<axis = 1>(d, e)
        p = GlobalAveragePool(f)
        q = Flatten(p)
        y = Gemm<transB = 1>(q, w2, b2)
    }""")
    shapes = {"w0": (8, 3, 3, 3), "b0": (8,), "w1": (8, 8, 3, 3), "b1": (8,), "w2": (10, 16), "b2": (10,)}
    graph.initializer.extend(numpy_helper.from_array(numbers(i, *shape, scale=0.3), n) for i, (n, shape) in enumerate(shapes.items()))
    return helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 13)])


@pytest.mark.parametrize("activations", [QuantType.QUInt8, QuantType.QInt8])
def test_a_network_of_quantized_operators_agrees(tmp_path: Path, activations: QuantType) -> None:
    onnx.save(residual_network(), tmp_path / "float.onnx")
    quantize_static(str(tmp_path / "float.onnx"), str(tmp_path / "model.onnx"), _Images(), quant_format=QuantFormat.QOperator,
                    activation_type=activations, weight_type=QuantType.QInt8, per_channel=True, reduce_range=True)
    model = onnx.load(tmp_path / "model.onnx")
    assert {"QLinearAdd", "QLinearMul", "QLinearLeakyRelu", "QLinearSigmoid", "QLinearConcat", "QLinearAveragePool", "QLinearGlobalAveragePool",
            "QGemm"} <= operators(model)
    step = max(float(numpy_helper.to_array(t).max()) for t in model.graph.initializer if t.name == "y_scale")
    compiled = prepare(model)
    for batch in (1, 5):
        given = {"x": numbers(100 + batch, batch, 3, 12, 12)}
        (got,) = compiled.run(given)
        # Ties are decided differently in some places; each is a step of the tensor there, and weighs little at the end.
        np.testing.assert_allclose(got, run(tmp_path / "model.onnx", given), rtol=0, atol=1.01 * step)
