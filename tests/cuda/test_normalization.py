"""The CUDA kernel `normalization` against the definition in float64."""

from __future__ import annotations

from typing import Any

import harness
import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

TYPES: dict[str, Any] = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
ROUNDING = {"float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}
TYPE = st.sampled_from(list(TYPES))


def check(rows: int, size: int, *, rms: bool, types: tuple[str, str, str, str], weight: bool = True, bias: bool = False, residual: bool = False,
          given_sum: bool = False, offset: float = 0.0, seed: int = 0) -> None:
    """types: of X, weight and bias, Y, and the residual and the sum."""
    rng = np.random.default_rng(seed)
    x = (rng.standard_normal((rows, size)) * 3 + 1).astype(TYPES[types[0]])
    scale = rng.standard_normal(size).astype(TYPES[types[1]]) if weight else None
    shift = rng.standard_normal(size).astype(TYPES[types[1]]) if bias else None
    more = rng.standard_normal((rows, size)).astype(TYPES[types[3]]) if residual else None
    outputs: list[Any] = [((rows, size), TYPES[types[2]])] + ([((rows, size), TYPES[types[3]])] if given_sum else [])
    found = [y.astype(np.float64) for y in harness.run("normalization", [x, scale, shift, more], outputs, ints=[int(rms)], floats=[1e-5, offset])]
    total = x.astype(np.float64) + (0 if more is None else more.astype(np.float64))
    mean = np.zeros((rows, 1)) if rms else total.mean(axis=1, keepdims=True)
    deviation = np.sqrt(((total - mean) ** 2).mean(axis=1, keepdims=True) + 1e-5)
    factor = 1.0 if scale is None else scale.astype(np.float64) + offset
    y = (total - mean) / deviation * factor + (0 if shift is None else shift.astype(np.float64))
    # Sums of float32 in any order: at most size roundings of the sum of magnitudes, in practice their logarithm; 32 numbers are added one by one.
    magnitude = np.abs(total).max(axis=1, keepdims=True, initial=0) / deviation * np.abs(factor)
    bound = (40 + size / 256) * 2.0**-24 * (magnitude + np.abs(y)) + ROUNDING[types[2]] * np.abs(y) + 2.0**-24
    assert (np.abs(found[0] - y) <= bound).all(), np.abs(found[0] - y).max()
    if given_sum:
        assert (np.abs(found[1] - total) <= (ROUNDING[types[3]] + 2.0**-24) * np.abs(total)).all()


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(rows=st.integers(1, 20), size=st.one_of(st.integers(1, 70), st.sampled_from([128, 255, 256, 1000, 1024, 1028, 3000])), rms=st.booleans(),
       types=st.tuples(TYPE, TYPE, TYPE, TYPE), weight=st.booleans(), bias=st.booleans(), residual=st.booleans(), given_sum=st.booleans(),
       offset=st.sampled_from([0.0, 1.0]), seed=st.integers(0, 1 << 30))
def test_rows_are_standardized(**case: Any) -> None:
    check(**case)


@pytest.mark.parametrize("size", [8192, 8196, 9001])
@pytest.mark.parametrize("rms", [False, True])
def test_rows_that_do_not_fit_into_registers(size: int, rms: bool) -> None:
    check(2, size, rms=rms, types=("bfloat16", "float32", "bfloat16", "float32"), residual=True, given_sum=True, bias=True)


def test_the_sum_may_be_the_residuals_memory() -> None:
    rng = np.random.default_rng(0)
    x, residual = rng.standard_normal((3, 512)).astype(np.float16), rng.standard_normal((3, 512)).astype(np.float32)
    y, total = harness.run("normalization", [x, None, None, residual], [((3, 512), np.float16), residual], ints=[1], floats=[1e-6, 0], aliases={1: 3})
    expected = x.astype(np.float64) + residual
    assert np.abs(total - expected).max() < 1e-6
    rms = np.sqrt((expected**2).mean(axis=1, keepdims=True) + 1e-6)
    assert np.abs(y.astype(np.float64) - expected / rms).max() < 4 * 2.0**-11


def test_what_does_not_fit_is_refused() -> None:
    x = np.zeros((2, 8), np.float32)
    with pytest.raises(harness.KernelError, match=r"has weight of shape \[7\]; it takes \[8\]"):
        harness.run("normalization", [x, np.zeros(7, np.float32)], [(x.shape, np.float32)], ints=[0], floats=[1e-5, 0])
    with pytest.raises(harness.KernelError, match="not int64"):
        harness.run("normalization", [x.astype(np.int64)], [(x.shape, np.float32)], ints=[0], floats=[1e-5, 0])
    assert harness.run("normalization", [np.zeros((0, 8), np.float32)], [((0, 8), np.float32)], ints=[0], floats=[1e-5, 0])[0].size == 0


@pytest.mark.gpu
@pytest.mark.parametrize("rows", [1, 4096])
@pytest.mark.parametrize("size", [64, 2048, 8192, 16384])
def test_many_rows(rows: int, size: int) -> None:
    check(rows, size, rms=True, types=("bfloat16", "bfloat16", "bfloat16", "bfloat16"), residual=True, given_sum=True)
