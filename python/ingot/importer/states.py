"""States: inputs and outputs of a model that are one thing over time (docs/format.md, "States")."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import onnx

from ingot.errors import CompileError

#: How exporters name what one step hands to the next: past_key_values.3.key → present.3.key, past_0 → present_0.
_PAST = re.compile(r"past(?:_key_values?|_kv)?(?=[._\d])")
_PRESENT = ("present", "present_key_values", "present_key_value", "present_kv")


@dataclass(frozen=True)
class State:
    """One state: an input and an output of one type.

    ``kind`` is ``"carry"`` (the output is the next run's input) or ``"cache"``: the input goes into a TensorScatter, whose result is the output,
    so that it can be changed in place. Of a cache, ``axis`` is that of steps, ``length`` the name of the carried input that counts them, and
    ``ring`` whether steps past the end replace earlier ones.
    """

    input: str
    output: str
    kind: str = "carry"
    axis: int = 0
    length: str = ""
    ring: bool = False


def find_states(model: onnx.ModelProto, named: Mapping[str, str] | None, source: str) -> list[State]:
    """The states of a model.

    Args:
        model: The model.
        named: Outputs by the inputs that they become; None: pairs whose names say that they are past and present.
        source: What messages call the model.

    Raises:
        CompileError: A named input or output does not exist, or the two have different types.
    """
    graph = model.graph
    initialized = {t.name for t in graph.initializer}
    inputs = {i.name: i for i in graph.input if i.name not in initialized}
    outputs = {o.name: o for o in graph.output}
    pairs = dict(_past_and_present(inputs, outputs)) if named is None else dict(named)
    for given, result in pairs.items():
        for name, known, what in ((given, inputs, "input"), (result, outputs, "output")):
            if name not in known:
                raise CompileError(f"{source}: state '{given}={result}': there is no {what} '{name}'; they are "
                                   + ", ".join(f"'{n}'" for n in known))
        types = [v.type.tensor_type.elem_type for v in (inputs[given], outputs[result])]
        if types[0] != types[1]:
            names = [onnx.TensorProto.DataType.Name(t).lower() for t in types]
            raise CompileError(f"{source}: state '{given}={result}': the input is {names[0]}, the output {names[1]}")
    if len(set(pairs.values())) < len(pairs):
        raise CompileError(f"{source}: two states have the same output")
    return [_cache(graph, given, result, pairs) or State(given, result) for given, result in pairs.items()]


def states_last(model: onnx.ModelProto, states: list[State]) -> onnx.ModelProto:
    """The model with the inputs and outputs of states, in order, behind all others."""
    moved = onnx.ModelProto()
    moved.CopyFrom(model)
    for values, names in ((moved.graph.input, [s.input for s in states]), (moved.graph.output, [s.output for s in states])):
        by_name = {v.name: v for v in values}
        ordered = [v for v in values if v.name not in names] + [by_name[n] for n in names]
        copies = [onnx.ValueInfoProto.FromString(v.SerializeToString()) for v in ordered]
        del values[:]
        values.extend(copies)
    return moved


def _past_and_present(inputs: Mapping[str, object], outputs: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    for name in inputs:
        match = _PAST.match(name)
        found = next((p + name[match.end():] for p in _PRESENT if p + name[match.end():] in outputs), None) if match else None
        if found is not None:
            yield name, found


def _cache(graph: onnx.GraphProto, given: str, result: str, pairs: Mapping[str, str]) -> State | None:
    """The state as a cache, if the model only writes steps into it."""
    uses = [node for node in graph.node if given in node.input]
    if len(uses) != 1 or uses[0].op_type != "TensorScatter" or uses[0].output[0] != result or uses[0].input[0] != given:
        return None
    node = uses[0]
    if len(node.input) < 3 or node.input[2] not in pairs or given in node.input[1:]:
        return None  # nothing says how much of it is filled
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    rank = len(next(i for i in graph.input if i.name == given).type.tensor_type.shape.dim)
    return State(given, result, "cache", int(attributes.get("axis", -2)) % rank, node.input[2], attributes.get("mode", b"linear") == b"circular")
