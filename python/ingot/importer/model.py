"""Imports an ONNX model: checks it, inlines functions, names its symbolic dimensions and builds a Relax module."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import onnx
import onnx.inliner
from tvm import relax

from ingot.errors import CompileError, NeedsConstantError, UnsupportedError
from ingot.importer import dims, registry
from ingot.importer.context import Context
from ingot.importer.graph import check_supported, import_nodes
from ingot.importer.module import Imported, ModuleBuilder, TensorSpec
from ingot.importer.states import find_states, states_last
from ingot.importer.values import AnyValue, MapValue, MissingValue, SequenceValue, Value, tensors_of
from ingot.importer.weights import dtype_name

OLDEST_OPSET = 7
_MOST_ELEMENTS = 2**40  # of one tensor; index arithmetic assumes as much of extents (importer/dims.py)


def import_model(
    model: onnx.ModelProto,
    *,
    source: str = "model",
    base_dir: str = ".",
    shapes: Mapping[str, Sequence[int | str]] | None = None,
    constants: Mapping[str, Any] | None = None,
    states: Mapping[str, str] | None = None,
) -> Imported:
    """Imports an ONNX model into Relax.

    Args:
        model: The model. Its large initializers are read only when they are written.
        source: What messages call the model: its file name.
        base_dir: The folder that external data lies in.
        shapes: For inputs by name, extents (ints) or names of symbolic dimensions that replace the declared ones; a map's is
            of its entries.
        constants: For inputs by name, arrays that replace them: the compiled model no longer has those inputs.
        states: Outputs by the inputs that they become (importer/states.py); None: pairs whose names say so.

    Raises:
        UnsupportedError: Some operators or attributes are not supported; the message names all of them.
        CompileError: The model is malformed, or a node contradicts its inputs.
    """
    import ingot.importer.ops  # noqa: F401  (registers the operators)

    model = inline_functions(model, source)
    opsets = {registry.DOMAIN_ALIASES.get(o.domain, o.domain): o.version for o in model.opset_import}
    if not opsets:
        raise CompileError(f"{source}: the model imports no operator set")
    if opsets.get("", OLDEST_OPSET) < 1:
        raise CompileError(f"{source}: opset {opsets['']} does not exist")
    for domain, version in opsets.items():
        if version >= 2**31:
            raise CompileError(f"{source}: opset {version} of '{domain or 'ai.onnx'}' does not exist")
    check_supported(model.graph, opsets, source)
    check_order(model.graph, source)
    found = find_states(model, states, source)
    if found:
        model = states_last(model, found)
    module = ModuleBuilder(source, opsets, base_dir)
    cx = Context(module, None, "main")
    symbols: dict[str, Any] = {}
    initialized = {t.name for t in model.graph.initializer} | {s.values.name for s in model.graph.sparse_initializer}
    inputs, parameters = [], []
    unknown = sorted(set(shapes or {}) - {i.name for i in model.graph.input})
    if unknown:
        raise CompileError(f"{source}: there is no input '{unknown[0]}' to fix the shape of; the inputs are "
                           + ", ".join(f"'{i.name}'" for i in model.graph.input if i.name not in initialized))
    try:
        with module.bb.function("main"):
            with module.bb.dataflow():
                for declared in model.graph.input:
                    if declared.name in initialized:
                        continue
                    if constants and declared.name in constants:
                        value = given_value(cx, declared, constants[declared.name])
                        value.name = declared.name
                        cx.values[declared.name] = value  # type: ignore[assignment]
                        continue
                    tensors = []
                    for part in _tensor_inputs(declared, model.graph, source):
                        spec = _input_spec(part, symbols, (shapes or {}).get(declared.name), source)
                        var = relax.Var(re.sub(r"\W", "_", spec.name) or "input", relax.TensorType([dims.expr(d) for d in spec.shape], spec.dtype))
                        tensors.append(Value(cx, spec.dtype, spec.shape, spec.name, _expr=var))
                        inputs.append(spec)
                        parameters.append(var)
                    if len(tensors) == 1:
                        cx.values[declared.name] = tensors[0]
                    else:
                        keys, values = tensors
                        cx.values[declared.name] = MapValue(keys, values, declared.name)  # type: ignore[assignment]
                        module.map_inputs[declared.name] = [t.name for t in tensors]
                import_nodes(cx, model.graph, opsets, base_dir)
                results = [result for o in model.graph.output for result in named_tensors(o.name, cx.lookup(o.name))]
                output = module.bb.emit_output(relax.Tuple([r.expr for _, r in results]))
            weights = [weight for weight, _ in cx.weights.values()]
            module.bb.emit_func_output(output, params=parameters + [var for _, var in cx.weights.values()])
    except BaseException:
        module.abandon()
        raise
    module.function_checks["main"] = cx.checks
    maps = {o.name: module.maps[o.name] for o in model.graph.output if o.name in module.maps}
    outputs = [TensorSpec(name, r.dtype, r.shape) for name, r in results]
    return Imported(
        mod=module.bb.get(), inputs=inputs[:len(inputs) - len(found)], outputs=outputs[:len(outputs) - len(found)], states=found,
        state_inputs=inputs[len(inputs) - len(found):], symbols=list(symbols.values()), weights=weights, nodes=module.nodes,
        checks=module.function_checks, vocabularies=module.vocabularies, subgraph_weights=module.subgraph_weights,
        metadata={"source": "onnx", "graph": model.graph.name, "producer": f"{model.producer_name} {model.producer_version}".strip(),
                  "ir_version": model.ir_version, "opset": dict(opsets), **({"maps": maps} if maps else {}),
                  **({"map_inputs": module.map_inputs} if module.map_inputs else {})})


def given_value(cx: Context, declared: onnx.ValueInfoProto, given: Any) -> AnyValue:
    """An input that is part of the model: an array, a list of arrays for a sequence, None for an optional without element."""
    if given is None:
        return MissingValue()
    kind = declared.type.optional_type.elem_type if declared.type.WhichOneof("value") == "optional_type" else declared.type
    if kind.WhichOneof("value") != "sequence_type":
        return cx.constant(given)
    items = tuple(cx.constant(item) for item in given)
    dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.sequence_type.elem_type.tensor_type.elem_type)
    return SequenceValue(items, items[0].dtype if items else dtype_name(dtype))


def named_tensors(name: str, value: AnyValue) -> list[tuple[str, Value]]:
    """The tensors of an output with their names: ``y[0]``, ``y[1]``, ... for those of a sequence ``y``."""
    return [(name, value)] if isinstance(value, Value) else [(f"{name}[{i}]", v) for i, v in enumerate(tensors_of(value))]


def inline_functions(model: onnx.ModelProto, source: str) -> onnx.ModelProto:
    """Replaces calls of the model's own functions by their bodies."""
    if not model.functions:
        return model
    try:
        return onnx.inliner.inline_local_functions(model)
    except Exception as error:
        raise CompileError(f"{source}: the model's functions cannot be inlined: {error}") from error


