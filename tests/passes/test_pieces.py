"""Batches whose rows depend on nothing of each other are recognized, and large ones run in pieces, with the results of all at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tvm
from onnx.helper import make_node as node

import ingot
from ingot.importer.model import import_model
from ingot.lower import targets
from ingot.passes.pieces import independent_rows
from tests.lower.build import model, relative_error

IMAGES = {"x": ("float32", ["batch", 3, "height", "width"])}
ROWS = {"x": ("float32", ["batch", 6])}
TWO = {"x": ("float32", ["batch", 6]), "z": ("float32", ["batch", 6])}
STEPS = {"x": ("float32", ["batch", "steps", 8])}


def weights(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).standard_normal(shape).astype(np.float32)


CONVOLUTION = [node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]), node("Relu", ["c"], ["r"]), node("GlobalAveragePool", ["r"], ["g"]),
               node("Flatten", ["g"], ["f"]), node("Gemm", ["f", "m"], ["y"])]
SCORES = [node("Transpose", ["x"], ["t"], perm=[0, 2, 1]), node("MatMul", ["x", "t"], ["s"]), node("Softmax", ["s"], ["p"]),
          node("MatMul", ["p", "x"], ["y"])]
INDEPENDENT: dict[str, tuple[Any, ...]] = {
    "a network of images": (CONVOLUTION, IMAGES, {"w": weights(4, 3, 3, 3), "m": weights(4, 5)}),
    "pooling and a transposed convolution": ([node("MaxPool", ["x"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
                                              node("ConvTranspose", ["p", "w"], ["y"], strides=[2, 2])], IMAGES, {"w": weights(3, 4, 2, 2)}),
    "attention": (SCORES, STEPS, {}),
    "rows that are reshaped and back": ([node("Reshape", ["x", "flat"], ["f"]), node("MatMul", ["f", "m"], ["p"]),
                                         node("Reshape", ["p", "rows"], ["y"])], ROWS,
                                        {"flat": np.array([-1, 2]), "rows": np.array([-1, 9]), "m": weights(2, 3)}),
    "two inputs": ([node("Add", ["x", "z"], ["y"])], TWO, {}),
    "an input that rows share": ([node("Mul", ["x", "z"], ["y"])], {"x": ROWS["x"], "z": ("float32", [1, 6])}, {}),
    "a constant for each row": ([node("Shape", ["x"], ["s"], end=1), node("Concat", ["s", "six"], ["d"], axis=0), node("Expand", ["one", "d"], ["e"]),
                                 node("Concat", ["e", "x"], ["y"], axis=1)], ROWS, {"six": np.array([6]), "one": np.ones((1, 1), np.float32)}),
    "other axes reversed": ([node("Slice", ["x", "last", "end", "axis", "back"], ["y"])], ROWS,
                            {"last": np.array([-1]), "end": np.array([-99]), "axis": np.array([1]), "back": np.array([-1])}),
}
DEPENDENT: dict[str, tuple[Any, ...]] = {
    "a mean over the batch": ([node("ReduceMean", ["x", "axis"], ["m"]), node("Sub", ["x", "m"], ["y"])], ROWS, {"axis": np.array([0])}),
    "softmax over the batch": ([node("Softmax", ["x"], ["y"], axis=0)], ROWS, {}),
    "rows reversed": ([node("Slice", ["x", "last", "end", "axis", "back"], ["y"])], ROWS,
                      {"last": np.array([-1]), "end": np.array([-99]), "axis": np.array([0]), "back": np.array([-1])}),
    "less the first row": ([node("Slice", ["x", "zero", "one"], ["f"]), node("Sub", ["x", "f"], ["y"])], ROWS,
                           {"zero": np.array([0]), "one": np.array([1])}),
    "rows twice": ([node("Concat", ["x", "x"], ["y"], axis=0)], ROWS, {}),
    "products of rows": ([node("Transpose", ["x"], ["t"], perm=[1, 0]), node("MatMul", ["x", "t"], ["y"])], ROWS, {}),
    "sums of rows so far": ([node("CumSum", ["x", "axis"], ["y"])], ROWS, {"axis": np.array(0)}),
    "the number of the row": ([node("Shape", ["x"], ["s"], end=1), node("Squeeze", ["s"], ["n"]), node("Range", ["zero", "n", "one"], ["i"]),
                               node("Cast", ["i"], ["f"], to=1), node("Unsqueeze", ["f", "axis"], ["u"]), node("Add", ["x", "u"], ["y"])], ROWS,
                              {"zero": np.array(0), "one": np.array(1), "axis": np.array([1])}),
    "the number of rows": ([node("Shape", ["x"], ["s"], end=1), node("Cast", ["s"], ["f"], to=1), node("Div", ["x", "f"], ["y"])], ROWS, {}),
    "one scale for all": ([node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]), node("DequantizeLinear", ["q", "s", "z"], ["y"])], ROWS, {}),
    "rows that a reshape mixes": ([node("Reshape", ["x", "wide"], ["w"]), node("Softmax", ["w"], ["s"]), node("Reshape", ["s", "rows"], ["y"])], ROWS,
                                  {"wide": np.array([3, -1]), "rows": np.array([-1, 6])}),
    "an output without rows": ([node("ReduceMax", ["x"], ["y"], keepdims=0)], ROWS, {}),
}


def rows_of(nodes: Any, inputs: Any, constants: Any) -> str | None:
    return independent_rows(import_model(model(nodes, inputs, ["y"], constants), source="test"), tvm.target.Target(targets.find("cpu").llvm))


@pytest.mark.parametrize("case", INDEPENDENT)
def test_rows_that_are_independent(case: str) -> None:
    assert rows_of(*INDEPENDENT[case]) == "batch"


@pytest.mark.parametrize("case", DEPENDENT)
def test_rows_that_are_not(case: str) -> None:
    assert rows_of(*DEPENDENT[case]) is None


@pytest.fixture(scope="module")
def image_network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pieces") / "images.ingot"
    nodes = [node("Mul", ["x", "gain"], ["s"]), node("Conv", ["s", "w"], ["c"], pads=[1, 1, 1, 1]), node("Relu", ["c"], ["r"]),
             node("GlobalAveragePool", ["r"], ["g"]), node("Flatten", ["g"], ["y"]), node("ReduceMax", ["x", "axes"], ["m"], keepdims=0)]
    inputs = {"x": ("float32", ["batch", 3, "height", "width"]), "gain": ("float32", [3, 1, 1])}
    built = model(nodes, inputs, ["y", "m"], {"w": weights(24, 3, 3, 3), "axes": np.array([2, 3])})
    ingot.compile(built, path, samples=0)
    return path


def images(count: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(count)
    return {"x": random.standard_normal((count, 3, 160, 200)).astype(np.float32), "gain": np.array([1, 2, 3], np.float32).reshape(3, 1, 1)}


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_a_large_batch_is_computed_in_pieces(image_network: Path, threads: int) -> None:
    loaded = ingot.load(image_network, threads=threads)
    session = loaded.session()
    for count in (1, 31, 0, 40):  # one image takes 3 MB in the convolution
        given = images(count)
        outputs = session.run(given)
        assert outputs["y"].shape == (count, 24)
        for row in {0, count // 3, count - 1} if count else ():
            alone = loaded.run({"x": given["x"][row:row + 1], "gain": given["gain"]})
            assert relative_error(outputs["y"][row:row + 1], alone["y"]) < 1e-6
            np.testing.assert_array_equal(outputs["m"][row:row + 1], alone["m"])


def test_outputs_of_pieces_go_to_memory_of_the_callers(image_network: Path) -> None:
    session = ingot.load(image_network, threads=2).session()
    given = images(33)
    expected = session.run(given)
    bound = np.full((33, 24), np.nan, np.float32)
    session.bind_output("y", bound)
    found = session.run(given)
    np.testing.assert_array_equal(bound, expected["y"])
    np.testing.assert_array_equal(found["m"], expected["m"])


def test_pieces_take_the_memory_of_one(image_network: Path) -> None:
    loaded = ingot.load(image_network, threads=2)
    sizes = [loaded.memory(batch=batch, height=160, width=200) for batch in (1, 8, 80, 800)]
    assert sizes[0] < sizes[1] < sizes[2] < 48 << 20
    assert sizes[3] < 48 << 20


def test_pieces_are_one_run_of_a_profile(image_network: Path) -> None:
    session = ingot.load(image_network, threads=2).session()
    session.profiling = True
    for _ in range(3):
        session.run(images(32))
    nanoseconds, runs = session.profile()
    assert runs == 3
    assert sum(nanoseconds) > 0


def test_extents_that_differ_are_refused_before_any_piece(tmp_path: Path) -> None:
    ingot.compile(model([node("Add", ["x", "z"], ["y"])], TWO, ["y"]), tmp_path / "sum.ingot", samples=0, bounds={"batch": 2_000_000})
    loaded = ingot.load(tmp_path / "sum.ingot", threads=2)
    assert loaded.manifest["targets"][0]["program"]["rows"] == "batch"
    x = np.arange(6 * 1_000_000, dtype=np.float32).reshape(-1, 6)  # 72 MB are read and written
    np.testing.assert_array_equal(loaded.run({"x": x, "z": x})["y"], x + x)
    with pytest.raises(ingot.InputError, match="batch"):
        loaded.run({"x": x, "z": x[:-1]})
    with pytest.raises(ingot.InputError, match="2000000"):
        loaded.run({"x": np.zeros((2_000_001, 6), np.float32), "z": np.zeros((2_000_001, 6), np.float32)})
