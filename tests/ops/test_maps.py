"""Maps as inputs: DictVectorizer against onnxruntime and scikit-learn, given as dictionaries and as keys and values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

import ingot
from ingot.backend import prepare

TYPES = {"string": TensorProto.STRING, "int64": TensorProto.INT64, "float32": TensorProto.FLOAT, "float64": TensorProto.DOUBLE}
VOCABULARIES: dict[str, list[Any]] = {"string": ["zeta", "alpha", "", "größe", "Alpha"], "int64": [7, -3, 0, 2**40, 1]}


def value_of(dtype: str, i: int) -> Any:
    return {"string": f"värde {i}", "int64": i * 2**40 - 5, "float32": i / 3, "float64": i / 3}[dtype]


def model(key: str, value: str, extra: int = 0) -> onnx.ModelProto:
    """A map to a row, of as many columns as there are names: ``extra`` more of them than in the table."""
    kind = onnx.TypeProto()
    kind.map_type.key_type = TYPES[key]
    kind.map_type.value_type.tensor_type.elem_type = TYPES[value]
    kind.map_type.value_type.tensor_type.shape.SetInParent()
    names = VOCABULARIES[key] + [f"name {i}" if key == "string" else 100 + i for i in range(extra)]
    node = helper.make_node("DictVectorizer", ["x"], ["y"], domain="ai.onnx.ml", **{f"{key}_vocabulary": names})
    graph = helper.make_graph([node], "maps", [helper.make_value_info("x", kind)],
                              [helper.make_tensor_value_info("y", TYPES[value], [1, len(names)])])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx.ml", 1)], ir_version=8)


@pytest.mark.parametrize(("key", "value"), [("string", "int64"), ("string", "float32"), ("string", "float64"), ("int64", "string"),
                                            ("int64", "float32"), ("int64", "float64")])
def test_a_map_of_every_type_becomes_the_row_of_its_values(key: str, value: str) -> None:
    source = model(key, value, extra=40)
    ours = prepare(source)
    session = None
    if value == "float32":  # the only values that onnxruntime's Python interface makes maps of
        session = onnxruntime.InferenceSession(source.SerializeToString(), providers=["CPUExecutionProvider"])
    unknown: list[Any] = ["nobody", "alph", "alphaa"] if key == "string" else [5, -7, 2**62]
    known = VOCABULARIES[key]
    columns = known + [f"name {i}" if key == "string" else 100 + i for i in range(40)]
    for names in (known[:1], known, [*unknown, *columns[::-1]], unknown):
        given = {name: value_of(value, i + 1) for i, name in enumerate(names)}
        expected = np.array([[given.get(name, "" if value == "string" else 0) for name in columns]], object if value == "string" else value)
        found, = ours.run([given])
        assert found.dtype == expected.dtype and found.shape == (1, 45)
        assert found.tolist() == expected.tolist()
        if session is not None:
            assert session.run(None, {"x": given})[0].tolist() == expected.tolist()


def test_an_empty_map_is_a_row_of_zeros() -> None:
    found, = prepare(model("string", "float32")).run({"x": {}})
    np.testing.assert_array_equal(found, np.zeros((1, 5), np.float32))


def test_a_map_is_given_as_keys_and_values_of_which_the_last_of_equal_ones_counts(tmp_path: Path) -> None:
    ingot.compile(model("string", "float32"), tmp_path / "m.ingot")  # with a sample, from onnxruntime
    loaded = ingot.load(tmp_path / "m.ingot")
    assert [(i.name, i.dtype, i.shape) for i in loaded.inputs] == [("x_keys", "string", ("x_entries",)), ("x_values", "float32", ("x_entries",))]
    assert loaded.manifest["model"]["map_inputs"] == {"x": ["x_keys", "x_values"]}
    keys = np.array(["größe", "no", "größe"], object)
    found = loaded.run(x_keys=keys, x_values=np.array([1, 2, 3], np.float32))["y"]
    np.testing.assert_array_equal(found, [[0, 0, 0, 3, 0]])
    with loaded.session() as session:
        np.testing.assert_array_equal(session.run({"x": {"größe": 3, "no": 2}})["y"], found)
    with pytest.raises(ingot.InputError, match="x_entries"):
        loaded.run(x_keys=keys, x_values=np.zeros(2, np.float32))
    with pytest.raises(ingot.InputError, match="the values of the map 'x' are of type float32"):
        loaded.run(x={"größe": "three"})
    with pytest.raises(ingot.InputError, match="there is no input 'z'"):
        loaded.run(z={"größe": 3})


def test_an_artifact_with_a_map_verifies_itself(tmp_path: Path) -> None:
    from ingot.cli.main import main

    ingot.compile(model("int64", "float32"), tmp_path / "m.ingot")
    assert ingot.load(tmp_path / "m.ingot").manifest["samples"]["reference"].startswith("onnxruntime")
    assert main(["verify", str(tmp_path / "m.ingot")]) == 0


def test_a_map_may_pass_through_a_branch() -> None:
    source = model("int64", "float32")
    inner = helper.make_graph([helper.make_node("DictVectorizer", ["x"], ["a"], domain="ai.onnx.ml", int64_vocabulary=VOCABULARIES["int64"])],
                              "then", [], [helper.make_tensor_value_info("a", TensorProto.FLOAT, [1, 5])])
    other = helper.make_graph([helper.make_node("Constant", [], ["b"], value=onnx.numpy_helper.from_array(np.ones((1, 5), np.float32)))],
                              "else", [], [helper.make_tensor_value_info("b", TensorProto.FLOAT, [1, 5])])
    source.graph.node[0].CopyFrom(helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=other))
    source.graph.input.append(helper.make_tensor_value_info("c", TensorProto.BOOL, []))
    ours = prepare(source)
    np.testing.assert_array_equal(ours.run([{0: 4.0}, np.array(True)])[0], [[0, 0, 4, 0, 0]])
    np.testing.assert_array_equal(ours.run([{0: 4.0}, np.array(False)])[0], np.ones((1, 5)))


def test_a_shape_fixes_or_names_how_many_entries_a_map_has(tmp_path: Path) -> None:
    for extent in (3, "some"):
        ingot.compile(model("string", "float32"), tmp_path / "map.ingot", shapes={"x": [extent]}, samples=0)
        assert [(i.name, list(i.shape)) for i in ingot.load(tmp_path / "map.ingot").inputs] == [("x_keys", [extent]), ("x_values", [extent])]
    with pytest.raises(ingot.CompileError, match=r"input 'x_keys' has 1 dimensions; the shape \[2, 3\] has 2"):
        ingot.compile(model("string", "float32"), tmp_path / "map.ingot", shapes={"x": [2, 3]})


def test_the_names_of_a_maps_tensors_must_be_free() -> None:
    source = model("string", "float32")
    source.graph.input.append(helper.make_tensor_value_info("x_values", TensorProto.FLOAT, [1]))
    with pytest.raises(ingot.UnsupportedError, match="values of the map 'x' would be the input 'x_values'"):
        prepare(source)


@pytest.mark.parametrize("attributes", [{"map_form": "DENSE"}, {"map_form": "DENSE", "cast_to": "TO_INT64"},
                                        {"map_form": "SPARSE", "max_map": 6}, {"map_form": "SPARSE", "max_map": 9, "cast_to": "TO_INT64"}])
def test_a_map_of_integers_is_cast_to_a_row(attributes: dict[str, Any]) -> None:
    source = model("int64", "float32")
    source.graph.node[0].CopyFrom(helper.make_node("CastMap", ["x"], ["y"], domain="ai.onnx.ml", **attributes))
    source.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", TYPES["int64" if "cast_to" in attributes else "float32"], [1, None]))
    session = onnxruntime.InferenceSession(source.SerializeToString(), providers=["CPUExecutionProvider"])
    ours = prepare(source)
    for given in ({5: 1.5, 0: -2.5, 8: 3.0, 2**40: 7.0}, {3: 4.0}):
        expected, = session.run(None, {"x": given})
        found, = ours.run([given])
        assert found.dtype == expected.dtype and found.tolist() == expected.tolist()
    if attributes["map_form"] == "SPARSE":
        with pytest.raises(ingot.ExecutionError, match="-1"):
            ours.run([{-1: 2.0}])


@pytest.mark.parametrize(("attributes", "message"), [({}, "none of int64_vocabulary and string_vocabulary"),
                                                     ({"int64_vocabulary": [1, 2]}, "keys of type int64 do not go with an input of type string"),
                                                     ({"string_vocabulary": ["a", "b", "a"]}, "stands twice")])
def test_a_vocabulary_that_cannot_be_is_refused(attributes: dict[str, Any], message: str) -> None:
    source = model("string", "float32")
    source.graph.node[0].CopyFrom(helper.make_node("DictVectorizer", ["x"], ["y"], domain="ai.onnx.ml", **attributes))
    with pytest.raises(ingot.UnsupportedError, match=message):
        prepare(source)
