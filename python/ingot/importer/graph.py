"""Walks an ONNX graph and calls the function of each node's operator."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import onnx
from onnx import numpy_helper

from ingot.errors import CompileError, IngotError, UnsupportedError
from ingot.importer import inline, narrow, registry
from ingot.importer.context import Context
from ingot.importer.fold import fold
from ingot.importer.shape_math import shape_math
from ingot.importer.values import Value, constant
from ingot.importer.weights import STRING


def node_label(node: onnx.NodeProto) -> str:
    """What a person calls a node: its name, or that of its first output."""
    return str(node.name or next((o for o in node.output if o), node.op_type))


def nodes_of(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """All nodes of a graph and of the graphs inside it."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from nodes_of(attribute.g)
            for inner in attribute.graphs:
                yield from nodes_of(inner)


def check_supported(graph: onnx.GraphProto, opsets: dict[str, int], source: str) -> None:
    """Raises one error that names every operator and attribute of the model that the importer does not know."""
    problems: dict[str, list[str]] = {}
    for node in nodes_of(graph):
        domain = registry.DOMAIN_ALIASES.get(node.domain, node.domain)
        opset = opsets.get(domain)
        label = f"{domain}.{node.op_type}" if domain else node.op_type
        if opset is None:
            problems.setdefault(f"{label}: the model imports no opset of domain '{domain}'", []).append(node_label(node))
            continue
        operator = registry.find(domain, node.op_type, opset)
        if operator is None and inline.find(domain, node.op_type, opset) is not None:
            continue
        if operator is None:
            problems.setdefault(f"{label} (opset {opset})", []).append(node_label(node))
            continue
        for attribute in node.attribute:
            if attribute.name not in operator.attributes:
                problems.setdefault(f"{label} (opset {opset}) with attribute '{attribute.name}'", []).append(node_label(node))
    if problems:
        lines = [f"  {what}: node{'s' if len(where) > 1 else ''} {_shorten(where)}" for what, where in sorted(problems.items())]
        raise UnsupportedError(
            f"{source}: {len(problems)} thing{'s' if len(problems) > 1 else ''} in this model {'are' if len(problems) > 1 else 'is'} not supported:\n"
            + "\n".join(lines) + "\nA custom operator can be mapped with ingot.onnx_op(name, domain=...), "
            "in a file that `ingot compile --import FILE.py` runs first.")


def _shorten(names: list[str], most: int = 5) -> str:
    shown = ", ".join(f"'{n}'" for n in names[:most])
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")


def import_nodes(cx: Context, graph: onnx.GraphProto, opsets: dict[str, int], base_dir: str) -> None:
    """Imports initializers, then every node in order, into ``cx.values``."""
    from ingot.importer.initializers import initializer_weight, sparse_initializer

    for tensor in graph.initializer:
        weight = initializer_weight(tensor, base_dir, cx.module.source)
        cx.values[tensor.name] = Value(cx, weight.dtype, weight.shape, tensor.name, weight=weight)
    for sparse in graph.sparse_initializer:
        cx.values[sparse.values.name] = constant(cx, sparse_initializer(sparse), sparse.values.name)
    for node in graph.node:
        import_node(cx, node, opsets)


def import_node(cx: Context, node: onnx.NodeProto, opsets: dict[str, int]) -> None:
    """Imports one node: as a constant if its inputs are, as shape arithmetic if it is, else by its operator's function."""
    domain = registry.DOMAIN_ALIASES.get(node.domain, node.domain)
    previous = cx.node, cx.opset
    cx.node, cx.opset = node, opsets[domain]
    cx.module.nodes.append(f"{node_label(node)} ({node.op_type})")
    try:
        inputs = [cx.lookup(name) if name else None for name in node.input]
        while inputs and inputs[-1] is None:
            inputs.pop()
        tensors = all(v is None or isinstance(v, Value) for v in inputs)
        results = (tensors and (fold(cx, node, inputs) or shape_math(cx, node, inputs))) or _call(cx, node, inputs, domain)
        for name, value in zip(node.output, results, strict=False):
            if name:
                value.name = value.name or name
                cx.values[name] = value
        if any(node.output[len(results):]):
            raise cx.error(f"gives {len(results)} of the {len(node.output)} outputs that the node declares")
    except IngotError:
        raise
    except Exception as error:
        raise CompileError(f"{cx.where()}: {type(error).__name__}: {_first_lines(error)}") from error
    finally:
        cx.node, cx.opset = previous


def _first_lines(error: Exception) -> str:
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
    return lines[-1] if lines else ""


def _call(cx: Context, node: onnx.NodeProto, inputs: list[Value | None], domain: str) -> list[Value]:
    strings = any(isinstance(v, Value) and v.dtype == STRING for v in inputs)
    operator = registry.find(domain, node.op_type, cx.opset, strings=strings)
    if operator is None and strings and registry.find(domain, node.op_type, cx.opset) is not None:
        raise cx.error("this operator does not take strings")
    if operator is None:
        results = inline.expand(cx, node, inputs, import_node)
        if results is None:
            raise cx.error("this operator is not supported")
        return results
    count = len(inputs)
    required_missing = next((i for i in sorted(operator.required) if i >= count or inputs[i] is None), None)
    if required_missing is not None:
        raise cx.error(f"input {required_missing} is required, but the node leaves it out")
    if operator.max_inputs is not None and count > operator.max_inputs:
        raise cx.error(f"has {count} inputs; at most {operator.max_inputs} are supported")
    other = next((i for i, v in enumerate(inputs) if v is not None and not isinstance(v, Value)), None)
    if operator.sequences:
        result = operator.function(cx, *inputs, **attributes(node, cx))
        return [cx.wrap(r) for r in (result if isinstance(result, (tuple, list)) else (result,))]
    if other is not None:
        raise cx.error(f"input {other} is a sequence, a map or a missing optional, where a tensor is needed")
    given, tag = narrow.as_bytes(cx, node.op_type, inputs)
    result = operator.function(cx, *given, **attributes(node, cx))
    return [tag(cx.wrap(r)) for r in (result if isinstance(result, (tuple, list)) else (result,))]


def attributes(node: onnx.NodeProto, cx: Context) -> dict[str, Any]:
    """A node's attributes as Python values: tensors as arrays, strings as str, graphs as they are."""
    return {a.name: _attribute(a, cx) for a in node.attribute}


def _attribute(attribute: onnx.AttributeProto, cx: Context) -> Any:
    value = onnx.helper.get_attribute_value(attribute)
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, onnx.TensorProto):
        return numpy_helper.to_array(value)
    if isinstance(value, (onnx.GraphProto, onnx.SparseTensorProto, onnx.TypeProto, int, float, str)):
        return value
    values = list(value)
    return [v.decode("utf-8", "replace") if isinstance(v, bytes) else numpy_helper.to_array(v) if isinstance(v, onnx.TensorProto) else v
            for v in values]
