"""Conversions between element types."""

from __future__ import annotations

import numpy as np
import onnx

from ingot.importer import narrow
from ingot.importer.context import Context
from ingot.importer.registry import onnx_op
from ingot.importer.values import Value
from ingot.importer.weights import STRING, dtype_name, numpy_dtype


def dtype_of(cx: Context, code: int) -> str:
    """The name of an ONNX element type."""
    try:
        return dtype_name(np.dtype(onnx.helper.tensor_dtype_to_np_dtype(code)))
    except KeyError:
        raise cx.error(f"element type {code} does not exist") from None


def convert(cx: Context, x: Value, dtype: str, *, saturate: bool = True, round_mode: str = "up") -> Value:
    """The value in another type: floats to integers truncate, anything but 0 is true."""
    if x.dtype == dtype:
        return x
    if dtype == STRING:
        return to_strings(cx, x)
    if x.dtype.startswith("complex") or dtype.startswith("complex"):
        raise cx.error(f"a cast from {x.dtype} to {dtype} is not supported")
    if x.dtype in narrow.TYPES:
        x = narrow.decode(cx, x)
    if dtype in narrow.TYPES:
        return narrow.encode(cx, x, dtype, saturate=saturate, round_mode=round_mode)
    if x.dtype != dtype and x.weight is not None and not x.is_small_constant and "bool" not in (x.dtype, dtype):
        target = numpy_dtype(dtype)
        return Value(cx, dtype, x.shape, weight=x.weight.map(lambda a: a.astype(target), x.weight.shape, f":{dtype}", dtype))
    return cx.cast(x, dtype)


def to_strings(cx: Context, x: Value) -> Value:
    """The shortest text of each number that reads back as the same; 0 and 1 for truth values."""
    if x.dtype in narrow.TYPES:
        x = narrow.decode(cx, x)
    return cx.wrap(cx.kernel("number_to_string", [x], [(x.shape, STRING)]))


@onnx_op("Cast")
def cast(cx: Context, x: Value, *, to: int, saturate: int = 1, round_mode: str = "up") -> Value:
    return convert(cx, x, dtype_of(cx, to), saturate=bool(saturate), round_mode=round_mode)


@onnx_op("CastLike", since=15)
def cast_like(cx: Context, x: Value, like: Value, *, saturate: int = 1, round_mode: str = "up") -> Value:
    return convert(cx, x, like.dtype, saturate=bool(saturate), round_mode=round_mode)


def _bits(dtype: str) -> int:
    """The width of an element as it is stored."""
    return int(numpy_dtype(dtype).itemsize) * 8


@onnx_op("BitCast", since=26)
def bit_cast(cx: Context, x: Value, *, to: int) -> Value:
    dtype = dtype_of(cx, to)
    narrow_bits = {t: bits for t, (_, bits) in narrow.INTEGERS.items()} | {"float4_e2m1fn": 4}
    if narrow_bits.get(x.dtype, _bits(x.dtype)) != narrow_bits.get(dtype, _bits(dtype)):
        raise cx.error(f"{x.dtype} and {dtype} are of different widths")
    if x.dtype == dtype:
        return x
    return cx.view(x, dtype)
