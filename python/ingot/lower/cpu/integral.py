"""Quantized numbers stay in float registers until they are stored.

``quantize`` rounds and clamps in float32 and converts to an integer; a ``dequantize`` that was fused behind it converts back. Where the
float is known to be a whole number within the integer's range, both conversions are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tvm_ffi
from tvm import tirx
from tvm.ir import Call
from tvm.ir.expr import TensorLoad

Range = tuple[float, float]
_BYTE = 255  # the largest magnitude of an 8-bit number or zero point


def simplified(value: Any, known: Mapping[Any, Range]) -> Any:
    """A value without conversions of whole floats to integers and back; ``known`` are float variables that hold whole numbers in a range."""
    def cast(node: Any) -> Any:
        inner = node.value
        if not hasattr(inner.ty, "dtype"):
            return node
        if str(node.ty.dtype) == "float32":
            found = as_float(inner, known)
            return node if found is None else found[0]
        if isinstance(inner, tirx.Cast) and str(inner.value.ty.dtype) == "float32" and _is_integer(node.ty) and _is_integer(inner.ty):
            within = _range(inner.value, known)
            if within is not None and _holds(inner.ty, within) and _holds(node.ty, within):
                return inner.value.astype(str(node.ty.dtype))
        return node

    return tvm_ffi.structural_map(value, (tirx.Cast, cast))


def as_float(value: Any, known: Mapping[Any, Range]) -> tuple[Any, Range] | None:
    """The float32 expression that an integer one was converted from, and its range; None if it is not known to be the same number.

    A number without axes that is subtracted is a zero point, which fits 8 bits (passes/integers.py): the difference to a byte does not
    leave 16 bits.
    """
    if not _is_integer(value.ty):
        return None
    if isinstance(value, tirx.Cast):
        if str(value.value.ty.dtype) == "float32":
            within = _range(value.value, known)
            return (value.value, within) if within is not None and _holds(value.ty, within) else None
        found = as_float(value.value, known)
        return found if found is not None and _holds(value.ty, found[1]) else None
    if isinstance(value, tirx.Sub) and str(value.ty.dtype) == "int16" and isinstance(value.b, TensorLoad) and not value.b.indices:
        found = as_float(value.a, known)
        if found is not None and max(map(abs, found[1])) <= _BYTE:
            return found[0] - value.b.astype("float32"), (found[1][0] - _BYTE, found[1][1] + _BYTE)
    return None


def _range(value: Any, known: Mapping[Any, Range]) -> Range | None:
    """The range of a float expression of whole numbers, or None."""
    if isinstance(value, tirx.Var):
        return known.get(value)
    if isinstance(value, tirx.Sub) and isinstance(value.b, tirx.Cast) and isinstance(value.b.value, TensorLoad) and not value.b.value.indices:
        within = _range(value.a, known)
        return (within[0] - _BYTE, within[1] + _BYTE) if within is not None and _is_integer(value.b.value.ty) else None
    if isinstance(value, tirx.Min) and isinstance(value.b, tirx.FloatImm) and isinstance(value.a, tirx.Max) and isinstance(value.a.b, tirx.FloatImm):
        return (value.a.b.value, value.b.value) if _whole(value.a.a) else None
    return None


def _whole(value: Any) -> bool:
    """Whether a float expression has no fraction."""
    if isinstance(value, (tirx.Add, tirx.Sub)):
        return _whole(value.a) and _whole(value.b)
    if isinstance(value, tirx.Cast):
        return _is_integer(value.value.ty)
    return isinstance(value, Call) and getattr(value.op, "name", "") == "tirx.nearbyint"


def _is_integer(ty: Any) -> bool:
    return str(getattr(ty, "dtype", "")) in ("int8", "uint8", "int16", "int32")


def _holds(ty: Any, within: Range) -> bool:
    dtype = str(ty.dtype)
    return float(tirx.min_value(dtype).value) <= within[0] and within[1] <= float(tirx.max_value(dtype).value)
