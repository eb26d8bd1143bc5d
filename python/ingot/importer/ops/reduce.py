"""Reductions over axes, and softmax."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from tvm import relax, te, tirx

from ingot.importer import dims
from ingot.importer.context import Context
from ingot.importer.ops.create import filled
from ingot.importer.ops.elementwise import NARROW_FLOATS, in_float32, is_float, whole_quotient
from ingot.importer.registry import onnx_op
from ingot.importer.values import Value
from ingot.importer.weights import numpy_dtype

#: A reduction: of a value over axes, which stay or go.
Reduction = Callable[[Context, Value, list[int], bool], Value]


def _limit(dtype: str, largest: bool) -> Any:
    """The least or the largest number of a type."""
    if dtype == "bool":
        return largest
    if dtype.startswith(("float", "bfloat")):
        return float("inf") if largest else float("-inf")
    info = np.iinfo(numpy_dtype(dtype))
    return info.max if largest else info.min


def _reduce(cx: Context, x: Value, axes: Sequence[int], keepdims: bool, operator: Callable[..., Any], empty: Any) -> Value:
    """A Relax reduction; ``empty`` is what it gives for no elements."""
    if not axes:
        return x
    if any(dims.equal(x.shape[a], 0) for a in axes):
        kept = [1 if i in axes else d for i, d in enumerate(x.shape) if keepdims or i not in axes]
        return filled(cx, kept, empty, x.dtype)
    return cx.op(operator(x.expr, list(axes), keepdims=keepdims))


def reduce_sum(cx: Context, x: Value, axes: list[int], keepdims: bool) -> Value:
    """The sum; that of narrow floats is accumulated in float32."""
    if x.dtype not in NARROW_FLOATS:
        return _reduce(cx, x, axes, keepdims, relax.op.sum, 0)
    return cx.cast(_reduce(cx, cx.cast(x, "float32"), axes, keepdims, relax.op.sum, 0), x.dtype)


def _mean(cx: Context, x: Value, axes: list[int], keepdims: bool) -> Value:
    if is_float(x):
        wide = cx.cast(x, "float32") if x.dtype in NARROW_FLOATS else x
        return cx.cast(_reduce(cx, wide, axes, keepdims, relax.op.mean, float("nan")), x.dtype)
    total = reduce_sum(cx, x, axes, keepdims)
    count = cx.cast(cx.symbolic(dims.product([x.shape[a] for a in axes])), x.dtype)
    return cx.elementwise(whole_quotient, total, count, name="mean")


def _prod(cx: Context, x: Value, axes: list[int], keepdims: bool) -> Value:
    wide = cx.cast(x, "float32") if x.dtype in NARROW_FLOATS else x
    return cx.cast(_reduce(cx, wide, axes, keepdims, relax.op.prod, 1), x.dtype)


def _extreme(operator: Callable[..., Any], of_none: bool) -> Reduction:
    def reduce(cx: Context, x: Value, axes: list[int], keepdims: bool) -> Value:
        wide = cx.cast(x, "uint8") if x.dtype == "bool" else cx.cast(x, "float32") if x.dtype in NARROW_FLOATS else x
        empty = int(of_none) if x.dtype == "bool" else _limit(wide.dtype, of_none)
        return cx.cast(_reduce(cx, wide, axes, keepdims, operator, empty), x.dtype)

    return reduce


reduce_max = _extreme(relax.op.max, False)
reduce_min = _extreme(relax.op.min, True)


def _widened(reduction: Reduction) -> Reduction:
    """A reduction that computes on floats of at least 32 bits, and for integers in float64."""

    def reduce(cx: Context, x: Value, axes: list[int], keepdims: bool) -> Value:
        wide = "float32" if x.dtype in NARROW_FLOATS else x.dtype if is_float(x) else "float64"
        return cx.cast(reduction(cx, cx.cast(x, wide), axes, keepdims), x.dtype)

    return reduce


def _l1(cx: Context, x: Value, axes: list[int], keepdims: bool) -> Value:
    magnitude = x if x.dtype.startswith("uint") else cx.op(relax.op.abs(x.expr))
    return reduce_sum(cx, magnitude, axes, keepdims)


def _sum_square(cx: Context, x: Value, axes: list[int], keepdims: bool) -> Value:
    wide = cx.cast(x, "float32") if x.dtype in NARROW_FLOATS else x
    return cx.cast(reduce_sum(cx, cx.op(relax.op.multiply(wide.expr, wide.expr)), axes, keepdims), x.dtype)


def _l2(cx: Context, x: Value, axes: list[int], keepdims: bool) -> Value:
    return cx.op(relax.op.sqrt(_sum_square(cx, x, axes, keepdims).expr))


def _log_sum(cx: Context, x: Value, axes: list[int], keepdims: bool) -> Value:
    return cx.op(relax.op.log(reduce_sum(cx, x, axes, keepdims).expr))


def _log_sum_exp(cx: Context, x: Value, axes: list[int], keepdims: bool) -> Value:
    if any(dims.equal(x.shape[a], 0) for a in axes):
        return _log_sum(cx, x, axes, keepdims)
    largest = reduce_max(cx, x, axes, True)
    finite = cx.op(relax.op.where(relax.op.isinf(largest.expr), relax.const(0, x.dtype), largest.expr))  # inf - inf would be a NaN
    total = reduce_sum(cx, cx.op(relax.op.exp(relax.op.subtract(x.expr, finite.expr))), axes, True)
    result = cx.op(relax.op.add(relax.op.log(total.expr), finite.expr))
    return result if keepdims else cx.reshape(result, [d for i, d in enumerate(x.shape) if i not in axes])


def _register(name: str, reduction: Reduction, axes_input_since: int) -> None:
    def normalized(cx: Context, x: Value, axes: Sequence[int] | None, keepdims: int, noop: int) -> Value:
        if any(not -x.ndim <= a < x.ndim for a in axes or ()):
            raise cx.error(f"axes {list(axes or ())} are out of range for a tensor of {x.ndim} dimensions")
        every = [] if noop else list(range(x.ndim))
        return reduction(cx, x, sorted({a % x.ndim for a in axes}) if axes else every, bool(keepdims))

    def with_attribute(cx: Context, x: Value, *, axes: list[int] | None = None, keepdims: int = 1) -> Value:
        return normalized(cx, x, axes, keepdims, 0)

    def with_input(cx: Context, x: Value, axes: Value | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Value:
        given = [] if axes is not None and axes.shape == (0,) else cx.ints(axes, "axes")
        return normalized(cx, x, given, keepdims, noop_with_empty_axes)

    onnx_op(name)(with_attribute)
    onnx_op(name, since=axes_input_since)(with_input)


_register("ReduceSum", reduce_sum, 13)
for _name, _reduction in {
    "ReduceMean": _mean, "ReduceMax": reduce_max, "ReduceMin": reduce_min, "ReduceProd": _prod, "ReduceL1": _l1, "ReduceL2": _widened(_l2),
    "ReduceLogSum": _widened(_log_sum), "ReduceLogSumExp": _widened(_log_sum_exp), "ReduceSumSquare": _sum_square,
}.items():
    _register(_name, _reduction, 18)


# ---- Softmax -------------------------------------------------------------------------------------------------------


def _along(cx: Context, x: Value, axis: int, function: Callable[[Value, int], Value]) -> Value:
    """Applies ``function`` along an axis: before opset 13, along this and all later axes as one."""
    if not -x.ndim <= axis < max(x.ndim, 1):
        raise cx.error(f"axis {axis} is out of range for a tensor of {x.ndim} dimensions")
    axis %= max(x.ndim, 1)
    if cx.opset >= 13 or axis == x.ndim - 1:
        return function(x, axis)
    flat = cx.reshape(x, [dims.product(x.shape[:axis]), dims.product(x.shape[axis:])])
    return cx.reshape(function(flat, 1), x.shape)


def _soft(name: str, operator: Callable[[Any, int], Any]) -> None:
    def since_1(cx: Context, x: Value, *, axis: int = 1) -> Value:
        return _along(cx, x, axis, lambda v, a: in_float32(cx, lambda e: operator(e, a), v))

    def since_13(cx: Context, x: Value, *, axis: int = -1) -> Value:
        return since_1(cx, x, axis=axis)

    onnx_op(name)(since_1)
    onnx_op(name, since=13)(since_13)


_soft("Softmax", relax.op.nn.softmax)
_soft("LogSoftmax", relax.op.nn.log_softmax)


def _one_at_largest(cx: Context, x: Value, axis: int) -> Value:
    index = arg_extreme(cx, x, axis, True, True, False)

    def compute(best: te.Tensor) -> te.Tensor:
        return te.compute([dims.expr(d) for d in x.shape],
                          lambda *i: best(*i[:axis], 0, *i[axis + 1:]).equal(i[axis].astype("int64")).astype(x.dtype), name="hardmax")

    return cx.wrap(cx.te(compute, index, name="hardmax"))


@onnx_op("Hardmax")
def hardmax_1(cx: Context, x: Value, *, axis: int = 1) -> Value:
    return _along(cx, x, axis, lambda v, a: _one_at_largest(cx, v, a))


@onnx_op("Hardmax", since=13)
def hardmax(cx: Context, x: Value, *, axis: int = -1) -> Value:
    return hardmax_1(cx, x, axis=axis)


# ---- Positions -----------------------------------------------------------------------------------------------------


def arg_extreme(cx: Context, x: Value, axis: int, largest: bool, keepdims: bool, last: bool) -> Value:
    """The int64 position of the largest or smallest element along an axis, the first or last of equal ones."""
    if dims.equal(x.shape[axis], 0):
        raise cx.error(f"axis {axis} of shape {dims.text(x.shape)} is empty: it has no largest or smallest element")
    x = cx.cast(x, "float32") if x.dtype in NARROW_FLOATS else x
    empty = tirx.const(_limit(x.dtype, not largest), x.dtype)

    def better(a: Any, b: Any) -> Any:
        """Whether b (index, value) takes the place of a; an index of -1 is no element."""
        beats = b[1] > a[1] if largest else b[1] < a[1]
        if is_float(x):
            beats = tirx.any(beats, tirx.all(tirx.isnan(b[1]), tirx.Not(tirx.isnan(a[1]))))
        same = b[1].equal(a[1])
        if is_float(x):
            same = tirx.any(same, tirx.all(tirx.isnan(b[1]), tirx.isnan(a[1])))
        earlier = b[0] > a[0] if last else b[0] < a[0]
        return tirx.all(b[0] >= 0, tirx.any(a[0] < 0, beats, tirx.all(same, earlier)))

    def pick(a: Any, b: Any) -> Any:
        take = better(a, b)
        return tirx.Select(take, b[0], a[0]), tirx.Select(take, b[1], a[1])

    reducer = te.comm_reducer(pick, lambda i, v: (tirx.const(-1, i), empty), name="arg_extreme")
    kept = [1 if i == axis else d for i, d in enumerate(x.shape) if keepdims or i != axis]

    def compute(t: te.Tensor) -> te.Tensor:
        k = te.reduce_axis((0, t.shape[axis]), name="k")

        def at(*i: Any) -> Any:
            rest = i[axis + 1:] if keepdims else i[axis:]
            return reducer((k.var.astype("int64"), t(*i[:axis], k, *rest)), axis=[k])

        return te.compute([dims.expr(d) for d in kept], at, name="arg_extreme")[0]

    return cx.wrap(cx.te(compute, x, name="argmax" if largest else "argmin"))


def _arg(name: str, largest: bool) -> None:
    def function(cx: Context, x: Value, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Value:
        if not -x.ndim <= axis < max(x.ndim, 1):
            raise cx.error(f"axis {axis} is out of range for a tensor of {x.ndim} dimensions")
        return arg_extreme(cx, x, axis % x.ndim, largest, bool(keepdims), bool(select_last_index))

    onnx_op(name)(function)


_arg("ArgMax", True)
_arg("ArgMin", False)
