"""If, Loop, Scan, sequences and optionals against ONNX's reference evaluator, with shapes that are known only while running."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

import ingot
from ingot.backend import prepare


def model(text: str, opset: int = 18) -> onnx.ModelProto:
    """A model from a graph in ONNX's textual syntax."""
    return onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : {opset}]>\n{text}')


def check(text: str, *runs: dict[str, Any], opset: int = 18) -> None:
    """Runs one compiled model on several inputs; each output is what the reference evaluator gives."""
    parsed = model(text, opset)
    compiled, reference = prepare(parsed), ReferenceEvaluator(parsed)
    for inputs in runs:
        for got, want in zip(compiled.run(inputs), reference.run(None, inputs), strict=True):
            for g, w in zip(*[(v if isinstance(v, list) else [v]) for v in (got, want)], strict=True):
                assert g.dtype == w.dtype
                np.testing.assert_allclose(g, w, rtol=1e-6, atol=1e-6)


def floats(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape, np.float32)


TRUE, FALSE = np.array(True), np.array(False)


def test_a_branch_is_chosen_while_running_and_sees_outer_values() -> None:
    check("""g (bool c, float[n, 3] x) => (float[n, 3] y) {
        doubled = Add(x, x)
        y = If(c) <then_branch = a () => (float[n, 3] p) { p = Neg(doubled) }, else_branch = b () => (float[n, 3] q) { q = Identity(x) }>
    }""", {"c": TRUE, "x": floats(2, 3)}, {"c": FALSE, "x": floats(2, 3)}, {"c": TRUE, "x": floats(5, 3)})


def test_branches_may_give_different_extents() -> None:
    check("""g (bool c, float[n, 3] x) => (float[m, 3] z) {
        y = If(c) <then_branch = a () => (float[m, 3] p) { p = Concat<axis = 0>(x, x) }, else_branch = b () => (float[m, 3] q) { q = Identity(x) }>
        z = Mul(y, y)
    }""", {"c": TRUE, "x": floats(2, 3)}, {"c": FALSE, "x": floats(2, 3)})


def test_branches_of_different_rank_need_a_condition_that_is_known() -> None:
    text = """g (bool c, float[2, 3] x) => (float y) {
        y = If(c) <then_branch = a () => (float p) { p = ReduceSum<keepdims = 0>(x) }, else_branch = b () => (float[2, 3] q) { q = Identity(x) }>
    }"""
    check(text, {"c": TRUE, "x": floats(2, 3)}, {"c": FALSE, "x": floats(2, 3)})
    with pytest.raises(ingot.UnsupportedError, match="condition must be known while compiling"):
        ingot.compile(model(text), "unwritten.ingot", samples=0)


def test_a_condition_about_shapes_is_decided_by_symbolic_extents() -> None:
    check("""g (float[n, 3] x) => (float[n, 3] y) {
        shape = Shape(x)
        zero = Constant<value = int64 {0}>()
        rows = Gather(shape, zero)
        two = Constant<value = int64 {2}>()
        small = Less(rows, two)
        y = If(small) <then_branch = a () => (float[n, 3] p) { p = Neg(x) }, else_branch = b () => (float[n, 3] q) { q = Abs(x) }>
    }""", {"x": floats(1, 3)}, {"x": floats(4, 3)})


def test_a_carried_value_may_grow_in_each_iteration() -> None:
    check("""g (int64 m, float[n, 2] x) => (float[k, 2] y) {
        keep = Constant<value = bool {1}>()
        y = Loop(m, keep, x) <body = b (int64 i, bool c, float[j, 2] a) => (bool d, float[l, 2] e) {
            d = Identity(c)
            e = Concat<axis = 0>(a, x)
        }>
    }""", *[{"m": np.array(m), "x": floats(n, 2)} for m, n in ((0, 2), (1, 1), (3, 2), (7, 1))])


def test_a_loop_stops_when_its_condition_fails_and_stacks_its_results() -> None:
    compiled = prepare(model("""g (int64 m, float limit) => (float last, float[k] rows, int64[k] numbers) {
        keep = Constant<value = bool {1}>()
        start = Constant<value = float {1.0}>()
        last, rows, numbers = Loop(m, keep, start) <body = b (int64 i, bool c, float a) => (bool d, float e, float r, int64 n) {
            e = Add(a, a)
            d = Less(e, limit)
            r = Neg(e)
            n = Identity(i)
        }>
    }"""))
    for m, limit, count in ((10, 9, 4), (2, 100, 2), (40, 1e9, 30)):
        last, rows, numbers = compiled.run({"m": np.array(m), "limit": np.array(limit, np.float32)})
        np.testing.assert_array_equal(rows, -(2.0 ** np.arange(1, count + 1)))
        np.testing.assert_array_equal(numbers, np.arange(count))
        assert last == 2.0**count


def test_a_loop_that_never_runs_gives_its_initial_values_and_empty_results() -> None:
    parsed = model("""g (int64 m, bool c, float[n] x) => (float[n] last, float[k, n] rows) {
        last, rows = Loop(m, c, x) <body = b (int64 i, bool c0, float[n] a) => (bool d, float[n] e, float[n] r) {
            d = Identity(c0)
            e = Add(a, a)
            r = Identity(e)
        }>
    }""")
    compiled = prepare(parsed)
    x = floats(3)
    for m, c in ((0, True), (5, False)):
        last, rows = compiled.run({"m": np.array(m), "c": np.array(c), "x": x})
        np.testing.assert_array_equal(last, x)
        assert rows.shape == (0, 3)


