"""Convolutions in int8: which values of an ONNX model are rounded to 8 bits before it is imported, and the model with them rounded.

A convolution has one scale and zero point for all it reads, known from data, and a scale for each output channel of its weights. The model gets
QuantizeLinear and DequantizeLinear as onnxruntime's and PyTorch's quantizers write them, from which passes/integers.py makes integers.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from ingot.importer.graph import node_label, nodes_of
from ingot.importer.initializers import initializer_weight
from ingot.quantize.loss import Sums
from ingot.quantize.ranges import Histogram, Rounding, merged
from ingot.quantize.rounding import floats, round_rows
from ingot.quantize.scheme import Scheme, parse_scheme

#: onnxruntime's operators of these names are the same in all opsets, and ONNX's are not.
_DOMAIN = "com.microsoft"
#: Operators whose results are some of their operands' numbers, or what pads: operands are rounded as results are, and nothing is lost twice. The
#: number of operands that are data; 0 for all.
_MOVES = {"Concat": 0, "DepthToSpace": 1, "Flatten": 1, "Identity": 1, "MaxPool": 1, "Pad": 1, "Reshape": 1, "Slice": 1, "SpaceToDepth": 1,
          "Split": 1, "Squeeze": 1, "Transpose": 1, "Unsqueeze": 1}
#: Operators that read a value rounded where convolutions do, so that it is stored in 8 bits alone. Others, and the model's results, are as they were.
_READERS = frozenset(_MOVES) | {"Add", "AveragePool", "GlobalAveragePool"}
_ROWS = parse_scheme("int8:row")


@dataclass(frozen=True)
class Convolution:
    """A Conv node ``node`` that is to be quantized, the names of what it reads and gives, and its weight [O, C/group, ...]."""

    node: str
    x: str
    y: str
    weight: onnx.TensorProto


@dataclass
class Plan:
    """What is to be rounded.

    Attributes:
        layers: Convolutions.
        kept: An entry for each other convolution with a constant weight, and the reason (docs/format.md).
        groups: Values that are rounded alike, by name.
    """

    layers: list[Convolution] = field(default_factory=list)
    kept: list[dict[str, Any]] = field(default_factory=list)
    groups: list[list[str]] = field(default_factory=list)

    @property
    def values(self) -> list[str]:
        """All values that are rounded."""
        return [name for group in self.groups for name in group]


@dataclass
class Done:
    """Entries of the report: of each layer, of those that stay as they were, and of weights, which several layers may share."""

    layers: list[dict[str, Any]] = field(default_factory=list)
    kept: list[dict[str, Any]] = field(default_factory=list)
    weights: list[dict[str, Any]] = field(default_factory=list)


def plan(model: onnx.ModelProto, scheme: Scheme, calibrated: bool, reason: Callable[[str, str], str]) -> Plan:
    """Which convolutions of a model are quantized, and which values with them.

    Args:
        model: The model; its main graph is looked at, not functions and subgraphs.
        scheme: Only ``int8`` with products of integers is one for convolutions.
        calibrated: Whether there is data.
        reason: Why a layer of a node's and a weight's name is not selected; empty if it is.
    """
    made = Plan()
    constants = _constants(model.graph)
    for node in model.graph.node:
        weight = constants.get(node.input[1]) if node.op_type == "Conv" and not node.domain else None
        if weight is None or node.input[0] in constants or weight.data_type not in _FLOATS:
            continue
        label = node_label(node)
        why = reason(label, weight.name) or _unfit(weight, scheme, calibrated)
        if why:
            made.kept.append({"node": label, "weight": weight.name, "shape": list(weight.dims), "reason": why})
        else:
            made.layers.append(Convolution(label, node.input[0], node.output[0], weight))
    made.groups = _groups(model.graph, constants, {layer.x for layer in made.layers})
    return made


def quantized(model: onnx.ModelProto, folder: str, source: str, made: Plan, histograms: Mapping[str, Histogram],
              advance: Callable[[str], None] = lambda name: None) -> tuple[onnx.ModelProto, Done]:
    """A copy of a model whose planned convolutions read and multiply 8 bits, and what was done.

    Args:
        model: The model that the plan is of.
        folder: Where its external data is.
        source: What messages call it.
        made: The plan.
        histograms: Of each planned value, from data; a convolution whose value the data did not reach stays as it was.
        advance: Called with the name of each layer before it is quantized.
    """
    known: dict[str, Rounding] = {}
    for group in made.groups:
        histogram = merged(histograms[name] for name in group if name in histograms)
        if histogram.seen:
            known |= dict.fromkeys(group, histogram.rounding())
    whole = onnx.ModelProto()
    whole.CopyFrom(model)
    graph = _Graph(whole.graph)
    done = Done(kept=list(made.kept))
    weights: dict[str, dict[str, Any] | None] = {}
    rounded: list[Convolution] = []
    for layer in made.layers:
        advance(layer.node)
        name, entry = layer.weight.name, {"node": layer.node, "weight": layer.weight.name, "shape": list(layer.weight.dims)}
        if layer.x not in known:
            done.kept.append({**entry, "reason": "no data reached it"})
            continue
        if name not in weights:
            weights[name] = found = graph.add_weight(layer.weight, initializer_weight(layer.weight, folder, source).load())
            done.weights += [] if found is None else [found]
        numbers = weights[name]
        if numbers is None:
            done.kept.append({**entry, "reason": "it holds numbers that are not finite"})
            continue
        done.layers.append({**entry, **numbers, "input_error": float(f"{known[layer.x].error:.6g}")})
        rounded.append(layer)
    read = {layer.x for layer in rounded}
    graph.rewrite({name: known[name] for group in made.groups if read & set(group) for name in group}, {layer.y for layer in rounded})
    if not any(o.domain == _DOMAIN for o in whole.opset_import):
        whole.opset_import.append(helper.make_opsetid(_DOMAIN, 1))
    return whole, done


_FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16, onnx.TensorProto.DOUBLE)


def _unfit(weight: onnx.TensorProto, scheme: Scheme, calibrated: bool) -> str:
    if scheme.name != "int8" or not scheme.integers:
        return "convolutions are quantized by int8 alone"
    if not calibrated:
        return "convolutions take calibration data"
    return "" if weight.data_type == onnx.TensorProto.FLOAT else "not of float32"


def _constants(graph: onnx.GraphProto) -> dict[str, onnx.TensorProto]:
    """Initializers and tensors of Constant nodes, by name."""
    found = {i.name: i for i in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].HasField("t"):
            tensor = onnx.TensorProto()
            tensor.CopyFrom(node.attribute[0].t)
            tensor.name = node.output[0]
            found[node.output[0]] = tensor
    return found


def _groups(graph: onnx.GraphProto, constants: Mapping[str, Any], read: set[str]) -> list[list[str]]:
    """The values to round, those that must be alike together: what convolutions read, and what that is moved from."""
    makers = {output: node for node in graph.node for output in node.output if output}
    group: dict[str, str] = {}

    def root(name: str) -> str:
        while group[name] != name:
            name = group[name]
        return name

    def add(name: str) -> None:
        """Adds a value, and what it is moved from."""
        if name in group:
            return
        group[name] = name
        maker = makers.get(name)
        for operand in _moved(maker) if maker is not None else ():
            if operand not in constants:
                add(operand)
                group[root(operand)] = root(name)

    for name in sorted(read):
        add(name)
    alike: defaultdict[str, list[str]] = defaultdict(list)
    for name in group:
        alike[root(name)].append(name)
    return list(alike.values())


def _moved(node: onnx.NodeProto) -> Sequence[str]:
    """The operands whose numbers are a node's results."""
    if node.domain or (node.op_type == "MaxPool" and len(node.output) > 1):
        return ()
    if node.op_type in ("Resize", "Upsample"):
        mode = next((a.s for a in node.attribute if a.name == "mode"), b"nearest")
        return node.input[:1] if mode == b"nearest" else ()
    count = _MOVES.get(node.op_type)
    return () if count is None else node.input[:count] if count else node.input


