"""float64 models computed in float32: the model is rewritten before it is imported. Its inputs and outputs keep their type."""

from __future__ import annotations

from collections.abc import Iterable

import onnx
from onnx import TensorProto, helper, numpy_helper

#: Attributes that name the type of a result: (operator, attribute).
_TYPES = {("Cast", "to"), ("Multinomial", "dtype"), ("EyeLike", "dtype"), ("RandomNormal", "dtype"), ("RandomNormalLike", "dtype"),
          ("RandomUniform", "dtype"), ("RandomUniformLike", "dtype"), ("Bernoulli", "dtype"), ("BlackmanWindow", "output_datatype"),
          ("HannWindow", "output_datatype"), ("HammingWindow", "output_datatype"), ("MelWeightMatrix", "output_datatype"),
          ("DequantizeLinear", "output_dtype"), ("SequenceEmpty", "dtype")}


def uses_float64(model: onnx.ModelProto) -> bool:
    """Whether a model has inputs or weights in float64."""
    return any(v.type.tensor_type.elem_type == TensorProto.DOUBLE for v in model.graph.input) or any(
        t.data_type == TensorProto.DOUBLE and (len(t.dims) > 1 or any(d > 1 for d in t.dims)) for t in model.graph.initializer)


def single_precision(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of a model that computes in float32 what it computed in float64. Weights are converted when they are written."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    wide = {v.name for v in graph.input if v.type.tensor_type.elem_type == TensorProto.DOUBLE}
    results = {v.name for v in graph.output if v.type.tensor_type.elem_type == TensorProto.DOUBLE}
    constants = {t.name for t in graph.initializer if t.data_type == TensorProto.DOUBLE}
    narrow = {name: f"{name}/float32" for name in wide | results | constants}
    before = [helper.make_node("Cast", [name], [narrow[name]], to=TensorProto.FLOAT) for name in sorted(wide | constants)]
    after = [helper.make_node("Cast", [narrow[name]], [name], to=TensorProto.DOUBLE) for name in sorted(results - wide - constants)]
    nodes = list(graph.node)
    _narrow(nodes, narrow)
    del graph.node[:]
    graph.node.extend([*before, *nodes, *after])
    del graph.value_info[:]
    for function in result.functions:
        _narrow(function.node, {})
    return result


def _narrow(nodes: Iterable[onnx.NodeProto], renamed: dict[str, str]) -> None:
    """Rewrites nodes in place, those of their subgraphs included: names, types of results, constants."""
    for node in nodes:
        for names in (node.input, node.output):
            names[:] = [renamed.get(n, n) for n in names]
        for attribute in node.attribute:
            if (node.op_type, attribute.name) in _TYPES and attribute.i == TensorProto.DOUBLE:
                attribute.i = TensorProto.FLOAT
            if attribute.type == onnx.AttributeProto.TENSOR and attribute.t.data_type == TensorProto.DOUBLE:
                attribute.t.CopyFrom(_tensor(attribute.t))
            for graph in [attribute.g] if attribute.type == onnx.AttributeProto.GRAPH else attribute.graphs:
                _subgraph(graph, renamed)


def _subgraph(graph: onnx.GraphProto, renamed: dict[str, str]) -> None:
    own = {v.name for v in graph.input} | {t.name for t in graph.initializer} | {name for node in graph.node for name in node.output}
    inner = {name: new for name, new in renamed.items() if name not in own}
    _narrow(graph.node, inner)
    for tensor in graph.initializer:
        if tensor.data_type == TensorProto.DOUBLE:
            tensor.CopyFrom(_tensor(tensor))
    for value in [*graph.input, *graph.output, *graph.value_info]:
        value.name = inner.get(value.name, value.name)
        if value.type.tensor_type.elem_type == TensorProto.DOUBLE:
            value.type.tensor_type.elem_type = TensorProto.FLOAT


def _tensor(tensor: onnx.TensorProto) -> onnx.TensorProto:
    return numpy_helper.from_array(numpy_helper.to_array(tensor).astype("float32"), tensor.name)
