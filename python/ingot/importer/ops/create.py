"""Operators that make tensors from shapes and numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from tvm import relax, te, tirx

from ingot.importer import dims
from ingot.importer.context import Context
from ingot.importer.dims import Dim
from ingot.importer.initializers import sparse_initializer
from ingot.importer.ops.cast import convert, dtype_of
from ingot.importer.registry import onnx_op
from ingot.importer.values import SMALL, Value


@onnx_op("Constant")
def constant(cx: Context, *, value: np.ndarray | None = None, sparse_value: onnx.SparseTensorProto | None = None, value_float: float | None = None,
             value_floats: list[float] | None = None, value_int: int | None = None, value_ints: list[int] | None = None,
             value_string: str | None = None, value_strings: list[str] | None = None) -> Value:
    if sparse_value is not None:
        return cx.constant(sparse_initializer(sparse_value))
    for given, dtype in ((value_float, "float32"), (value_floats, "float32"), (value_int, "int64"), (value_ints, "int64")):
        if given is not None:
            return cx.constant(given, dtype)
    strings = value_string if value_string is not None else value_strings
    if value is None and strings is None:
        raise cx.error("it has no value")
    return cx.constant(np.asarray(strings, object) if value is None else value)


def filled(cx: Context, shape: Sequence[Dim], value: Any, dtype: str) -> Value:
    """A tensor of equal elements."""
    if dims.is_static(shape) and np.prod(shape, dtype=np.int64) <= SMALL:
        return cx.constant(np.full([int(d) for d in shape], value), dtype)
    return cx.op(relax.op.full([dims.expr(d) for d in shape], relax.const(value, dtype), dtype))


@onnx_op("ConstantOfShape", since=9)
def constant_of_shape(cx: Context, shape: Value, *, value: np.ndarray | None = None) -> Value:
    extents = cx.dims(shape, "the shape")
    if shape.known_elements() is None:
        extents = cx.let(extents)
    fill = np.zeros(1, np.float32) if value is None else value
    return filled(cx, extents, fill.ravel()[0], cx.constant(fill).dtype)


@onnx_op("Size")
def size(cx: Context, x: Value) -> Value:
    return cx.symbolic(dims.product(x.shape))


@onnx_op("EyeLike", since=9)
def eye_like(cx: Context, x: Value, *, dtype: int | None = None, k: int = 0) -> Value:
    result = x.dtype if dtype is None else dtype_of(cx, dtype)
    return cx.te(lambda: te.compute([dims.expr(d) for d in x.shape], lambda i, j: (j - i).equal(k).astype(result), name="eye"), name="eye")


@onnx_op("Range", since=11)
def range_(cx: Context, start: Value, limit: Value, delta: Value, *, stash_type: int = 1) -> Value:
    known = [v.known_elements() for v in (start, limit, delta)]
    if all(k is not None for k in known):
        first, last, step = (dims.dim(k.ravel()[0]) for k in known if k is not None)
    elif start.dtype.startswith("int"):
        first, last, step = (cx.dims(v, what)[0] for v, what in ((start, "start"), (limit, "limit"), (delta, "delta")))
    else:
        return _float_range(cx, start, limit, delta)
    if isinstance(step, int):
        if step == 0:
            raise cx.error("delta is 0")
        count = dims.ceildiv(last - first, step) if step > 0 else dims.ceildiv(first - last, -step)
    else:  # ceil((last - first) / step) for either sign of the step
        count = dims.select(step > 0, dims.floordiv(last - first + step - 1, dims.maximum(step, 1)),
                            dims.floordiv(first - last - step - 1, dims.maximum(-1 * step, 1)))
        cx.check(tirx.NE(step, dims.expr(0)), "delta is 0")
    count = dims.maximum(count, 0)
    if isinstance(count, int) and count <= SMALL and dims.is_static((first, step)):
        return cx.constant(np.arange(count, dtype=np.int64) * step + first, start.dtype)
    extent = cx.let([count])[0]
    values = cx.te(lambda: te.compute([dims.expr(extent)], lambda i: (dims.expr(first) + i * dims.expr(step)).astype(start.dtype), name="range"),
                   name="range")
    return cx.wrap(values)


def _float_range(cx: Context, start: Value, limit: Value, delta: Value) -> Value:
    wide = [cx.cast(cx.reshape(v, []), "float64") for v in (start, limit, delta)]
    count = cx.cast(cx.op(relax.op.ceil(relax.op.divide(relax.op.subtract(wide[1].expr, wide[0].expr), wide[2].expr))), "int64")
    extent = cx.let([dims.maximum(cx.dims(count, "the number of elements")[0], 0)])[0]

    def compute(first: te.Tensor, step: te.Tensor) -> te.Tensor:
        return te.compute([dims.expr(extent)], lambda i: (first() + i.astype("float64") * step()).astype(start.dtype), name="range")

    return cx.wrap(cx.te(compute, wide[0], wide[2], name="range"))


@onnx_op("Dropout")
def dropout_1(cx: Context, x: Value, *, ratio: float = 0.5, is_test: int = 1) -> tuple[Value, ...]:
    wants_mask = cx.node is not None and len(cx.node.output) > 1 and bool(cx.node.output[1])
    return (x, filled(cx, x.shape, True, "bool" if cx.opset >= 10 else x.dtype)) if wants_mask else (x,)


@onnx_op("Dropout", since=12)
def dropout(cx: Context, x: Value, ratio: Value | None = None, training_mode: Value | None = None, *, seed: int | None = None) -> tuple[Value, ...]:
    training = training_mode is not None and bool(np.any(cx.array(training_mode, "training_mode")))
    amount = 0.5 if ratio is None else float(np.asarray(cx.array(ratio, "the ratio")).item()) if training else 0.0
    if not training or amount == 0:
        return dropout_1(cx, x)
    from ingot.importer.ops.random import uniform

    kept = cx.op(relax.op.greater_equal(uniform(cx, x.shape, "float32", 0.0, 1.0, seed).expr, relax.const(amount, "float32")))
    scale = 1 / (1 - amount) if amount < 1 else 0.0
    scaled = cx.op(relax.op.multiply(x.expr, relax.const(scale, x.dtype)))
    return cx.op(relax.op.where(kept.expr, scaled.expr, relax.const(0, x.dtype))), convert(cx, kept, "bool")
