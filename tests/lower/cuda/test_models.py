"""Whole small models compiled for a GPU: their generated code and their programs give what the models say, on an emulated GPU."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from tests.levels.models import MODELS
from tests.lower.build import relative_error
from tests.lower.cuda import hollow
from tests.lower.cuda.interpreter import Program, by_emulator, by_numpy

#: Half of a unit in the last place of bfloat16 and float16, through a handful of layers.
_NARROW = {"bf16": 2**-9 * 4, "f16": 2**-12 * 4}
#: float32 of a GPU's exp, erf and the like is within some units in the last place.
_SINGLE = 1e-5


def _expected(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return dict(zip([o.name for o in model.graph.output], ReferenceEvaluator(model).run(None, feeds), strict=True))


@pytest.mark.parametrize("name", [
    "matmul", "feed_forward", "matmul_of_inputs", "double_precision", "conv_3x3", "conv_depthwise", "conv_transposed", "pooling", "normalization",
    "elementwise", "integers", "movement", "reductions", "attention", "half_precision", "bfloat16", "image", "control_flow", "quantized"])
def test_a_small_model_gives_what_its_definition_says(name: str) -> None:
    model = MODELS[name]()
    proto = model.build()
    program = Program(proto, precision=model.precision)
    for index, feeds in enumerate(model.feeds):
        found = program.run(feeds)
        expected = dict(model.expected[index]) if model.expected is not None else _expected(proto, dict(feeds))
        for output, array in found.items():
            wanted = np.asarray(expected[output])
            assert array.shape == wanted.shape
            if array.dtype.kind in "iub":
                np.testing.assert_array_equal(array, wanted)
            else:
                assert relative_error(array, wanted) <= max(model.tolerance, _SINGLE), output


@pytest.mark.parametrize("precision", ["bf16", "f16"])
@pytest.mark.parametrize("name", ["feed_forward", "conv_3x3", "conv_depthwise"])
def test_activations_between_products_have_16_bits(name: str, precision: str) -> None:
    model = MODELS[name]()
    proto = model.build()
    program = Program(proto, precision=precision)
    main = program.target["program"]["functions"][0]
    products = [s for s in program.steps if s.get("name") in ("matmul", "convolution") or "depthwise" in s.get("function", "")]
    assert products
    narrow = {"bf16": "bfloat16", "f16": "float16"}[precision]
    assert all(main["values"][s["inputs"][0]]["dtype"] == narrow for s in products)
    for feeds in model.feeds:
        expected = _expected(proto, dict(feeds))
        for output, array in program.run(feeds).items():
            assert array.dtype == np.float32
            assert relative_error(array, np.asarray(expected[output])) <= _NARROW[precision]


def test_indices_are_wrapped_gathered_and_checked_by_generated_code() -> None:
    from onnx import helper

    from tests.lower.build import model

    nodes = [helper.make_node("Gather", ["x", "i"], ["a"], axis=1), helper.make_node("GatherND", ["x", "j"], ["b"])]
    program = Program(model(nodes, {"x": ("float32", ["n", 9, 4]), "i": ("int64", ["m"]), "j": ("int64", ["k", 2])}, ["a", "b"]))
    assert not any(s.get("host") for s in program.steps)
    x = np.random.default_rng(0).standard_normal((3, 9, 4)).astype(np.float32)
    i, j = np.array([-1, 0, 8, -9, 3]), np.array([[0, -1], [-3, 4]])
    found = program.run({"x": x, "i": i, "j": j})
    np.testing.assert_array_equal(found["a"], x[:, i])
    np.testing.assert_array_equal(found["b"], x[j[:, 0], j[:, 1]])
    for feeds, message in (({"i": np.array([0, 9]), "j": j}, "index 9 is out of range for an axis of 9"),
                           ({"i": np.array([-10, 0]), "j": j}, "index -10 is out of range for an axis of 9"),
                           ({"i": i, "j": np.array([[0, 1], [3, 0]])}, "index 3 is out of range for an axis of 3")):
        with pytest.raises(IndexError, match=message):
            program.run({"x": x, **feeds})


@pytest.mark.parametrize("precision", ["f32", "bf16"])
def test_clamps_are_part_of_products_and_convolutions(precision: str) -> None:
    """ReLU6 as exporters write it, another clamp, one with a residual before it, and two that are no clamp of a kernel's."""
    from onnx import helper

    from tests.lower.build import model

    rng = np.random.default_rng(3)
    weights = {"w": rng.standard_normal((12, 5, 3, 3)).astype(np.float32), "v": rng.standard_normal((12, 12, 1, 1)).astype(np.float32),
               "m": rng.standard_normal((12, 7)).astype(np.float32), "o": rng.standard_normal((12, 7)).astype(np.float32),
               **{name: np.array(value, np.float32) for name, value in (("0", 0), ("6", 6), ("a", -0.5), ("b", 3))},
               "axes": np.array([2, 3])}
    nodes = [helper.make_node("Conv", ["x", "w"], ["c"], pads=[1] * 4), helper.make_node("Clip", ["c", "0", "6"], ["c6"]),
             helper.make_node("Conv", ["c6", "v"], ["d"]), helper.make_node("Add", ["d", "c6"], ["e"]),
             helper.make_node("Clip", ["e", "a", "b"], ["f"]), helper.make_node("ReduceMean", ["f", "axes"], ["g"], keepdims=0),
             helper.make_node("MatMul", ["g", "m"], ["h"]),
             helper.make_node("Clip", ["h", "a", "b"], ["y"]), helper.make_node("MatMul", ["g", "o"], ["i"]),
             helper.make_node("Clip", ["i", "b", "a"], ["z"])]
    proto = model(nodes, {"x": ("float32", ["n", 5, "h", "w_"])}, ["y", "z"], weights)
    program = Program(proto, precision=precision)
    products = [s for s in program.steps if s.get("name") in ("matmul", "convolution")]
    activations = [(s["ints"][9 if s["name"] == "convolution" else 1], *s["floats"]) for s in products]
    assert activations[:2] == [(5, 0.0, 6.0), (5, -0.5, 3.0)] and (5, -0.5, 3.0) in activations[2:]
    x = rng.standard_normal((2, 5, 6, 9)).astype(np.float32)
    expected = _expected(proto, {"x": x})
    for output, array in program.run({"x": x}).items():
        assert relative_error(array, np.asarray(expected[output])) <= (_SINGLE if precision == "f32" else _NARROW["bf16"]), output


