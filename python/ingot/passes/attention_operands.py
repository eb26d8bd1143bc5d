"""What the operands of attention are made of: they are followed backwards through views, scales and repetitions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import tvm
import tvm_ffi
from tvm import relax, tirx
from tvm.ir.expr import TensorLoad

from ingot.importer import dims
from ingot.importer.dims import Dim
from ingot.passes.graph import Rewriter

BATCH, HEAD, TOKEN, SIZE = "batch", "head", "token", "size"
_GROUP = "group"  # repetitions of a key head, where they are an axis of their own
_MOST_STEPS = 32


@dataclass(frozen=True)
class Operand:
    """A tensor whose elements are those of a tensor of batch, head, token and size, times ``scale``.

    ``axes`` says for each axis of ``variable`` which of these it runs over, the slowest first.
    """

    variable: Any
    axes: tuple[tuple[str, ...], ...]
    extents: Mapping[str, Dim]
    scale: float = 1.0

    def layout(self, names: Iterable[tuple[str, ...]]) -> tuple[str, ...] | None:
        """Which of some orders of the four axes the elements have in memory."""
        order = [n for axis in self.axes for n in axis if not dims.equal(self.extents[n], 1)]
        return next((row for row in names if [n for n in row if not dims.equal(self.extents[n], 1)] == order), None)

    def emitted(self, rewriter: Rewriter, layout: tuple[str, ...]) -> Any:
        """The tensor as one of four axes."""
        shape = [self.extents[n] for n in layout]
        return self.variable if same_shape(extents_of(self.variable), shape) else rewriter.emit(
            relax.op.reshape(self.variable, [dims.expr(d) for d in shape]))


def trace_operand(rewriter: Rewriter, operand: Operand, layouts: Iterable[tuple[str, ...]]) -> Operand:
    """The tensor farthest back that has one of some layouts and that ``operand`` only rearranges, scales or repeats."""
    best = operand
    for _ in range(_MOST_STEPS):
        value = rewriter.values.get(operand.variable)
        if not isinstance(value, relax.Call) or not value.args:
            break
        if calls(value, "relax.reshape"):
            regrouped = _through_reshape(operand, value.args[0])
            if regrouped is None:
                break
            operand = regrouped  # by itself no gain
            continue
        earlier = _through_transpose(operand, value) or _through_scale(rewriter, operand, value) or _through_repeat(rewriter, operand, value)
        if earlier is None:
            break
        operand = earlier
        if operand.layout(layouts) is not None:
            best = operand
    return best


def _through_transpose(operand: Operand, value: Any) -> Operand | None:
    if not calls(value, "relax.permute_dims"):
        return None
    order = order_of(value, len(operand.axes))
    return replace(operand, variable=value.args[0], axes=tuple(operand.axes[order.index(a)] for a in range(len(order))))


def _through_scale(rewriter: Rewriter, operand: Operand, value: Any) -> Operand | None:
    peeled = scaled(rewriter, value)
    if peeled is None or len(extents_of(peeled[0])) != len(operand.axes):
        return None
    return replace(operand, variable=peeled[0], scale=operand.scale * peeled[1])


def _through_reshape(operand: Operand, source: Any) -> Operand | None:
    """Deals the axes out to those of the tensor before a reshape; heads may come apart into key heads and their repetitions."""
    names = [n for axis in operand.axes for n in axis]
    extents = dict(operand.extents)
    shape = extents_of(source)
    axes: list[tuple[str, ...]] = []
    for i, extent in enumerate(shape):
        group: list[str] = []
        while names and not dims.equal(dims.product(extents[n] for n in group), extent):
            if not group and names[0] == HEAD and _GROUP not in extents and i + 1 < len(shape) and dims.equal(
                    dims.product([extent, shape[i + 1]]), extents[HEAD]):
                extents[HEAD], extents[_GROUP] = extent, shape[i + 1]
                names.insert(1, _GROUP)
            group.append(names.pop(0))
        if not dims.equal(dims.product(extents[n] for n in group), extent):
            return None
        axes.append(tuple(group))
    if any(not dims.equal(extents[n], 1) for n in names):
        return None
    axes[-1] = (*axes[-1], *names)
    return replace(operand, variable=source, axes=tuple(axes), extents=extents)


def _through_repeat(rewriter: Rewriter, operand: Operand, value: Any) -> Operand | None:
    """Heads that are repeated for groups of queries are read once."""
    source = repeated(rewriter, value)
    if source is None:
        return None
    before, after = extents_of(source), extents_of(operand.variable)
    axes, extents = list(operand.axes), dict(operand.extents)
    for i, (one, many) in enumerate(zip(before, after, strict=True)):
        if dims.equal(one, many):
            continue
        if axes[i] not in ((_GROUP,), (HEAD,)):
            return None
        extents[axes[i][0]] = 1
    return replace(operand, variable=source, axes=tuple(axes), extents=extents)


# ---- Expressions ---------------------------------------------------------------------------------------------------


def calls(value: Any, *names: str) -> bool:
    """Whether an expression is a call of one of some operators."""
    return isinstance(value, relax.Call) and getattr(value.op, "name", "") in names


def order_of(transpose: Any, rank: int) -> list[int]:
    """Which axis of its operand each axis of a transpose is."""
    axes = transpose.attrs.axes
    return [int(a) % rank for a in axes] if axes is not None else list(range(rank))[::-1]


def extents_of(variable: Any) -> tuple[Dim, ...]:
    """A tensor's shape."""
    return dims.dims(variable.ty.shape.values)


