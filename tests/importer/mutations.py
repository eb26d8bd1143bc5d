"""Mutations of valid ONNX files: of their bytes, and of the fields that protobuf finds in them."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper, parser

_NAMES = ("", "x", "y", "nowhere", "é" * 40)
_NUMBERS = (0, 1, -1, 2, 7, -7, 2**31 - 1, -(2**31), 2**40, 2**63 - 1, -(2**63))
_FLOATS = (0.0, -1.0, 1e-45, 3e38, float("inf"), float("nan"))


def seeds() -> dict[str, onnx.ModelProto]:
    """Small valid models, which between them have most kinds of field: weights, attributes, subgraphs, strings, quantization, functions."""
    rng = np.random.default_rng(0)
    weights = {"w": rng.standard_normal((4, 6), np.float32), "k": rng.standard_normal((3, 2, 3, 3), np.float32),
               "axes": np.array([1]), "b": rng.standard_normal(6).astype(np.float32)}

    def model(text: str, *names: str) -> onnx.ModelProto:
        parsed = parser.parse_model(f'<ir_version: 9, opset_import: ["" : 20, "ai.onnx.ml" : 3]>\n{text}')
        parsed.graph.initializer.extend(numpy_helper.from_array(weights[n], n) for n in names)
        return parsed

    return {
        "layers": model("""g (float[n, 4] x) => (float[n, 6] y) {
            p = MatMul(x, w)
            a = Add(p, b)
            r = Relu(a)
            s = LayerNormalization<axis=-1, epsilon=1e-5>(r, b, b)
            y = Softmax<axis=1>(s)
        }""", "w", "b"),
        "images": model("""g (float[n, 2, h, w] x) => (float[n, c] y) {
            a = Conv<kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[2, 2], dilations=[1, 1], group=1>(x, k)
            m = MaxPool<kernel_shape=[2, 2], ceil_mode=1>(a)
            y = GlobalAveragePool(m)
        }""", "k"),
        "shapes": model("""g (float[n, s, 4] x) => (float[a, b2] y) {
            d = Shape(x)
            one = Constant<value_ints=[-1]>()
            four = Constant<value_ints=[4]>()
            f = Concat<axis=0>(one, four)
            r = Reshape(x, f)
            t = Transpose<perm=[1, 0]>(r)
            two = Constant<value_ints=[2]>()
            y, i = TopK<axis=1, largest=1>(t, two)
        }"""),
        "loop": model("""g (float[n, 4] x, int64 trips) => (float[n, 4] y) {
            go = Constant<value = bool {1}>()
            y = Loop<body = body (int64 i, bool c, float[n, 4] v) => (bool c2, float[n, 4] v2) {
                c2 = Identity(c)
                v2 = Add(v, x)
            }>(trips, go, x)
        }"""),
        "branch": model("""g (float[n, 4] x, bool c) => (float[n, 4] y) {
            y = If<then_branch = t () => (float[n, 4] a) { a = Relu(x) }, else_branch = e () => (float[n, 4] b3) { b3 = Neg(x) }>(c)
        }"""),
        "recurrent": helper.make_model(
            helper.make_graph([helper.make_node("LSTM", ["x", "W", "R", "B"], ["y", "h"], hidden_size=3, direction="bidirectional",
                                                activations=["Sigmoid", "Tanh", "Tanh"] * 2)], "g",
                              [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["t", "n", 2])],
                              [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
                              [numpy_helper.from_array(rng.standard_normal(s).astype(np.float32), n)
                               for n, s in (("W", (2, 12, 2)), ("R", (2, 12, 3)), ("B", (2, 24)))]),
            opset_imports=[helper.make_opsetid("", 20)], ir_version=9),
        "quantized": model("""g (uint8[n, 4] x) => (float[n, 6] y)
            <float s = {0.02}, uint8 z = {128}, int8[4, 6] q = {1,2,3,4,5,6,7,8,9,10,11,12,-1,-2,-3,-4,-5,-6,-7,-8,-9,-10,-11,-12}, int8 zero = {0}> {
            a = DequantizeLinear(x, s, z)
            v = DequantizeLinear(q, s, zero)
            y = MatMul(a, v)
        }"""),
        "strings": model("""g (string[n] x) => (float[n] y) {
            i = ai.onnx.ml.LabelEncoder<keys_strings=["a", "b"], values_int64s=[1, 2], default_int64=-1>(x)
            y = Cast<to=1>(i)
        }"""),
        "trees": helper.make_model(
            helper.make_graph([helper.make_node(
                "TreeEnsembleRegressor", ["x"], ["y"], domain="ai.onnx.ml", n_targets=1, nodes_treeids=[0, 0, 0], nodes_nodeids=[0, 1, 2],
                nodes_featureids=[0, 0, 0], nodes_values=[0.5, 0.0, 0.0], nodes_modes=["BRANCH_LEQ", "LEAF", "LEAF"], nodes_truenodeids=[1, 0, 0],
                nodes_falsenodeids=[2, 0, 0], target_treeids=[0, 0], target_nodeids=[1, 2], target_ids=[0, 0], target_weights=[1.0, 2.0])], "g",
                [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2])], [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 1])]),
            opset_imports=[helper.make_opsetid("", 20), helper.make_opsetid("ai.onnx.ml", 3)], ir_version=9),
    }


def mutated(model: onnx.ModelProto, rng: random.Random) -> bytes:
    """A valid model after one or two mutations."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    if rng.random() < 0.25:
        return _bytes(copy.SerializeToString(), rng)
    for _ in range(rng.choice((1, 1, 2))):
        rng.choice(_EDITS)(copy, rng)
    return copy.SerializeToString()


