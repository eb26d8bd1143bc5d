"""com.microsoft MatMulNBits against float64 from its definition, and against onnxruntime."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

import ingot
from ingot.errors import UnsupportedError
from ingot.runtime.artifact import Artifact

#: Types, and the rounding error of each.
TYPES = {"float32": (np.dtype(np.float32), 2.0**-24), "float16": (np.dtype(np.float16), 2.0**-11),
         "bfloat16": (np.dtype(ml_dtypes.bfloat16), 2.0**-8)}


@dataclass(frozen=True)
class Case:
    """One node."""

    rows: int = 5
    columns: int = 40
    depth: int = 96
    bits: int = 4
    block: int = 32
    zeros: str = ""  # "packed", "floats" or none
    accuracy: int = 0
    bias: bool = False
    ordered: bool = False  # inputs belong to blocks by g_idx
    dtype: str = "float32"
    seed: int = 0

    @property
    def blocks(self) -> int:
        """Blocks of a column."""
        return -(-self.depth // self.block)


@dataclass
class Data:
    """X, and codes [N, blocks, block], scales and zeros [N, blocks]; ``g_idx`` [K] says which block's scales a code takes."""

    x: np.ndarray
    codes: np.ndarray
    scales: np.ndarray
    zeros: np.ndarray
    bias: np.ndarray
    g_idx: np.ndarray

    def weights(self, depth: int) -> np.ndarray:
        """[N, K] in float64."""
        codes = self.codes.reshape(len(self.codes), -1)[:, :depth].astype(np.float64)
        return np.asarray((codes - self.zeros.astype(np.float64)[:, self.g_idx]) * self.scales.astype(np.float64)[:, self.g_idx])


def make(case: Case) -> Data:
    rng = np.random.default_rng(case.seed)
    kind = TYPES[case.dtype][0]
    shape = (case.columns, case.blocks)
    zeros = np.full(shape, 2 ** (case.bits - 1), np.uint8)
    if case.zeros == "packed":
        zeros = rng.integers(0, 2**case.bits, shape).astype(np.uint8)
    elif case.zeros == "floats":
        zeros = rng.uniform(0, 2**case.bits, shape).astype(kind)
    g_idx = np.arange(case.depth) // case.block
    return Data(rng.standard_normal((case.rows, case.depth)).astype(kind), rng.integers(0, 2**case.bits, (*shape, case.block)).astype(np.uint8),
                rng.uniform(0.01, 0.02, shape).astype(kind), zeros, rng.standard_normal(case.columns).astype(kind),
                rng.permutation(g_idx) if case.ordered else g_idx)


def packed(codes: np.ndarray, bits: int) -> np.ndarray:
    """Codes along the last axis as bytes, low bits first."""
    each = (codes[..., None] >> np.arange(bits)) & 1
    return np.packbits(each.reshape(*codes.shape[:-1], -1).astype(np.uint8), axis=-1, bitorder="little")


def model(case: Case, data: Data, **attributes: int) -> onnx.ModelProto:
    kind = helper.np_dtype_to_tensor_dtype(TYPES[case.dtype][0])

    def tensor(name: str, array: np.ndarray) -> onnx.TensorProto:
        return numpy_helper.from_array(array, name)

    initializers = [tensor("b", packed(data.codes, case.bits)), tensor("s", data.scales.ravel())]
    if case.zeros:
        initializers.append(tensor("z", data.zeros if case.zeros == "floats" else packed(data.zeros, case.bits).ravel()))
    if case.bias:
        initializers.append(tensor("c", data.bias))
    if case.ordered:
        initializers.append(tensor("g", data.g_idx.astype(np.int32)))
    inputs = ["x", "b", "s", "z" if case.zeros else "", "g" if case.ordered else "", "c" if case.bias else ""]
    node = helper.make_node("MatMulNBits", inputs, ["y"], domain="com.microsoft", **{
        "K": case.depth, "N": case.columns, "bits": case.bits, "block_size": case.block, "accuracy_level": case.accuracy, **attributes})
    graph = helper.make_graph([node], "g", [helper.make_tensor_value_info("x", kind, ["m", case.depth])],
                              [helper.make_tensor_value_info("y", kind, ["m", case.columns])], initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)], ir_version=10)


def run(made: onnx.ModelProto, x: np.ndarray, folder: Path) -> np.ndarray:
    path = folder / "model.ingot"
    ingot.compile(made, path)
    return np.asarray(ingot.load(path).run({"x": x})["y"]).astype(np.float64)


