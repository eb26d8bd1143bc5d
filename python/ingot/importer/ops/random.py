"""Random numbers, by the runtime's counter-based generator: a run repeats the one before, on any number of threads."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence

from tvm import relax, te, tirx

from ingot.importer import dims
from ingot.importer.context import Context
from ingot.importer.dims import Dim
from ingot.importer.ops.cast import dtype_of
from ingot.importer.ops.position import cumulated
from ingot.importer.registry import onnx_op
from ingot.importer.values import Value


def _seed(cx: Context, seed: float | None) -> int:
    """A node's seed as an integer. Without one, each node has its own: that of its name and place."""
    if seed is None:
        return zlib.crc32(f"{cx.where()} {len(cx.module.nodes)}".encode())
    return int(struct.unpack("<q", struct.pack("<d", float(seed)))[0])


def _numbers(cx: Context, kernel: str, shape: Sequence[Dim], dtype: str, first: float, second: float, seed: float | None) -> Value:
    if dtype not in ("float16", "bfloat16", "float32", "float64"):
        raise cx.error(f"random numbers of type {dtype} are not supported; they are floats")
    result: Value = cx.kernel(kernel, [], [(list(shape), dtype)], ints=[_seed(cx, seed)], floats=[first, second])
    return result


def uniform(cx: Context, shape: Sequence[Dim], dtype: str, low: float, high: float, seed: float | None) -> Value:
    """Independent uniform numbers of [low, high)."""
    return _numbers(cx, "random_uniform", shape, dtype, low, high, seed)


def _result_type(cx: Context, code: int | None, like: Value) -> str:
    if code is not None:
        return dtype_of(cx, code)
    return like.dtype if like.dtype.startswith(("float", "bfloat")) else "float32"


@onnx_op("RandomNormal")
def random_normal(cx: Context, *, dtype: int = 1, mean: float = 0.0, scale: float = 1.0, seed: float | None = None, shape: list[int]) -> Value:
    return _numbers(cx, "random_normal", shape, dtype_of(cx, dtype), mean, scale, seed)


@onnx_op("RandomNormalLike")
def random_normal_like(cx: Context, x: Value, *, dtype: int | None = None, mean: float = 0.0, scale: float = 1.0, seed: float | None = None) -> Value:
    return _numbers(cx, "random_normal", x.shape, _result_type(cx, dtype, x), mean, scale, seed)


@onnx_op("RandomUniform")
def random_uniform(cx: Context, *, dtype: int = 1, high: float = 1.0, low: float = 0.0, seed: float | None = None, shape: list[int]) -> Value:
    return uniform(cx, shape, dtype_of(cx, dtype), low, high, seed)


@onnx_op("RandomUniformLike")
def random_uniform_like(cx: Context, x: Value, *, dtype: int | None = None, high: float = 1.0, low: float = 0.0, seed: float | None = None) -> Value:
    return uniform(cx, x.shape, _result_type(cx, dtype, x), low, high, seed)


@onnx_op("Bernoulli", since=15)
def bernoulli(cx: Context, x: Value, *, dtype: int | None = None, seed: float | None = None) -> Value:
    wide = x.dtype if x.dtype in ("float32", "float64") else "float32"
    drawn = uniform(cx, x.shape, wide, 0.0, 1.0, seed)
    hit = cx.op(relax.op.less(drawn.expr, cx.cast(x, wide).expr))
    return cx.cast(hit, x.dtype if dtype is None else dtype_of(cx, dtype))


@onnx_op("Multinomial", since=7)
def multinomial(cx: Context, x: Value, *, dtype: int = 6, sample_size: int = 1, seed: float | None = None) -> Value:
    # x holds logarithms of weights, [batch, classes]. Each sample is the first class up to which the weights reach the drawn part of all.
    result = dtype_of(cx, dtype)
    weights = cx.op(relax.op.nn.softmax(cx.cast(x, "float64").expr, -1))
    reached = cumulated(cx, weights, 1)
    drawn = uniform(cx, [x.shape[0], sample_size], "float64", 0.0, 1.0, seed)

    def compute(ends: te.Tensor, numbers: te.Tensor) -> te.Tensor:
        k = te.reduce_axis((0, ends.shape[1]), name="k")
        counted = te.compute(
            [dims.expr(x.shape[0]), dims.expr(sample_size)],
            lambda i, j: te.sum(tirx.Select(ends(i, k) <= numbers(i, j), tirx.const(1, "int64"), tirx.const(0, "int64")), axis=[k]), name="count")
        return te.compute(counted.shape, lambda i, j: tirx.min(counted(i, j), ends.shape[1].astype("int64") - 1).astype(result), name="multinomial")

    return cx.wrap(cx.te(compute, reached, drawn, name="multinomial"))
