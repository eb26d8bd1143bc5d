"""exp, erf, tanh and sigmoid in generated code stay within a few units in the last place of float64, infinities and NaN included."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from onnx import helper

from tests.lower.build import model, run

FUNCTIONS: dict[str, Callable[[Any], Any]] = {"Exp": torch.exp, "Erf": torch.erf, "Tanh": torch.tanh, "Sigmoid": torch.sigmoid}
SPECIAL = [np.inf, -np.inf, np.nan, 0.0, -0.0, 88.72, 88.73, -87.3, -103.9, -104.1, 1e-30, -1e-30, 3.4e38, -3.4e38]


def numbers() -> np.ndarray:
    """Magnitudes from 1e-8 to 120 of both signs, and what is special; not a whole number of vectors."""
    spread = np.logspace(-8, np.log10(120), 50_001).astype(np.float32)
    return np.concatenate([spread, -spread, np.array(SPECIAL, np.float32)])


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_is_within_5_units_in_the_last_place(name: str) -> None:
    x = numbers()
    actual = run(model([helper.make_node(name, ["x"], ["y"])], {"x": ("float32", ["n"])}, ["y"]), {"x": x})[0]["y"]
    expected = FUNCTIONS[name](torch.from_numpy(x).double()).numpy()
    rounded = expected.astype(np.float32)
    np.testing.assert_array_equal(np.isnan(actual), np.isnan(rounded))
    np.testing.assert_array_equal(np.isinf(actual), np.isinf(rounded))
    normal = np.isfinite(rounded) & (np.abs(rounded) >= np.finfo(np.float32).tiny)
    units = np.abs(actual[normal] - expected[normal]) / np.spacing(np.abs(rounded[normal]))
    assert units.max() < 5
    small = np.isfinite(rounded) & ~normal
    assert np.all(np.abs(actual[small] - expected[small]) <= np.finfo(np.float32).tiny)


@pytest.mark.parametrize("dtype", ["float16", "float64"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_other_widths_are_as_accurate_as_their_type(name: str, dtype: str) -> None:
    x = np.linspace(-9, 9, 1003).astype(dtype)
    actual = run(model([helper.make_node(name, ["x"], ["y"])], {"x": (dtype, ["n"])}, ["y"]), {"x": x})[0]["y"]
    expected = FUNCTIONS[name](torch.from_numpy(x).double()).numpy()
    np.testing.assert_allclose(actual.astype(np.float64), expected, rtol=2 * np.finfo(dtype).eps, atol=np.finfo(dtype).tiny)


@pytest.mark.skipif(importlib.util.find_spec("onnxruntime") is None, reason="onnxruntime is not installed")
@pytest.mark.parametrize("kind", ["uint8", "int8"])
def test_rounding_around_functions_of_quantized_numbers(kind: str) -> None:
    """GELU as onnxruntime's quantizer writes it by default: quantized before and after each of its operators."""
    import onnxruntime

    nodes: list[Any] = []

    def rounded(name: str, scale: str) -> str:
        nodes.extend([helper.make_node("QuantizeLinear", [name, scale, "zero"], [f"{name}_q"]),
                      helper.make_node("DequantizeLinear", [f"{name}_q", scale, "zero"], [f"{name}_d"])])
        return f"{name}_d"

    def apply(op: str, inputs: list[str], output: str, scale: str) -> str:
        nodes.append(helper.make_node(op, inputs, [output]))
        return rounded(output, scale)

    x = rounded("x", "s_x")
    erf = apply("Erf", [apply("Div", [x, "root"], "d", "s_x")], "e", "s_e")
    apply("Mul", [apply("Mul", [x, apply("Add", [erf, "one"], "a", "s_a")], "m", "s_m"), "half"], "g", "s_g")
    top = 255 if kind == "uint8" else 127
    constants = {"zero": np.array(110 if kind == "uint8" else -9, kind), "root": np.sqrt(np.float32(2)), "one": np.float32(1),
                 "half": np.float32(0.5), **{f"s_{n}": np.float32(s / top) for n, s in {"x": 7.3, "e": 2.3, "a": 4.7, "m": 14.9, "g": 7.1}.items()}}
    made = model(nodes, {"x": ("float32", ["n", 45])}, ["g_d"], constants)
    values = (np.random.default_rng(0).standard_normal((7, 45)) * 1.3).astype(np.float32)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL  # as the operators are defined
    session = onnxruntime.InferenceSession(made.SerializeToString(), options, providers=["CPUExecutionProvider"])
    expected = session.run(None, {"x": values})[0]
    off = np.abs(run(made, {"x": values})[0]["g_d"] - expected) / constants["s_g"]
    # Ties are decided differently where a division is a multiplication: then a number is one step off.
    assert np.ptp(expected) > 30 * constants["s_g"] and off.max() < 1.01 and np.mean(off > 0.5) < 0.02, (off.max(), np.mean(off > 0.5))


@pytest.mark.parametrize(("dtype", "zero"), [("uint8", 0), ("uint8", 3), ("uint8", 128), ("uint8", 255), ("int8", 0), ("int8", -128), ("int8", 127),
                                             ("int8", -5)])
def test_quantized_numbers_are_rounded_to_even_and_saturated(dtype: str, zero: int) -> None:
    halves = np.arange(-600, 601, dtype=np.float32) / 2
    neighbours = [np.nextafter(halves, np.float32(side)) for side in (-np.inf, np.inf)]
    x = np.concatenate([halves, *neighbours, np.array([np.inf, -np.inf, np.nan, 3e38, -3e38, 1e-45, 2**31, -(2**33), 8388609.5], np.float32)])
    nodes = [helper.make_node("QuantizeLinear", ["x", "one", "zero"], ["q"]), helper.make_node("DequantizeLinear", ["q", "one", "zero"], ["d"]),
             helper.make_node("Add", ["d", "d"], ["e"]), helper.make_node("QuantizeLinear", ["e", "two", "zero"], ["y"])]
    constants = {"one": np.float32(1), "two": np.float32(2), "zero": np.array(zero, dtype)}
    outputs, _ = run(model(nodes, {"x": ("float32", ["n"])}, ["q", "d", "y"], constants), {"x": x})
    limits = np.iinfo(dtype)
    exact = np.clip(np.nan_to_num(np.rint(x.astype(np.float64)), nan=-np.inf) + zero, limits.min, limits.max)
    np.testing.assert_array_equal(outputs["q"], exact.astype(dtype))
    np.testing.assert_array_equal(outputs["d"], (exact - zero).astype(np.float32))
    np.testing.assert_array_equal(outputs["y"], exact.astype(dtype))
