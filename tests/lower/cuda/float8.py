"""Models quantized to float8_e4m3fn, and what they compute in float64."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

E4M3 = np.dtype(ml_dtypes.float8_e4m3fn)
_LARGEST = 448.0
_PRODUCTS = ("Conv", "MatMul", "Gemm")
#: What quantizers take as part of the node before.
_ACTIVATIONS = ("Relu", "Clip")


def _giving(model: onnx.ModelProto, outputs: Sequence[str]) -> onnx.ModelProto:
    """The model with these results."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    del made.graph.output[:]
    made.graph.output.extend(onnx.ValueInfoProto(name=n) for n in outputs)
    return made


def quantized(model: onnx.ModelProto, feeds: Mapping[str, np.ndarray], results: bool, exclude: Sequence[str] = ()) -> onnx.ModelProto:
    """A model whose products and convolutions by constants multiply float8_e4m3fn, each output channel of the constant with a scale of its own.

    With ``results``, what other nodes read is quantized too, as onnxruntime's quantizer does; without, products' operands alone. Nodes
    of ``exclude`` are left as they are.
    """
    made = onnx.ModelProto()
    made.CopyFrom(model)
    made.ir_version = 10
    made.opset_import[0].version = 20
    graph = made.graph
    constants = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    nodes = list(graph.node)
    names = [o for n in nodes for o in n.output]
    found = dict(zip(names, ReferenceEvaluator(_giving(made, names)).run(None, dict(feeds)), strict=True)) | dict(feeds)
    del graph.node[:]
    used: dict[str, str] = {}

    def constant(name: str, array: np.ndarray) -> str:
        graph.initializer.append(numpy_helper.from_array(array, name))
        return name

    def rounded(name: str) -> str:
        """A computed tensor, quantized and dequantized once."""
        if name not in used:
            used[name] = f"{name}_rounded"
            scale = constant(f"{name}_scale", np.float32(np.abs(found[name]).max() / _LARGEST))
            zero = constant(f"{name}_zero", np.zeros((), E4M3))
            graph.node.append(helper.make_node("QuantizeLinear", [name, scale, zero], [f"{name}_codes"], f"{name}_q"))
            graph.node.append(helper.make_node("DequantizeLinear", [f"{name}_codes", scale, zero], [used[name]], f"{name}_dq"))
        return used[name]

    def weight(node: onnx.NodeProto) -> str:
        name, array = node.input[1], constants[node.input[1]]
        axis = 1 if node.op_type == "MatMul" else 0
        over = tuple(a for a in range(array.ndim) if a != axis)
        scale = (np.abs(array).max(over) / _LARGEST).astype(np.float32)
        codes = (array / scale.reshape([-1 if a == axis else 1 for a in range(array.ndim)])).astype(E4M3)
        inputs = [constant(f"{name}_codes", codes), constant(f"{name}_scale", scale), constant(f"{name}_zero", np.zeros(len(scale), E4M3))]
        graph.node.append(helper.make_node("DequantizeLinear", inputs, [f"{name}_rounded"], f"{name}_dq", axis=axis))
        return f"{name}_rounded"

    for node in nodes:
        if node.op_type in _PRODUCTS and node.input[1] in constants and node.name not in exclude:
            node.input[0] = rounded(node.input[0])
            node.input[1] = weight(node)
        elif results and node.op_type not in _ACTIVATIONS and node.name not in exclude:
            for i, name in enumerate(node.input):
                if name in found and found[name].dtype == np.float32:
                    node.input[i] = rounded(name)
        graph.node.append(node)
    return made


def reference(model: onnx.ModelProto, feeds: Mapping[str, np.ndarray]) -> np.ndarray:
    """The first result, all of whose numbers are float64 but those that are quantized."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    del made.graph.initializer[:]
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor)
        wide = tensor.data_type == onnx.TensorProto.FLOAT
        made.graph.initializer.append(numpy_helper.from_array(array.astype(np.float64) if wide else array, tensor.name) if wide else tensor)
    result: Any = ReferenceEvaluator(made).run(None, {n: a.astype(np.float64) for n, a in feeds.items()})[0]
    return np.asarray(result, np.float64)
