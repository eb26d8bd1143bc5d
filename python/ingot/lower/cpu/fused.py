"""Reads a fused TIR function back: which element-wise work surrounds its heavy stages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import tvm_ffi
from tvm import s_tir, tirx
from tvm.ir.expr import TensorLoad

from ingot.lower.cpu.nest import constant, simplify, substitute


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
        """The output stages, and ``keep``, with element-wise stages computed in place, all but those of ``keep``."""
        inlinable = {s.buffer: s for s in self.stages if s.is_map and s not in keep}

        def load(node: Any) -> Any:
            stage = inlinable.get(node.source)
            return node if stage is None else expand(stage.at(node.indices))

        def expand(value: Any) -> Any:
            return tvm_ffi.structural_map(value, (TensorLoad, load))

        wanted = [s for s in self.stages if s in keep or any(s is o for o in self.outputs)]
        return [Stage(s.name, s.buffer, s.axes, s.extents, s.reduced, s.reduced_extents, s.indices, expand(s.value), s.init, s.annotations)
                for s in wanted]


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
