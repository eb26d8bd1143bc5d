"""Reads a fused TIR function back: which element-wise work surrounds its heavy stages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import tvm_ffi
from tvm import s_tir, tirx
from tvm.ir import Call
from tvm.ir.expr import TensorLoad

from ingot.lower.cpu import integral
from ingot.lower.cpu.nest import constant, is_choice, simplify, substitute


@dataclass(frozen=True, eq=False)
class Stage:
    """One loop nest: ``buffer[indices] = value`` over ``axes``; with ``init``, a reduction over ``reduced`` axes.

    ``axes`` are the variables of the spatial loops in order, ``extents`` how far they run.
    """

    name: str
    buffer: Any
    axes: tuple[Any, ...]
    extents: tuple[Any, ...]
    reduced: tuple[Any, ...]
    reduced_extents: tuple[Any, ...]
    indices: tuple[Any, ...]
    value: Any
    init: Any
    annotations: dict[str, Any] = field(default_factory=dict)

    @property
    def is_map(self) -> bool:
        """Whether each element is computed on its own, at the position of its axes."""
        return self.init is None and len(self.indices) == len(self.axes) and all(i.same_as(a) for i, a in zip(self.indices, self.axes, strict=True))

    def at(self, indices: Any) -> Any:
        """The value at a position."""
        return substitute(self.value, dict(zip(self.axes, indices, strict=True)))


_TWO_SIDED = (tirx.Add, tirx.Mul, tirx.Max, tirx.Min)


@dataclass(frozen=True)
class Fused:
    """A fused function: its stages in order, and those whose results leave it."""

    function: tirx.PrimFunc
    stages: tuple[Stage, ...]

    def producer(self, buffer: Any) -> Stage | None:
        """The stage that writes a buffer."""
        return next((s for s in self.stages if s.buffer.same_as(buffer)), None)

    @property
    def outputs(self) -> list[Stage]:
        """The stages that write parameters."""
        return [s for s in self.stages if any(s.buffer.same_as(p) for p in self.function.params)]

    def inlined(self, keep: tuple[Stage, ...] = ()) -> list[Stage]:
        """The output stages, and ``keep``, with element-wise stages computed in place, all but those of ``keep``.

        An element that a value reads more than once is computed once, under a name (``math.expand`` makes names unique).
        """
        inlinable = {s.buffer: s for s in self.stages if s.is_map and s not in keep}
        wanted = [s for s in self.stages if s in keep or any(s is o for o in self.outputs)]
        return [replace(s, value=_expanded(s.value, inlinable, s.init is not None)) for s in wanted]


def read(function: tirx.PrimFunc) -> Fused | None:
    """The stages of a function, or None if it is not a sequence of simple loop nests."""
    root = function.body
    if not isinstance(root, s_tir.SBlockRealize):
        return None
    body = root.block.body
    stages = []
    for statement in body.seq if isinstance(body, tirx.SeqStmt) else [body]:
        stage = _stage(statement)
        if stage is None:
            return None
        stages.append(stage)
    return Fused(function, tuple(stages))


def _stage(statement: Any) -> Stage | None:
    loops = {}
    while isinstance(statement, tirx.For):
        loops[statement.loop_var] = statement.extent
        statement = statement.body
    if not isinstance(statement, s_tir.SBlockRealize) or not isinstance(statement.block.body, tirx.BufferStore):
        return None
    block, store = statement.block, statement.block.body
    variables = [iv.var for iv in block.iter_vars]
    if any(v not in loops for v in statement.iter_values):
        return None
    extents = {iv.var: iv.dom.extent for iv in block.iter_vars}
    kinds = {iv.var: iv.iter_type for iv in block.iter_vars}
    axes = tuple(v for v in variables if kinds[v] == tirx.IterVar.DataPar)
    reduced = tuple(v for v in variables if kinds[v] == tirx.IterVar.CommReduce)
    if len(axes) + len(reduced) != len(variables):
        return None
    init = block.init.value if block.init is not None else None
    return Stage(block.name_hint, store.buffer, axes, tuple(extents[v] for v in axes), reduced, tuple(extents[v] for v in reduced),
                 tuple(store.indices), store.value, init, {str(k): v for k, v in block.annotations.items()})


def loads(value: Any) -> list[Any]:
    """The loads of an expression, in order."""
    found: list[Any] = []

    def visit(node: Any) -> Any:
        found.append(node)
        return node

    tvm_ffi.structural_map(value, (TensorLoad, visit))
    return found


@dataclass(eq=False)
class _Element:
    """An element of an element-wise stage, how it is computed, and how often."""

    load: Any
    value: Any
    uses: int = 1
    name: Any = None


def _expanded(value: Any, inlinable: dict[Any, Stage], reduction: bool = False) -> Any:
    """A value with the elements of element-wise stages computed in place; those that are used more than once have names around it."""
    if reduction and isinstance(value, _TWO_SIDED):  # the names belong to what is added, so that it is still seen to be added
        return type(value)(value.a, _expanded(value.b, inlinable))
    elements: list[_Element] = []  # each after those that it is computed from

    def gather(expression: Any) -> None:
        for node in loads(expression):
            if node.source not in inlinable:
                continue
            known = next((e for e in elements if _same_element(e.load, node)), None)
            if known is not None:
                known.uses += 1
                continue
            element = _Element(node, inlinable[node.source].at(node.indices))
            gather(element.value)
            elements.append(element)

    gather(value)
    may_name = not reduction and not any(_is_conditional(e) for e in (value, *(e.value for e in elements)))  # a name would read what is guarded
    whole: dict[Any, integral.Range] = {}  # names that hold quantized numbers as floats

    def replaced(node: Any) -> Any:
        if node.source not in inlinable:
            return node
        element = next(e for e in elements if _same_element(e.load, node))
        if element.name is None:
            return element.value
        return element.name.astype(str(node.source.ty.dtype)) if element.name in whole else element.name

    def inlined(expression: Any) -> Any:
        return integral.simplified(tvm_ffi.structural_map(expression, (TensorLoad, replaced)), whole)

    for element in elements:
        element.value = inlined(element.value)
        if may_name and element.uses > 1 and str(element.load.source.ty.dtype) != "bool":  # LLVM takes no name for a vector of those
            number = integral.as_float(element.value, whole)
            element.name = tirx.Var("x", str(element.load.source.ty.dtype) if number is None else "float32")
            if number is not None:
                element.value, whole[element.name] = number
            elif "int" in str(element.load.source.ty.dtype):
                element.value = _opaque(element.value)
    value = inlined(value)
    for element in reversed(elements):
        if element.name is not None:
            value = tirx.Let(element.name, element.value, value)
    return value


def _opaque(value: Any) -> Any:
    """An integer that TVM's analyzer does not look into: it fails over comparisons of vectors that it finds in a name's value."""
    return tirx.bitwise_or(value, tirx.const(0, str(value.ty.dtype)))


def _is_conditional(value: Any) -> bool:
    found: list[Any] = []

    def visit(node: Any) -> Any:
        if is_choice(node):
            found.append(node)
        return node

    tvm_ffi.structural_map(value, (Call, visit))
    return bool(found)


def _same_element(a: Any, b: Any) -> bool:
    return a.source.same_as(b.source) and all(i.same_as(j) or constant(simplify(i - j)) == 0 for i, j in zip(a.indices, b.indices, strict=True))


def same_place(node: Any, stage: Stage) -> bool:
    """Whether a load reads the element at the stage's own position, from a buffer of the stage's shape."""
    return len(node.indices) == len(stage.axes) and all(i.same_as(a) for i, a in zip(node.indices, stage.axes, strict=True)) and all(
        constant(simplify(a - b)) == 0 for a, b in zip(node.source.ty.shape, stage.extents, strict=True))


def keeps_shape(fused: Fused, anchor: Stage) -> bool:
    """Whether every output has the shape of ``anchor``'s result and reads it at its own position: only then is it computed where that result is."""
    for output in fused.inlined(keep=(anchor,)):
        if len(output.extents) != len(anchor.extents) or any(
                constant(simplify(a - b)) != 0 for a, b in zip(output.extents, anchor.extents, strict=True)):
            return False
        if not output.buffer.same_as(anchor.buffer) and not all(
                same_place(n, output) for n in loads(output.value) if n.source.same_as(anchor.buffer)):
            return False
    return True


