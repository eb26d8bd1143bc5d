"""A model that is malformed gets an error that says what is wrong and where, and the process lives on."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import ingot
from ingot.errors import CompileError, IngotError, UnsupportedError

X = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])
Y = helper.make_value_info("y", onnx.TypeProto())


def graph(*nodes: onnx.NodeProto, weights: dict[str, np.ndarray] | None = None, opset: int = 20) -> onnx.ModelProto:
    constants = [numpy_helper.from_array(a, n) for n, a in (weights or {}).items()]
    return helper.make_model(helper.make_graph(list(nodes), "g", [X], [Y], constants), opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def valid() -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    return graph(helper.make_node("MatMul", ["x", "w"], ["p"], name="product"), helper.make_node("Relu", ["p"], ["r"]),
                 helper.make_node("ReduceSum", ["r", "axes"], ["y"]),
                 weights={"w": rng.standard_normal((4, 3)).astype(np.float32), "axes": np.array([1])})


@pytest.fixture
def refuse(tmp_path: Path) -> Callable[[onnx.ModelProto | Path], str]:
    """Compiles what must be refused; gives the message, and checks that no file is left."""

    def compile_(model: onnx.ModelProto | Path) -> str:
        before = set(tmp_path.iterdir())
        with pytest.raises(IngotError) as caught:
            ingot.compile(model, tmp_path / "out.ingot")
        assert set(tmp_path.iterdir()) == before
        return str(caught.value)

    return compile_


def test_an_empty_or_truncated_file(refuse: Callable[..., str], tmp_path: Path) -> None:
    whole = valid().SerializeToString()
    for name, content in {"empty": b"", "half": whole[: len(whole) // 2], "text": b"not a model"}.items():
        path = tmp_path / f"{name}.onnx"
        path.write_bytes(content)
        assert f"{name}.onnx: this is not an ONNX model, or it is truncated" in refuse(path)


def test_a_cycle(refuse: Callable[..., str]) -> None:
    message = refuse(graph(helper.make_node("Add", ["x", "y"], ["a"], name="first"), helper.make_node("Relu", ["a"], ["y"], name="second")))
    assert "node 'first' (Add) uses 'y', which comes from node 'second'" in message and "cycle" in message


def test_a_value_that_nothing_gives(refuse: Callable[..., str]) -> None:
    assert "input 'nowhere' is not defined" in refuse(graph(helper.make_node("Relu", ["nowhere"], ["y"], name="lost")))


def test_all_unknown_operators_and_attributes_are_named_at_once(refuse: Callable[..., str]) -> None:
    message = refuse(graph(helper.make_node("Frobnicate", ["x"], ["a"], name="one"), helper.make_node("Frobnicate", ["a"], ["b"], name="two"),
                           helper.make_node("Relu", ["b"], ["y"], name="three", slope=3)))
    for part in ("2 things", "Frobnicate (opset 20): nodes 'one', 'two'", "Relu (opset 20) with attribute 'slope': node 'three'", "ingot.onnx_op"):
        assert part in message


def test_shapes_that_do_not_fit_name_the_node_and_what_it_takes(refuse: Callable[..., str]) -> None:
    message = refuse(graph(helper.make_node("MatMul", ["x", "w"], ["y"], name="product"), weights={"w": np.zeros((5, 3), np.float32)}))
    assert "node 'product' (MatMul, opset 20): shapes [n, 4] and [5, 3] cannot be multiplied: 4 and 5 differ" in message


def external(location: str) -> onnx.ModelProto:
    model = valid()
    weight = next(t for t in model.graph.initializer if t.name == "w")
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value=location)
    return model


def test_external_data_that_is_missing_or_too_short(refuse: Callable[..., str], tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(external("weights.bin").SerializeToString())
    assert "weights.bin" in refuse(path)
    (tmp_path / "weights.bin").write_bytes(b"\0" * 7)
    assert "weights.bin" in refuse(path)


@pytest.mark.parametrize("location", ["../secret.bin", "/etc/hostname", "a/../../secret.bin"])
def test_external_data_never_leaves_the_model_s_folder(refuse: Callable[..., str], tmp_path: Path, location: str) -> None:
    (tmp_path.parent / "secret.bin").write_bytes(b"\0" * 4096)
    path = tmp_path / "model.onnx"
    path.write_bytes(external(location).SerializeToString())
    assert "folder" in refuse(path)


def test_an_external_data_link_to_elsewhere_is_refused(refuse: Callable[..., str], tmp_path: Path) -> None:
    outside = tmp_path.parent / "outside.bin"
    outside.write_bytes(b"\0" * 4096)
    (tmp_path / "link.bin").symlink_to(outside)
    path = tmp_path / "model.onnx"
    path.write_bytes(external("link.bin").SerializeToString())
    assert "folder" in refuse(path)


def test_inputs_of_strings_and_unknown_ranks_are_refused(refuse: Callable[..., str]) -> None:
    strings = valid()
    strings.graph.input[0].type.tensor_type.elem_type = TensorProto.STRING
    assert "strings" in refuse(strings)
    rankless = valid()
    rankless.graph.input[0].type.tensor_type.ClearField("shape")
    assert "--shape x=" in refuse(rankless)


def test_inputs_of_complex_numbers_or_of_more_elements_than_memory_has_are_refused(refuse: Callable[..., str]) -> None:
    complex_ = valid()
    complex_.graph.input[0].type.tensor_type.elem_type = TensorProto.COMPLEX128
    assert "complex numbers" in refuse(complex_)
    huge = valid()
    huge.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2**63 - 1
    assert "more elements than any machine's memory" in refuse(huge)


def test_types_that_an_operator_does_not_take_are_named(refuse: Callable[..., str]) -> None:
    unsigned = graph(helper.make_node("Cast", ["x"], ["u"], to=TensorProto.UINT16), helper.make_node("Neg", ["u"], ["y"], name="sign"))
    assert "node 'sign' (Neg, opset 20): uint16 has no negative numbers" in refuse(unsigned)
    mixed = graph(helper.make_node("Cast", ["x"], ["u"], to=TensorProto.UINT8), helper.make_node("DequantizeLinear", ["u", "s", "z"], ["y"]),
                  weights={"s": np.array(0.1, np.float32), "z": np.array(1, np.int8)})
    assert "the zero point is int8, but the numbers are uint8" in refuse(mixed)


def test_an_extent_that_would_be_negative_is_refused_when_the_model_runs(tmp_path: Path) -> None:
    # Two convolutions without padding, and a reshape to what the exporter computed their length to be.
    nodes = [helper.make_node("Conv", ["x", "k"], ["a"], strides=[5]), helper.make_node("Conv", ["a", "k2"], ["b"], strides=[2]),
             helper.make_node("Shape", ["x"], ["s"], start=2), helper.make_node("Sub", ["s", "ten"], ["d"]),
             helper.make_node("Div", ["d", "five"], ["e"]), helper.make_node("Sub", ["e", "two"], ["f"]),
             helper.make_node("Div", ["f", "two"], ["g"]),
             helper.make_node("Add", ["g", "one"], ["length"]), helper.make_node("Concat", ["minus", "length"], ["to"], axis=0),
             helper.make_node("Reshape", ["b", "to"], ["y"])]
    rng = np.random.default_rng(0)
    weights = {"k": rng.standard_normal((1, 1, 10), np.float32), "k2": rng.standard_normal((1, 1, 3), np.float32), "ten": np.array([10]),
               "five": np.array([5]), "two": np.array([2]), "one": np.array([1]), "minus": np.array([-1])}
    model = helper.make_model(helper.make_graph(nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1, "samples"])], [Y],
                                                [numpy_helper.from_array(a, n) for n, a in weights.items()]),
                              opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    ingot.compile(model, tmp_path / "m.ingot", samples=0)
    loaded = ingot.load(tmp_path / "m.ingot")
    assert loaded.run(x=np.ones((2, 1, 40), np.float32))["y"].shape == (2, 3)
    with pytest.raises(IngotError, match="samples is too small"):
        loaded.run(x=np.ones((2, 1, 4), np.float32))


def test_mutations_of_a_valid_file_never_end_the_process(tmp_path: Path) -> None:
    whole = valid().SerializeToString()
    rng = random.Random(0)
    path = tmp_path / "mutant.onnx"
    compiled = 0
    for _ in range(120):
        mutant = bytearray(whole)
        for _ in range(rng.randint(1, 4)):
            kind, at = rng.randrange(3), rng.randrange(len(mutant))
            if kind == 0:
                mutant[at] = rng.randrange(256)
            elif kind == 1:
                del mutant[at : at + rng.randint(1, 8)]
            else:
                mutant[at:at] = bytes(rng.randrange(256) for _ in range(rng.randint(1, 8)))
        path.write_bytes(bytes(mutant))
        try:
            ingot.compile(path, tmp_path / "mutant.ingot", samples=0)
            compiled += 1
        except IngotError:
            pass
    assert 0 < compiled < 120


def test_errors_belong_to_the_hierarchy() -> None:
    assert issubclass(UnsupportedError, CompileError) and issubclass(CompileError, IngotError)
