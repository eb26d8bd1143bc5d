"""Element-wise functions, reductions, concatenations and pads agree with NumPy for extents that fill vectors or do not, and none at all."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from tests.lower.build import model, relative_error, run

few = settings(max_examples=6, deadline=None)
extents = st.tuples(st.integers(1, 5), st.integers(1, 9), st.integers(1, 70))
REDUCTIONS = {"ReduceSum": np.sum, "ReduceMean": np.mean, "ReduceMax": np.max, "ReduceMin": np.min, "ReduceProd": np.prod}


@few
@given(shape=extents, axes=st.sampled_from([(0,), (1,), (2,), (1, 2), (0, 2), (0, 1), (0, 1, 2)]), keep=st.booleans(),
       name=st.sampled_from(sorted(REDUCTIONS)), seed=st.integers(0, 99))
def test_reductions_over_any_axes(shape: tuple[int, ...], axes: tuple[int, ...], keep: bool, name: str, seed: int) -> None:
    x = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    node = helper.make_node(name, ["x", "axes"], ["y"], keepdims=int(keep))
    outputs, _ = run(model([node], {"x": ("float32", ["a", "b", shape[2]])}, ["y"], {"axes": np.array(axes)}), {"x": x})
    expected = REDUCTIONS[name](x.astype(np.float64), axis=axes, keepdims=keep)
    assert outputs["y"].shape == expected.shape
    np.testing.assert_allclose(outputs["y"], expected, rtol=2e-5, atol=2e-5)


@few
@given(shape=extents, axis=st.integers(-3, 2), seed=st.integers(0, 99))
def test_softmax_along_any_axis(shape: tuple[int, ...], axis: int, seed: int) -> None:
    x = (np.random.default_rng(seed).standard_normal(shape) * 5).astype(np.float32)
    outputs, _ = run(model([helper.make_node("Softmax", ["x"], ["y"], axis=axis)], {"x": ("float32", ["a", "b", "c"])}, ["y"]), {"x": x})
    e = np.exp(x.astype(np.float64) - x.max(axis, keepdims=True))
    assert relative_error(outputs["y"], e / e.sum(axis, keepdims=True)) < 2e-6


@few
@given(shape=extents, seed=st.integers(0, 99))
def test_layer_normalization_of_numbers_far_from_zero(shape: tuple[int, ...], seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = (rng.standard_normal(shape) + 30).astype(np.float32)
    g, b = (rng.standard_normal(shape[2]).astype(np.float32) for _ in "gb")
    node = helper.make_node("LayerNormalization", ["x", "g", "b"], ["y"], axis=-1)
    outputs, _ = run(model([node], {"x": ("float32", ["a", "b", shape[2]])}, ["y"], {"g": g, "b": b}), {"x": x})
    wide = x.astype(np.float64)
    centered = wide - wide.mean(-1, keepdims=True)
    expected = centered / np.sqrt((centered**2).mean(-1, keepdims=True) + 1e-5) * g + b
    np.testing.assert_allclose(outputs["y"], expected, rtol=1e-3, atol=1e-3)


@few
@given(widths=st.lists(st.integers(1, 40), min_size=2, max_size=4), axis=st.integers(0, 2), seed=st.integers(0, 99))
def test_concatenation_then_arithmetic(widths: list[int], axis: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    shapes = [[2 if i != axis else w for i in range(3)] for w in widths]
    feeds = {f"x{i}": rng.standard_normal(s).astype(np.float32) for i, s in enumerate(shapes)}
    nodes = [helper.make_node("Concat", list(feeds), ["c"], axis=axis), helper.make_node("Relu", ["c"], ["y"])]
    outputs, _ = run(model(nodes, {n: ("float32", a.shape) for n, a in feeds.items()}, ["y"]), feeds)
    np.testing.assert_array_equal(outputs["y"], np.maximum(np.concatenate(list(feeds.values()), axis), 0))


@few
@given(shape=st.tuples(st.integers(1, 3), st.integers(1, 20), st.integers(4, 17), st.integers(4, 17)), kernel=st.integers(1, 3),
       stride=st.integers(1, 2), seed=st.integers(0, 99))
def test_pools(shape: tuple[int, ...], kernel: int, stride: int, seed: int) -> None:
    import torch

    x = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    around = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": [kernel // 2] * 4}
    nodes = [helper.make_node("MaxPool", ["x"], ["m"], **around), helper.make_node("AveragePool", ["x"], ["a"], count_include_pad=1, **around)]
    outputs, _ = run(model(nodes, {"x": ("float32", ["n", *shape[1:]])}, ["m", "a"]), {"x": x})
    wide = torch.from_numpy(x).double()
    np.testing.assert_array_equal(outputs["m"], torch.nn.functional.max_pool2d(wide, kernel, stride, kernel // 2).numpy())
    np.testing.assert_allclose(outputs["a"], torch.nn.functional.avg_pool2d(wide, kernel, stride, kernel // 2).numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("node", [helper.make_node("Relu", ["x"], ["y"]), helper.make_node("Softmax", ["x"], ["y"]),
                                  helper.make_node("Transpose", ["x"], ["y"])], ids=lambda n: n.op_type)
def test_no_elements_are_no_work(node: object) -> None:
    outputs, _ = run(model([node], {"x": ("float32", ["n", 5])}, ["y"]), {"x": np.zeros((0, 5), np.float32)})  # type: ignore[list-item]
    assert outputs["y"].size == 0


@pytest.mark.parametrize("shape", [(3, 50), (1, 7)])
def test_a_truth_value_that_is_read_twice_in_one_loop(shape: tuple[int, int]) -> None:
    # Keras' lookup of negative indices, as tf2onnx writes it: both cases, each times whether it holds.
    x = np.random.default_rng(0).integers(-9, 9, shape).astype(np.int32)
    nodes = [helper.make_node("Add", ["x", "hundred"], ["around"]), helper.make_node("Less", ["x", "zero"], ["negative"]),
             helper.make_node("Not", ["negative"], ["positive"]), helper.make_node("Cast", ["negative"], ["n"], to=6),
             helper.make_node("Cast", ["positive"], ["p"], to=6), helper.make_node("Mul", ["n", "around"], ["a"]),
             helper.make_node("Mul", ["x", "p"], ["b"]), helper.make_node("Add", ["a", "b"], ["y"])]
    weights = {"hundred": np.array(100, np.int32), "zero": np.array(0, np.int32)}
    outputs, _ = run(model(nodes, {"x": ("int32", ["a", "b"])}, ["y"], weights), {"x": x})
    np.testing.assert_array_equal(outputs["y"], np.where(x < 0, x + 100, x))


@few
@given(channels=st.integers(1, 9), size=st.tuples(st.integers(1, 7), st.integers(1, 70)), pads=st.tuples(*[st.integers(0, 3)] * 4),
       dtype=st.sampled_from(["float32", "uint8", "int8"]), batch=st.integers(1, 2), seed=st.integers(0, 99))
def test_a_padded_image_with_its_channels_last(channels: int, size: tuple[int, int], pads: tuple[int, ...], dtype: str, batch: int,
                                               seed: int) -> None:
    x = (np.random.default_rng(seed).standard_normal((batch, channels, *size)) * 40).astype(np.float32)
    around = np.array([0, 0, *pads[:2], 0, 0, *pads[2:]])
    nodes = [helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"])] if dtype != "float32" else []
    nodes += [helper.make_node("Pad", [nodes[0].output[0] if nodes else "x", "pads", "fill"], ["p"]),
              helper.make_node("Transpose", ["p"], ["y"], perm=[0, 2, 3, 1])]
    constants = {"scale": np.float32(0.5), "zero": np.array(3, "uint8" if dtype == "float32" else dtype), "pads": around, "fill": np.array(7, dtype)}
    outputs, kernels = run(model(nodes, {"x": ("float32", ["batch", channels, *size])}, ["y"], constants), {"x": x})
    limits = np.iinfo(dtype) if dtype != "float32" else None
    exact = x if limits is None else np.clip(np.rint(x / np.float32(0.5)) + 3, limits.min, limits.max).astype(dtype)
    expected = np.pad(exact, [(0, 0), (0, 0), (pads[0], pads[2]), (pads[1], pads[3])], constant_values=7).transpose(0, 2, 3, 1)
    np.testing.assert_array_equal(outputs["y"], expected)
    if 1 < channels <= 8 and size[1] > 1:  # one channel is last already
        assert kernels == ["map (interleaved)"]


@pytest.mark.parametrize("windows", [(10, 3), (10, 3, 3, 3, 3), (10, 3, 3, 3, 3, 2, 2, 2)], ids=len)
def test_lengths_behind_convolutions_as_exporters_write_them(windows: tuple[int, ...]) -> None:
    """Floor divisions from truncating ones: what is rounded the wrong way is found by comparing signs, in numbers and truth values by turns."""
    nodes: list[Any] = []

    def apply(op: str, *inputs: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(op, list(inputs), [f"t{len(nodes)}"], **attributes))
        return str(nodes[-1].output[0])

    length = "x"
    x = np.arange(16, 50000, 977, dtype=np.int64)
    expected = x
    for window in windows:
        stride = 5 if window == 10 else 2
        rest = apply("Sub", length, f"n{window}")
        signs = apply("Xor", apply("Less", rest, "n0"), apply("Less", f"n{stride}", "n0"))
        wrong = apply("Cast", apply("And", signs, apply("Cast", apply("Mod", rest, f"n{stride}"), to=TensorProto.BOOL)), to=TensorProto.INT64)
        length = apply("Add", apply("Sub", apply("Div", rest, f"n{stride}"), wrong), "n1")
        expected = (expected - window) // stride + 1
    constants = {f"n{n}": np.array(n, np.int64) for n in (0, 1, 2, 3, 5, 10)}
    outputs, _ = run(model(nodes, {"x": ("int64", ["n"])}, [length], constants), {"x": x})
    np.testing.assert_array_equal(outputs[length], expected)


@pytest.mark.parametrize("product", [False, True], ids=["alone", "behind a product"])
def test_many_activations_one_after_another(product: bool) -> None:
    """Six of x sigmoid(x): each reads the one before twice, and what TVM knows of it must not grow with each."""
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((7, 37)).astype(np.float32) * 4, rng.standard_normal((37, 37)).astype(np.float32)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y0"]) if product else helper.make_node("Neg", ["x"], ["y0"])]
    expected = x.astype(np.float64) @ w if product else -x.astype(np.float64)
    for i in range(6):
        nodes += [helper.make_node("Sigmoid", [f"y{i}"], [f"s{i}"]), helper.make_node("Mul", [f"y{i}", f"s{i}"], [f"y{i + 1}"])]
        expected = expected / (1 + np.exp(-expected))
    outputs, _ = run(model(nodes, {"x": ("float32", ["n", 37])}, ["y6"], {"w": w} if product else {}), {"x": x})
    np.testing.assert_allclose(outputs["y6"], expected, rtol=2e-5, atol=2e-5)


@few
@given(height=st.integers(1, 11), width=st.integers(1, 13), channels=st.integers(1, 150), window=st.integers(1, 3), stride=st.integers(1, 2),
       dtype=st.sampled_from(["uint8", "int8", "float32"]), known=st.booleans(), seed=st.integers(0, 99))
def test_pooling_of_any_number_of_channels(height: int, width: int, channels: int, window: int, stride: int, dtype: str, known: bool,
                                           seed: int) -> None:
    pad = window // 2
    x = (np.random.default_rng(seed).uniform(0, 100, (2, channels, height, width)) - (0 if dtype == "uint8" else 50)).astype(dtype)
    node = helper.make_node("MaxPool", ["x"], ["y"], kernel_shape=[window, window], strides=[stride, stride], pads=[pad] * 4)
    shape: list[Any] = [2, channels, height, width] if known else ["n", channels, "h", "w"]
    padded = np.pad(x.astype(np.float64), ((0, 0), (0, 0), (pad, pad), (pad, pad)), constant_values=-np.inf)
    assume(min(padded.shape[2:]) >= window)
    outputs, kernels = run(model([node], {"x": (dtype, shape)}, ["y"]), {"x": x})
    windows = np.lib.stride_tricks.sliding_window_view(padded, (window, window), axis=(2, 3))[:, :, ::stride, ::stride]
    np.testing.assert_array_equal(outputs["y"].astype(np.float64), windows.max((4, 5)))
    assert window == 1 or channels < 8 or any("columns" in k for k in kernels), kernels
