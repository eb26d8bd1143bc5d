"""Pooling."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tvm
from tvm import relax, te, tirx

from ingot.importer import dims
from ingot.importer.context import Context
from ingot.importer.ops.windows import Window, window
from ingot.importer.registry import onnx_op
from ingot.importer.values import Value


def _pooled(cx: Context, x: Value, around: Window, sizes: list[dims.Dim], body: Callable[..., Any], name: str,
            finish: Callable[[te.Tensor], te.Tensor] = lambda t: t) -> Value:
    """A reduction over windows, computed channels last: the transposes around it meet those of convolutions and vanish.

    ``body(tensor, indices, taps, inside)`` gives one output from the reduction axes; ``finish`` computes on the outputs [N, ..., C].
    """
    rank = x.ndim
    last = cx.transpose(x, [0, *range(2, rank), 1])

    def compute(t: te.Tensor) -> te.Tensor:
        taps = [te.reduce_axis((0, dims.expr(k)), name="k") for k in around.kernel]

        def at(n: Any, *rest: Any) -> Any:
            *i, c = rest
            positions = [p * s + tap * d - dims.expr(b) for p, s, tap, d, b in
                         zip(i, around.strides, taps, around.dilations, around.before, strict=True)]
            inside = tirx.all(*(tirx.all(p >= 0, p < e) for p, e in zip(positions, t.shape[1:-1], strict=True)))
            return body(t, (n, *positions, c), taps, inside)

        return finish(te.compute([dims.expr(d) for d in (x.shape[0], *sizes, x.shape[1])], at, name=name))

    return cx.transpose(cx.wrap(cx.te(compute, last, name=name)), [0, rank - 1, *range(1, rank - 1)])


@onnx_op("MaxPool")
def max_pool(cx: Context, x: Value, *, kernel_shape: list[int], auto_pad: str = "NOTSET", ceil_mode: int = 0, dilations: list[int] | None = None,
             pads: list[int] | None = None, storage_order: int = 0, strides: list[int] | None = None) -> Value | tuple[Value, ...]:
    around = window(cx, x.shape[2:], kernel_shape, auto_pad=auto_pad, strides=strides, dilations=dilations, pads=pads)
    sizes = around.output(x.shape[2:], bool(ceil_mode))
    dequantize = None if _indices(cx) else _dequantize_of(cx, x)
    if dequantize is not None:  # the largest stays the largest
        x = cx.wrap(dequantize.args[0])
    smallest = tirx.min_value(x.dtype)

    def largest(t: te.Tensor, at: Any, taps: Any, inside: Any) -> Any:
        return te.max(tirx.if_then_else(inside, t(*at), smallest), axis=taps)

    y = _pooled(cx, x, around, sizes, largest, "max_pool")
    if dequantize is not None:
        y = cx.op(relax.Call(dequantize.op, [y.expr, *list(dequantize.args)[1:]], dequantize.attrs))
    return (y, _argmax(cx, x, around, sizes, storage_order)) if _indices(cx) else y


def _indices(cx: Context) -> bool:
    """Whether the node gives the places of the largest elements too."""
    return cx.node is not None and len(cx.node.output) > 1 and bool(cx.node.output[1])


def _dequantize_of(cx: Context, x: Value) -> Any:
    """The call that a tensor was dequantized by, with one scale for all elements; None if it was not."""
    call = cx.bb.lookup_binding(x.expr) if isinstance(x.expr, relax.Var) else None
    if not isinstance(call, relax.Call) or getattr(call.op, "name", "") != "relax.dequantize" or str(call.args[0].ty.dtype) not in ("int8", "uint8"):
        return None
    scale = call.args[1]
    single = isinstance(scale, tvm.ir.GenericConst) and scale.value.numpy().size == 1 and scale.value.numpy().reshape(()) > 0
    return call if single else None


def _argmax(cx: Context, x: Value, around: Window, sizes: list[dims.Dim], storage_order: int) -> Value:
    """The flat index, within the whole tensor, of the first largest element of each window."""
    spatial = [dims.expr(d) for d in x.shape[2:]]

    def flat(at: Any, t: te.Tensor) -> Any:
        order = list(range(len(spatial)))[::-1] if storage_order else range(len(spatial))
        within: Any = tirx.IntImm("int64", 0)
        for axis in order:
            within = within * spatial[axis] + at[2 + axis]
        plane = at[0] * t.shape[1] + at[1]
        for extent in spatial:
            plane = plane * extent
        return (plane + within).astype("int64")

    pick = te.comm_reducer(
        lambda a, b: (tirx.Select(tirx.any(b[1] > a[1], tirx.all(b[1].equal(a[1]), b[0] < a[0], b[0] >= 0)), b[0], a[0]),
                      tirx.Select(b[1] > a[1], b[1], a[1])),
        lambda i, v: (tirx.IntImm(i, -1), tirx.min_value(v)), name="argmax")

    def compute(t: te.Tensor) -> te.Tensor:
        taps = [te.reduce_axis((0, dims.expr(k)), name="k") for k in around.kernel]

        def at(n: Any, c: Any, *i: Any) -> Any:
            positions = [p * s + tap * d - dims.expr(b) for p, s, tap, d, b in
                         zip(i, around.strides, taps, around.dilations, around.before, strict=True)]
            inside = tirx.all(*(tirx.all(p >= 0, p < e) for p, e in zip(positions, t.shape[2:], strict=True)))
            index = tirx.if_then_else(inside, flat((n, c, *positions), t), tirx.IntImm("int64", -1))
            return pick((index, tirx.if_then_else(inside, t(n, c, *positions), tirx.min_value(x.dtype))), axis=taps)

        return te.compute([dims.expr(d) for d in (*x.shape[:2], *sizes)], at, name="max_pool_index")[0]

    return cx.te(compute, x, name="max_pool_index")


@onnx_op("AveragePool")
def average_pool(cx: Context, x: Value, *, kernel_shape: list[int], auto_pad: str = "NOTSET", ceil_mode: int = 0, count_include_pad: int = 0,
                 dilations: list[int] | None = None, pads: list[int] | None = None, strides: list[int] | None = None) -> Value:
    around = window(cx, x.shape[2:], kernel_shape, auto_pad=auto_pad, strides=strides, dilations=dilations, pads=pads)
    sizes = around.output(x.shape[2:], bool(ceil_mode))

    def total(t: te.Tensor, at: Any, taps: Any, inside: Any) -> Any:
        return te.sum(tirx.if_then_else(inside, t(*at), tirx.const(0, x.dtype)), axis=taps)

    spatial = [dims.expr(d) for d in x.shape[2:]]

    def divide(t: te.Tensor) -> te.Tensor:
        def body(n: Any, *rest: Any) -> Any:
            count: Any = tirx.IntImm("int64", 1)
            for axis, position in enumerate(rest[:-1]):
                count = count * _taps_inside(around, axis, position, spatial[axis], bool(count_include_pad))
            return t(n, *rest) / count.astype(x.dtype)

        return te.compute(t.shape, body, name="average")

    return _pooled(cx, x, around, sizes, total, "average_pool", divide)


def _taps_inside(around: Window, axis: int, position: Any, extent: Any, include_pads: bool) -> Any:
    """How many taps of a window lie inside the input (or its pads) on an axis."""
    start = position * around.strides[axis] - dims.expr(around.before[axis])
    low = -dims.expr(around.before[axis]) if include_pads else tirx.IntImm("int64", 0)
    high = extent + dims.expr(around.after[axis]) if include_pads else extent
    gap = around.dilations[axis]
    first = tirx.max(tirx.floordiv(low - start + gap - 1, gap), 0)
    last = tirx.min(tirx.floordiv(high - 1 - start, gap), dims.expr(around.kernel[axis]) - 1)
    return tirx.max(last - first + 1, 1)


@onnx_op("LpPool")
def lp_pool(cx: Context, x: Value, *, kernel_shape: list[int], auto_pad: str = "NOTSET", ceil_mode: int = 0, dilations: list[int] | None = None,
            p: int = 2, pads: list[int] | None = None, strides: list[int] | None = None) -> Value:
    around = window(cx, x.shape[2:], kernel_shape, auto_pad=auto_pad, strides=strides, dilations=dilations, pads=pads)
    exponent = tirx.const(p, x.dtype)

    def total(t: te.Tensor, at: Any, taps: Any, inside: Any) -> Any:
        return te.sum(tirx.if_then_else(inside, tirx.power(tirx.abs(t(*at)), exponent), tirx.const(0, x.dtype)), axis=taps)

    sums = _pooled(cx, x, around, around.output(x.shape[2:], bool(ceil_mode)), total, "lp_pool")
    return cx.op(relax.op.power(sums.expr, relax.const(1 / p, x.dtype)))


@onnx_op("GlobalAveragePool")
def global_average_pool(cx: Context, x: Value) -> Value:
    return cx.op(relax.op.mean(x.expr, list(range(2, x.ndim)), keepdims=True))


@onnx_op("GlobalMaxPool")
def global_max_pool(cx: Context, x: Value) -> Value:
    return cx.op(relax.op.max(x.expr, list(range(2, x.ndim)), keepdims=True))


@onnx_op("GlobalLpPool")
def global_lp_pool(cx: Context, x: Value, *, p: int = 2) -> Value:
    power = relax.op.power(relax.op.abs(x.expr), relax.const(float(p), x.dtype))
    return cx.op(relax.op.power(relax.op.sum(power, list(range(2, x.ndim)), keepdims=True), relax.const(1 / p, x.dtype)))
