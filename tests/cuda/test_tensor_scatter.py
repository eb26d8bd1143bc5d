"""The CUDA kernel `tensor_scatter` against the definition."""

from __future__ import annotations

from typing import Any

import harness
import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

SAME = ["float32", "float16", "bfloat16", "int8", "uint8", "bool", "int16", "int32", "int64", "float64", "float8_e4m3fn"]


def numpy_type(name: str) -> Any:
    return np.dtype(getattr(ml_dtypes, name) if hasattr(ml_dtypes, name) else name)


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(batch=st.integers(0, 3), before=st.lists(st.integers(1, 3), max_size=2), slots=st.integers(1, 9), steps=st.integers(0, 12),
       behind=st.lists(st.sampled_from([1, 2, 3, 4, 8, 16, 20]), max_size=2), circular=st.booleans(), sinks=st.integers(0, 3), starts=st.booleans(),
       long=st.booleans(), types=st.sampled_from([*((t, t) for t in SAME), ("float16", "float32"), ("bfloat16", "float32")]),
       in_place=st.booleans(), seed=st.integers(0, 1 << 30))
def test_steps_go_where_they_belong(batch: int, before: list[int], slots: int, steps: int, behind: list[int], circular: bool, sinks: int,
                                    starts: bool, long: bool, types: tuple[str, str], in_place: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    sinks = min(sinks, slots - 1) if circular else 0
    cache = (rng.standard_normal((batch, *before, slots, *behind)) * 9).astype(numpy_type(types[0]))
    update = (rng.standard_normal((batch, *before, steps, *behind)) * 9).astype(numpy_type(types[1]))
    first = rng.integers(-1, 2 * slots, batch).astype(np.int64 if long else np.int32) if starts else None
    axis = 1 + len(before)
    harness.fault()
    found, = harness.run("tensor_scatter", [cache, update, first], [(cache.shape, cache.dtype)], ints=[axis, int(circular), sinks],
                         aliases={0: 0} if in_place else {})
    expected = np.moveaxis(cache.copy(), axis, 1)
    new = np.moveaxis(update, axis, 1).astype(cache.dtype)
    faults = set()
    for b in range(batch):
        start = 0 if first is None else int(first[b])
        for s in range(steps):
            slot = start + s
            if circular and slot >= sinks:
                slot = sinks + (slot - sinks) % (slots - sinks)
            if start >= 0 and slot < slots:
                expected[b, slot] = new[b, s]
            elif start < 0:
                faults.add(f"batch {b} starts at step {start}, which is before the first")
            else:
                faults.add(f"the cache is full: it has room for {slots} steps, holds {start} in batch {b} and is given {steps} more")
    assert harness.fault() in (faults or {None})
    assert np.moveaxis(found, axis, 1).tobytes() == np.ascontiguousarray(expected).tobytes()


def test_what_does_not_fit_is_refused() -> None:
    cache = np.zeros((2, 4, 8), np.float16)
    with pytest.raises(harness.KernelError, match="a cache of float16 does not take an update of int32"):
        harness.run("tensor_scatter", [cache, cache.astype(np.int32)], [(cache.shape, np.float16)], ints=[1, 0, 0])
    with pytest.raises(harness.KernelError, match="4 of 4 slots stay"):
        harness.run("tensor_scatter", [cache, cache], [(cache.shape, np.float16)], ints=[1, 1, 4])
    with pytest.raises(harness.KernelError, match="cannot be written into a cache"):
        harness.run("tensor_scatter", [cache, cache[:, :, :4].copy()], [(cache.shape, np.float16)], ints=[1, 0, 0])
