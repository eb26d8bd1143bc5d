"""Operators that move elements without computing on them."""

from __future__ import annotations

from typing import Any

from tvm import te

from ingot.importer import dims
from ingot.importer.context import Context
from ingot.importer.registry import onnx_op
from ingot.importer.values import Value


@onnx_op("Reshape", since=5)
def reshape(cx: Context, x: Value, shape: Value, *, allowzero: int = 0) -> Value:
    asked = cx.dims(shape, "the shape")
    cx.extents(d for d in asked if not isinstance(d, int))  # what is computed from extents is one, not a 0 or -1 of Reshape's own meaning
    wild = sum(isinstance(d, int) and d == -1 for d in asked)
    if wild > 1:
        raise cx.error(f"shape {dims.text(asked)} has more than one -1")
    kept = [x.shape[i] if i < x.ndim else 0 for i in range(len(asked))]
    target = asked if allowzero else [dims.select(_equals(d, 0), kept[i], d) for i, d in enumerate(asked)]
    rest = dims.product(dims.select(_equals(d, -1), 1, d) for d in target)
    if isinstance(rest, int) and rest == 0:
        return cx.reshape(x, [0 if isinstance(d, int) and d == -1 else d for d in target])
    inferred = dims.floordiv(dims.product(x.shape), rest)
    target = [dims.select(_equals(d, -1), inferred, d) for d in target]
    if shape.known_elements() is None:
        target = cx.let(target)
        cx.check(dims.expr(dims.product(x.shape)).equal(dims.expr(dims.product(target))), f"cannot reshape {dims.text(x.shape)}")
    return cx.reshape(x, target)


def _equals(a: dims.Dim, b: int) -> Any:
    return a == b if isinstance(a, int) else (False if dims.is_extent(a) else a.equal(b))


@onnx_op("Transpose")
def transpose(cx: Context, x: Value, *, perm: list[int] | None = None) -> Value:
    return cx.transpose(x, perm if perm is not None else list(range(x.ndim))[::-1])


@onnx_op("Shape")
def shape_of(cx: Context, x: Value, *, start: int = 0, end: int | None = None) -> Value:
    return cx.symbolic(list(x.shape[slice(start, end)]))


@onnx_op("Gather")
def gather(cx: Context, x: Value, indices: Value, *, axis: int = 0) -> Value:
    axis %= max(x.ndim, 1)
    rank = indices.ndim

    def compute(t: te.Tensor, at: te.Tensor) -> te.Tensor:
        shape = [dims.expr(d) for d in (*x.shape[:axis], *indices.shape, *x.shape[axis + 1:])]
        return te.compute(shape, lambda *i: t(*i[:axis], at(*i[axis:axis + rank]), *i[axis + rank:]), name="take")

    return cx.wrap(cx.te(compute, x, cx.indices(indices, x.shape[axis]), name="take"))