def test_what_has_no_kernel_for_gpus_is_a_step_of_the_host() -> None:
    program = Program(MODELS["selection"]().build())
    hosts = {s["name"] for s in program.steps if s.get("host")}
    assert hosts == {s["name"] for s in program.steps if s["op"] == "kernel"} and "topk" in hosts


@pytest.fixture(scope="module")
def language_models(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    from tests.generate.families import save

    return lambda name: save(name, tmp_path_factory.mktemp(name))


def _likeliest(tokens: np.ndarray) -> dict[str, np.ndarray]:
    """The inputs of a decoder for tokens [rows, count], after each of which it gives logits and chooses the likeliest token."""
    rows, count = tokens.shape
    return {"input_ids": tokens, "token_counts": np.full(rows, count), "logits_at": np.tile(np.arange(count), (rows, 1)),
            "sampling": np.zeros((rows, count, 4), np.float32), "random": np.zeros((rows, count), np.float32)}


@pytest.mark.skipif(importlib.util.find_spec("transformers") is None, reason="transformers is not installed")
@pytest.mark.parametrize(("family", "precision"), [("llama", "f32"), ("llama", "bf16"), ("gpt2", "f32"), ("gemma2", "f32"), ("phi", "f32"),
                                                   ("mistral", "bf16"), ("qwen3", "f32")])
def test_a_decoder_with_caches_gives_what_its_framework_does(language_models: Callable[[str], Path], family: str, precision: str) -> None:
    from tests.generate.families import build, logits

    program = Program(str(language_models(family)), precision=precision, cache=precision)
    assert not any(s.get("host") for s in program.steps)
    # Whatever a family puts between its projections and attention, each layer's keys and values go into the caches in one step.
    assert [s["in_place"] for s in program.steps if "in_place" in s] == [[0, 1]] * 3
    rng = np.random.default_rng(1)
    tokens = rng.integers(2, 300, (2, 11))
    expected = logits(build(family), tokens.tolist())
    states = program.first_states(batch=2, context=160)
    found, chosen = [], []
    for start, stop in ((0, 7), (7, 8), (8, 11)):  # a prompt, one token, several
        results = program.run(_likeliest(tokens[:, start:stop]), states)
        found.append(results["logits"])
        chosen.append(results["tokens"])
    np.testing.assert_array_equal(np.concatenate(chosen, 1), np.concatenate(found, 1).argmax(-1))
    assert relative_error(np.concatenate(found, 1), expected) <= (1e-4 if precision == "f32" else 3e-2)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["feed_forward", "conv_3x3", "attention"])
