"""Sampling at computed coordinates: GridSample, AffineGrid, DeformConv."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tvm import relax, te, tirx

from ingot.importer import dims
from ingot.importer.context import Context
from ingot.importer.dims import Dim
from ingot.importer.ops.checks import check_shape
from ingot.importer.ops.normalize import add, per_channel
from ingot.importer.ops.windows import window
from ingot.importer.registry import onnx_op
from ingot.importer.values import Value

_MODES = {"bilinear": "linear", "linear": "linear", "nearest": "nearest", "bicubic": "cubic", "cubic": "cubic"}
_TAPS = {"nearest": 1, "linear": 2, "cubic": 4}
_CUBIC = -0.75  # ONNX fixes the coefficient of GridSample


@onnx_op("GridSample", since=16)
def grid_sample(cx: Context, x: Value, grid: Value, *, align_corners: int = 0, mode: str = "linear", padding_mode: str = "zeros") -> Value:
    if mode not in _MODES:
        raise cx.error(f"mode '{mode}' does not exist; it can be {', '.join(_MODES)}")
    if padding_mode not in ("zeros", "border", "reflection"):
        raise cx.error(f"padding_mode '{padding_mode}' does not exist; it can be zeros, border or reflection")
    rank = x.ndim - 2
    if rank < 1 or grid.ndim != x.ndim:
        raise cx.error(f"a grid of shape {dims.text(grid.shape)} does not go with an input of shape {dims.text(x.shape)}")
    check_shape(cx, grid, [x.shape[0], *grid.shape[1:-1], rank], "the grid")
    _not_empty(cx, x)
    wide = "float64" if "float64" in (x.dtype, grid.dtype) else "float32"
    at = cx.te(_coordinates(x, grid, _MODES[mode], padding_mode, bool(align_corners), wide), grid, name="grid_coordinates")
    function = _sample(x, grid, _MODES[mode], padding_mode, bool(align_corners), wide)
    return cx.cast(cx.te(function, x, at, name="grid_sample"), x.dtype)


def _not_empty(cx: Context, x: Value) -> None:
    for extent in x.shape[2:]:
        cx.check(extent > 0, f"there is nothing to sample in an input of shape {dims.text(x.shape)}")


def _coordinates(x: Value, grid: Value, mode: str, padding: str, align: bool, wide: str) -> Callable[[te.Tensor], te.Tensor]:
    """Coordinates [n, ..., axis] in elements of the input, in its order of axes, folded into it as the padding asks.

    They are clamped to a little more than the input, so that conversions to integers are defined whatever the grid holds.
    """
    rank = x.ndim - 2
    one = tirx.const(1, wide)

    def compute(g: te.Tensor) -> te.Tensor:
        def body(*i: Any) -> Any:
            result: Any = None
            for axis in range(rank):
                size = dims.expr(x.shape[2 + axis]).astype(wide)
                value = g(*i[:-1], rank - 1 - axis).astype(wide)
                value = (value + one) * 0.5 * (size - one) if align else ((value + one) * size - one) * 0.5
                if mode == "nearest":
                    value = tirx.nearbyint(value)
                if padding == "border" and mode == "cubic" and not align:  # from the outer borders on, not from the centers
                    value = tirx.Select(value < -0.5, one - one, tirx.Select(value > size - 0.5, size - one, value))
                elif padding == "border":
                    value = tirx.max(tirx.min(value, size - one), one - one)
                elif padding == "reflection":
                    value = _reflected(value, size, align, one)
                value = tirx.max(tirx.min(value, size + 2.0), tirx.const(-3, wide))
                result = value if result is None else tirx.Select(i[-1].equal(axis), value, result)
            return result

        return te.compute(g.shape, body, name="grid_coordinates")

    return compute


def _reflected(value: Any, size: Any, align: bool, one: Any) -> Any:
    """A coordinate, reflected at the centers or the outer borders of the outer elements until it lies between them."""
    shift = one * 0.0 if align else one * 0.5
    span = tirx.max(size - one, one * 1e-30) if align else size
    shifted = value + shift
    inner = shifted - tirx.floor(shifted / (span * 2.0)) * (span * 2.0)
    return tirx.min(inner, span * 2.0 - inner) - shift


def _sample(x: Value, grid: Value, mode: str, padding: str, align: bool, wide: str) -> Callable[[te.Tensor, te.Tensor], te.Tensor]:
    rank = x.ndim - 2
    spatial = [dims.expr(d) for d in x.shape[2:]]
    shape = [dims.expr(d) for d in (grid.shape[0], x.shape[1], *grid.shape[1:-1])]

    def picked(t: te.Tensor, n: Any, c: Any, at: Sequence[Any]) -> Any:
        inside = tirx.all(*(tirx.all(k >= 0, k < e) for k, e in zip(at, spatial, strict=True)))
        fold = _folded_index if padding == "reflection" else lambda k, e, a: k
        clamped = [tirx.max(tirx.min(fold(k, e, align), e - 1), 0) for k, e in zip(at, spatial, strict=True)]
        value = t(n, c, *clamped)
        return tirx.if_then_else(inside, value, tirx.const(0, x.dtype)) if padding == "zeros" else value

    def nearest(t: te.Tensor, at: te.Tensor) -> te.Tensor:
        return te.compute(shape, lambda n, c, *o: picked(t, n, c, [at(n, *o, a).astype("int64") for a in range(rank)]), name="grid_sample")

    def weighted(t: te.Tensor, at: te.Tensor) -> te.Tensor:
        taps = [te.reduce_axis((0, dims.expr(_TAPS[mode])), name="tap") for _ in range(rank)]
        first = _TAPS[mode] // 2 - 1

        def body(n: Any, c: Any, *o: Any) -> Any:
            floors = [tirx.floor(at(n, *o, a)) for a in range(rank)]
            where = [f.astype("int64") + tap - first for f, tap in zip(floors, taps, strict=True)]
            factor: Any = tirx.const(1, wide)
            for a, tap in enumerate(taps):
                factor = factor * kernel(mode, tirx.abs(at(n, *o, a) - floors[a] - (tap - first).astype(wide)), wide)
            return te.sum(picked(t, n, c, where).astype(wide) * factor, axis=taps)

        return te.compute(shape, body, name="grid_sample")

    return nearest if mode == "nearest" else weighted


def kernel(mode: str, d: Any, dtype: str) -> Any:
    """The weight of an element at distance ``d``, for linear and cubic interpolation."""
    one, two = tirx.const(1, dtype), tirx.const(2, dtype)
    if mode == "linear":
        return tirx.max(one - d, one - one)
    near, far = tirx.min(d, one), tirx.min(tirx.max(d, one), two)
    return (((_CUBIC + 2) * near - (_CUBIC + 3)) * near * near + one) + (((_CUBIC * far - 5 * _CUBIC) * far + 8 * _CUBIC) * far - 4 * _CUBIC)


def _folded_index(k: Any, extent: Any, align: bool) -> Any:
    if align:
        period = tirx.max(2 * (extent - 1), 1)
        inner = tirx.floormod(k, period)
        return tirx.min(inner, period - inner)
    inner = tirx.floormod(k, 2 * extent)
    return tirx.min(inner, 2 * extent - 1 - inner)


@onnx_op("AffineGrid", since=20)
def affine_grid(cx: Context, theta: Value, size: Value, *, align_corners: int = 0) -> Value:
    asked = cx.dims(size, "the size")
    if size.known_elements() is None:
        asked = cx.let(asked)
    spatial = asked[2:]
    rank = len(spatial)
    check_shape(cx, theta, [theta.shape[0] if theta.ndim else 1, rank, rank + 1], "theta")

    def position(index: Any, extent: Dim) -> Any:
        """The center of an element, in -1 … 1."""
        size_ = dims.expr(extent).astype("float64")
        i = index.astype("float64")
        one = tirx.const(1, "float64")
        if align_corners:  # the only element of an axis lies in its middle
            return tirx.Select(dims.expr(extent) > 1, i * 2.0 / tirx.max(size_ - one, one) - one, one - one)
        return (i * 2.0 + one) / size_ - one

    def compute(t: te.Tensor) -> te.Tensor:
        def body(n: Any, *i: Any) -> Any:
            total = t(n, i[-1], rank)
            for axis, extent in enumerate(spatial):
                total = total + t(n, i[-1], rank - 1 - axis) * position(i[axis], extent).astype(theta.dtype)
            return total

        return te.compute([dims.expr(d) for d in (theta.shape[0], *spatial, rank)], body, name="affine_grid")

    return cx.te(compute, theta, name="affine_grid")


@onnx_op("DeformConv", since=19)
def deform_conv(cx: Context, x: Value, w: Value, offset: Value, b: Value | None = None, mask: Value | None = None, *,
                dilations: list[int] | None = None, group: int = 1, kernel_shape: list[int] | None = None, offset_group: int = 1,
                pads: list[int] | None = None, strides: list[int] | None = None) -> Value:
    rank = x.ndim - 2
    around = window(cx, x.shape[2:], w.shape[2:], strides=strides, dilations=dilations, pads=pads)
    count = dims.product(w.shape[2:])
    sizes = around.output(x.shape[2:])
    check_shape(cx, offset, [x.shape[0], dims.dim(count * offset_group * rank), *sizes], "offset")
    if mask is not None:
        check_shape(cx, mask, [x.shape[0], dims.dim(count * offset_group), *sizes], "mask")
    check_shape(cx, x, [x.shape[0], dims.dim(w.shape[1] * group), *x.shape[2:]], "X")
    _not_empty(cx, x)
    per_offset = dims.floordiv(x.shape[1], offset_group)
    spatial = [dims.expr(d) for d in x.shape[2:]]

    def columns(t: te.Tensor, shift: te.Tensor, *masks: te.Tensor) -> te.Tensor:
        taps = [te.reduce_axis((0, dims.expr(2)), name="tap") for _ in range(rank)]
        zero = tirx.const(0, x.dtype)

        def body(n: Any, c: Any, k: Any, *o: Any) -> Any:
            g = tirx.floordiv(c, per_offset)
            rest: Any = k
            within: list[Any] = []
            for extent in reversed(w.shape[2:]):
                within.insert(0, tirx.floormod(rest, extent))
                rest = tirx.floordiv(rest, extent)
            factor: Any = masks[0](n, g * count + k, *o) if masks else tirx.const(1, x.dtype)
            where, inside = [], []
            for a in range(rank):
                start = o[a] * around.strides[a] + within[a] * around.dilations[a] - dims.expr(around.before[a])
                place = start.astype(x.dtype) + shift(n, (g * count + k) * rank + a, *o)
                place = tirx.max(tirx.min(place, spatial[a].astype(x.dtype) + tirx.const(1, x.dtype)), tirx.const(-2, x.dtype))
                low = tirx.floor(place)
                factor = factor * kernel("linear", tirx.abs(place - low - taps[a].astype(x.dtype)), x.dtype)
                index = low.astype("int64") + taps[a]
                inside += [index >= 0, index < spatial[a]]
                where.append(tirx.max(tirx.min(index, spatial[a] - 1), 0))
            return te.sum(tirx.if_then_else(tirx.all(*inside), t(n, c, *where), zero) * factor, axis=taps)

        return te.compute([dims.expr(d) for d in (x.shape[0], x.shape[1], count, *sizes)], body, name="deformed_columns")

    sampled = cx.te(columns, x, offset, *([mask] if mask is not None else []), name="deform_conv")
    inner = dims.dim(w.shape[1] * count)
    matrix = cx.reshape(w, [1, group, dims.floordiv(w.shape[0], group), inner])
    product = cx.op(relax.op.matmul(matrix.expr, cx.reshape(sampled, [x.shape[0], group, inner, dims.product(sizes)]).expr))
    y = cx.reshape(product, [x.shape[0], w.shape[0], *sizes])
    return y if b is None else add(cx, y, per_channel(cx, b, y.ndim))
