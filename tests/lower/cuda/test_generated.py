"""Generated code on random shapes, against float64: one model of symbolic extents, whose steps reach every rule."""

from __future__ import annotations

from collections.abc import Callable

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from tests.lower.build import model, relative_error
from tests.lower.cuda import emulated
from tests.lower.cuda.interpreter import Program

pytestmark = pytest.mark.xdist_group("generated")  # one process compiles the program

Array = np.ndarray
_FLOAT = {np.dtype(np.float32): 2e-6, np.dtype(np.float16): 2**-10, np.dtype(ml_dtypes.bfloat16): 2**-7, np.dtype(np.float64): 1e-14}


def _softmax(x: Array, axis: int) -> Array:
    e = np.exp(x - x.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


def _standard(x: Array) -> Array:
    centered = x - x.mean(-1, keepdims=True)
    return centered / np.sqrt((centered**2).mean(-1, keepdims=True) + 1e-5)


#: Output -> (nodes, what they compute of x [a, b, 40], y [b, 40], w [a, b, c]). Extents a, b and c are symbolic, 40 has pieces of 16 bytes.
_CASES: dict[str, tuple[list[tuple[str, list[str], list[str], dict[str, object]]], Callable[[Array, Array, Array], Array]]] = {
    "sum": ([("Add", ["x", "y"], ["sum"], {})], lambda x, y, w: x + y),
    "flat": ([("Mul", ["w", "w"], ["flat_"], {}), ("Tanh", ["flat_"], ["flat"], {})], lambda x, y, w: np.tanh(w * w)),
    "turned": ([("Transpose", ["x"], ["turned"], {"perm": [2, 0, 1]})], lambda x, y, w: x.transpose(2, 0, 1)),
    "joined": ([("Concat", ["x", "w"], ["joined"], {"axis": 2})], lambda x, y, w: np.concatenate([x, w], 2)),
    "rows": ([("Softmax", ["x"], ["rows"], {"axis": -1})], lambda x, y, w: _softmax(x, -1)),
    "odd_rows": ([("Softmax", ["w"], ["odd_rows"], {"axis": -1})], lambda x, y, w: _softmax(w, -1)),
    "columns": ([("Softmax", ["x"], ["columns"], {"axis": 1})], lambda x, y, w: _softmax(x, 1)),
    "mean": ([("ReduceMean", ["x"], ["mean_"], {"keepdims": 1}), ("Sub", ["x", "mean_"], ["mean"], {})], lambda x, y, w: x - x.mean()),
    "least": ([("ReduceMin", ["w", "axes"], ["least"], {"keepdims": 0})], lambda x, y, w: w.min(1)),
    "normal": ([("ReduceMean", ["x", "last"], ["m"], {}), ("Sub", ["x", "m"], ["d"], {}), ("Mul", ["d", "d"], ["dd"], {}),
                ("ReduceMean", ["dd", "last"], ["v"], {}), ("Add", ["v", "epsilon"], ["ve"], {}), ("Sqrt", ["ve"], ["s"], {}),
                ("Div", ["d", "s"], ["normal"], {})], lambda x, y, w: _standard(x)),
    "cut": ([("Slice", ["x", "starts", "ends", "cut_axes"], ["cut"], {})], lambda x, y, w: x[:, :, 8:32]),
    "padded": ([("Pad", ["x", "pads"], ["padded"], {})], lambda x, y, w: np.pad(x, ((0, 0), (1, 2), (8, 0)))),
    "largest": ([("ArgMax", ["x"], ["largest"], {"axis": 2, "keepdims": 0})], lambda x, y, w: x.argmax(2)),
    "half": ([("Cast", ["x"], ["h"], {"to": TensorProto.FLOAT16}), ("Softmax", ["h"], ["half"], {"axis": -1})],
             lambda x, y, w: _softmax(x.astype(np.float16).astype(np.float64), -1)),
    "brain": ([("Cast", ["x"], ["b1"], {"to": TensorProto.BFLOAT16}), ("Add", ["b1", "b1"], ["brain"], {})],
              lambda x, y, w: 2 * x.astype(ml_dtypes.bfloat16).astype(np.float64)),
    "wide": ([("Cast", ["x"], ["dx"], {"to": TensorProto.DOUBLE}), ("Exp", ["dx"], ["wide"], {})], lambda x, y, w: np.exp(x)),
}


@pytest.fixture(scope="module")
def program() -> Program:
    nodes = [helper.make_node(op, inputs, outputs, **attributes) for steps, _ in _CASES.values() for op, inputs, outputs, attributes in steps]
    constants = {"axes": np.array([1]), "last": np.array([-1]), "epsilon": np.array(1e-5, np.float32), "starts": np.array([8]),
                 "ends": np.array([32]), "cut_axes": np.array([2]), "pads": np.array([0, 1, 8, 0, 2, 0])}
    inputs = {"x": ("float32", ["a", "b", 40]), "y": ("float32", ["b", 40]), "w": ("float32", ["a", "b", "c"])}
    return Program(model(nodes, inputs, list(_CASES), constants))


def test_every_rule_is_reached(program: Program) -> None:
    used = {s["kernel"].partition(",")[0] for s in program.steps if s["op"] == "call"}
    assert {"map", "rows", "loops"} <= used
    assert any("a thread" in s.get("kernel", "") for s in program.steps)
    assert "Vec<__half" in program.source and "Vec<float, 4>" in program.source


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 5), st.integers(1, 9), st.integers(1, 70), st.integers(0, 2**32 - 1))
def test_random_shapes_agree_with_float64(program: Program, a: int, b: int, c: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, y, w = (rng.standard_normal(shape).astype(np.float32) for shape in ((a, b, 40), (b, 40), (a, b, c)))
    found = program.run({"x": x, "y": y, "w": w})
    for name, (_, compute) in _CASES.items():
        expected = compute(*(t.astype(np.float64) for t in (x, y, w)))
        assert found[name].shape == expected.shape, name
        if found[name].dtype == np.int64:
            np.testing.assert_array_equal(found[name], expected)
        else:
            assert relative_error(found[name], expected) <= _FLOAT[found[name].dtype], name


def test_tensors_may_start_anywhere(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(emulated, "SHIFT", True)
    test_random_shapes_agree_with_float64.hypothesis.inner_test(program, 3, 4, 24, 0)  # type: ignore[attr-defined]


def test_nan_and_infinity_pass_as_on_a_cpu() -> None:
    names = ["relu", "most", "clipped"]
    nodes = [helper.make_node("Relu", ["x"], ["relu"]), helper.make_node("ReduceMax", ["x"], ["most"], keepdims=0),
             helper.make_node("Clip", ["x", "low", "high"], ["clipped"])]
    constants = {"low": np.array(-1, np.float32), "high": np.array(1, np.float32)}
    program = Program(model(nodes, {"x": ("float32", ["n"])}, names, constants))
    x = np.array([np.nan, -np.inf, np.inf, -2, 0.5, 3], np.float32)
    found = program.run({"x": x})
    np.testing.assert_array_equal(found["relu"], np.maximum(x, 0))
    assert np.isnan(found["most"])
    np.testing.assert_array_equal(found["clipped"][1:], np.clip(x, -1, 1)[1:])
