"""Rounding: codes are the nearest, and a searched scale is never worse than the plain one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingot.lower.cpu.quantized_weights import dequantized, groups_of
from ingot.quantize.loss import Sums
from ingot.quantize.rounding import Rounded, round_rows
from ingot.quantize.scheme import Scheme, parse_scheme

SCHEMES = ["int8", "int8:row", "int4", "int4:row", "int4:g128", "uint4:g64", "uint4:row", "nf4", "nf4:row", "mxfp4"]


def numbers(scheme: Scheme, rounded: Rounded) -> np.ndarray:
    """What codes stand for, by the kernel's reference, in float64."""
    scales = rounded.scales
    exact = np.ldexp(1.0, scales.astype(int) - 127) if scheme.powers else scales.astype(np.float64)
    codes = rounded.codes if scheme.kind.bits == 8 else (rounded.codes + scheme.kind.offset).astype(np.uint8)
    return dequantized(scheme.kind, codes, exact, rounded.zeros, scheme.group)


def weights(rows: int, depth: int, seed: int, shift: float = 0.0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_t(4, (rows, depth)) * 0.05 + shift).astype(np.float32)


@pytest.mark.parametrize("text", SCHEMES)
@settings(max_examples=15, deadline=None)
@given(rows=st.integers(1, 40), depth=st.integers(1, 200), seed=st.integers(0, 99), shift=st.sampled_from([0.0, 0.3, -0.3]))
def test_every_number_is_rounded_to_the_nearest_code_of_its_scale(text: str, rows: int, depth: int, seed: int, shift: float) -> None:
    scheme = parse_scheme(text)
    w = weights(rows, depth, seed, shift)
    rounded = round_rows(scheme, w)
    groups = groups_of(depth, scheme.group)
    assert rounded.codes.shape == w.shape and rounded.scales.shape == (rows, groups)
    found = numbers(scheme, rounded)
    spread = np.repeat(np.arange(groups), scheme.group or depth)[:depth]
    exact = np.ldexp(1.0, rounded.scales.astype(int) - 127) if scheme.powers else rounded.scales.astype(np.float64)
    levels = np.array(scheme.kind.values) if scheme.kind.values else np.arange(-(2 ** (scheme.kind.bits - 1)), 2 ** (scheme.kind.bits - 1))
    zeros = 0 if rounded.zeros is None else rounded.zeros[:, spread, None]
    every = (levels - zeros) * exact[:, spread, None]
    nearest = np.abs(every - w[..., None]).min(axis=-1)
    assert (np.abs(found - w) <= nearest + 1e-6 * np.abs(w).max()).all()


@pytest.mark.parametrize("text", SCHEMES)
def test_zeros_stay_zeros_and_tiny_weights_are_finite(text: str) -> None:
    scheme = parse_scheme(text)
    w = np.zeros((3, 70), np.float32)
    w[1] = 1e-44
    w[2, 5] = 1e30
    found = numbers(scheme, round_rows(scheme, w))
    assert (found[0] == 0).all() and np.isfinite(found).all()
    assert abs(found[2, 5] / 1e30 - 1) < 0.35


def test_an_outlier_is_clipped_where_that_loses_less() -> None:
    scheme = parse_scheme("int4:row")
    w = weights(64, 256, 0)
    found = numbers(scheme, round_rows(scheme, w))
    scale = np.abs(w).max(axis=1, keepdims=True) / 7
    plain = np.rint(w / scale) * scale
    assert ((found - w) ** 2).sum() < 0.9 * ((plain - w) ** 2).sum()


def test_asymmetric_groups_lose_less_where_weights_are_of_one_sign() -> None:
    w = np.abs(weights(32, 128, 1))
    symmetric, asymmetric = (((numbers(s, round_rows(s, w)) - w) ** 2).sum() for s in (parse_scheme("int4"), parse_scheme("uint4")))
    assert asymmetric < 0.6 * symmetric


def test_sums_are_those_of_the_definition() -> None:
    a, b = weights(7, 11, 2), weights(7, 11, 3)
    sums = Sums()
    sums.add(a[:3], b[:3])
    sums.add(a[3:], b[3:])
    x, y = a.astype(np.float64).ravel(), b.astype(np.float64).ravel()
    assert sums.relative_error == pytest.approx(np.linalg.norm(x - y) / np.linalg.norm(x), rel=1e-12)
    assert sums.cosine == pytest.approx(x @ y / np.linalg.norm(x) / np.linalg.norm(y), rel=1e-12)
    assert sums.snr_db == pytest.approx(10 * np.log10((x @ x) / ((x - y) @ (x - y))), rel=1e-12)
    assert sums.entry()["snr_db"] == pytest.approx(sums.snr_db, abs=0.01)
