"""8 bits for a whole tensor: the scale and zero point that are found from a histogram round what was counted with little error."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingot.quantize.ranges import Histogram, Rounding, merged


def counted(*parts: np.ndarray) -> Histogram:
    found = Histogram()
    for part in parts:
        found.add(part)
    return found


def error(x: np.ndarray, by: Rounding) -> float:
    """The relative error of rounding numbers, in float64."""
    codes = np.clip(np.rint(x.astype(np.float64) / by.scale) + by.zero, 0, 255)
    wide = x.astype(np.float64)
    return float(np.linalg.norm((codes - by.zero) * by.scale - wide) / np.linalg.norm(wide))


def whole(x: np.ndarray) -> Rounding:
    """What the least and the largest number give."""
    low, high = min(float(x.min()), 0.0), max(float(x.max()), 0.0)
    return Rounding((high - low) / 255, round(-low / ((high - low) / 255)), 0.0)


@given(seed=st.integers(0, 10**6), size=st.integers(1, 5000), scale=st.floats(1e-20, 1e20), low=st.sampled_from([-1.0, -0.1, 0.0, 0.5]),
       power=st.integers(1, 5))
def test_rounding_loses_no_more_than_over_the_whole_range_and_says_how_much(seed: int, size: int, scale: float, low: float, power: int) -> None:
    x = (np.random.default_rng(seed).uniform(low, 1, size) ** power * scale).astype(np.float32)
    found = counted(x).rounding()
    assert 0 <= found.zero <= 255
    if np.any(x):
        assert error(x, found) <= 1.05 * error(x, whole(x)) + 1e-4
    if size > 500:
        assert error(x, found) == pytest.approx(found.error, rel=0.2)


def test_long_tails_are_cut_off() -> None:
    x = np.random.default_rng(0).standard_normal(2_000_000).astype(np.float32)
    x[0] = 60
    assert error(x, counted(x).rounding()) < 0.7 * error(x, whole(x))


def test_numbers_that_are_not_negative_have_zero_at_code_0() -> None:
    x = np.maximum(np.random.default_rng(0).standard_normal(1000), 0).astype(np.float32)
    found = counted(x).rounding()
    assert found.zero == 0
    assert x.max() / 2 < 255 * found.scale <= x.max() * 1.0001


@given(seed=st.integers(0, 10**6), exponents=st.lists(st.integers(-30, 30), min_size=1, max_size=6))
def test_parts_and_histograms_add_up(seed: int, exponents: list[int]) -> None:
    rng = np.random.default_rng(seed)
    parts = [(rng.standard_normal(50) * 2.0**e).astype(np.float32) for e in exponents]
    together, apart = counted(*parts).rounding(), merged(counted(p) for p in parts).rounding()
    assert together == apart
    low, high = min(0.0, *(float(p.min()) for p in parts)), max(0.0, *(float(p.max()) for p in parts))
    assert together.scale <= (high - low) / 255 * 1.0001


def test_zeros_and_numbers_that_are_not_finite_say_nothing() -> None:
    found = counted(np.array([0, np.nan, np.inf, -np.inf], np.float32), np.empty((0, 3), np.float32))
    assert not found.seen
    assert found.rounding() == Rounding(1.0, 0, 0.0)
    assert counted(np.array([np.inf, 2.0], np.float32)).high == 2


def test_numbers_that_are_too_small_for_a_scale_are_lost_and_said_to_be() -> None:
    found = counted(np.array([1e-44, -3e-45], np.float32))
    assert found.seen
    assert found.rounding().error == 1
