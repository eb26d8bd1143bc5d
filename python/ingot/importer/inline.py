"""Operators that ONNX defines by a function body: the body is imported in place of the node.

This happens while the node is imported, not before, because many bodies depend on the dtypes and ranks of the node's inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import onnx

from ingot.importer import registry
from ingot.importer.values import Value
from ingot.importer.weights import numpy_dtype

if TYPE_CHECKING:
    from ingot.importer.context import Context


def find(domain: str, name: str, opset: int) -> Any | None:
    """The schema of an operator that has a function body, or None."""
    try:
        schema: Any = onnx.defs.get_schema(name, opset, registry.DOMAIN_ALIASES.get(domain, domain))
    except (onnx.defs.SchemaError, TypeError):  # protobuf gives a name that is no UTF-8 as bytes
        return None
    return schema if schema.has_function or schema.has_context_dependent_function else None


def expand(cx: Context, node: onnx.NodeProto, inputs: Sequence[Value | None],
           import_node: Callable[[Context, onnx.NodeProto, dict[str, int]], None]) -> list[Value] | None:
    """Imports the body of a node's operator; the results, or None if the operator has no body for these inputs."""
    schema = find(node.domain, node.op_type, cx.opset)
    if schema is None:
        return None
    body = _body(schema, node, inputs, cx.module.opsets.get("", cx.opset))
    if body is None:
        return None
    prefix = cx.module.unique(f"{node.op_type}_") + "/"
    names: dict[str, str] = dict.fromkeys(body.input, "")
    names.update(zip(body.input, node.input, strict=False))
    attributes = _attributes(schema, body, node)
    opsets = {registry.DOMAIN_ALIASES.get(o.domain, o.domain): o.version for o in body.opset_import}
    outer, cx.module.opsets = cx.module.opsets, {**cx.module.opsets, **opsets}
    try:
        for inner in body.node:
            import_node(cx, _renamed(inner, names, prefix, attributes), cx.module.opsets)
    finally:
        cx.module.opsets = outer
    found = {i: cx.lookup(prefix + body.output[i]) for i, name in enumerate(node.output) if name}
    unused = next(iter(found.values()))  # stands in the place of outputs that the node leaves out
    return [found.get(i, unused) for i in range(max(found) + 1)]


def _body(schema: Any, node: onnx.NodeProto, inputs: Sequence[Value | None], opset: int) -> onnx.FunctionProto | None:
    body = onnx.FunctionProto()
    if schema.has_context_dependent_function:
        types = [_type(v).SerializeToString() for v in inputs]
        types += [b""] * (len(node.input) - len(types))
        version = _version(schema.context_dependent_function_opset_versions, opset)
        text = schema.get_context_dependent_function_with_opset_version(version, node.SerializeToString(), types)
    else:
        text = schema.get_function_with_opset_version(_version(schema.function_opset_versions, opset))
    if not text:
        return None
    body.ParseFromString(text if isinstance(text, bytes) else text.SerializeToString())
    return body


def _version(versions: Sequence[int], opset: int) -> int:
    """The newest version that is not newer than the model's opset; a body that needs a newer one says so itself."""
    return max((v for v in versions if v <= opset), default=min(versions))


def _type(value: Value | None) -> onnx.TypeProto:
    if value is None:
        return onnx.TypeProto()
    element = onnx.helper.np_dtype_to_tensor_dtype(numpy_dtype(value.dtype))
    return onnx.helper.make_tensor_type_proto(element, [d if isinstance(d, int) else None for d in value.shape])


def _attributes(schema: Any, body: onnx.FunctionProto, node: onnx.NodeProto) -> dict[str, onnx.AttributeProto]:
    """What the body's references to attributes mean: the node's attributes, and defaults of those that it leaves out."""
    found = {name: a.default_value for name, a in schema.attributes.items() if a.default_value.type != onnx.AttributeProto.UNDEFINED}
    found.update((a.name, a) for a in body.attribute_proto)
    found.update((a.name, a) for a in node.attribute)
    return found


def _renamed(node: onnx.NodeProto, names: dict[str, str], prefix: str, attributes: dict[str, onnx.AttributeProto]) -> onnx.NodeProto:
    """A node of a body with its values' names made unique, and its references to attributes resolved."""

    def rename(name: str) -> str:
        return names.get(name, prefix + name) if name else ""

    result = onnx.NodeProto()
    result.CopyFrom(node)
    result.name = prefix + (node.name or next((o for o in node.output if o), node.op_type))
    result.input[:] = [rename(name) for name in node.input]
    result.output[:] = [prefix + name if name else "" for name in node.output]
    del result.attribute[:]
    for attribute in node.attribute:
        if not attribute.ref_attr_name:
            result.attribute.append(_inside(attribute, names, prefix, attributes))
        elif attribute.ref_attr_name in attributes:
            copy = result.attribute.add()
            copy.CopyFrom(attributes[attribute.ref_attr_name])
            copy.name = attribute.name
    return result


def _inside(attribute: onnx.AttributeProto, names: dict[str, str], prefix: str, attributes: dict[str, onnx.AttributeProto]) -> onnx.AttributeProto:
    if attribute.type not in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS):
        return attribute
    result = onnx.AttributeProto()
    result.CopyFrom(attribute)
    for graph in ([result.g] if result.HasField("g") else list(result.graphs)):
        for declared in [*graph.input, *graph.output, *graph.value_info, *graph.initializer]:
            declared.name = names.get(declared.name, prefix + declared.name)
        nodes = [_renamed(n, names, prefix, attributes) for n in graph.node]
        del graph.node[:]
        graph.node.extend(nodes)
    return result
