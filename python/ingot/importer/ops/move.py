"""Operators that select, join and repeat elements."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from tvm import relax, te, tirx

from ingot.importer import dims
from ingot.importer.context import Context
from ingot.importer.dims import Dim
from ingot.importer.ops.checks import check_equal
from ingot.importer.registry import onnx_op
from ingot.importer.values import AnyValue, Value


@onnx_op("Identity", sequences=True)
def identity(cx: Context, x: AnyValue) -> AnyValue:
    return x


@onnx_op("Flatten")
def flatten(cx: Context, x: Value, *, axis: int = 1) -> Value:
    axis = axis + x.ndim if axis < 0 else axis
    return cx.reshape(x, [dims.product(x.shape[:axis]), dims.product(x.shape[axis:])])


@onnx_op("Squeeze")
def squeeze_1(cx: Context, x: Value, *, axes: list[int] | None = None) -> Value:
    gone = {a % x.ndim for a in axes} if axes else {i for i, d in enumerate(x.shape) if dims.equal(d, 1)}
    for axis in gone:
        if isinstance(x.shape[axis], int) and x.shape[axis] != 1:
            raise cx.error(f"axis {axis} of shape {dims.text(x.shape)} cannot be squeezed: its extent is not 1")
    return cx.reshape(x, [d for i, d in enumerate(x.shape) if i not in gone])


@onnx_op("Squeeze", since=13)
def squeeze(cx: Context, x: Value, axes: Value | None = None) -> Value:
    return squeeze_1(cx, x, axes=cx.ints(axes, "axes"))


@onnx_op("Unsqueeze")
def unsqueeze_1(cx: Context, x: Value, *, axes: list[int]) -> Value:
    rank = x.ndim + len(axes)
    new = {a % rank for a in axes}
    rest = iter(x.shape)
    return cx.reshape(x, [1 if i in new else next(rest) for i in range(rank)])


@onnx_op("Unsqueeze", since=13)
def unsqueeze(cx: Context, x: Value, axes: Value) -> Value:
    return unsqueeze_1(cx, x, axes=cx.ints(axes, "axes") or [])


@onnx_op("Concat")
def concat(cx: Context, *inputs: Value, axis: int = 1) -> Value:
    axis %= inputs[0].ndim
    kept = [x for x in inputs if not (isinstance(x.shape[axis], int) and x.shape[axis] == 0)] or [inputs[0]]
    if len(kept) == 1:
        return kept[0]
    for x in kept[1:]:
        for i, (a, b) in enumerate(zip(kept[0].shape, x.shape, strict=True)):
            if i != axis and not dims.equal(a, b):
                cx.check(a == b if isinstance(a, int) and isinstance(b, int) else dims.expr(a).equal(dims.expr(b)),
                         f"shapes {dims.text(kept[0].shape)} and {dims.text(x.shape)} cannot be joined on axis {axis}")
    if len(kept) <= _MOST_TOGETHER:
        return _join(cx, kept, axis)
    while len(kept) > 1:  # many inputs are joined in a tree, so that no function takes dozens of buffers
        kept = [_join(cx, kept[i:i + _MOST_TOGETHER], axis) if len(kept[i:i + _MOST_TOGETHER]) > 1 else kept[i]
                for i in range(0, len(kept), _MOST_TOGETHER)]
    return kept[0]


_MOST_TOGETHER = 16


def _join(cx: Context, parts: Sequence[Value], axis: int) -> Value:
    if all(dims.equal(a, b) for p in parts[1:] for i, (a, b) in enumerate(zip(parts[0].shape, p.shape, strict=True)) if i != axis):
        return cx.op(relax.op.concat([p.expr for p in parts], axis))
    ends: list[Dim] = []
    for part in parts:
        ends.append(dims.dim((ends[-1] if ends else 0) + part.shape[axis]))
    shape = [*parts[0].shape[:axis], ends[-1], *parts[0].shape[axis + 1:]]

    def compute(*tensors: te.Tensor) -> te.Tensor:
        def body(*i: Any) -> Any:
            def at(t: te.Tensor, start: Dim) -> Any:
                return t(*i[:axis], i[axis] - dims.expr(start), *i[axis + 1:])

            value = at(tensors[-1], ends[-2])
            for t, start, end in list(zip(tensors, [0, *ends], ends, strict=False))[-2::-1]:
                value = tirx.if_then_else(i[axis] < dims.expr(end), at(t, start), value)
            return value

        return te.compute([dims.expr(d) for d in shape], body, name="concat")

    return cx.te(compute, *parts, name="concat")


@onnx_op("Split")
def split_1(cx: Context, x: Value, *, axis: int = 0, split: list[int] | None = None) -> tuple[Value, ...]:
    axis %= x.ndim
    count = len(cx.node.output) if cx.node is not None else 1
    return _split(cx, x, axis, list(split) if split else _even(cx, x.shape[axis], count))


@onnx_op("Split", since=13)
def split(cx: Context, x: Value, sizes: Value | None = None, *, axis: int = 0, num_outputs: int | None = None) -> tuple[Value, ...]:
    axis %= x.ndim
    count = num_outputs or (len(cx.node.output) if cx.node is not None else 1)
    return _split(cx, x, axis, cx.dims(sizes, "split") if sizes is not None else _even(cx, x.shape[axis], count))


def _even(cx: Context, extent: Dim, count: int) -> list[Dim]:
    """Sizes of parts that are equal but for the last, which may be smaller."""
    chunk = dims.ceildiv(extent, count)
    last = dims.dim(extent - chunk * (count - 1))
    if not dims.is_extent(last):
        cx.check(last >= 0, f"an axis of {extent} cannot be split into {count} parts of {chunk}")
    return [*[chunk] * (count - 1), last]


def _split(cx: Context, x: Value, axis: int, sizes: list[Dim]) -> tuple[Value, ...]:
    parts, start = [], 0
    for size in sizes:
        if not dims.is_extent(size):
            cx.check(size >= 0, f"a split has a negative size: {dims.text(sizes)}")
    total, extent = dims.dim(sum(sizes)), x.shape[axis]
    if not dims.equal(total, extent):
        cx.check(total == extent if isinstance(total, int) and isinstance(extent, int) else dims.expr(total).equal(dims.expr(extent)),
                 f"the sizes of a split, {dims.text(sizes)}, add up to {total}, not {extent}")
    for size in sizes:
        parts.append(window_of(cx, x, {axis: (start, size, 1)}))
        start = dims.dim(start + size)
    return tuple(parts)


def window_of(cx: Context, x: Value, axes: dict[int, tuple[Dim, Dim, int]]) -> Value:
    """The elements of a value at start, start + step, ... on some axes: (start, count, step) for each."""
    shape = [axes[i][1] if i in axes else d for i, d in enumerate(x.shape)]

    def compute(t: te.Tensor) -> te.Tensor:
        def body(*i: Any) -> Any:
            return t(*(k * axes[a][2] + dims.expr(axes[a][0]) if a in axes else k for a, k in enumerate(i)))

        return te.compute([dims.expr(d) for d in shape], body, name="slice")

    return cx.te(compute, x, name="slice")


@onnx_op("Slice")
def slice_1(cx: Context, x: Value, *, starts: list[int], ends: list[int], axes: list[int] | None = None) -> Value:
    return _slice(cx, x, list(starts), list(ends), axes, [1] * len(starts))


@onnx_op("Slice", since=10)
def slice_10(cx: Context, x: Value, starts: Value, ends: Value, axes: Value | None = None, steps: Value | None = None) -> Value:
    first, last = cx.dims(starts, "starts"), cx.dims(ends, "ends")
    return _slice(cx, x, first, last, cx.ints(axes, "axes"), cx.ints(steps, "steps") or [1] * len(first))


def _slice(cx: Context, x: Value, starts: list[Dim], ends: list[Dim], axes: list[int] | None, steps: list[int]) -> Value:
    picked: dict[int, tuple[Dim, Dim, int]] = {}
    for axis, start, end, step in zip(axes or range(len(starts)), starts, ends, steps, strict=False):
        axis %= x.ndim
        extent = x.shape[axis]
        low, high = (0, extent) if step > 0 else (-1, extent - 1)
        first = _clamped(_from_end(start, extent), 0 if step > 0 else low, extent if step > 0 else high)
        last = _clamped(_from_end(end, extent), low, high)
        span = last - first if step > 0 else first - last
        count = dims.maximum(dims.ceildiv(span, abs(step)), 0)
        if not (step == 1 and dims.equal(first, 0) and dims.equal(count, extent)):
            picked[axis] = (dims.dim(first), dims.dim(count), step)
    if not picked:
        return x
    if not all(dims.is_static(dims.variables(n)) for _, n, _ in picked.values()):
        counts = cx.let([n for _, n, _ in picked.values()])
        picked = {a: (s, n, t) for (a, (s, _, t)), n in zip(picked.items(), counts, strict=True)}
    return window_of(cx, x, picked)


def _from_end(index: Dim, extent: Dim) -> Dim:
    if isinstance(index, int):
        return index + extent if index < 0 else index
    return index if dims.is_extent(index) else dims.select(index < 0, index + extent, index)


def _clamped(value: Dim, low: Dim, high: Dim) -> Dim:
    return dims.minimum(dims.maximum(value, low), high)


@onnx_op("Expand", since=8)
def expand(cx: Context, x: Value, shape: Value) -> Value:
    asked = cx.dims(shape, "the shape")
    if shape.known_elements() is None:
        asked = cx.let(asked)
    result = cx.broadcast_shape(x.shape, asked)
    return x if len(result) == x.ndim and all(dims.equal(a, b) for a, b in zip(result, x.shape, strict=True)) else broadcast_to(cx, x, result)


def broadcast_to(cx: Context, x: Value, shape: Sequence[Dim]) -> Value:
    """Repeats x along axes of extent 1 and new leading axes."""
    offset = len(shape) - x.ndim

    def compute(t: te.Tensor) -> te.Tensor:
        def body(*i: Any) -> Any:
            at = []
            for axis, extent in enumerate(x.shape):
                index = i[offset + axis]
                if dims.equal(extent, shape[offset + axis]):
                    at.append(index)
                else:
                    at.append(tirx.IntImm("int64", 0) if isinstance(extent, int) else tirx.Select(extent.equal(1), tirx.IntImm("int64", 0), index))
            return t(*at)

        return te.compute([dims.expr(d) for d in shape], body, name="expand")

    return cx.te(compute, x, name="expand")


@onnx_op("Tile", since=6)
def tile(cx: Context, x: Value, repeats: Value) -> Value:
    counts = cx.dims(repeats, "repeats")
    if repeats.known_elements() is None:
        counts = cx.let(counts)
    shape = [dims.dim(d * n) for d, n in zip(x.shape, counts, strict=True)]

    def compute(t: te.Tensor) -> te.Tensor:
        return te.compute([dims.expr(d) for d in shape], lambda *i: t(*(tirx.floormod(k, e) for k, e in zip(i, t.shape, strict=True))), name="tile")

    return cx.te(compute, x, name="tile")


@onnx_op("Pad")
def pad_2(cx: Context, x: Value, *, pads: list[int], mode: str = "constant", value: float = 0.0) -> Value:
    return _pad(cx, x, list(pads), list(range(x.ndim)), mode, tirx.const(value, x.dtype))


@onnx_op("Pad", since=11)
def pad(cx: Context, x: Value, pads: Value, value: Value | None = None, axes: Value | None = None, *, mode: str = "constant") -> Value:
    amounts = cx.dims(pads, "pads")
    where = [a % x.ndim for a in cx.ints(axes, "axes") or range(x.ndim)]
    if value is not None and value.is_constant and np.asarray(value.array).size == 1:
        return _pad(cx, x, amounts, where, mode, tirx.const(np.asarray(value.array).item(), x.dtype))
    return _pad(cx, x, amounts, where, mode, tirx.const(0, x.dtype), value)


def _pad(cx: Context, x: Value, amounts: list[Dim], axes: list[int], mode: str, constant: Any, value: Value | None = None) -> Value:
    before: list[Dim] = [0] * x.ndim
    after: list[Dim] = [0] * x.ndim
    for axis, low, high in zip(axes, amounts[:len(axes)], amounts[len(axes):], strict=True):
        before[axis], after[axis] = low, high
    shape = dims.dims(d + b + a for d, b, a in zip(x.shape, before, after, strict=True))
    if not all(dims.is_extent(d) for d in shape):
        shape = tuple(cx.let(shape))

    def compute(t: te.Tensor, *fill: te.Tensor) -> te.Tensor:
        def body(*i: Any) -> Any:
            at = [k - dims.expr(b) for k, b in zip(i, before, strict=True)]
            moved = [k if dims.equal(b, 0) and dims.equal(a, 0) else _PAD_INDEX[mode](k, e)
                     for k, e, b, a in zip(at, t.shape, before, after, strict=True)]
            if mode != "constant":
                return t(*moved)
            padded = [not (dims.equal(b, 0) and dims.equal(a, 0)) for b, a in zip(before, after, strict=True)]
            inside = [tirx.all(k >= 0, k < e) for k, e, p in zip(at, t.shape, padded, strict=True) if p]
            filler = fill[0](*[0] * len(fill[0].shape)) if fill else constant
            return tirx.if_then_else(tirx.all(*inside), t(*at), filler) if inside else t(*at)

        return te.compute([dims.expr(d) for d in shape], body, name="pad")

    return cx.te(compute, x, *([value] if value is not None else []), name="pad")


def _reflect(index: Any, extent: Any) -> Any:
    period = tirx.max(2 * (extent - 1), 1)
    folded = tirx.floormod(index, period)
    return tirx.min(folded, period - folded)


_PAD_INDEX = {
    "constant": lambda k, e: k,
    "edge": lambda k, e: tirx.max(tirx.min(k, e - 1), 0),
    "reflect": _reflect,
    "wrap": tirx.floormod,
}


@onnx_op("DepthToSpace")
def depth_to_space(cx: Context, x: Value, *, blocksize: int, mode: str = "DCR") -> Value:
    _check_blocks(cx, x, blocksize, mode)
    n, c, h, w = x.shape
    depth = dims.floordiv(c, blocksize * blocksize)
    check_equal(cx, c, dims.dim(depth * blocksize * blocksize), f"{c} channels are not blocks of {blocksize} x {blocksize}")
    split_shape, order = (([n, blocksize, blocksize, depth, h, w], [0, 3, 4, 1, 5, 2]) if mode == "DCR"
                          else ([n, depth, blocksize, blocksize, h, w], [0, 1, 4, 2, 5, 3]))
    moved = cx.op(relax.op.permute_dims(cx.reshape(x, split_shape).expr, order))
    return cx.reshape(moved, [n, depth, dims.dim(h * blocksize), dims.dim(w * blocksize)])


def _check_blocks(cx: Context, x: Value, blocksize: int, mode: str) -> None:
    if x.ndim != 4 or blocksize < 1:
        raise cx.error(f"blocks of {blocksize} of an input of shape {dims.text(x.shape)} are not supported; it is [N, C, H, W]")
    if mode not in ("DCR", "CRD"):
        raise cx.error(f"mode '{mode}' does not exist; it can be DCR or CRD")


@onnx_op("SpaceToDepth")
def space_to_depth(cx: Context, x: Value, *, blocksize: int, mode: str = "DCR") -> Value:
    _check_blocks(cx, x, blocksize, mode)
    n, c, h, w = x.shape
    high, wide = dims.floordiv(h, blocksize), dims.floordiv(w, blocksize)
    for extent, blocks in ((h, high), (w, wide)):
        check_equal(cx, extent, dims.dim(blocks * blocksize), f"an extent of {extent} is not a multiple of the block size {blocksize}")
    order = [0, 3, 5, 1, 2, 4] if mode == "DCR" else [0, 1, 3, 5, 2, 4]
    moved = cx.op(relax.op.permute_dims(cx.reshape(x, [n, c, high, blocksize, wide, blocksize]).expr, order))
    return cx.reshape(moved, [n, dims.dim(c * blocksize * blocksize), high, wide])
