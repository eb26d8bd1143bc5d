"""The best elements along an axis against a stable sort: every type of numbers, ties and NaN, rows that threads share."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

import ingot
from ingot.backend import IngotBackendRep, prepare

BFLOAT16 = np.dtype(helper.tensor_dtype_to_np_dtype(onnx.TensorProto.BFLOAT16))
FLOATS = [np.dtype(name) for name in ("float16", "float32", "float64")] + [BFLOAT16]
INTEGERS = [np.dtype(f"{kind}{bits}") for kind in ("int", "uint") for bits in (8, 16, 32, 64)]


def model(dtype: np.dtype, rank: int, axis: int, largest: int) -> onnx.ModelProto:
    """TopK of inputs of any extents; k is an input too."""
    kind = helper.np_dtype_to_tensor_dtype(dtype)
    inputs = [helper.make_tensor_value_info("x", kind, [f"d{i}" for i in range(rank)]),
              helper.make_tensor_value_info("k", onnx.TensorProto.INT64, [1])]
    outputs = [helper.make_tensor_value_info(*output, None) for output in (("values", kind), ("indices", onnx.TensorProto.INT64))]
    node = helper.make_node("TopK", ["x", "k"], ["values", "indices"], axis=axis, largest=largest)
    return helper.make_model(helper.make_graph([node], "g", inputs, outputs), opset_imports=[helper.make_opsetid("", 24)])


@functools.cache
def rows() -> IngotBackendRep:
    return prepare(model(np.dtype(np.float32), 2, 1, 1))


def numbers(rng: np.random.Generator, dtype: np.dtype, shape: tuple[int, ...], few: bool) -> np.ndarray:
    """Numbers all over a type's range, or few different ones; a tenth are the type's limits, for floats NaN and zero of both signs too."""
    if dtype in FLOATS:
        x = (rng.integers(-3, 4, shape) if few else rng.standard_normal(shape) * 100).astype(dtype)
        special = np.array([np.nan, -np.nan, np.inf, -np.inf, 0.0, -0.0], np.float32).astype(dtype)
    else:
        least, most = np.iinfo(dtype).min, np.iinfo(dtype).max
        x = rng.integers(0, 3, shape, dtype) if few else rng.integers(least, most, shape, dtype, endpoint=True)
        special = np.array([least, most, most // 2 + 1, 0], dtype)
    return np.where(rng.random(shape) < 0.1, rng.choice(special, shape), x)


def check(x: np.ndarray, k: int, axis: int, largest: int, found: tuple[np.ndarray, ...]) -> None:
    """Results are a stable sort's, with NaN above all numbers."""
    wide = x.astype(np.float64) if x.dtype in FLOATS else x
    ranks = np.unique(wide, return_inverse=True)[1].reshape(x.shape).astype(np.int64)  # one rank for equal elements; NaN is one and the last
    indices = np.take(np.argsort(-ranks if largest else ranks, axis, kind="stable"), np.arange(k), axis)
    what = f"{x.dtype} {x.shape} axis {axis} k {k}"
    np.testing.assert_array_equal(found[1], indices, what)
    np.testing.assert_array_equal(found[0].astype(wide.dtype), np.take_along_axis(wide, indices, axis), what)


@pytest.mark.parametrize("dtype", [*FLOATS, *INTEGERS], ids=str)
@pytest.mark.parametrize("largest", [0, 1])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_best_are_the_first_of_a_stable_sort(dtype: np.dtype, largest: int, axis: int) -> None:
    rng = np.random.default_rng(0)
    compiled = prepare(model(dtype, 3, axis, largest))
    for shape, most, few in (((3, 700, 2), 1, False), ((2, 5000, 3), 40, True), ((70, 2, 37), 30, True), ((2, 40, 900), 300, False),
                             ((700, 3, 67), 100, False)):
        x, k = numbers(rng, dtype, shape, few), min(most, shape[axis])
        check(x, k, axis, largest, compiled.run([x, np.array([k])]))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(seed=st.integers(0, 999), extent=st.integers(1, 3000), order=st.sampled_from(["random", "ascending", "descending"]), data=st.data())
def test_any_number_of_elements_may_be_asked_for(seed: int, extent: int, order: str, data: st.DataObject) -> None:
    k = data.draw(st.one_of(st.just(extent), st.integers(1, extent), st.integers(1, min(extent, 300))))
    x = numbers(np.random.default_rng(seed), np.dtype(np.float32), (2, extent), bool(seed % 2))
    x = x if order == "random" else np.sort(x)[:, ::1 if order == "ascending" else -1]
    check(x, k, 1, 1, rows().run([np.ascontiguousarray(x), np.array([k])]))


@pytest.mark.parametrize("axis", [0, 1])
def test_threads_that_share_few_long_rows_find_the_same(tmp_path: Path, axis: int) -> None:
    ingot.compile(model(np.dtype(np.float32), 2, axis, 1), tmp_path / "topk.ingot", samples=0)
    for threads in (1, 2, 5):
        loaded = ingot.load(tmp_path / "topk.ingot", threads=threads)
        for count, extent, k in ((1, 100_003, 100), (2, 50_001, 1), (3, 20_011, 9_000), (1, 70_000, 70_000), (20, 3000, 30)):
            x = numbers(np.random.default_rng(extent), np.dtype(np.float32), (count, extent) if axis else (extent, count), extent % 2 == 0)
            found = loaded.run(x=x, k=np.array([k]))
            check(x, k, axis, 1, (found["values"], found["indices"]))
