"""Operators that pick and place elements against NumPy and ONNX's reference evaluator, with symbolic extents and indices known only at run time."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper
from onnx.reference import ReferenceEvaluator

import ingot
from ingot.backend import IngotBackendRep, prepare

FAR = 2**63 - 1
few = settings(max_examples=25, deadline=None, derandomize=True)


def model(text: str, opset: int = 18) -> onnx.ModelProto:
    """A model from a graph in ONNX's textual syntax."""
    return onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : {opset}]>\n{text}')


def one(op: str, inputs: dict[str, str], opset: int = 18, outputs: int = 1, **attributes: Any) -> IngotBackendRep:
    """A compiled model of one node; inputs as ``{"x": "float[n, 3]"}``."""
    declared = [onnx.parser.parse_graph(f"g ({kind} {name}) => () {{}}").input[0] for name, kind in inputs.items()]
    names = [f"y{i}" for i in range(outputs)]
    graph = helper.make_graph([helper.make_node(op, list(inputs), names, **attributes)], "g", declared,
                              [helper.make_value_info(n, onnx.TypeProto()) for n in names])
    return prepare(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)]))


def floats(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape, np.float32)


bounds = st.one_of(st.integers(-9, 9), st.sampled_from([FAR, -FAR - 1, 2**31 - 1, -(2**31)]))


@few
@given(start=st.tuples(bounds, bounds), end=st.tuples(bounds, bounds), step=st.tuples(*[st.sampled_from([1, 2, 3, -1, -2, -3])] * 2))
def test_a_slice_of_symbolic_extents_is_numpys(start: tuple[int, int], end: tuple[int, int], step: tuple[int, int]) -> None:
    node = helper.make_node("Slice", ["x", "starts", "ends", "axes", "steps"], ["y"])
    given_ = (("starts", start), ("ends", end), ("axes", (0, -1)), ("steps", step))
    constants = [onnx.numpy_helper.from_array(np.array(v, np.int64), n) for n, v in given_]
    graph = helper.make_graph([node], "g", [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", "m"])],
                              [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [None, None])], constants)
    compiled = prepare(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]))
    for shape in ((1, 4), (5, 7), (8, 2)):
        x = floats(*shape)
        np.testing.assert_array_equal(compiled.run([x])[0], x[tuple(map(_slice, start, end, step))])


def _slice(start: int, end: int, step: int) -> slice:
    """NumPy's slice: an end before the first element of a backward slice has no number there."""
    return slice(start, end, step) if step > 0 or end > -9 else slice(start, None, step)


def test_a_slice_may_begin_and_end_where_tensors_say() -> None:
    compiled = one("Slice", {"x": "float[n, 5]", "starts": "int64[1]", "ends": "int64[1]"})
    for n, start, end in ((4, 1, 3), (6, -3, FAR), (3, 2, 1), (2, -9, 9), (5, FAR, -1)):
        x = floats(n, 5)
        np.testing.assert_array_equal(compiled.run([x, np.array([start]), np.array([end])])[0], x[start:end])


@pytest.mark.parametrize(("extent", "count", "sizes"), [(7, 3, [3, 3, 1]), (6, 3, [2, 2, 2]), (5, 4, None), (4, 3, [2, 2, 0])])
def test_a_split_into_equal_parts_gives_the_last_one_what_is_left(extent: int, count: int, sizes: list[int] | None) -> None:
    x = floats(2, extent)
    if sizes is None:
        with pytest.raises(ingot.IngotError, match="cannot be split"):
            one("Split", {"x": f"float[2, {extent}]"}, outputs=count, axis=1, num_outputs=count)
        return
    parts = one("Split", {"x": f"float[2, {extent}]"}, outputs=count, axis=1, num_outputs=count).run([x])
    for got, want in zip(parts, np.split(x, np.cumsum(sizes)[:-1], axis=1), strict=True):
        np.testing.assert_array_equal(got, want)


def test_sizes_of_a_split_have_to_add_up() -> None:
    compiled = one("Split", {"x": "float[n, 2]", "sizes": "int64[2]"}, outputs=2)
    a, b = compiled.run([floats(5, 2), np.array([2, 3])])
    assert a.shape == (2, 2) and b.shape == (3, 2)
    with pytest.raises(ingot.IngotError, match="add up"):
        compiled.run([floats(6, 2), np.array([2, 3])])


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("indices", [np.array(1), np.array([-1, 0, 1]), np.array([[0, -2], [1, 1]], np.int32)])
def test_a_gather_takes_indices_of_any_rank_and_negative_ones(axis: int, indices: np.ndarray) -> None:
    kind = f"{'int32' if indices.dtype == np.int32 else 'int64'}[{', '.join(map(str, indices.shape))}]" if indices.ndim else "int64"
    x = floats(3, 2, 4)
    np.testing.assert_array_equal(one("Gather", {"x": "float[n, 2, m]", "i": kind}, axis=axis).run([x, indices])[0], np.take(x, indices, axis))