@dataclass(frozen=True)
class Combination:
    """How a reduction adds one more ``operand`` to what it has."""

    operand: Any
    apply: Callable[[Any, Any], Any]


_COMBINATIONS: tuple[tuple[Any, Callable[[Any, Any], Any]], ...] = (
    (tirx.Add, lambda a, b: a + b), (tirx.Mul, lambda a, b: a * b), (tirx.Max, tirx.max), (tirx.Min, tirx.min))


def combination(stage: Stage) -> Combination | None:
    """The combination of a reduction, or None if it is not one of sum, product, maximum and minimum."""
    for kind, apply in _COMBINATIONS:
        if isinstance(stage.value, kind) and isinstance(stage.value.a, TensorLoad) and stage.value.a.source.same_as(stage.buffer):
            return Combination(stage.value.b, apply)
    value = stage.value  # passes/legalize.py: the larger or smaller of two, or NaN
    if isinstance(value, tirx.Select) and isinstance(value.condition, tirx.Or) and isinstance(value.true_value, TensorLoad) \
            and value.true_value.source.same_as(stage.buffer) and isinstance(value.condition.a, (tirx.LT, tirx.GT)):
        larger = isinstance(value.condition.a, tirx.GT)
        return Combination(value.false_value, lambda a, b: tirx.Select(tirx.any(a > b if larger else a < b, tirx.isnan(a)), a, b))
    return None