def bound(case: Case, data: Data, y: np.ndarray) -> np.ndarray:
    """Float32's rounding of sums of K products and of codes less their zeros; rounding X to int8 in addition, by half a unit each."""
    x = np.abs(data.x.astype(np.float64))
    scales = data.scales.astype(np.float64)[:, data.g_idx]
    rounding = (case.depth + 8) * 2.0**-24 * (x @ (2 ** (case.bits + 1) * scales).T + 3)
    if case.accuracy == 4:
        wide = np.zeros((case.rows, case.blocks * case.block))
        order = np.argsort(data.g_idx, kind="stable")
        wide[:, : case.depth] = x[:, order]
        unit = wide.reshape(case.rows, case.blocks, case.block).max(axis=-1, initial=0) / 127
        rounding = rounding + np.repeat(0.501 * unit, case.block, axis=1)[:, : case.depth] @ np.abs(data.weights(case.depth)[:, order]).T
    return rounding + 2 * TYPES[case.dtype][1] * (np.abs(y) + rounding)


CASES = st.builds(Case, rows=st.integers(1, 9), columns=st.integers(1, 70), depth=st.integers(1, 300), bits=st.sampled_from([2, 3, 4, 4, 5, 7, 8]),
                  block=st.sampled_from([16, 32, 64, 128, 256]), zeros=st.sampled_from(["", "packed", "floats"]), accuracy=st.sampled_from([0, 1, 4]),
                  bias=st.booleans(), ordered=st.booleans(), dtype=st.sampled_from(["float32", "float32", "float16", "bfloat16"]),
                  seed=st.integers(0, 2**32 - 1))


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(case=CASES)
def test_a_product_is_its_definition(case: Case, tmp_path: Path) -> None:
    data = make(case)
    expected = data.x.astype(np.float64) @ data.weights(case.depth).T + (data.bias.astype(np.float64) if case.bias else 0)
    found = run(model(case, data), data.x, tmp_path)
    assert (np.abs(found - expected) <= bound(case, data, expected)).all(), case


@pytest.mark.parametrize("accuracy", [0, 4])
@pytest.mark.parametrize("zeros", ["", "packed"])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_results_are_as_near_as_those_of_onnxruntime(bits: int, zeros: str, accuracy: int, tmp_path: Path) -> None:
    case = Case(9, 200, 512, bits, 64, zeros, accuracy)
    data = make(case)
    made = model(case, data)
    exact = data.x.astype(np.float64) @ data.weights(case.depth).T
    theirs = np.abs(onnxruntime.InferenceSession(made.SerializeToString()).run(None, {"x": data.x})[0] - exact)
    ours = np.abs(run(made, data.x, tmp_path) - exact)
    # Both round, each in an order of its own.
    assert ours.max() <= max(1.5 * theirs.max(), 1e-5 * np.abs(exact).max())


def test_a_program_has_one_step(tmp_path: Path) -> None:
    case = Case(bias=True, zeros="packed")
    run(model(case, make(case)), make(case).x, tmp_path)
    program = Artifact(tmp_path / "model.ingot").manifest["targets"][0]["program"]["functions"][0]
    assert [s.get("name") for s in program["steps"]] == ["quantized_matmul"]
    assert "MatMulNBits" in program["steps"][0]["node"]


def test_layers_of_one_order_permute_their_input_once(tmp_path: Path) -> None:
    case = Case(ordered=True, seed=3)
    data = make(case)
    made = model(case, data)
    second = onnx.NodeProto()
    second.CopyFrom(made.graph.node[0])
    second.output[0] = "y2"
    made.graph.node.append(second)
    made.graph.output.append(helper.make_tensor_value_info("y2", onnx.TensorProto.FLOAT, ["m", case.columns]))
    ingot.compile(made, tmp_path / "two.ingot")
    loaded = ingot.load(tmp_path / "two.ingot")
    steps = loaded.manifest["targets"][0]["program"]["functions"][0]["steps"]
    assert sum(step["op"] == "call" for step in steps) == 1  # the permutation
    found = loaded.run({"x": data.x})
    np.testing.assert_array_equal(found["y"], found["y2"])


def test_blocks_of_other_sizes_are_an_error(tmp_path: Path) -> None:
    case = Case(ordered=True)
    data = make(case)
    data.g_idx[:] = 0
    with pytest.raises(UnsupportedError, match="g_idx makes blocks of 0 to 96 inputs; all have block_size, 32"):
        run(model(case, data), data.x, tmp_path)
    data.g_idx[:] = 7
    with pytest.raises(UnsupportedError, match="g_idx does not give each of 96 inputs one of 3 blocks"):
        run(model(case, data), data.x, tmp_path)


def test_what_is_not_supported_is_an_error(tmp_path: Path) -> None:
    def message(case: Case, **attributes: int) -> str:
        with pytest.raises(UnsupportedError) as caught:
            run(model(case, make(case), **attributes), make(case).x, tmp_path)
        return str(caught.value)

    assert "weights of 9 bits are not supported; they have 2 to 8" in message(Case(), bits=9)
    assert "block_size is 48; it is a power of two" in message(Case(), block_size=48)
    assert "does not fit K = 128" in message(Case(), K=128)
    assert "the weights are of shape [40, 3, 16]; 2592 elements are expected" in message(Case(), N=54)
