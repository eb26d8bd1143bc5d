"""Products of one vector with several weights become one product: a decoder's Q, K and V, and the two halves of its gated feed-forward layer.

A step of a decoder is many small kernels. One product of more columns takes less time than several, and what follows reads its part of the result
where it lies: element-wise functions take slices in.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import relax, tirx

from ingot.importer import dims
from ingot.importer.quantized import QuantizedWeight, quantized_weight
from ingot.importer.weights import Weight
from ingot.passes.attention_operands import calls
from ingot.passes.graph import Graph, Rewriter, variables
from ingot.passes.trace import bindings

_FLOATS = ("float32", "float16", "bfloat16")


def merge_products(graph: Graph) -> Graph:
    """Merges products of the same operand in graphs with caches."""
    if not any(calls(b.value, "relax.call_pure_packed") and str(b.value.args[0].global_symbol) == "ingot.kernel.tensor_scatter"
               for b in bindings(graph.function)):
        return graph
    return _Merged(graph).run(_visit)


class _Merged(Rewriter):
    def __init__(self, graph: Graph) -> None:
        super().__init__(graph)
        self.groups: dict[Any, list[Any]] = {}  # of each product that is merged, those of its group
        self.weight_of: dict[Any, Weight] = {}
        self.done: dict[Any, Any] = {}  # the first of a group → the merged product
        self.parts: dict[Any, tuple[Any, int, int]] = {}  # a slice → of what, and its columns
        self.heads: dict[tuple[Any, int], Any] = {}
        readers: dict[Any, list[Any]] = {}
        for binding in bindings(graph.function):
            for variable in variables(binding.value):
                readers.setdefault(variable, []).append(binding.value)
        kinds: dict[Any, list[Any]] = {}
        for binding in bindings(graph.function):
            value: Any = binding.value
            if not calls(value, "relax.matmul") or any(calls(r, "relax.add") for r in readers.get(binding.var, [])):
                continue
            weight = self.weight(value.args[1])
            if weight is not None and len(weight.shape) == 2 and weight.dtype in _FLOATS and weight.dtype == str(value.args[0].ty.dtype):
                self.weight_of[binding.var] = weight
                kinds.setdefault((value.args[0], *_kind(weight)), []).append(binding.var)
        for members in kinds.values():
            if len(members) > 1:
                self.groups.update(dict.fromkeys(members, members))

    def part(self, variable: Any, x: Any) -> Any:
        """The columns of a merged product that are one of its members."""
        members = self.groups[variable]
        if members[0] not in self.done:
            weight = self.constant(_joined([self.weight_of[m] for m in members]))
            self.done[members[0]] = self.emit(relax.op.matmul(x, weight))
        whole = self.done[members[0]]
        begin = sum(self.weight_of[m].shape[1] for m in members[: members.index(variable)])
        end = begin + self.weight_of[variable].shape[1]
        found = self.emit(_cut(whole, len(whole.ty.shape.values) - 1, begin, end))
        self.parts[found] = (whole, begin, end)
        return found

    def split(self, call: Any) -> Any:
        """A part of a merged product as heads [..., H, D]: heads of all of it, of which some are taken."""
        whole, begin, end = self.parts[call.args[0]]
        shape, columns = list(call.ty.shape.values), dims.dims(whole.ty.shape.values)[-1]
        size = dims.dims(shape)[-1]
        if not isinstance(size, int) or not isinstance(columns, int) or len(shape) != len(whole.ty.shape.values) + 1:
            return None
        same = all(dims.equal(a, b) for a, b in zip(dims.dims(shape[:-2]), dims.dims(list(whole.ty.shape.values)[:-1]), strict=True))
        if not same or begin % size or end % size or columns % size:
            return None
        key = (whole, size)
        if key not in self.heads:
            self.heads[key] = self.emit(relax.op.reshape(whole, [*shape[:-2], dims.expr(columns // size), dims.expr(size)]))
        return self.emit(_cut(self.heads[key], len(shape) - 2, begin // size, end // size))


def _kind(weight: Weight) -> tuple[Any, ...]:
    """What weights have in common that can be one."""
    if not isinstance(weight, QuantizedWeight):
        return ("plain", weight.shape[0], weight.dtype)
    return ("quantized", weight.shape[0], weight.dtype, weight.bits, weight.axis, weight.group, weight.integers, weight.values, weight.zeros is None,
            weight.scales.dtype, None if weight.zeros is None else weight.zeros.dtype) if weight.axis == 0 else ("alone", id(weight))


def _joined(weights: list[Weight]) -> Weight:
    """Weights [K, N] side by side."""
    first, name = weights[0], "+".join(w.name for w in weights)
    if isinstance(first, QuantizedWeight):
        parts = [w for w in weights if isinstance(w, QuantizedWeight)]
        zeros = [w.zeros for w in parts if w.zeros is not None]
        return quantized_weight(name, first.dtype, _beside([w.codes for w in parts]), _beside([w.scales for w in parts]),
                                _beside(zeros) if zeros else None, first.bits, first.axis, first.group, first.integers, first.values)
    return _beside(weights)


def _beside(weights: list[Weight]) -> Weight:
    shape = (weights[0].shape[0], sum(w.shape[1] for w in weights))
    return Weight("+".join(w.name for w in weights), shape, weights[0].dtype, lambda: np.concatenate([w.load() for w in weights], 1))


def _cut(value: Any, axis: int, begin: int, end: int) -> Any:
    return relax.op.strided_slice(value, [axis], [tirx.IntImm("int64", begin)], [tirx.IntImm("int64", end)], assume_inbound=True)


def _visit(rewriter: Rewriter, variable: Any, value: Any) -> Any:
    assert isinstance(rewriter, _Merged)
    if variable in rewriter.groups:
        return rewriter.part(variable, value.args[0])
    if calls(value, "relax.reshape") and value.args[0] in rewriter.parts:
        return rewriter.split(value)
    return None
