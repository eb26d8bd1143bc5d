"""The CUDA kernel `sample` against the definition in float64."""

from __future__ import annotations

from typing import Any

import harness
import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

TYPES: dict[str, Any] = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}


def kept(logits: np.ndarray, temperature: float, top_k: int, top_p: float, min_p: float) -> tuple[np.ndarray, np.ndarray]:
    """The tokens that can be chosen, likeliest first, and the ends of their shares of [0, 1)."""
    scores = np.where(np.isnan(logits), -np.inf, logits.astype(np.float64))
    tokens = np.argsort(-scores, kind="stable")[: top_k or None]
    weights = np.exp((scores[tokens] - scores[tokens[0]]) / temperature)
    shares = weights / weights.sum()
    keep = (np.cumsum(shares) - shares < top_p) & (shares >= min_p * shares[0]) & (shares > 0)
    return tokens[keep], np.cumsum(shares[keep]) / shares[keep].sum()


def fits(token: int, number: float, tokens: np.ndarray, ends: np.ndarray, tolerance: float) -> bool:
    """Whether a token's share holds a number, or lies so close that rounding decides."""
    place = np.flatnonzero(tokens == token)
    if not place.size:
        return False
    begin = ends[place[0] - 1] if place[0] > 0 else 0.0
    return bool(begin - tolerance <= number < ends[place[0]] + tolerance)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(rows=st.integers(1, 3), size=st.one_of(st.integers(1, 40), st.sampled_from([1000, 1024, 3001, 5000])), dtype=st.sampled_from(list(TYPES)),
       temperature=st.sampled_from([0.3, 1.0, 2.5, 100.0]), top_k=st.sampled_from([0, 1, 2, 5, 40, 100000]),
       top_p=st.sampled_from([1.0, 0.95, 0.5, 0.01]), min_p=st.sampled_from([0.0, 0.05, 0.5]), spread=st.sampled_from([0.0, 1.0, 8.0]),
       masked=st.booleans(), apart=st.booleans(), seed=st.integers(0, 1 << 30))
def test_tokens_are_drawn_by_their_shares(rows: int, size: int, dtype: str, temperature: float, top_k: int, top_p: float, min_p: float, spread: float,
                                          masked: bool, apart: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    logits = (rng.standard_normal((rows, size)) * spread).astype(TYPES[dtype])
    if masked:
        logits[rng.random((rows, size)) < 0.5] = -np.inf
        logits[:, rng.integers(size)] = 1
    numbers = rng.random(rows, np.float32)
    settings_ = np.tile(np.array([temperature, top_k, top_p, min_p], np.float32), (rows, 1)) if apart else None
    tokens, logs = harness.run("sample", [logits, numbers, settings_], [((rows,), np.int64), ((rows,), np.float32)],
                               ints=[0 if apart else top_k], floats=[0, 1, 0] if apart else [temperature, top_p, min_p])
    for row in range(rows):
        choices, ends = kept(logits[row], temperature, top_k, top_p, min_p)
        # Weights are exact to float32's 2^-22 of e^x; a share at the very border of top p or min p may be kept or not.
        near, near_ends = kept(logits[row], temperature, top_k, top_p * (1 + 1e-5), min_p * (1 - 1e-5))
        far, far_ends = kept(logits[row], temperature, top_k, top_p * (1 - 1e-5), min_p * (1 + 1e-5))
        assert any(fits(int(tokens[row]), float(numbers[row]), t, e, 2e-5) for t, e in ((choices, ends), (near, near_ends), (far, far_ends)))
        scores = logits[row].astype(np.float64)
        expected = scores[tokens[row]] - scores.max() - np.log(np.exp(scores - scores.max()).sum())
        assert abs(logs[row] - expected) < 1e-4


def test_without_temperature_it_is_the_first_of_the_largest() -> None:
    rng = np.random.default_rng(0)
    for dtype in TYPES.values():
        logits = rng.integers(-50, 50, (3, 2, 4099)).astype(dtype)
        logits[0, 0, :7] = np.nan
        logits[0, 1] = -np.inf
        tokens, = harness.run("sample", [logits], [((3, 2), np.int64)], ints=[0], floats=[0, 1, 0])
        assert np.array_equal(tokens, np.where(np.isnan(logits), -np.inf, logits.astype(np.float32)).argmax(axis=-1))


def test_equal_logits_are_all_drawn_in_order() -> None:
    logits = np.zeros((5, 3000), np.float32)
    numbers = np.array([0, 0.1, 0.5, 0.9, 0.99999994], np.float32)
    tokens, = harness.run("sample", [logits, numbers], [((5,), np.int64)], ints=[1000], floats=[0.7, 1, 0])
    assert np.array_equal(tokens, np.floor(numbers.astype(np.float64) * 1000))


def test_what_does_not_fit_is_refused() -> None:
    logits = np.zeros((2, 8), np.float32)
    with pytest.raises(harness.KernelError, match="needs a random number for each row"):
        harness.run("sample", [logits], [((2,), np.int64)], ints=[0], floats=[1, 1, 0])
    with pytest.raises(harness.KernelError, match=r"random numbers are float32 \[2\]"):
        harness.run("sample", [logits, np.zeros(3, np.float32)], [((2,), np.int64)], ints=[0], floats=[1, 1, 0])


@pytest.mark.gpu
@pytest.mark.parametrize("size", [32000, 151936])
def test_whole_vocabularies(size: int) -> None:
    test_tokens_are_drawn_by_their_shares.hypothesis.inner_test(  # type: ignore[attr-defined]
        rows=16, size=size, dtype="bfloat16", temperature=0.8, top_k=50, top_p=0.95, min_p=0.0, spread=3.0, masked=False, apart=True, seed=1)