def _bytes(whole: bytes, rng: random.Random) -> bytes:
    """Flipped bits, bytes that are lost or gained, or an end that is missing."""
    mutant = bytearray(whole)
    if rng.random() < 0.2:
        return bytes(mutant[: rng.randrange(len(mutant))])
    for _ in range(rng.randint(1, 4)):
        kind, at = rng.randrange(3), rng.randrange(len(mutant))
        if kind == 0:
            mutant[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del mutant[at : at + rng.randint(1, 8)]
        else:
            mutant[at:at] = bytes(rng.randrange(256) for _ in range(rng.randint(1, 8)))
    return bytes(mutant)


def _messages(message: Any) -> Iterator[Any]:
    yield message
    for field, value in message.ListFields():
        if field.message_type is not None:
            for child in value if _many(value) else [value]:
                yield from _messages(child)


def _many(value: Any) -> bool:
    return not hasattr(value, "ListFields") and hasattr(value, "__len__") and not isinstance(value, (bytes, str))


def _field(model: onnx.ModelProto, rng: random.Random) -> None:
    """Any field of any message: another value, removed, repeated or in another order."""
    message = rng.choice(list(_messages(model)))
    fields = message.ListFields()
    if not fields:
        return
    field, value = rng.choice(fields)
    if not _many(value):
        if field.message_type is not None or rng.random() < 0.2:
            message.ClearField(field.name)
        else:
            setattr(message, field.name, _other(field, value, rng))
        return
    kind = rng.randrange(4)
    at = rng.randrange(len(value))
    if kind == 0:
        del value[at]
    elif kind == 1:
        value.append(value[at])
    elif kind == 2 and len(value) > 1:
        kept = list(value)
        rng.shuffle(kept)
        message.ClearField(field.name)
        getattr(message, field.name).extend(kept)
    elif field.message_type is None:
        value[at] = _other(field, value[at], rng)


def _other(field: Any, value: Any, rng: random.Random) -> Any:
    if isinstance(value, str):
        return rng.choice(_NAMES)
    if isinstance(value, bytes):
        return _bytes(value, rng) if value else b"\0"
    if isinstance(value, float):
        return rng.choice(_FLOATS)
    if field.enum_type is not None:
        return rng.choice(field.enum_type.values).number
    number = rng.choice(_NUMBERS)
    return number if field.cpp_type in (field.CPPTYPE_INT64, field.CPPTYPE_UINT64) and (number >= 0 or field.cpp_type == field.CPPTYPE_INT64) \
        else rng.randint(0, 30)


def _wire(model: onnx.ModelProto, rng: random.Random) -> None:
    """An input of a node becomes another value, none, or one that comes later: wrong types, missing inputs, cycles."""
    node = rng.choice(model.graph.node)
    names = [n for other in model.graph.node for n in (*other.input, *other.output)] + list(_NAMES)
    if node.input:
        node.input[rng.randrange(len(node.input))] = rng.choice(names)


def _operator(model: onnx.ModelProto, rng: random.Random) -> None:
    """A node becomes one of another operator."""
    schemas = [s for s in onnx.defs.get_all_schemas() if s.domain == ""]
    rng.choice(model.graph.node).op_type = rng.choice(schemas).name


def _type(model: onnx.ModelProto, rng: random.Random) -> None:
    """A declared or stored element type becomes another, or an extent does."""
    tensors: list[Any] = [v.type.tensor_type for v in (*model.graph.input, *model.graph.output) if v.type.HasField("tensor_type")]
    if not tensors:
        return
    declared = rng.choice(tensors)
    if model.graph.initializer and rng.random() < 0.5:
        weight = rng.choice(model.graph.initializer)
        if rng.random() < 0.5 or not weight.dims:
            weight.data_type = rng.randrange(25)
        else:
            weight.dims[rng.randrange(len(weight.dims))] = rng.choice(_NUMBERS)
    elif declared.shape.dim and rng.random() < 0.6:
        declared.shape.dim[rng.randrange(len(declared.shape.dim))].dim_value = rng.choice(_NUMBERS)
    else:
        declared.elem_type = rng.randrange(25)


def _attribute(model: onnx.ModelProto, rng: random.Random) -> None:
    """An attribute has a value of another type, or one is added."""
    nodes = [m for m in _messages(model) if isinstance(m, onnx.NodeProto)]
    node = rng.choice(nodes)
    values: list[Any] = [rng.choice(_NUMBERS), rng.choice(_FLOATS), "text", [1, -2], [0.5, 2.0], ["a", "b"], numpy_helper.from_array(np.ones((2, 0)))]
    name = rng.choice(node.attribute).name if node.attribute and rng.random() < 0.9 else rng.choice(("axis", "to", "perm", "mode"))
    kept = [a for a in node.attribute if a.name != name]
    node.ClearField("attribute")
    node.attribute.extend([*kept, helper.make_attribute(name, rng.choice(values))])


_EDITS: tuple[Callable[[onnx.ModelProto, random.Random], None], ...] = (_field, _field, _wire, _operator, _type, _attribute)
