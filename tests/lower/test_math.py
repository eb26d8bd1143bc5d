"""exp, erf, tanh and sigmoid in generated code stay within a few units in the last place of float64, infinities and NaN included."""

from __future__ import annotations

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
