"""Conversions between element types."""

from __future__ import annotations

import numpy as np
import onnx

from ingot.importer.context import Context
from ingot.importer.registry import onnx_op
from ingot.importer.values import Value
from ingot.importer.weights import dtype_name, numpy_dtype

_PLAIN = frozenset({"bool", "float16", "bfloat16", "float32", "float64",
                    *(f"{sign}{bits}" for sign in ("int", "uint") for bits in (8, 16, 32, 64))})


def dtype_of(cx: Context, code: int) -> str:
    """The name of an ONNX element type."""
    if code == onnx.TensorProto.STRING:
        raise cx.error("strings are not supported")
    try:
        return dtype_name(np.dtype(onnx.helper.tensor_dtype_to_np_dtype(code)))
    except KeyError:
        raise cx.error(f"element type {code} does not exist") from None


def convert(cx: Context, x: Value, dtype: str) -> Value:
    """The value in another type: floats to integers truncate, anything but 0 is true."""
    if x.dtype == dtype:
        return x
    if x.dtype not in _PLAIN or dtype not in _PLAIN:
        raise cx.error(f"a cast from {x.dtype} to {dtype} is not supported")
    if x.weight is not None and not x.is_small_constant and x.dtype != "bool" and dtype != "bool":
        target = numpy_dtype(dtype)
        return Value(cx, dtype, x.shape, weight=x.weight.map(lambda a: a.astype(target), x.weight.shape, f":{dtype}", dtype))
    return cx.cast(x, dtype)


@onnx_op("Cast")
def cast(cx: Context, x: Value, *, to: int, saturate: int = 1, round_mode: str = "up") -> Value:
    return convert(cx, x, dtype_of(cx, to))


@onnx_op("CastLike", since=15)
def cast_like(cx: Context, x: Value, like: Value, *, saturate: int = 1, round_mode: str = "up") -> Value:
    return convert(cx, x, like.dtype)
