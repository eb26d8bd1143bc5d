"""exp, erf, tanh and the like in arithmetic that becomes vector instructions, where C's library would be called for each element.

float32, within 5 units in the last place over the whole range, infinities and NaN as in C (``tests/lower/test_math.py`` measures it);
float16 and bfloat16 are computed in float32; float64 keeps the C library. The rational functions are fits of P(x²) - f(x)/x·Q(x²) by
least squares at Chebyshev nodes, reweighted until the relative error is level, and rounded to float32.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tvm_ffi
from tvm import tirx
from tvm.ir import Call

from ingot.lower.cpu import integral
from ingot.lower.cpu.nest import is_choice, substitute

_LOG2E = 1.4426950408889634
_LN2_HIGH, _LN2_LOW = 0.693359375, -2.12194440e-4  # their sum is ln 2; the first has few bits, so that n times it is exact
#: exp(r) - 1 - r over r² on |r| <= ln 2 / 2 (S. L. Moshier, Cephes, expf.c), highest power first.
_EXP = (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1)
_ERF_LIMIT = 3.92  # erf of more rounds to 1
_ERF_P = (2.0500331174844177e-06, 0.0002848751610144973, 0.003765515051782131, 0.052748408168554306, 0.19040481746196747, 1.1283791065216064)
_ERF_Q = (3.809075496974401e-05, 0.001162500586360693, 0.014969022944569588, 0.11410833895206451, 0.5020745992660522, 1.0)
_TANH_LIMIT = 9.02  # tanh of more rounds to 1
_TANH_P = (-8.436723948580457e-14, 5.258073837444144e-11, -2.01846415137652e-08, 1.1144435120513663e-05, 0.003103019203990698,
           0.1308317333459854, 1.0)
_TANH_Q = (0.00025447766529396176, 0.024491453543305397, 0.46416500210762024, 1.0)


def expand(function: tirx.PrimFunc) -> tirx.PrimFunc:
    """A TIR function with the calls of this module's table written out, and names of its own in each statement."""
    body = tvm_ffi.structural_map(integral.rounded_by_addition(function.body), (Call, _call))
    body = tvm_ffi.structural_map(body, (tirx.BufferStore, _named_anew))
    if any("float16" in str(p.ty.dtype) for p in function.params if hasattr(p.ty, "storage_scope")):
        # Rounding to bfloat16 repeats its operand, and a name can be bound only once.
        body = tvm_ffi.structural_map(body, (tirx.Let, lambda node: substitute(node.body, {node.var: node.value})))
    return function.with_body(body)


def _named_anew(store: Any) -> Any:
    """A statement whose names stand in no other, and around its whole value.

    What is computed for several vectors is written out for each. TVM's vectorizer looks at the arguments of calls within calls more than once, and
    refuses a name that it meets again. Where a choice guards what is read, names stay behind it.
    """
    names: list[tuple[Any, Any]] = []
    guarded = False

    def choice(node: Any) -> Any:
        nonlocal guarded
        guarded = guarded or is_choice(node)
        return node

    def rename(node: Any) -> Any:
        variable = tirx.Var(node.var.name, node.var.ty)
        body = substitute(node.body, {node.var: variable})
        if guarded:
            return tirx.Let(variable, node.value, body)
        for i, (name, value) in enumerate(names):  # those within the body were found before
            names[i] = name, substitute(value, {node.var: variable})
        names.append((variable, node.value))
        return body

    tvm_ffi.structural_map(store, (Call, choice))
    store = tvm_ffi.structural_map(store, (tirx.Let, rename))
    value = store.value
    for name, bound in reversed(_ordered(names)):
        value = tirx.Let(name, bound, value)
    return tirx.BufferStore(store.buffer, value, store.indices) if names else store


def _ordered(names: Sequence[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
    """Names and their values, each after those that its value is computed from."""
    reads: list[set[Any]] = []
    for _, value in names:
        found: set[Any] = set()
        tvm_ffi.structural_map(value, (tirx.Var, lambda v, found=found: found.add(v) or v))
        reads.append(found)
    rest, ordered = list(range(len(names))), list[tuple[Any, Any]]()
    while rest:
        pending = {names[i][0] for i in rest}
        ready = [i for i in rest if not reads[i] & pending]
        assert ready, "names that need each other"
        ordered += [names[i] for i in ready]
        rest = [i for i in rest if i not in ready]
    return ordered


def _call(node: Any) -> Any:
    write = _TABLE.get(getattr(node.op, "name", ""))
    if write is None:
        return node
    dtype = str(node.ty.dtype)
    if dtype == "float32":
        return _let(node.args[0], write)
    if dtype in ("float16", "bfloat16"):
        return _let(node.args[0].astype("float32"), write).astype(dtype)
    if dtype == "float64" and node.op.name == "tirx.tanh":  # LLVM's lowering of it loses digits near 0
        return tirx.call_pure_extern("float64", "tanh", node.args[0])
    return node


def _let(value: Any, body: Callable[[Any], Any]) -> Any:
    variable = tirx.Var("t", "float32")
    return tirx.Let(variable, value, body(variable))


def _f32(value: float) -> Any:
    return tirx.const(value, "float32")


def _horner(coefficients: Sequence[float], x: Any) -> Any:
    value = _f32(coefficients[0])
    for c in coefficients[1:]:
        value = value * x + _f32(c)
    return value


def _is_nan(x: Any) -> Any:
    # By its bits: the simplifier takes x != x for false.
    return tirx.bitwise_and(tirx.reinterpret("int32", x), tirx.const(0x7FFFFFFF, "int32")) > tirx.const(0x7F800000, "int32")


def _exp(x: Any) -> Any:
    # Beyond these exp is infinite, or less than half of the smallest number.
    clamped = tirx.max(tirx.min(x, _f32(89.0)), _f32(-104.0))

    def scaled(n: Any) -> Any:
        whole = n.astype("int32")

        def power(e: Any) -> Any:
            return tirx.reinterpret("float32", tirx.shift_left(e + 127, tirx.const(23, "int32")))

        half = tirx.shift_right(whole, tirx.const(1, "int32"))

        def result(r: Any) -> Any:
            # 2^n in two factors: neither overflows where the result does not, and results that are denormal come out right.
            return (_horner(_EXP, r) * (r * r) + r + _f32(1.0)) * power(half) * power(whole - half)

        return _let(clamped - n * _f32(_LN2_HIGH) - n * _f32(_LN2_LOW), result)

    return tirx.Select(_is_nan(x), x, _let(tirx.floor(clamped * _f32(_LOG2E) + _f32(0.5)), scaled))


def _rational(p: Sequence[float], q: Sequence[float], limit: float) -> Callable[[Any], Any]:
    def write(x: Any) -> Any:
        def ratio(c: Any) -> Any:
            value = _let(c * c, lambda s: c * _horner(p, s) / _horner(q, s))
            return tirx.max(tirx.min(value, _f32(1.0)), _f32(-1.0))

        return tirx.Select(_is_nan(x), x, _let(tirx.max(tirx.min(x, _f32(limit)), _f32(-limit)), ratio))

    return write


def _sigmoid(x: Any) -> Any:
    return _f32(1.0) / (_f32(1.0) + _let(_f32(0.0) - x, _exp))


_TABLE: dict[str, Callable[[Any], Any]] = {
    "tirx.exp": _exp,
    "tirx.erf": _rational(_ERF_P, _ERF_Q, _ERF_LIMIT),
    "tirx.tanh": _rational(_TANH_P, _TANH_Q, _TANH_LIMIT),
    "tirx.sigmoid": _sigmoid,
}
