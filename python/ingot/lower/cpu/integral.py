"""Quantized numbers stay in float registers until they are stored, and are rounded by an addition.

``quantize`` rounds and clamps in float32 and converts to an integer; a ``dequantize`` that was fused behind it converts back. Where the
float is known to be a whole number within the integer's range, both conversions are left out.

From 2^23 to 2^24 floats are the whole numbers: adding 1.5 * 2^23 to a small number rounds it, ties to even, and leaves the integer in the low
bits. With what is clamped first, an addition stands for rounding and conversion, which take two instructions and three micro-operations.
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


#: Its low 16 bits are 0.
_WHOLE = 1.5 * 2**23


def rounded_by_addition(body: Any) -> Any:
    """Code in which ``min(max(nearbyint(x) + zero, low), high)``, converted to an integer or less a zero point, is rounded by an addition."""
    def cast(node: Any) -> Any:
        found = _clamped(node.value) if str(getattr(node.ty, "dtype", "")) in ("int8", "uint8", "int16") else None
        if found is None:
            return node
        integer = tirx.reinterpret("int32", found[0])
        return (integer if found[1] is None else integer + found[1].astype("int32")).astype(str(node.ty.dtype))

    def difference(node: Any) -> Any:
        found = _clamped(node.a)
        if found is None or not _is_small(node.b):
            return node
        offset = tirx.const(_WHOLE, "float32") + node.b
        return found[0] - (offset if found[1] is None else offset - found[1].astype("float32"))

    return tvm_ffi.structural_map(body, [(tirx.Cast, cast), (tirx.Sub, difference)])


def _clamped(value: Any) -> tuple[Any, Any] | None:
    """The clamped and rounded number without its zero point, plus 1.5 * 2^23, and the zero point, an integer, or None where there is none."""
    if not (isinstance(value, tirx.Min) and isinstance(value.a, tirx.Max) and str(value.ty.dtype) == "float32"):
        return None
    low, high, whole = value.a.b, value.b, value.a.a
    if not all(isinstance(v, tirx.FloatImm) and abs(v.value) <= _BYTE for v in (low, high)):
        return None
    zero = None
    if isinstance(whole, tirx.Add) and _is_small(whole.b):
        whole, zero = whole.a, whole.b.value
    if not (isinstance(whole, Call) and getattr(whole.op, "name", "") == "tirx.nearbyint"):
        return None
    if zero is not None:
        low, high = low - zero.astype("float32"), high - zero.astype("float32")
    return tirx.min(tirx.max(whole.args[0], low), high) + tirx.const(_WHOLE, "float32"), zero


def _is_small(value: Any) -> bool:
    """Whether a float is an integer of 8 bits."""
    return isinstance(value, tirx.Cast) and str(value.value.ty.dtype) in ("int8", "uint8")


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