def same_shape(a: Iterable[Any], b: Iterable[Any]) -> bool:
    """Whether two shapes are provably equal."""
    left, right = dims.dims(a), dims.dims(b)
    return len(left) == len(right) and all(dims.equal(x, y) for x, y in zip(left, right, strict=True))


def scalar(rewriter: Rewriter, expression: Any) -> float | None:
    """The number that a constant of one element holds, or None."""
    weight = rewriter.weight(expression)
    if weight is None or not dims.is_static(weight.shape) or int(np.prod(weight.shape)) != 1:
        return None
    return float(weight.load().reshape(()).astype(np.float64))


def scaled(rewriter: Rewriter, value: Any) -> tuple[Any, float] | None:
    """The tensor and the factor of a multiplication with, or division by, a number."""
    if not calls(value, "relax.multiply", "relax.divide"):
        return None
    left, right = (scalar(rewriter, a) for a in value.args)
    if right is not None and right != 0 and np.isfinite(right):
        return value.args[0], 1 / right if value.op.name == "relax.divide" else right
    if left is not None and np.isfinite(left) and value.op.name == "relax.multiply":
        return value.args[1], left
    return None


def repeated(rewriter: Rewriter, value: Any) -> Any:
    """The tensor that a call repeats along axes of extent 1 without adding axes, or None."""
    if calls(value, "relax.broadcast_to"):
        return value.args[0] if len(extents_of(value.args[0])) == len(value.args[1].values) else None
    if not calls(value, "relax.call_tir"):
        return None
    tensors = [a for a in value.args[1].fields if not tvm.ir.is_prim_expr(a)]
    function = rewriter.bb.get()[value.args[0]]
    result = value.ty_args[0]
    if len(tensors) != 1 or not isinstance(result, relax.TensorType) or len(extents_of(tensors[0])) != len(result.shape.values):
        return None
    return tensors[0] if _only_repeats(function) else None


def _only_repeats(function: tirx.PrimFunc) -> bool:
    """Whether a function's one statement is out[i, j, ...] = in[i or 0, j or 0, ...]."""
    stores: list[Any] = []
    tvm_ffi.structural_walk(function.body, (tirx.BufferStore, stores.append))
    if len(stores) != 1 or not isinstance(stores[0].value, TensorLoad):
        return False
    store, load = stores[0], stores[0].value
    return len(store.indices) == len(load.indices) and all(
        a.same_as(b) or (isinstance(b, tirx.IntImm) and int(b) == 0) for a, b in zip(store.indices, load.indices, strict=True))