def check_order(graph: onnx.GraphProto, source: str) -> None:
    """Raises an error if a node uses a value before any node gives it: the graph is cyclic or not sorted."""
    given: dict[str, int] = {}
    for index, node in enumerate(graph.node):
        for name in node.output:
            given.setdefault(name, index)
    for index, node in enumerate(graph.node):
        for name in node.input:
            if name and given.get(name, -1) >= index:
                producer = graph.node[given[name]]
                raise CompileError(
                    f"{source}: node '{node.name or node.output[0]}' ({node.op_type}) uses '{name}', which comes from node "
                    f"'{producer.name or producer.output[0]}' ({producer.op_type}) at or after it: the graph has a cycle or is not sorted")


def _tensor_inputs(declared: onnx.ValueInfoProto, graph: onnx.GraphProto, source: str) -> list[onnx.ValueInfoProto]:
    """The tensors that a caller gives for an input: itself, or for a map ``x`` its keys ``x_keys`` and values ``x_values``, both [x_entries]."""
    if declared.type.WhichOneof("value") != "map_type":
        return [declared]
    kind = declared.type.map_type
    if kind.value_type.WhichOneof("value") != "tensor_type":
        raise UnsupportedError(f"{source}: input '{declared.name}' is a map whose values are no numbers or strings; a map of those is supported")
    parts = []
    for suffix, element in (("keys", kind.key_type), ("values", kind.value_type.tensor_type.elem_type)):
        name = f"{declared.name}_{suffix}"
        if any(other.name == name for other in graph.input):
            raise UnsupportedError(f"{source}: the {suffix} of the map '{declared.name}' would be the input '{name}', which the model has already; "
                                   "rename one of them")
        parts.append(onnx.helper.make_tensor_value_info(name, element, [f"{declared.name}_entries"]))
    return parts


def _input_spec(declared: onnx.ValueInfoProto, symbols: dict[str, Any], override: Sequence[int | str] | None, source: str) -> TensorSpec:
    kind = declared.type.WhichOneof("value")
    if kind in ("sequence_type", "optional_type"):
        raise NeedsConstantError(f"{source}: input '{declared.name}' is {'a sequence' if kind == 'sequence_type' else 'an optional'}; what it holds "
                                 "must be known while compiling", declared.name)
    if kind != "tensor_type":
        what = (kind or "value of no type").replace("_type", "")
        raise UnsupportedError(f"{source}: input '{declared.name}' is a {what}; only tensors are supported")
    tensor = declared.type.tensor_type
    try:
        dtype = dtype_name(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type))
    except KeyError:
        raise CompileError(f"{source}: input '{declared.name}' has an unknown element type ({tensor.elem_type})") from None
    if dtype.startswith("complex"):
        raise UnsupportedError(f"{source}: input '{declared.name}' is of complex numbers, {dtype}; a model can take real and imaginary parts "
                               "as an axis of extent 2, as ONNX's DFT does")
    if override is None and not tensor.HasField("shape"):
        raise UnsupportedError(f"{source}: input '{declared.name}' has no shape, not even a rank; give one with --shape {declared.name}=...")
    if override is not None and tensor.HasField("shape") and len(override) != len(tensor.shape.dim):
        raise CompileError(f"{source}: input '{declared.name}' has {len(tensor.shape.dim)} dimensions; "
                           f"the shape {list(override)} has {len(override)}")
    shape: list[Any] = []
    extents = override if override is not None else tensor.shape.dim
    for axis, extent in enumerate(extents):
        if isinstance(extent, (int, str)):
            known: int | str = extent
        elif extent.HasField("dim_value"):
            known = extent.dim_value
        else:
            known = extent.dim_param or f"{declared.name}_{axis}"
        if isinstance(known, int):
            if known < 0:
                raise CompileError(f"{source}: input '{declared.name}' has a negative extent in axis {axis}: {known}")
            shape.append(known)
            continue
        name = re.sub(r"\W", "_", known)
        if name not in symbols:
            symbols[name] = dims.symbol(name)
        shape.append(symbols[name])
    if math.prod(max(extent, 1) for extent in shape if isinstance(extent, int)) >= _MOST_ELEMENTS:
        raise CompileError(f"{source}: input '{declared.name}' of shape {dims.text(shape)} has more elements than any machine's memory")
    return TensorSpec(declared.name, dtype, tuple(shape))
