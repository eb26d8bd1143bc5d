"""Relax operators that TVM's own tensor expressions get wrong for infinities and NaN, and what replaces those."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm import relax, te, tirx

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


#: For ``relax.transform.LegalizeOps(customize_legalize_map=...)``.
OVERRIDES: dict[str, Legalize] = {"relax.max": _extreme(True), "relax.min": _extreme(False), "relax.nn.relu": _relu}
