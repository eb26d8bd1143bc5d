"""How `ingot verify` measures agreement."""

from __future__ import annotations

import math

import numpy as np

from ingot.cli.verify import difference


def test_the_measures_are_what_they_are_called() -> None:
    expected = np.array([3.0, 4.0], np.float32)
    found = difference(0, "y", np.array([3.0, 4.5], np.float32), expected)
    assert found.max_abs == 0.5
    assert math.isclose(found.rel_norm, 0.1)
    assert math.isclose(found.cosine, (9 + 18) / (5 * math.hypot(3, 4.5)))
    assert found.agrees(0.1 + 1e-12) and not found.agrees(0.09)


def test_equal_arrays_agree_exactly_even_where_they_are_not_finite() -> None:
    odd = np.array([np.inf, -np.inf, np.nan, 1.0])
    for array in (odd, np.zeros(3), np.ones(0), np.array(True), np.array([1, -2])):
        found = difference(0, "y", array, array.copy())
        assert (found.max_abs, found.rel_norm) == (0.0, 0.0)
        assert found.agrees(0.0)


def test_a_nan_or_a_shape_that_differs_never_agrees() -> None:
    assert not difference(0, "y", np.array([np.nan]), np.array([1.0])).agrees(1e9)
    assert not difference(0, "y", np.array([1.0]), np.array([np.nan])).agrees(1e9)
    assert not difference(0, "y", np.ones(2), np.ones(3)).agrees(1e9)


def test_against_zeros_the_norm_is_absolute() -> None:
    assert difference(0, "y", np.array([3.0, 4.0]), np.zeros(2)).rel_norm == 5.0
