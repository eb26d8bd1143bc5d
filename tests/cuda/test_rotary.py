"""The CUDA kernels `rotary` and `rotary_cache` against the definition in float64."""

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
FEW = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


def rotated(x: np.ndarray, cosines: np.ndarray, sines: np.ndarray, interleaved: bool) -> np.ndarray:
    """Turns x [B, S, H, D] by angles [B or 1, S, R / 2]."""
    x = x.astype(np.float64)
    half = cosines.shape[-1]
    c, s = (t.astype(np.float64)[:, :, None] for t in (cosines, sines))
    first, second = (slice(0, 2 * half, 2), slice(1, 2 * half, 2)) if interleaved else (slice(0, half), slice(half, 2 * half))
    y = x.copy()
    y[..., first] = x[..., first] * c - x[..., second] * s
    y[..., second] = x[..., second] * c + x[..., first] * s
    return y


def angles(rng: np.random.Generator, batch: int, steps: int, count: int, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    turn = rng.uniform(-10, 10, (batch, steps, count // 2))
    return np.cos(turn).astype(TYPES[dtype]), np.sin(turn).astype(TYPES[dtype])


@FEW
@given(batch=st.integers(1, 3), steps=st.integers(1, 5), heads=st.integers(1, 5), half=st.sampled_from([1, 3, 32, 48, 64, 128, 256]),
       part=st.booleans(), interleaved=st.booleans(), head_first=st.booleans(), shared=st.booleans(), types=st.tuples(TYPE, TYPE, TYPE),
       in_place=st.booleans(), seed=st.integers(0, 1 << 30))
def test_pairs_are_rotated(batch: int, steps: int, heads: int, half: int, part: bool, interleaved: bool, head_first: bool, shared: bool,
                           types: tuple[str, str, str], in_place: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((batch, steps, heads, 2 * half)).astype(TYPES[types[0]])
    count = 2 * (half // 2) if part and half > 1 else 2 * half
    cosines, sines = angles(rng, 1 if shared else batch, steps, count, types[1])
    given_x = np.ascontiguousarray(x.transpose(0, 2, 1, 3)) if head_first else x
    to = types[0] if in_place else types[2]
    y, = harness.run("rotary", [given_x, cosines, sines], [(given_x.shape, TYPES[to])], aliases={0: 0} if in_place else {},
                     ints=[int(head_first), int(interleaved), count if count < 2 * half else 0])
    y = (y.transpose(0, 2, 1, 3) if head_first else y).astype(np.float64)
    expected = rotated(x, cosines, sines, interleaved)
    assert (np.abs(y - expected) <= ROUNDING[to] * np.abs(expected) + 2.0**-21 + (2.0**-24 if to == "float16" else 0)).all()


@FEW
@given(batch=st.integers(1, 3), steps=st.integers(1, 4), slots=st.integers(1, 9), heads=st.integers(1, 4), kv_heads=st.integers(1, 3),
       size=st.sampled_from([2, 64, 80, 128, 256]), value_size=st.sampled_from([1, 64, 100]), circular=st.booleans(), sinks=st.integers(0, 3),
       interleaved=st.booleans(), turning=st.booleans(), twice=st.booleans(),
       cache=st.sampled_from(["float32", "float16", "bfloat16", "int8", "float8_e4m3fn", "float8_e4m3fn:scaled"]),
       types=st.tuples(TYPE, TYPE, TYPE), together=st.booleans(), flat=st.booleans(), in_place=st.booleans(), seed=st.integers(0, 1 << 30))
def test_steps_go_rotated_into_the_caches(batch: int, steps: int, slots: int, heads: int, kv_heads: int, size: int, value_size: int, circular: bool,
                                          sinks: int, interleaved: bool, turning: bool, twice: bool, cache: str, types: tuple[str, str, str],
                                          together: bool, flat: bool, in_place: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    cache, _, scaled = cache.partition(":")
    dtype = np.dtype(getattr(ml_dtypes, cache) if hasattr(ml_dtypes, cache) else cache)
    has_scales = bool(scaled) or cache == "int8"
    if together:
        value_size, types = size, (types[0], types[0], types[2])
    q, k, v = (rng.standard_normal((batch, steps, h, d)).astype(TYPES[t])
               for h, d, t in ((heads, size, types[0]), (kv_heads, size, types[1]), (kv_heads, value_size, types[1])))
    caches = [rng.integers(-9, 9, (batch, slots, kv_heads, d)).astype(dtype) for d in (size, value_size)]
    scales = [rng.random((batch, slots, kv_heads)).astype(np.float32) for _ in range(2)] if has_scales else []
    turn = angles(rng, batch, steps, size, "float32") if turning else (None, None)
    sink_turn = angles(rng, batch, steps, size, "float32") if twice else (None, None)
    sinks = min(sinks, slots - 1) if circular else 0
    first = rng.integers(-1, 2 * slots + 2, batch)
    no_scales: list[Any] = [None, None]
    new_steps: list[Any] = [np.concatenate([q, k, v], 2), None, None] if together else [q, k, v]
    given_caches = [c.reshape(batch, slots, -1) for c in caches] if flat else caches
    inputs = [*given_caches, *new_steps, *turn, first, *(scales or no_scales), *sink_turn]
    aliases = {0: 0, 1: 1} | ({3: 8, 4: 9} if has_scales else {}) if in_place else {}
    outputs: list[Any] = [(a.shape, a.dtype) for a in given_caches] + [(q.shape, TYPES[types[2]])] + [(a.shape, a.dtype) for a in scales]
    outputs += [(q.shape, TYPES[types[2]])] if twice else []
    harness.fault()
    found = harness.run("rotary_cache", inputs, outputs, ints=[int(circular), int(interleaved), 0, sinks], aliases=aliases)
    found[:2] = [f.reshape(c.shape) for f, c in zip(found, caches, strict=False)]

    turned = [rotated(t, *turn, interleaved) if turn[0] is not None else t.astype(np.float64) for t in (q, k)]
    for found_q, expected_q in ((found[2], turned[0]), *([(found[-1], rotated(q, *sink_turn, interleaved))] if twice else [])):
        assert (np.abs(found_q.astype(np.float64) - expected_q) <= ROUNDING[types[2]] * np.abs(expected_q) + 2.0**-20).all()
    expected = [c.astype(np.float64) for c in caches]
    sizes = [s.astype(np.float64) for s in scales]
    new = [np.zeros(c.shape, bool) for c in caches]
    faults = {f"batch {b} starts at step -1, which is before the first" for b in range(batch) if first[b] < 0}
    faults |= {f"the cache is full: it has room for {slots} steps, holds {first[b]} in batch {b} and is given {steps} more" for b in range(batch)
               if first[b] + steps > slots and not circular and first[b] >= 0}
    assert harness.fault() in (faults or {None})
    for b in range(batch):
        for s in range(steps):
            slot = first[b] + s
            if first[b] < 0 or (slot >= slots and not circular):
                continue
            if circular and slot >= sinks:
                slot = sinks + (slot - sinks) % (slots - sinks)
            for i, t in enumerate((turned[1], v.astype(np.float64))):
                expected[i][b, slot] = t[b, s]
                new[i][b, slot] = True
                if has_scales:
                    sizes[i][b, slot] = np.abs(t[b, s]).max(axis=-1) / (127 if cache == "int8" else 448)
    for i in range(2):
        stored = found[i].astype(np.float64)
        if not has_scales:
            # Elements between two numbers may be either: the products before are in float32.
            step = ROUNDING.get(cache, 2.0**-4) * 1.01
            least = 2.0**-10 if cache == "float8_e4m3fn" else 0
            assert (np.abs(stored - expected[i])[new[i]] <= step * np.abs(expected[i])[new[i]] + 2.0**-20 + least).all()
            assert (stored == caches[i].astype(np.float64))[~new[i]].all()
            continue
        assert np.allclose(found[3 + i], sizes[i], rtol=1e-5)
        assert np.array_equal(found[i][~new[i]], caches[i][~new[i]])
        apart = np.abs(stored * found[3 + i][..., None].astype(np.float64) - expected[i])[new[i]]
        size_of = np.broadcast_to(sizes[i][..., None], stored.shape)[new[i]]
        bound = 0.5001 * size_of if cache == "int8" else 2.0**-4 * 1.001 * np.abs(expected[i])[new[i]] + 2.0**-9 * size_of
        assert (apart <= bound + 2.0**-20).all()


def test_a_head_with_a_nan_keeps_it_in_its_scale() -> None:
    x = np.ones((1, 3, 2, 8), np.float32)
    x[0, 0, 1, 7] = x[0, 2, 0, 0] = np.nan
    cache, scales = np.zeros((1, 3, 2, 8), np.int8), np.zeros((1, 3, 2), np.float32)
    inputs = [cache, cache, x, x, x, None, None, None, scales, scales]
    found = harness.run("rotary_cache", inputs, [cache, cache, x, scales, scales], ints=[0, 0, 0, 0])
    for written in found[3:]:
        assert np.isnan(written).tolist() == [[[False, True], [False, False], [True, False]]]


def test_what_does_not_fit_is_refused() -> None:
    x = np.zeros((1, 2, 3, 8), np.float32)
    with pytest.raises(harness.KernelError, match=r"cosines and sines are \[1 or 1, 2, 4\], not \[1, 2, 3\]"):
        harness.run("rotary", [x, np.zeros((1, 2, 3), np.float32), np.zeros((1, 2, 3), np.float32)], [(x.shape, np.float32)], ints=[0, 0, 0])
    cache = np.zeros((1, 4, 3, 8), np.int8)
    with pytest.raises(harness.KernelError, match="a cache of int8 needs scales"):
        harness.run("rotary_cache", [cache, cache, x, x, x], [cache, cache, (x.shape, np.float32)], ints=[0, 0, 0, 0], aliases={0: 0, 1: 1})
    cases: list[tuple[list[Any], str]] = [
        ([x, x, x, x, None], "K and V are given both or neither"),
        ([x, x, x, None, None], r"Q \[1, 2, 3, 8\] has fewer heads than the keys and values of a cache \[1, 2, 3, 8\]"),
        ([x, x, x[..., :4], x, x], r"Q \[1, 2, 3, 4\], K \[1, 2, 3, 8\] and V \[1, 2, 3, 8\] do not fit together"),
        ([x.reshape(1, 2, 24), x, x, x[..., :4], x], r"an update of \[1, 2, 3, 4\] cannot be written into a cache of \[1, 2, 24\]"),
    ]
    for inputs, message in cases:
        with pytest.raises(harness.KernelError, match=message):
            harness.run("rotary_cache", inputs, [x.reshape(np.shape(inputs[0])), x, (np.shape(inputs[2]), np.float32)], ints=[0, 0, 0, 0])
    with pytest.raises(harness.KernelError, match="2 of 2 slots stay, so that none is left for a ring"):
        harness.run("rotary_cache", [x, x, x, x, x], [x, x, (x.shape, np.float32)], ints=[1, 0, 0, 2])
    half = np.ones((1, 2, 4), np.float32)
    with pytest.raises(harness.KernelError, match="Q rotated a second time needs an output"):
        harness.run("rotary_cache", [x, x, x, x, x, half, half, None, None, None, half, half], [x, x, (x.shape, np.float32)], ints=[0, 0, 0, 0])
