"""Statically quantized models run in integers, and give what the definition of their operators gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

import ingot
from tests.lower.build import model, run

few = settings(max_examples=5, deadline=None)  # of a second each


def quantize(x: np.ndarray, scale: float, zero: int, dtype: str) -> np.ndarray:
    """ONNX QuantizeLinear, in float64."""
    info = np.iinfo(dtype)
    return np.clip(np.rint(x.astype(np.float64) / scale) + zero, info.min, info.max)


def dequantized(prefix: str, source: str, result: str, axis: int = 1) -> onnx.NodeProto:
    return helper.make_node("DequantizeLinear", [source, f"{prefix}_scale", f"{prefix}_zero"], [result], axis=axis)


def quantized(prefix: str, source: str, result: str) -> onnx.NodeProto:
    return helper.make_node("QuantizeLinear", [source, f"{prefix}_scale", f"{prefix}_zero"], [result])


def steps_off(actual: np.ndarray, expected: np.ndarray, scale: float) -> np.ndarray:
    """By how many quantization steps results differ."""
    return np.abs(actual.astype(np.float64) - expected) / scale


def weights_of(rng: np.random.Generator, dtype: str, shape: tuple[int, ...]) -> tuple[np.ndarray, int]:
    """Random weights and a zero point for them; ``int7`` are those that quantizers give with a reduced range."""
    if dtype == "int7":
        return rng.integers(-64, 65, shape).astype(np.int8), 0
    return (rng.integers(-128, 128, shape).astype(np.int8), 0) if dtype == "int8" else (rng.integers(0, 256, shape).astype(np.uint8), 128)


@few
@given(rows=st.integers(1, 30), depth=st.integers(1, 70), columns=st.integers(1, 50), per_column=st.booleans(),
       activations=st.sampled_from(["uint8", "int8"]), kind=st.sampled_from(["int8", "uint8", "int7"]), seed=st.integers(0, 99))
def test_a_product_of_dequantized_tensors(rows: int, depth: int, columns: int, per_column: bool, activations: str, kind: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((2, rows, depth)).astype(np.float32)
    w, w_zero = weights_of(rng, kind, (depth, columns))
    count = columns if per_column else 1
    x_zero, y_zero = (int(rng.integers(np.iinfo(activations).min, np.iinfo(activations).max + 1)) for _ in range(2))
    w_scale = rng.uniform(0.001, 0.01, count).astype(np.float32)
    shape = (count,) if per_column else ()
    bias = rng.standard_normal(columns).astype(np.float32)
    constants = {"w": w, "w_scale": w_scale.reshape(shape), "w_zero": np.full(shape, w_zero, w.dtype), "x_scale": np.float32(0.02), "b": bias,
                 "x_zero": np.array(x_zero, activations), "y_scale": np.float32(0.05), "y_zero": np.array(y_zero, activations)}
    nodes = [quantized("x", "x", "q"), dequantized("x", "q", "d"), dequantized("w", "w", "dw"), helper.make_node("MatMul", ["d", "dw"], ["p"]),
             helper.make_node("Add", ["p", "b"], ["s"]), quantized("y", "s", "qy"), dequantized("y", "qy", "y")]
    outputs, kernels = run(model(nodes, {"x": ("float32", [2, "rows", depth])}, ["y"], {k: np.asarray(v) for k, v in constants.items()}), {"x": x})
    wide = (quantize(x, 0.02, x_zero, activations) - x_zero) * np.float64(np.float32(0.02))
    sums = wide @ ((w.astype(np.float64) - w_zero) * w_scale.astype(np.float64)) + bias
    scale = float(np.float32(0.05))
    expected = (quantize(sums, scale, y_zero, activations) - y_zero) * scale
    off = steps_off(outputs["y"], expected, scale)
    assert off.max() <= 1.01 and np.mean(off > 0.5) < 0.01  # a sum within float32's rounding of a tie may go either way
    assert any("int" in k for k in kernels if k.startswith("matmul"))


@few
@given(size=st.integers(5, 12), window=st.integers(1, 3), stride=st.integers(1, 2), pad=st.integers(0, 1), channels=st.integers(1, 9),
       columns=st.integers(1, 20), groups=st.sampled_from([1, 2]), activations=st.sampled_from(["uint8", "int8"]),
       kind=st.sampled_from(["int8", "int7"]), seed=st.integers(0, 99))
def test_a_convolution_with_residual_and_relu(size: int, window: int, stride: int, pad: int, channels: int, columns: int, groups: int,
                                              activations: str, kind: str, seed: int) -> None:
    import torch

    rng = np.random.default_rng(seed)
    x = rng.standard_normal((1, channels * groups, size, size)).astype(np.float32)
    w, _ = weights_of(rng, kind, (columns * groups, channels, window, window))
    x_zero = int(rng.integers(np.iinfo(activations).min, np.iinfo(activations).max + 1))
    w_scale = rng.uniform(0.001, 0.01, columns * groups).astype(np.float32)
    constants = {"w": w, "w_scale": w_scale, "w_zero": np.zeros(columns * groups, np.int8), "x_scale": np.float32(0.02),
                 "x_zero": np.array(x_zero, activations), "y_scale": np.float32(0.03), "y_zero": np.array(0, activations)}
    conv = helper.make_node("Conv", ["d", "dw"], ["p"], strides=[stride] * 2, pads=[pad] * 4, group=groups)
    nodes = [quantized("x", "x", "q"), dequantized("x", "q", "d"), dequantized("w", "w", "dw", 0), conv,
             quantized("y", "p", "qp"), dequantized("y", "qp", "dp"), helper.make_node("Add", ["dp", "r"], ["s"]),
             helper.make_node("Relu", ["s"], ["t"]), quantized("y", "t", "qy"), dequantized("y", "qy", "y")]
    wide = torch.from_numpy((quantize(x, 0.02, x_zero, activations) - x_zero) * np.float64(np.float32(0.02)))
    sums = torch.nn.functional.conv2d(wide, torch.from_numpy(w.astype(np.float64) * w_scale.astype(np.float64)[:, None, None, None]), stride=stride,
                                      padding=pad, groups=groups).numpy()
    residual = rng.standard_normal(sums.shape).astype(np.float32)
    shape = [1, channels * groups, "height", "width"]
    built = model(nodes, {"x": ("float32", shape), "r": ("float32", list(sums.shape))}, ["y"], {k: np.asarray(v) for k, v in constants.items()})
    outputs, kernels = run(built, {"x": x, "r": residual})
    scale = float(np.float32(0.03))
    inner = quantize(sums, scale, 0, activations) * scale
    expected = quantize(np.maximum(inner + residual, 0), scale, 0, activations) * scale
    off = steps_off(outputs["y"], expected, scale)
    assert off.max() <= 1.01 and np.mean(off > 0.5) < 0.02
    assert any("convolution" in k and "int" in k for k in kernels) or (channels == 1 and groups > 1)


@few
@given(size=st.integers(3, 9), channels=st.integers(1, 40), columns=st.integers(1, 40), activations=st.sampled_from(["uint8", "int8"]),
       relu=st.booleans(), seed=st.integers(0, 99))
def test_the_sum_of_two_convolutions(size: int, channels: int, columns: int, activations: str, relu: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((2, channels, size, size)).astype(np.float32)
    least, most = np.iinfo(activations).min, np.iinfo(activations).max
    zeros = {name: int(rng.integers(least, most + 1)) for name in "xab"} | {"y": int(rng.integers(least, least + 200))}
    scales = {"x": np.float32(0.02), "a": np.float32(0.017), "b": np.float32(0.041), "y": np.float32(0.03)}
    constants = {f"{n}_zero": np.array(z, activations) for n, z in zeros.items()} | {f"{n}_scale": s for n, s in scales.items()}
    nodes = [quantized("x", "x", "q"), dequantized("x", "q", "d")]
    sums = {}
    wide = (quantize(x, float(scales["x"]), zeros["x"], activations) - zeros["x"]) * np.float64(scales["x"])
    for n in "ab":
        w, _ = weights_of(rng, "int7", (columns, channels, 1, 1))
        w_scale, bias = rng.uniform(0.001, 0.01, columns).astype(np.float32), rng.standard_normal(columns).astype(np.float32)
        constants |= {f"w{n}": w, f"w{n}_scale": w_scale, f"w{n}_zero": np.zeros(columns, np.int8), f"bias{n}": bias}
        nodes += [dequantized(f"w{n}", f"w{n}", f"dw{n}", 0), helper.make_node("Conv", ["d", f"dw{n}", f"bias{n}"], [f"p{n}"]),
                  quantized(n, f"p{n}", f"q{n}"), dequantized(n, f"q{n}", f"d{n}")]
        exact = np.einsum("oc,nchw->nohw", w[:, :, 0, 0] * w_scale.astype(np.float64)[:, None], wide) + bias[:, None, None]
        sums[n] = (quantize(exact, float(scales[n]), zeros[n], activations) - zeros[n]) * np.float64(scales[n])
    nodes += [helper.make_node("Add", ["da", "db"], ["s"]), helper.make_node("Relu" if relu else "Identity", ["s"], ["t"]),
              quantized("y", "t", "qy"), dequantized("y", "qy", "y")]
    built = model(nodes, {"x": ("float32", [2, channels, "height", "width"])}, ["y"], {k: np.asarray(v) for k, v in constants.items()})
    outputs, kernels = run(built, {"x": x})
    total = sums["a"] + sums["b"]
    y = float(scales["y"])
    expected = (quantize(np.maximum(total, 0) if relu else total, y, zeros["y"], activations) - zeros["y"]) * y
    off = steps_off(outputs["y"], expected, y)
    # A sum within float32's rounding of a tie may go either way: by a step of its own scale, which is two of the result's.
    assert off.max() <= 2.01 and np.mean(off > 0.5) < 0.02
    assert sum("convolution" in k for k in kernels) == 2


@few
@given(size=st.integers(4, 12), window=st.integers(2, 3), stride=st.integers(1, 2), pad=st.integers(0, 1), channels=st.integers(1, 70),
       activations=st.sampled_from(["uint8", "int8"]), seed=st.integers(0, 99))
def test_the_largest_of_quantized_numbers_is_found_among_their_codes(size: int, window: int, stride: int, pad: int, channels: int,
                                                                     activations: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    w, _ = weights_of(rng, "int7", (8, channels, 1, 1))
    zero = int(rng.integers(np.iinfo(activations).min, np.iinfo(activations).max + 1))
    constants = {"x_scale": np.float32(0.02), "x_zero": np.array(zero, activations), "w": w, "w_scale": np.float32(0.01), "w_zero": np.int8(0)}
    pool = helper.make_node("MaxPool", ["d"], ["m"], kernel_shape=[window] * 2, strides=[stride] * 2, pads=[pad] * 4)
    nodes = [quantized("x", "x", "q"), dequantized("x", "q", "d"), pool, quantized("x", "m", "qm"), dequantized("x", "qm", "dm"),
             dequantized("w", "w", "dw", 0), helper.make_node("Conv", ["dm", "dw"], ["y"])]
    x = rng.standard_normal((2, channels, size, size)).astype(np.float32)
    built = model(nodes, {"x": ("float32", [2, channels, "height", "width"])}, ["m", "y"], {k: np.asarray(v) for k, v in constants.items()})
    outputs, _ = run(built, {"x": x})
    wide = (quantize(x, float(np.float32(0.02)), zero, activations) - zero) * float(np.float32(0.02))
    padded = np.pad(wide, ((0, 0), (0, 0), (pad, pad), (pad, pad)), constant_values=-np.inf)
    largest = np.lib.stride_tricks.sliding_window_view(padded, (window, window), (2, 3))[:, :, ::stride, ::stride].max((-1, -2))
    np.testing.assert_allclose(outputs["m"], largest, rtol=1e-6, atol=1e-7)
    expected = np.einsum("oc,nchw->nohw", w[:, :, 0, 0] * float(np.float32(0.01)), largest)
    np.testing.assert_allclose(outputs["y"], expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_numbers_travel_as_integers_through_views_and_between_products() -> None:
    rng = np.random.default_rng(0)
    w = rng.integers(-128, 128, (32, 32)).astype(np.int8)
    constants = {"w": w, "w_scale": np.float32(0.01), "w_zero": np.int8(0), "x_scale": np.float32(0.02), "x_zero": np.uint8(100),
                 "shape": np.array([0, 4, 8], np.int64), "back": np.array([0, 32], np.int64)}
    nodes = [quantized("x", "x", "q"), dequantized("x", "q", "d"), dequantized("w", "w", "dw"), helper.make_node("MatMul", ["d", "dw"], ["p"]),
             quantized("x", "p", "q1"), dequantized("x", "q1", "d1"), helper.make_node("Reshape", ["d1", "shape"], ["v"]), quantized("x", "v", "q2"),
             dequantized("x", "q2", "d2"), helper.make_node("Reshape", ["d2", "back"], ["u"]), helper.make_node("MatMul", ["u", "dw"], ["y"])]
    built = model(nodes, {"x": ("float32", ["rows", 32])}, ["y"], {k: np.asarray(v) for k, v in constants.items()})
    x = rng.standard_normal((5, 32)).astype(np.float32)
    outputs, kernels = run(built, {"x": x})
    assert len([k for k in kernels if k not in ("view", "builtin")]) == 3  # quantize the input, and two products
    step = float(np.float32(0.02))
    first = (quantize(x, step, 100, "uint8") - 100) * step @ (w * float(np.float32(0.01)))
    second = (quantize(first, step, 100, "uint8") - 100) * step @ (w * float(np.float32(0.01)))
    assert np.abs(outputs["y"] - second).max() <= 1.01 * step * 0.01 * 128 + 1e-3  # one number of the middle may be a step off


@pytest.mark.parametrize(("value", "expected"), [(np.nan, 0), (np.inf, 255), (-np.inf, 0), (1e30, 255), (0.25, 10), (0.75, 12)])
def test_extreme_numbers_saturate_and_ties_go_to_even(value: float, expected: int) -> None:
    constants = {"x_scale": np.float32(0.5), "x_zero": np.uint8(10)}
    built = model([quantized("x", "x", "y")], {"x": ("float32", [3])}, ["y"], {k: np.asarray(v) for k, v in constants.items()})
    outputs, _ = run(built, {"x": np.full(3, value, np.float32)})
    assert outputs["y"].tolist() == [expected] * 3


def test_scores_that_are_quantized_by_several_scales_are_quantized_as_they_say() -> None:
    rng = np.random.default_rng(1)
    scales = rng.uniform(0.01, 0.03, 6).astype(np.float32)
    w = rng.integers(-128, 128, (8, 8)).astype(np.int8)
    constants = {"s_scale": scales, "s_zero": np.full(6, 120, np.uint8), "x_scale": np.float32(0.02), "x_zero": np.uint8(128), "w": w,
                 "w_scale": np.float32(0.01), "w_zero": np.int8(0)}
    nodes = [quantized("x", "x", "q"), dequantized("x", "q", "d"), dequantized("w", "w", "dw"), helper.make_node("MatMul", ["d", "dw"], ["p"]),
             helper.make_node("MatMul", ["p", "k"], ["scores"]),
             helper.make_node("QuantizeLinear", ["scores", "s_scale", "s_zero"], ["qs"], axis=1), dequantized("s", "qs", "ds", 1),
             helper.make_node("Softmax", ["ds"], ["y"], axis=-1)]
    x, k = rng.standard_normal((5, 8)).astype(np.float32), rng.standard_normal((8, 6)).astype(np.float32)
    built = model(nodes, {"x": ("float32", ["rows", 8]), "k": ("float32", [8, 6])}, ["y"], {n: np.asarray(v) for n, v in constants.items()})
    outputs, _ = run(built, {"x": x, "k": k})
    scores = (quantize(x, float(np.float32(0.02)), 128, "uint8") - 128) * float(np.float32(0.02)) @ (w * float(np.float32(0.01))) @ k
    rounded = (np.clip(np.rint(scores / scales) + 120, 0, 255) - 120) * scales.astype(np.float64)
    expected = np.exp(rounded - rounded.max(-1, keepdims=True))
    expected /= expected.sum(-1, keepdims=True)
    assert np.abs(outputs["y"] - expected).max() < 0.03  # a step of a score, e^0.03


def test_without_a_product_the_quotient_is_a_quotient() -> None:
    rng = np.random.default_rng(2)
    x = rng.uniform(-8, 8, 20000).astype(np.float32)
    constants = {"x_scale": np.float32(0.0657), "x_zero": np.uint8(128)}
    built = model([quantized("x", "x", "y")], {"x": ("float32", ["n"])}, ["y"], {k: np.asarray(v) for k, v in constants.items()})
    outputs, _ = run(built, {"x": x})
    expected = np.clip(np.rint(x / np.float32(0.0657)) + 128, 0, 255)
    np.testing.assert_array_equal(outputs["y"], expected.astype(np.uint8))


@few
@given(zero=st.integers(0, 255), low=st.sampled_from([None, -1.0, 0.0]), high=st.sampled_from([None, 0.5, 6.0]),
       activations=st.sampled_from(["uint8", "int8"]), seed=st.integers(0, 99))
def test_bounds_before_a_quantize_hold_wherever_codes_end(zero: int, low: float | None, high: float | None, activations: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((2, 4, 5, 6)).astype(np.float32)
    w = rng.integers(-128, 128, (8, 4, 1, 1)).astype(np.int8)
    zero += int(np.iinfo(activations).min)
    scale = float(np.float32(0.02))
    constants = {"w": w, "w_scale": np.float32(0.01), "w_zero": np.int8(0), "x_scale": np.float32(0.02), "x_zero": np.array(0, activations),
                 "y_scale": np.float32(scale), "y_zero": np.array(zero, activations)}
    bounds = {name: np.float32(number) for name, number in (("low", low), ("high", high)) if number is not None}
    nodes = [quantized("x", "x", "q"), dequantized("x", "q", "d"), dequantized("w", "w", "dw", axis=0), helper.make_node("Conv", ["d", "dw"], ["p"]),
             helper.make_node("Clip", ["p", *(name if name in bounds else "" for name in ("low", "high"))], ["c"]),
             quantized("y", "c", "qy"), dequantized("y", "qy", "y")]
    arrays = {k: np.asarray(v) for k, v in (constants | bounds).items()}
    outputs, kernels = run(model(nodes, {"x": ("float32", [2, 4, 5, 6])}, ["y"], arrays), {"x": x})
    wide = quantize(x, 0.02, 0, activations) * np.float64(np.float32(0.02))
    sums = np.einsum("nchw,oc->nohw", wide, w[:, :, 0, 0] * np.float64(np.float32(0.01)))
    bounded = np.clip(sums, -np.inf if low is None else low, np.inf if high is None else high)
    expected = (quantize(bounded, scale, zero, activations) - zero) * scale
    off = steps_off(outputs["y"], expected, scale)
    assert off.max() <= 1.01 and np.mean(off > 0.5) < 0.02  # a sum within float32's rounding of a tie may go either way
    assert any("int" in k for k in kernels if k.startswith("1x1"))


def test_bounds_that_codes_have_are_not_computed(tmp_path: Path) -> None:
    constants = {"w": np.ones((8, 4, 1, 1), np.int8), "w_scale": np.float32(0.01), "w_zero": np.int8(0), "x_scale": np.float32(0.02),
                 "x_zero": np.uint8(0), "y_scale": np.float32(6 / 255), "y_zero": np.uint8(0), "low": np.float32(0), "high": np.float32(6)}
    nodes = [quantized("x", "x", "q"), dequantized("x", "q", "d"), dequantized("w", "w", "dw", axis=0), helper.make_node("Conv", ["d", "dw"], ["p"]),
             helper.make_node("Clip", ["p", "low", "high"], ["c"]), quantized("y", "c", "qy"), dequantized("y", "qy", "y")]
    built = model(nodes, {"x": ("float32", [2, 4, 5, 6])}, ["y"], {k: np.asarray(v) for k, v in constants.items()})
    ingot.compile(built, tmp_path / "clip.ingot", samples=0)
    steps = ingot.load(tmp_path / "clip.ingot").manifest["targets"][0]["program"]["functions"][0]["steps"]
    names = [s.get("function", "") for s in steps]
    assert any("convolution" in name for name in names)
    assert not any("maximum" in name or "minimum" in name for name in names), names
