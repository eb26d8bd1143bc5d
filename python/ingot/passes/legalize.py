"""Relax operators that TVM's own tensor expressions get wrong for infinities and NaN, and what replaces those."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tvm
from tvm import relax, te, tirx

from ingot.importer.narrow import FLOATS

Legalize = Callable[[relax.BlockBuilder, relax.Call], relax.Expr]


def _extreme(largest: bool) -> Legalize:
    """The largest or smallest element over axes: of no elements and of infinities, an infinity, and of any NaN, NaN."""

    def legalize(bb: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
        name = "max" if largest else "min"
        axes, keepdims = call.attrs.axis, bool(call.attrs.keepdims)
        return bb.call_te(_reduced, call.args[0], None if axes is None else [int(a) for a in axes], keepdims, largest, primfunc_name_hint=name)

    return legalize


def _reduced(x: te.Tensor, axes: list[int] | None, keepdims: bool, largest: bool) -> te.Tensor:
    dtype = str(x.dtype)
    floating = dtype.startswith(("float", "bfloat"))

    def pick(a: Any, b: Any) -> Any:
        better = a > b if largest else a < b
        return tirx.Select(tirx.any(better, tirx.isnan(a)), a, b) if floating else (tirx.max if largest else tirx.min)(a, b)

    def identity(of: str) -> Any:
        if floating:
            return tirx.const(float("-inf" if largest else "inf"), of)
        return tirx.min_value(of) if largest else tirx.max_value(of)

    reducer = te.comm_reducer(pick, identity, name="max" if largest else "min")
    gone = sorted({a % x.ndim for a in axes} if axes is not None else range(x.ndim))
    over = {a: te.reduce_axis((0, x.shape[a]), name="k") for a in gone}
    shape = [tirx.IntImm("int64", 1) if a in over else d for a, d in enumerate(x.shape) if keepdims or a not in over]

    def at(*i: Any) -> Any:
        kept = iter(i if not keepdims else [index for a, index in enumerate(i) if a not in over])
        return reducer(x(*(over[a] if a in over else next(kept) for a in range(x.ndim))), axis=list(over.values()))

    return te.compute(shape, at, name="max" if largest else "min")


def _relu(bb: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    """max(0, x): machines give the second of two numbers if one is NaN, so that NaN stays."""

    def relu(x: te.Tensor) -> te.Tensor:
        return te.compute(x.shape, lambda *i: tirx.max(tirx.const(0, x.dtype), x(*i)), name="relu")

    return bb.call_te(relu, call.args[0], primfunc_name_hint="relu")


def _quantize(bb: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    """Quotients by the scale to the nearest integer, ties to even, plus the zero point, saturated; NaN becomes the least (ONNX QuantizeLinear).

    Small floats are cast to, which rounds and saturates on GPUs; for CPUs passes/small_floats.py has replaced them.
    """
    dtype, axis = str(call.attrs.out_dtype), int(call.attrs.axis)

    def quantize(x: te.Tensor, scale: Any, zero: Any) -> te.Tensor:
        def at(*i: Any) -> Any:
            quotient = _over(x(*i), _number(scale, axis, i))
            return quotient.astype(dtype) if dtype in FLOATS else _saturated(_plus(tirx.nearbyint(quotient), _number(zero, axis, i)), dtype)

        return te.compute(x.shape, at, name="quantize")

    return bb.call_te(quantize, call.args[0], _unless(call.args[1], 1), _unless(call.args[2], 0), primfunc_name_hint="quantize")


def _saturated(whole: Any, dtype: str) -> Any:
    low, high = (limit(dtype).astype("float32") for limit in (tirx.min_value, tirx.max_value))
    return tirx.min(tirx.max(whole, low), high).astype(dtype)


def _dequantize(bb: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    """(x - zero point) * scale."""
    dtype, axis = str(call.attrs.out_dtype), int(call.attrs.axis)

    def dequantize(x: te.Tensor, scale: Any, zero: Any) -> te.Tensor:
        def at(*i: Any) -> Any:
            return _plus(x(*i).astype("float32"), _number(zero, axis, i), -1) * _number(scale, axis, i).astype("float32")

        return te.compute(x.shape, lambda *i: at(*i).astype(dtype), name="dequantize")

    return bb.call_te(dequantize, call.args[0], call.args[1], _unless(call.args[2], 0), primfunc_name_hint="dequantize")


def _unless(parameter: Any, nothing: int) -> Any:
    """A scale or zero point as a tensor, so that functions which differ in it are one; as a number where it changes nothing."""
    if isinstance(parameter, tvm.ir.GenericConst) and not parameter.value.numpy().ndim and parameter.value.numpy() == nothing:
        return tirx.const(nothing, str(parameter.value.numpy().dtype))
    return parameter


def _number(parameter: Any, axis: int, indices: Any) -> Any:
    """A scale or zero point at a position: one number, or one for each position of an axis."""
    if not isinstance(parameter, te.Tensor):
        return parameter
    return parameter() if parameter.ndim == 0 else parameter(indices[axis])


def _over(x: Any, scale: Any) -> Any:
    return x if isinstance(scale, tirx.FloatImm) else x / scale


def _plus(x: Any, zero: Any, sign: int = 1) -> Any:
    """A number with a zero point added or taken off; nothing where that is known to be 0."""
    if isinstance(zero, tirx.IntImm) and int(zero) == 0:
        return x
    return x + zero.astype("float32") if sign > 0 else x - zero.astype("float32")


#: For ``relax.transform.LegalizeOps(customize_legalize_map=...)``.
OVERRIDES: dict[str, Legalize] = {"relax.max": _extreme(True), "relax.min": _extreme(False), "relax.nn.relu": _relu,
                                 "relax.quantize": _quantize, "relax.dequantize": _dequantize}
