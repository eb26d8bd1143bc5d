"""Operators that move elements without computing on them."""

from __future__ import annotations

from tvm import topi

from ingot.importer import dims
from ingot.importer.context import Context
from ingot.importer.registry import onnx_op
from ingot.importer.values import Value


@onnx_op("Reshape", since=5)
def reshape(cx: Context, x: Value, shape: Value, *, allowzero: int = 0) -> Value:
    target = cx.dims(shape, "the shape")
    if not allowzero:
        target = [x.shape[i] if isinstance(d, int) and d == 0 else d for i, d in enumerate(target)]
    wild = [i for i, d in enumerate(target) if isinstance(d, int) and d == -1]
    if len(wild) > 1:
        raise cx.error(f"shape {dims.text(target)} has more than one -1")
    if wild:
        rest = dims.product(d for i, d in enumerate(target) if i != wild[0])
        target[wild[0]] = 0 if isinstance(rest, int) and rest == 0 else dims.floordiv(dims.product(x.shape), rest)
    return cx.reshape(x, target)


@onnx_op("Transpose")
def transpose(cx: Context, x: Value, *, perm: list[int] | None = None) -> Value:
    return cx.transpose(x, perm if perm is not None else list(range(x.ndim))[::-1])


@onnx_op("Shape")
def shape_of(cx: Context, x: Value, *, start: int = 0, end: int | None = None) -> Value:
    return cx.symbolic(list(x.shape[slice(start, end)]))


@onnx_op("Gather")
def gather(cx: Context, x: Value, indices: Value, *, axis: int = 0) -> Value:
    return cx.te(topi.take, x, indices, axis=axis, mode="fast")