@pytest.mark.parametrize(("op", "attributes"), [("Gather", {"axis": 1}), ("GatherElements", {"axis": 1}), ("GatherND", {})])
@pytest.mark.parametrize("index", [5, -6, 2**40])
def test_an_index_that_is_out_of_range_is_an_error(op: str, attributes: dict[str, int], index: int) -> None:
    compiled = one(op, {"x": "float[5, n]", "i": "int64[1, 1]"}, **attributes)
    with pytest.raises(ingot.IngotError, match="out of range"):
        compiled.run([floats(5, 5), np.array([[index]])])


@few
@given(seed=st.integers(0, 99), axis=st.integers(-2, 1), reduction=st.sampled_from(["none", "add", "mul", "min", "max"]))
def test_elements_are_scattered_and_gathered_along_an_axis(seed: int, axis: int, reduction: str) -> None:
    random = np.random.default_rng(seed)
    x = random.standard_normal((5, 4)).astype(np.float32)
    shape = (int(random.integers(1, 6)), int(random.integers(1, 5)))
    indices = random.integers(-x.shape[axis], x.shape[axis], shape)
    updates = random.standard_normal(shape).astype(np.float32)
    positive = np.where(indices < 0, indices + x.shape[axis], indices)
    want = x.copy()
    for at in np.ndindex(*shape):
        to = tuple(positive[at] if a == axis % 2 else i for a, i in enumerate(at))
        want[to] = {"none": lambda a, b: b, "add": np.add, "mul": np.multiply, "min": np.minimum, "max": np.maximum}[reduction](want[to], updates[at])
    kinds = {"x": "float[a, b]", "i": "int64[c, d]", "u": "float[c, d]"}
    np.testing.assert_allclose(one("ScatterElements", kinds, axis=axis, reduction=reduction).run([x, indices, updates])[0], want, rtol=1e-6)
    gathered = one("GatherElements", {"x": "float[a, b]", "i": "int64[c, d]"}, axis=axis).run([x, indices])[0]
    trimmed = x[:shape[0]] if axis % 2 == 1 else x[:, :shape[1]]
    np.testing.assert_array_equal(gathered, np.take_along_axis(trimmed, positive, axis))


def test_the_number_of_largest_elements_may_be_computed_while_running() -> None:
    compiled = one("TopK", {"x": "float[n, m]", "k": "int64[1]"}, outputs=2)
    for k in (0, 1, 4):
        x = floats(3, 4)
        values, indices = compiled.run([x, np.array([k])])
        order = np.argsort(-x, axis=1)[:, :k]
        np.testing.assert_array_equal(indices, order)
        np.testing.assert_array_equal(values, np.take_along_axis(x, order, 1))
    for k in (5, -1):
        with pytest.raises(ingot.IngotError):
            compiled.run([floats(3, 4), np.array([k])])


def test_results_of_unknown_length_flow_into_further_computations() -> None:
    parsed = model("""g (float[n, 3] x) => (float[k] y, int64[2] size) {
        zero = Constant<value = float {0.0}>()
        positive = Greater(x, zero)
        found = NonZero(positive)
        at = Transpose(found)
        picked = GatherND(x, at)
        y = Mul(picked, picked)
        size = Shape(at)
    }""")
    compiled = prepare(parsed)
    for x in (floats(4, 3), -np.abs(floats(2, 3)), floats(0, 3)):
        y, size = compiled.run([x])
        np.testing.assert_allclose(y, x[x > 0] ** 2, rtol=1e-6)
        np.testing.assert_array_equal(size, [(x > 0).sum(), 2])


@pytest.mark.parametrize("axis", [None, 0, 1])
def test_unique_and_compress_give_as_many_slices_as_there_are(axis: int | None) -> None:
    options = {} if axis is None else {"axis": axis}
    x = np.array([[1, 1, 3], [1, 1, 3], [0, 0, 2]], np.float32)
    got = one("Unique", {"x": "float[n, m]"}, outputs=4, **options).run([x])
    for g, w in zip(got, np.unique(x, return_index=True, return_inverse=True, return_counts=True, axis=axis), strict=True):
        np.testing.assert_array_equal(g, np.reshape(w, g.shape))
    keep = np.array([True, False, True])
    np.testing.assert_array_equal(one("Compress", {"x": "float[n, m]", "c": "bool[3]"}, **options).run([x, keep])[0], np.compress(keep, x, axis))


def test_a_sequence_is_reversed_up_to_its_length_which_must_be_one() -> None:
    parsed = model("g (float[t, b] x, int64[b] lengths) => (float[t, b] y) { y = ReverseSequence(x, lengths) }")
    compiled, reference = prepare(parsed), ReferenceEvaluator(parsed)
    inputs = {"x": floats(5, 3), "lengths": np.array([5, 1, 3])}
    np.testing.assert_array_equal(compiled.run(inputs)[0], reference.run(None, inputs)[0])
    for wrong in (6, -1):
        with pytest.raises(ingot.IngotError):
            compiled.run({**inputs, "lengths": np.array([1, wrong, 2])})
