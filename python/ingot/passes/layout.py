"""Channels last: convolutions and what lies between them run on [N, ..., C], whose rows a micro-kernel reads front to back.

Transposes are not carried out where they stand but remembered: a value may be *another one with its axes permuted*. Element-wise
operators, reductions, concatenations, slices and the like (moves.py) work on the other one and pass the permutation on; convolutions
ask for channels last and give it. Whatever needs the axes as they are written gets a transpose. In a network of convolutions only its
input is transposed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tvm_ffi
from tvm import relax

from ingot.importer import dims
from ingot.passes.graph import Graph, Rewriter
from ingot.passes.moves import move_of

#: Of each convolution the layouts of data and weights with channels last, and what makes a call of it.
CONVOLUTIONS: dict[str, tuple[str, str, Callable[..., Any]]] = {
    "relax.nn.conv1d": ("NWC", "WIO", relax.op.nn.conv1d),
    "relax.nn.conv2d": ("NHWC", "HWIO", relax.op.nn.conv2d),
    "relax.nn.conv3d": ("NDHWC", "DHWIO", relax.op.nn.conv3d),
}
_REDUCTIONS = {"relax.mean": relax.op.mean, "relax.sum": relax.op.sum, "relax.max": relax.op.max, "relax.min": relax.op.min}
_ELEMENTWISE = frozenset(f"relax.{name}" for name in (
    "add", "subtract", "multiply", "divide", "power", "maximum", "minimum", "exp", "log", "sqrt", "rsqrt", "tanh", "sigmoid", "erf", "negative",
    "abs", "floor", "ceil", "round", "clip", "astype", "nn.relu", "nn.gelu", "nn.silu", "nn.leakyrelu", "nn.relu6", "square", "sin", "cos", "where",
    "quantize", "dequantize", "greater", "less", "equal", "greater_equal", "less_equal", "not_equal"))

Axes = tuple[int, ...]


def channels_last(graph: Graph) -> Graph:
    """Rewrites convolutions with constant weights to channels last, and moves transposes until they meet and vanish."""
    return _Layout(graph).run(_visit)


class _Layout(Rewriter):
    def __init__(self, graph: Graph) -> None:
        super().__init__(graph)
        self.permuted: dict[Any, tuple[Any, Axes]] = {}  # a stand-in → a value and the order of its axes that the stand-in has
        self.plain: dict[Any, Any] = {}  # a stand-in → it as a value of its own, once something has asked for it

    def lazily(self, value: Any, axes: Sequence[int]) -> Any:
        """``value`` with its axes permuted, without carrying it out."""
        base, order = self.seen(value)
        order = tuple(order[a] for a in axes)
        if order == tuple(range(len(order))):
            return base
        shape = base.ty.shape.values
        stand_in = relax.Var("permuted", relax.TensorType([shape[a] for a in order], str(base.ty.dtype)))
        self.permuted[stand_in] = (base, order)
        return stand_in

    def seen(self, value: Any) -> tuple[Any, Axes]:
        """A value that exists, and the order of its axes that makes ``value``."""
        return self.permuted.get(value, (value, tuple(range(len(value.ty.shape.values)))))

    def real(self, value: Any) -> Any:
        """The value as it is written, transposed if need be."""
        if value not in self.permuted:
            return value
        if value not in self.plain:
            base, order = self.permuted[value]
            self.plain[value] = self.emit(reordered(base, order))
        return self.plain[value]

    def ordered(self, value: Any, axes: Sequence[int]) -> Any:
        """``value`` with its axes permuted, carried out."""
        return self.real(self.lazily(value, axes))

    def resolved(self, value: Any) -> Any:
        return tvm_ffi.structural_map(value, (relax.Var, lambda v: self.real(v) if v in self.permuted else v))


def reordered(base: Any, order: Axes) -> Any:
    """The transpose, or a reshape where only extents of 1 move."""
    shape = base.ty.shape.values
    moving = [a for a in order if not dims.equal(shape[a], 1)]
    if moving == sorted(moving):
        return relax.op.reshape(base, [shape[a] for a in order])
    return relax.op.permute_dims(base, list(order))


def _visit(layout: Rewriter, variable: Any, value: Any) -> Any:
    assert isinstance(layout, _Layout)
    if isinstance(value, relax.Call) and hasattr(value.op, "name"):
        name = value.op.name
        if name == "relax.permute_dims":
            rank = len(value.args[0].ty.shape.values)
            return layout.lazily(value.args[0], [int(a) for a in value.attrs.axes] if value.attrs.axes is not None else list(range(rank))[::-1])
        handler = (_convolution if name in CONVOLUTIONS else _reduction if name in _REDUCTIONS else _elementwise if name in _ELEMENTWISE
                   else _concat if name == "relax.concat" else _pad if name == "relax.nn.pad"
                   else _reshape if name == "relax.reshape" else _moved if name == "relax.call_tir" else None)
        result = handler(layout, value) if handler is not None else None
        if result is not None:
            return result
    if isinstance(value, relax.Var):
        return value
    return layout.emit(layout.resolved(value))


def _convolution(layout: _Layout, call: Any) -> Any:
    data, kernel, operator = CONVOLUTIONS[call.op.name]
    x, w = call.args
    if layout.weight(w) is None or str(call.attrs.data_layout) == data:
        return None
    rank = len(x.ty.shape.values)
    last = layout.ordered(x, [0, *range(2, rank), 1])
    weights = layout.emit(relax.op.permute_dims(layout.real(w), [*range(2, rank), 1, 0]))
    result = layout.emit(operator(last, weights, strides=list(call.attrs.strides), padding=list(call.attrs.padding),
                                  dilation=list(call.attrs.dilation), groups=int(call.attrs.groups), data_layout=data, kernel_layout=kernel,
                                  out_dtype=call.attrs.out_dtype or None))
    return layout.lazily(result, [0, rank - 1, *range(1, rank - 1)])


def _reduction(layout: _Layout, call: Any) -> Any:
    base, order = layout.seen(call.args[0])
    if base.same_as(call.args[0]):
        return None
    axes = [int(a) % len(order) for a in call.attrs.axis] if call.attrs.axis is not None else list(range(len(order)))
    keep = bool(call.attrs.keepdims)
    inner = [order[a] for a in axes]
    result = layout.emit(_REDUCTIONS[call.op.name](base, inner, keepdims=keep))
    if keep:
        return layout.lazily(result, order)
    kept = sorted(set(range(len(order))) - set(inner))
    return layout.lazily(result, [kept.index(a) for a in order if a not in inner])


def _elementwise(layout: _Layout, call: Any) -> Any:
    operands = [a for a in call.args if not isinstance(a, relax.ShapeExpr) and isinstance(a.ty, relax.TensorType)]
    if call.op.name in ("relax.quantize", "relax.dequantize") and any(len(a.ty.shape.values) for a in operands[1:]):
        return None  # their axis would have to move
    orders = [layout.seen(a)[1] for a in operands if a in layout.permuted]
    if not orders:
        return None
    order = max(orders, key=lambda o: (len(o), orders.count(o)))
    if any(len(a.ty.shape.values) > len(order) for a in operands):
        return None
    moved, cost, gain = [], 0, 0
    for operand in operands:
        shape = operand.ty.shape.values
        if layout.seen(operand)[1] == order:
            moved.append(layout.seen(operand)[0])
            gain += 1
            continue
        if all(dims.equal(e, 1) for e in shape):
            moved.append(operand)
            continue
        wide = [1] * (len(order) - len(shape)) + list(shape)
        free = layout.weight(operand) is not None or sum(not dims.equal(e, 1) for e in shape) <= 1
        cost += not free
        moved.append((operand, wide))
    if cost >= max(gain, 1):
        return None
    inverse = [order.index(a) for a in range(len(order))]
    ready = [layout.ordered(layout.emit(relax.op.reshape(layout.real(m[0]), m[1])) if len(m[1]) != len(m[0].ty.shape.values) else m[0], inverse)
             if isinstance(m, tuple) else m for m in moved]
    remaining = iter(ready)
    arguments = [next(remaining) if not isinstance(a, relax.ShapeExpr) and isinstance(a.ty, relax.TensorType) else a for a in call.args]
    return layout.lazily(layout.emit(relax.Call(call.op, arguments, call.attrs, call.ty_args)), order)


def _concat(layout: _Layout, call: Any) -> Any:
    parts = list(call.args[0].fields) if isinstance(call.args[0], relax.Tuple) else []
    orders = [layout.seen(p)[1] for p in parts if p in layout.permuted]
    if not orders or 2 * len(orders) < len(parts):
        return None
    order = max(orders, key=orders.count)
    inverse = [order.index(a) for a in range(len(order))]
    axis = int(call.attrs.axis) % len(order)
    return layout.lazily(layout.emit(relax.op.concat([layout.ordered(p, inverse) for p in parts], order[axis])), order)


def _pad(layout: _Layout, call: Any) -> Any:
    base, order = layout.seen(call.args[0])
    if base.same_as(call.args[0]):
        return None
    width = [int(w) for w in call.attrs.pad_width]
    moved = [w for axis in range(len(order)) for w in width[2 * order.index(axis) : 2 * order.index(axis) + 2]]
    return layout.lazily(layout.emit(relax.Call(call.op, [base, *list(call.args)[1:]], _padding(call, moved))), order)


def _moved(layout: _Layout, call: Any) -> Any:
    operand = call.args[1].fields[0] if isinstance(call.args[1], relax.Tuple) and call.args[1].fields else None
    move = move_of(layout, call) if operand in layout.permuted else None
    if move is None:
        return None
    base, order = layout.seen(move.x)
    return layout.lazily(move.permuted(layout, base, order), order)


def _padding(call: Any, width: list[int]) -> Any:
    """The attributes of a pad with other widths."""
    return relax.op.nn.pad(call.args[0], width, str(call.attrs.pad_mode), float(call.attrs.pad_value)).attrs


def _reshape(layout: _Layout, call: Any) -> Any:
    base, order = layout.seen(call.args[0])
    moving = [a for a in order if not dims.equal(base.ty.shape.values[a], 1)]
    if base.same_as(call.args[0]) or moving != sorted(moving):
        return None
    return layout.emit(relax.op.reshape(base, call.args[1]))