class _Graph:
    """A graph that is being changed."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._graph = graph
        self._names = {name for node in nodes_of(graph) for name in (*node.input, *node.output)} | {i.name for i in graph.initializer}
        self._weights: dict[str, onnx.NodeProto] = {}

    def add_weight(self, tensor: onnx.TensorProto, numbers: np.ndarray) -> dict[str, Any] | None:
        """Adds the codes of a weight [O, ...]; returns the numbers of its report, or None if some are not finite."""
        rows = np.ascontiguousarray(numbers, np.float32).reshape(len(numbers), -1)
        if not np.isfinite(rows).all():
            return None
        rounded = round_rows(_ROWS, rows)
        scales = floats(rounded.scales).reshape(-1)
        sums = Sums()
        sums.add(rows, rounded.codes * scales[:, None])
        arrays = {"codes": rounded.codes.reshape(numbers.shape), "scales": scales, "zeros": np.zeros(len(scales), np.int8)}
        inputs = [self._constant(f"{tensor.name}_{what}", array) for what, array in arrays.items()]
        self._weights[tensor.name] = helper.make_node("DequantizeLinear", inputs, [self._name(f"{tensor.name}_rounded")], domain=_DOMAIN, axis=0)
        return {**sums.entry(), "bytes_before": numbers.nbytes, "bytes_after": rounded.codes.nbytes + scales.nbytes}

    def rewrite(self, known: Mapping[str, Rounding], layers: set[str]) -> None:
        """Puts rounding behind values, and lets those read it that may: convolutions by the names of their results, and :data:`_READERS`."""
        rounded: dict[str, str] = {}
        nodes = [node for value in self._graph.input if value.name in known for node in self._rounding(value.name, known[value.name], rounded)]
        nodes += self._weights.values()
        for node in self._graph.node:
            if not node.domain and node.op_type == "Conv" and node.output[0] in layers:
                node.input[0] = rounded[node.input[0]]
                node.input[1] = self._weights[node.input[1]].output[0]
            elif not node.domain and (node.op_type in _READERS or _moved(node)):
                for index, name in enumerate(node.input):
                    node.input[index] = rounded.get(name, name)
            nodes.append(node)
            for name in node.output:
                if name in known:
                    nodes += self._rounding(name, known[name], rounded)
        copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
        del self._graph.node[:]
        self._graph.node.extend(copies)
        used = {name for node in nodes_of(self._graph) for name in node.input} | {o.name for o in self._graph.output}
        for index in reversed(range(len(self._graph.initializer))):
            if (name := self._graph.initializer[index].name) in self._weights and name not in used:
                del self._graph.initializer[index]

    def _rounding(self, name: str, by: Rounding, rounded: dict[str, str]) -> Iterator[onnx.NodeProto]:
        codes, rounded[name] = self._name(f"{name}_codes"), self._name(f"{name}_rounded")
        numbers = [self._constant(f"{name}_scale", np.array(by.scale, np.float32)), self._constant(f"{name}_zero", np.array(by.zero, np.uint8))]
        yield helper.make_node("QuantizeLinear", [name, *numbers], [codes], domain=_DOMAIN)
        yield helper.make_node("DequantizeLinear", [codes, *numbers], [rounded[name]], domain=_DOMAIN)

    def _constant(self, name: str, array: np.ndarray) -> str:
        name = self._name(name)
        self._graph.initializer.append(numpy_helper.from_array(array, name))
        return name

    def _name(self, name: str) -> str:
        """A name that is not taken yet."""
        while name in self._names:
            name += "_"
        self._names.add(name)
        return name