@pytest.mark.parametrize("precision", ["f32", "bf16"])
def test_kernels_take_the_programs_steps(name: str, precision: str) -> None:
    """The kernels of kernels/cuda themselves, emulated."""
    model = MODELS[name]()
    proto = model.build()
    program = Program(proto, run_kernel=by_emulator, precision=precision)
    for feeds in model.feeds[:2]:
        expected = _expected(proto, dict(feeds))
        for output, array in program.run(feeds).items():
            assert relative_error(array, np.asarray(expected[output])) <= (1e-5 if precision == "f32" else _NARROW["bf16"])


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["int4:g32", "uint4:g64", "int8:float"])
def test_quantized_weights_are_packed_as_the_kernel_reads_them(scheme: str, tmp_path: Path) -> None:
    import ingot

    model = MODELS["feed_forward"]()
    proto = model.build()
    program = Program(proto, run_kernel=by_emulator, quantize=scheme)
    assert sum(s.get("name") == "quantized_matmul" for s in program.steps) == 2
    ingot.compile(proto, tmp_path / "cpu.ingot", samples=0, quantize=f"{scheme.partition(':float')[0]}:float")
    on_cpu = ingot.load(tmp_path / "cpu.ingot")
    for feeds in model.feeds:
        expected = on_cpu.run(dict(feeds))
        for output, array in program.run(feeds).items():
            # Where it may, the kernel rounds what it multiplies to bfloat16.
            assert relative_error(array, np.asarray(expected[output])) <= 2**-8


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("transformers") is None, reason="transformers is not installed")
@pytest.mark.parametrize(("family", "activation"), [("llama", "silu"), ("gemma2", "gelu_tanh")])
def test_gates_of_quantized_layers_are_part_of_their_product(language_models: Callable[[str], Path], family: str, activation: str) -> None:
    from ingot.lower.cpu.quantized_weights import ACTIVATIONS
    from tests.generate.families import build, logits

    def run_kernel(name: str, *call: Any) -> Any:
        return (by_emulator if name in ("quantized_matmul", "normalized_matmul") else by_numpy)(name, *call)

    program = Program(str(language_models(family)), run_kernel=run_kernel, precision="bf16", cache="bf16", quantize="int8:g32:float")
    products = [s for s in program.steps if s.get("name") in ("quantized_matmul", "normalized_matmul")]
    gated = [s for s in products if s["ints"][4] == 8 + ACTIVATIONS[activation]]
    assert any(s["name"] == "normalized_matmul" for s in products)
    assert len(gated) == 3 and not any("sigmoid" in s.get("function", "") for s in program.steps)
    tokens = np.random.default_rng(1).integers(2, 300, (2, 7))
    found = program.run(_likeliest(tokens), program.first_states(batch=2, context=160))["logits"]
    assert relative_error(found, logits(build(family), tokens.tolist())) <= 4e-2  # of bfloat16, and of 8 bits


