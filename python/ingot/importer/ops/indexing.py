"""Operators that pick and place elements by indices, conditions or order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm import te, tirx

from ingot.importer import dims
from ingot.importer.context import Context
from ingot.importer.dims import Dim
from ingot.importer.registry import onnx_op
from ingot.importer.values import Value

_FLAT = -1  # instead of an axis: kernels take the input as flat
_REDUCTIONS = ("none", "add", "mul", "min", "max")  # by the numbers of kernels/reduction.h


def axis_of(cx: Context, axis: int, rank: int) -> int:
    """An axis counted from the start; an error if there is no such axis."""
    if not -rank <= axis < rank:
        raise cx.error(f"axis {axis} does not exist; the input has {rank} dimensions")
    return axis % rank


@onnx_op("GatherElements", since=11)
def gather_elements(cx: Context, x: Value, indices: Value, *, axis: int = 0) -> Value:
    axis = axis_of(cx, axis, x.ndim)
    _require_within(cx, indices.shape, x.shape, axis)
    picks = cx.indices(indices, x.shape[axis])

    def compute(t: te.Tensor, at: te.Tensor) -> te.Tensor:
        return te.compute([dims.expr(d) for d in indices.shape], lambda *i: t(*i[:axis], at(*i), *i[axis + 1:]), name="gather")

    return cx.te(compute, x, picks, name="gather_elements")


def _require_within(cx: Context, inner: Sequence[Dim], outer: Sequence[Dim], axis: int) -> None:
    """Requires that indices do not reach outside the data on any other axis than theirs."""
    if len(inner) != len(outer):
        raise cx.error(f"indices of shape {dims.text(inner)} and data of shape {dims.text(outer)} must have the same rank")
    for i, (a, b) in enumerate(zip(inner, outer, strict=True)):
        if i != axis and not dims.equal(a, b):
            cx.check(a <= b, f"indices of shape {dims.text(inner)} are larger than data of shape {dims.text(outer)} on axis {i}")


@onnx_op("GatherND", since=11)
def gather_nd(cx: Context, x: Value, indices: Value, *, batch_dims: int = 0) -> Value:
    depth = indices.shape[-1] if indices.ndim else None
    if not isinstance(depth, int):
        raise cx.error(f"the last extent of indices must be known while compiling; their shape is {dims.text(indices.shape)}")
    if not 0 <= batch_dims < min(x.ndim, indices.ndim) or not 1 <= depth <= x.ndim - batch_dims:
        raise cx.error(f"indices of shape {dims.text(indices.shape)} do not fit data of shape {dims.text(x.shape)} with batch_dims {batch_dims}")
    for a, b in zip(x.shape[:batch_dims], indices.shape[:batch_dims], strict=True):
        if not dims.equal(a, b):
            cx.check(a == b if isinstance(a, int) and isinstance(b, int) else dims.expr(a).equal(dims.expr(b)),
                     f"data of shape {dims.text(x.shape)} and indices of shape {dims.text(indices.shape)} differ in their first {batch_dims} extents")
    shape = [*indices.shape[:-1], *x.shape[batch_dims + depth:]]
    return cx.kernel("gather_nd", [x, indices], [(shape, x.dtype)], ints=[batch_dims])


@onnx_op("Scatter", since=9)
def scatter(cx: Context, x: Value, indices: Value, updates: Value, *, axis: int = 0) -> Value:
    return scatter_elements(cx, x, indices, updates, axis=axis)


@onnx_op("ScatterElements", since=11)
def scatter_elements(cx: Context, x: Value, indices: Value, updates: Value, *, axis: int = 0, reduction: str = "none") -> Value:
    return cx.kernel("scatter_elements", [x, indices, updates], [(x.shape, x.dtype)],
                     ints=[axis_of(cx, axis, x.ndim), _reduction(cx, reduction)])


@onnx_op("ScatterND", since=11)
def scatter_nd(cx: Context, x: Value, indices: Value, updates: Value, *, reduction: str = "none") -> Value:
    return cx.kernel("scatter_nd", [x, indices, updates], [(x.shape, x.dtype)], ints=[_reduction(cx, reduction)])


def _reduction(cx: Context, name: str) -> int:
    if name not in _REDUCTIONS:
        raise cx.error(f"reduction '{name}' does not exist; it is {', '.join(_REDUCTIONS)}")
    return _REDUCTIONS.index(name)


@onnx_op("TopK", since=1)
def topk_1(cx: Context, x: Value, *, k: int, axis: int = -1) -> tuple[Value, ...]:
    return _topk(cx, x, k, axis, 1, 1)


@onnx_op("TopK", since=10)
def topk(cx: Context, x: Value, k: Value, *, axis: int = -1, largest: int = 1, sorted: int = 1) -> tuple[Value, ...]:
    count = cx.dims(k, "k")
    if len(count) != 1:
        raise cx.error(f"k must be one number, but has shape {dims.text(k.shape)}")
    return _topk(cx, x, count[0] if dims.is_extent(count[0]) else cx.let(count)[0], axis, largest, sorted)


def _topk(cx: Context, x: Value, k: Dim, axis: int, largest: int, sorted_: int) -> tuple[Value, ...]:
    axis = axis_of(cx, axis, x.ndim)
    extent = x.shape[axis]
    if isinstance(k, int) and isinstance(extent, int) and k > extent:
        raise cx.error(f"k is {k}, but axis {axis} has only {extent} elements")
    shape = [*x.shape[:axis], k, *x.shape[axis + 1:]]
    values: tuple[Value, ...] = cx.kernel("topk", [x], [(shape, x.dtype), (shape, "int64")], ints=[axis, largest, sorted_])
    return values


@onnx_op("NonZero", since=9)
def nonzero(cx: Context, x: Value) -> Value:
    return cx.kernel("nonzero", [x], [([x.ndim, None], "int64")])


@onnx_op("Unique", since=11)
def unique(cx: Context, x: Value, *, axis: int | None = None, sorted: int = 1) -> tuple[Value, ...]:
    if axis is not None:
        axis = axis_of(cx, axis, x.ndim)
    count = cx.fresh("unique")
    shape = [count] if axis is None else [*x.shape[:axis], count, *x.shape[axis + 1:]]
    total = dims.product(x.shape) if axis is None else x.shape[axis]
    values: tuple[Value, ...] = cx.kernel(
        "unique", [x], [(shape, x.dtype), ([count], "int64"), ([total], "int64"), ([count], "int64")],
        ints=[_FLAT if axis is None else axis, int(bool(sorted))])
    return values


@onnx_op("Compress", since=9)
def compress(cx: Context, x: Value, condition: Value, *, axis: int | None = None) -> Value:
    if axis is None:
        return cx.kernel("compress", [x, condition], [([None], x.dtype)], ints=[_FLAT])
    axis = axis_of(cx, axis, x.ndim)
    return cx.kernel("compress", [x, condition], [([*x.shape[:axis], None, *x.shape[axis + 1:]], x.dtype)], ints=[axis])


@onnx_op("NonMaxSuppression", since=10)
def non_max_suppression(cx: Context, boxes: Value, scores: Value, max_output: Value | None = None, iou_threshold: Value | None = None,
                        score_threshold: Value | None = None, *, center_point_box: int = 0) -> Value:
    inputs = [boxes, scores, max_output, iou_threshold, score_threshold]
    while inputs[-1] is None:
        inputs.pop()
    return cx.kernel("non_max_suppression", inputs, [([None, 3], "int64")], ints=[center_point_box])


@onnx_op("ReverseSequence", since=10)
def reverse_sequence(cx: Context, x: Value, lengths: Value, *, batch_axis: int = 1, time_axis: int = 0) -> Value:
    batch, time = (axis_of(cx, a, x.ndim) for a in (batch_axis, time_axis))
    if {batch, time} != {0, 1}:
        raise cx.error(f"batch_axis {batch_axis} and time_axis {time_axis} must be 0 and 1")
    extent = x.shape[time]
    checked = cx.indices(lengths, dims.dim(extent + 1), negative=False)  # a length is an index into the time steps, or one past the last

    def compute(t: te.Tensor, ends: te.Tensor) -> te.Tensor:
        def body(*i: Any) -> Any:
            end, step = ends(i[batch]), i[time]
            at = list(i)
            at[time] = tirx.Select(step < end, end - 1 - step, step)
            return t(*at)

        return te.compute([dims.expr(d) for d in x.shape], body, name="reverse")

    return cx.te(compute, x, checked, name="reverse_sequence")


@onnx_op("TensorScatter", since=24)
def tensor_scatter(cx: Context, past: Value, update: Value, first: Value | None = None, *, axis: int = -2, mode: str = "linear") -> Value:
    return scatter_steps(cx, past, update, first, axis, mode)


def scatter_steps(cx: Context, past: Value, update: Value, first: Value | None, axis: int, mode: str, sinks: int = 0) -> Value:
    """The steps of ``update`` put into ``past`` along ``axis``, from ``first`` [batch] on; of a ring (``circular``) the first ``sinks`` stay."""
    axis = axis_of(cx, axis, past.ndim)
    if axis == 0 or update.ndim != past.ndim or mode not in ("linear", "circular"):
        raise cx.error(f"an update of shape {dims.text(update.shape)} cannot be placed in {dims.text(past.shape)} on axis {axis}, mode '{mode}'")
    for i, (a, b) in enumerate(zip(update.shape, past.shape, strict=True)):
        if not dims.equal(a, b):
            cx.check(a <= b if i == axis else dims.expr(a).equal(dims.expr(b)) if not (isinstance(a, int) and isinstance(b, int)) else False,
                     f"an update of shape {dims.text(update.shape)} does not fit {dims.text(past.shape)}")
    result: Value = cx.kernel("tensor_scatter", [past, update, first], [(past.shape, past.dtype)], ints=[axis, int(mode == "circular"), sinks])
    return result
