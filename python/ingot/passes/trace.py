"""Follows the imported nodes through fusion, so that every step of a program can say which ONNX nodes it came from."""

from __future__ import annotations

import re
from typing import Any, TypeAlias

import tvm
from tvm import relax

#: For each Relax function, the imported node numbers of its bindings, in order.
Trace: TypeAlias = dict[str, list[tuple[int, ...]]]

_NODE = re.compile(r"n(\d+)_")  # what follows makes the name unique


def bindings(function: relax.Function) -> list[Any]:
    """All bindings of a function, in order."""
    return [binding for block in function.body.blocks for binding in block.bindings]


def trace_fusion(before: tvm.IRModule, after: tvm.IRModule) -> Trace:
    """Matches each binding of the fused module with the bindings it was made of, which carry node numbers in their names.

    Fused functions are shared between calls, so names inside them say nothing; instead each fused body is replayed over the
    arguments of the call, and each replayed call is looked up among the original ones by its callee and arguments.
    """
    trace: Trace = {}
    for variable, function in after.functions.items():
        if not isinstance(function, relax.Function) or "Primitive" in (function.attrs or {}):
            continue
        name = variable.name_hint
        original = next((f for gv, f in before.functions.items() if gv.name_hint == name), None)
        trace[name] = _trace_function(original, function, after)
    return trace


def _trace_function(original: relax.Function, fused: relax.Function, after: tvm.IRModule) -> list[tuple[int, ...]]:
    known = {_key(b.value, {}): b.var for b in bindings(original)}
    same: dict[Any, Any] = dict(zip(fused.params, original.params, strict=True))
    result = []
    for binding in bindings(fused):
        value = binding.value
        callee = value.op if isinstance(value, relax.Call) else None
        if isinstance(callee, tvm.ir.GlobalVar):
            inner = after[callee]
            inside = {p: same.get(a, a) for p, a in zip(inner.params, value.args, strict=True)}
            nodes: list[int] = []
            last = None
            for step in bindings(inner):
                last = known.get(_key(step.value, inside))
                inside[step.var] = last
                if last is not None:
                    nodes += _nodes(last)
            output = inner.body.body
            same[binding.var] = inside.get(output, last)
            result.append(tuple(dict.fromkeys(nodes)))
        else:
            found = known.get(_key(value, same))
            same[binding.var] = found
            result.append(_nodes(found) if found is not None else _nodes(binding.var))
    return result


def _nodes(variable: Any) -> tuple[int, ...]:
    match = _NODE.match(variable.name)
    return (int(match[1]),) if match else ()


def _key(value: Any, same: dict[Any, Any]) -> Any:
    """A hashable identity of a binding's value, with variables replaced by their originals."""
    if isinstance(value, relax.Call):
        return (_key(value.op, same), tuple(_key(a, same) for a in value.args))
    if isinstance(value, relax.Tuple):
        return tuple(_key(f, same) for f in value.fields)
    if isinstance(value, relax.TupleGetItem):
        return ("item", _key(value.tuple_value, same), value.index)
    if isinstance(value, relax.Var):
        return same.get(value, value)
    if isinstance(value, tvm.ir.GlobalVar):
        return value.name_hint
    return value