def test_loops_nest_and_use_large_weights_of_the_outermost_graph() -> None:
    text = """g (int64 m, float[n, 80] x) => (float[n, 80] y) {
        keep = Constant<value = bool {1}>()
        y = Loop(m, keep, x) <body = outer (int64 i, bool c, float[n, 80] a) => (bool d, float[n, 80] e) {
            d = Identity(c)
            e = Loop(m, c, a) <body = inner (int64 j, bool c2, float[n, 80] f) => (bool d2, float[n, 80] h) {
                d2 = Identity(c2)
                p = MatMul(f, w)
                h = Tanh(p)
            }>
        }>
    }"""
    parsed = model(text)
    parsed.graph.initializer.append(onnx.numpy_helper.from_array(floats(80, 80) / 9, "w"))
    inputs = {"m": np.array(2), "x": floats(3, 80)}
    want = ReferenceEvaluator(parsed).run(None, inputs)[0]
    np.testing.assert_allclose(prepare(parsed).run(inputs)[0], want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("axis", "backwards"), [(0, 0), (1, 0), (1, 1), (-1, 1)])
def test_a_scan_reads_and_writes_along_any_axis_in_either_direction(axis: int, backwards: int) -> None:
    compiled = prepare(model(f"""g (float[p] s, float[q, r] x) => (float[p] last, float[q, r] sums) {{
        last, sums = Scan<num_scan_inputs = 1, scan_input_axes = [{axis}], scan_input_directions = [{backwards}], scan_output_axes = [{axis}],
                          scan_output_directions = [{backwards}], body = b (float[p] a, float[k] row) => (float[p] e, float[p] t) {{
            e = Add(a, row)
            t = Identity(e)
        }}>(s, x)
    }}"""))
    for shape in ((4, 3), (7, 3), (4, 5)):
        x = floats(*shape)
        s = floats(shape[1] if axis == 0 else shape[0])
        steps = np.moveaxis(x, axis, 0)[::-1 if backwards else 1]
        sums = s + np.cumsum(steps, axis=0)
        last, got = compiled.run({"s": s, "x": x})
        np.testing.assert_allclose(last, sums[-1], atol=1e-5)
        np.testing.assert_allclose(got, np.moveaxis(sums[::-1 if backwards else 1], 0, axis), atol=1e-5)


def test_an_item_of_a_sequence_is_picked_while_running_if_all_have_one_shape() -> None:
    check("""g (float[n] a, float[n] b, int64 i) => (float[n] y) {
        s = SequenceConstruct(a, b)
        y = SequenceAt(s, i)
    }""", {"a": floats(3), "b": -floats(3), "i": np.array(1)}, {"a": floats(4), "b": -floats(4), "i": np.array(-2)})


def test_a_sequence_input_becomes_part_of_the_model_and_a_sequence_output_a_list() -> None:
    check("""g (seq(float[n]) s, float[m] x) => (seq(float[n]) t, int64 count) {
        one = Constant<value = int64 {1}>()
        t = SequenceInsert(s, x, one)
        count = SequenceLength(t)
    }""", {"s": [floats(2), floats(3)], "x": floats(4)}, {"s": [floats(1), floats(2), floats(3)], "x": floats(4)})


def test_a_sequence_that_grows_an_unknown_number_of_times_is_refused() -> None:
    parsed = model("""g (float[n] x, bool c) => (float[k] y) {
        s = SequenceEmpty()
        t = Loop(, c, s) <body = b (int64 i, bool c0, seq(float[n]) q) => (bool d, seq(float[n]) r) {
            r = SequenceInsert(q, x)
            sum = ReduceSum<keepdims = 0>(x)
            zero = Constant<value = float {0.0}>()
            d = Less(sum, zero)
        }>
        y = ConcatFromSequence<axis = 0>(t)
    }""")
    with pytest.raises(ingot.UnsupportedError, match="condition of a loop over sequences must be known"):
        prepare(parsed).run({"x": floats(3), "c": TRUE})


def test_a_position_that_a_sequence_does_not_have_is_an_error() -> None:
    with pytest.raises(ingot.UnsupportedError, match="position 2 does not exist in a sequence of 2"):
        prepare(model("""g (float[n] a) => (float[n] y) {
            s = SequenceConstruct(a, a)
            i = Constant<value = int64 {2}>()
            y = SequenceAt(s, i)
        }"""))


def test_a_sequence_where_a_tensor_is_needed_is_an_error() -> None:
    with pytest.raises(ingot.UnsupportedError, match="is a sequence, a map or a missing optional, where a tensor is needed"):
        prepare(model("g (float[n] a) => (float[n] y) { s = SequenceConstruct(a, a)\n y = Relu(s) }"))


def test_an_empty_optional_has_no_element_to_get() -> None:
    with pytest.raises(ingot.UnsupportedError, match="the optional has no element"):
        prepare(model("g (float[n] a) => (float[n] y) { o = Optional<type = float[n]>()\n y = OptionalGetElement(o) }"))


def test_integers_that_decide_a_rank_are_constants_of_the_backend() -> None:
    """What decides is computed from an input, in a body too: the backend compiles anew for each value of the input."""
    text = """
g (float[n] x, int64 k) => (float y) {
    one = Constant <value_int: int = 1> ()
    more = Add (k, one)
    flat = Equal (more, one)
    y = If (flat) <then_branch = a () => (u) { u = Identity (x) }, else_branch = b () => (v) { row = Constant <value_ints: ints = [0]> ()
        v = Unsqueeze (x, row) }>
}"""
    compiled = prepare(model(text))
    x = np.arange(5, dtype=np.float32)
    for k, shape in ((0, (5,)), (3, (1, 5)), (0, (5,))):
        assert compiled.run([x, np.int64(k)])[0].shape == shape
    assert compiled.constant_inputs == ["k"]