@pytest.mark.parametrize(("body", "precision", "expected"), [
    ("n = RMSNormalization(h, g) y = MatMul(n, w1)", "bf16", ["quantized_matmul", "normalized_matmul"]),
    ("n = RMSNormalization(h, g) y = MatMul(n, w1)", "f32", ["quantized_matmul", "normalization", "quantized_matmul"]),
    ("n = RMSNormalization(h, g) m = MatMul(n, w1) y = Add(m, n)", "bf16", ["quantized_matmul", "normalization", "quantized_matmul"]),
    ("n = LayerNormalization(h, g) y = MatMul(n, w1)", "bf16", ["quantized_matmul", "normalization", "quantized_matmul"]),
    ("s = Add(h, x) n = RMSNormalization(h, g) m = MatMul(n, w1) y = Add(m, s)", "bf16", ["quantized_matmul", "normalized_matmul"]),
], ids=["taken in", "float32", "read twice", "layer normalization", "beside a residual"])
def test_a_normalization_is_part_of_the_product_that_alone_reads_it(body: str, precision: str, expected: list[str]) -> None:
    rng = np.random.default_rng(3)
    arrays = {"w0": rng.standard_normal((96, 96)) / 10, "w1": rng.standard_normal((96, 96)) / 10, "g": rng.uniform(0.5, 1.5, 96)}
    graph = onnx.parser.parse_graph("g (float[b, 96] x) => (float[b, 96] y) { h = MatMul(x, w0) " + body + " }")
    graph.initializer.extend(onnx.numpy_helper.from_array(a.astype(np.float32), n) for n, a in arrays.items())
    model = onnx.helper.make_model(graph, ir_version=10, opset_imports=[onnx.helper.make_opsetid("", 23)])
    program = Program(model, run_kernel=by_emulator, precision=precision, quantize="int8:g64:float")
    assert [s["name"] for s in program.steps if s["op"] == "kernel"] == expected
    for rows in (1, 5, 11):
        x = rng.standard_normal((rows, 96)).astype(np.float32)
        # Weights of 8 bits are off by up to 2^-8 of a group's greatest.
        assert relative_error(program.run({"x": x})["y"], _expected(model, {"x": x})["y"]) <= 2**-5


@pytest.mark.skipif(importlib.util.find_spec("transformers") is None, reason="transformers is not installed")
@pytest.mark.parametrize(("options", "most"), [({"cache": "bf16"}, 14), ({"cache": "int8", "window": 64, "sinks": 4}, 22)],
                         ids=["bf16", "int8 behind sinks"])
def test_a_layer_of_a_quantized_decoder_is_six_kernels(options: dict[str, Any], most: int, tmp_path: Path) -> None:
    sizes = {"hidden_size": 1024, "intermediate_size": 2816, "num_attention_heads": 16, "num_key_value_heads": 2, "vocab_size": 1000}
    layer = ["normalized_matmul", "rotary_cache", "attention", "quantized_matmul", "normalized_matmul", "quantized_matmul"]
    found = hollow.launches(hollow.checkpoint(tmp_path, 3, **sizes), precision="bf16", quantize="int4:g128", **options)
    kernels = [name for name in found if not name.startswith("ingot_")]
    # The first normalization reads the embedding's float32.
    assert kernels == ["normalization", "quantized_matmul", *layer[1:], *layer * 2, "normalized_matmul", "sample"]
    second = found.index("rotary_cache", found.index("rotary_cache") + 1) - 1
    assert found[second : second + 12] == layer * 2  # nothing between
    assert len(found) - len(kernels) <= most  # of a step: indices, angles, the embedding, places in a ring
