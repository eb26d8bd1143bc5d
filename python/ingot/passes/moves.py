"""Functions that move elements along axes, each by itself: slices, repetitions, resizing to the nearest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import tvm
from tvm import relax, tirx
from tvm.ir.expr import TensorLoad

from ingot.lower.cpu.fused import read
from ingot.lower.cpu.nest import substitute
from ingot.passes.attention_operands import calls
from ingot.passes.computed import computed
from ingot.passes.graph import Rewriter


@dataclass(frozen=True)
class Move:
    """``result[i, j, ...] = x[f(i), g(j), ...]``: ``indices`` are f(i), g(j), ... of ``axes`` i, j, ..., and ``shape`` is the result's."""

    x: Any
    name: str
    shape: tuple[Any, ...]
    axes: tuple[Any, ...]
    indices: tuple[Any, ...]

    def permuted(self, rewriter: Rewriter, base: Any, order: tuple[int, ...]) -> Any:
        """Emits the same of ``base``, of which x is the transpose by ``order``; the result is to be transposed by it, too."""
        axis_of = {position: axis for axis, position in enumerate(order)}

        def compute(source: Any, *i: Any) -> Any:
            known = {self.axes[axis_of[position]]: i[position] for position in range(len(order))}
            return source(*(substitute(self.indices[axis_of[position]], known) for position in range(len(order))))

        shape = [self.shape[axis_of[position]] for position in range(len(order))]
        return computed(rewriter, self.name, [base], shape, str(base.ty.dtype), compute)


def move_of(rewriter: Rewriter, call: Any) -> Move | None:
    """The move that a call of a TIR function is, or None."""
    if not calls(call, "relax.call_tir"):
        return None
    tensors = [a for a in call.args[1].fields if not tvm.ir.is_prim_expr(a)]
    result = call.ty_args[0]
    if len(tensors) != 1 or not isinstance(result, relax.TensorType) or len(tensors[0].ty.shape.values) != len(result.shape.values):
        return None
    function = rewriter.bb.get()[call.args[0]]
    given = [a for a in call.args[1].fields if tvm.ir.is_prim_expr(a)]
    if any(not p.same_as(a) for p, a in zip(list(function.params)[1:-1], given, strict=True)):
        return None  # its symbols are not the caller's
    fused = read(function)
    if fused is None or len(fused.stages) != 1 or not fused.stages[0].is_map or not isinstance(fused.stages[0].value, TensorLoad):
        return None
    axes, indices = fused.stages[0].axes, fused.stages[0].value.indices
    if len(axes) != len(indices):
        return None
    for own, index in zip(axes, indices, strict=True):
        if any(v.same_as(other) for v in tirx.analysis.undefined_vars(index) for other in axes if not other.same_as(own)):
            return None
    return Move(tensors[0], call.args[0].name_hint.rstrip("0123456789"), tuple(result.shape.values), tuple(axes), tuple(indices))
