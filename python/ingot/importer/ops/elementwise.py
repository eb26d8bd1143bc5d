"""Arithmetic and mathematical functions that compute each output element from the input elements at its position."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm import relax, tirx

from ingot.importer import narrow
from ingot.importer.context import Context
from ingot.importer.registry import onnx_op
from ingot.importer.values import Value

#: Types that are computed in float32: they have no arithmetic of their own on most machines.
NARROW_FLOATS = ("float16", "bfloat16")


def is_float(value: Value) -> bool:
    """Whether a value holds floating-point numbers."""
    return value.dtype.startswith(("float", "bfloat"))


def is_integer(value: Value) -> bool:
    """Whether a value holds integers."""
    return value.dtype.startswith(("int", "uint"))


def scalar(value: float, like: Value) -> Any:
    """A constant of another value's type, as a Relax expression that broadcasts."""
    return relax.const(value, like.dtype)


def in_float32(cx: Context, function: Callable[..., Any], *inputs: Value) -> Value:
    """``function`` of Relax expressions; narrow floats are widened before it and rounded once after it."""
    dtype = inputs[0].dtype
    wide = [cx.cast(x, "float32") if x.dtype in NARROW_FLOATS else x for x in inputs]
    return cx.cast(cx.op(function(*[x.expr for x in wide])), dtype)


def _unary(name: str, operator: Callable[[Any], Any], since: int = 1) -> None:
    def function(cx: Context, x: Value) -> Value:
        return in_float32(cx, operator, x)

    onnx_op(name, since=since)(function)


for _name, _operator in {
    "Sqrt": relax.op.sqrt, "Exp": relax.op.exp, "Log": relax.op.log, "Erf": relax.op.erf, "Sigmoid": relax.op.sigmoid, "Sin": relax.op.sin,
    "Cos": relax.op.cos, "Tan": relax.op.tan, "Asin": relax.op.asin, "Acos": relax.op.acos, "Atan": relax.op.atan,
    "Tanh": relax.op.tanh, "Asinh": relax.op.asinh, "Acosh": relax.op.acosh, "Atanh": relax.op.atanh,
    "Floor": relax.op.floor, "Ceil": relax.op.ceil, "Abs": relax.op.abs,
}.items():
    _unary(_name, _operator)


@onnx_op("Erfc")
def erfc(cx: Context, x: Value) -> Value:
    """TensorFlow's, which tf2onnx leaves in the graph although ONNX has none: Keras' gelu is made of it."""
    return in_float32(cx, lambda a: relax.op.subtract(relax.const(1.0, str(a.ty.dtype)), relax.op.erf(a)), x)


def _from_c(name: str, c_function: str) -> None:
    """Registers a function that C has, but TVM has no code for on every path."""

    def function(cx: Context, x: Value) -> Value:
        wide = cx.cast(x, "float32") if x.dtype in NARROW_FLOATS else x
        called = c_function if wide.dtype == "float64" else f"{c_function}f"
        return cx.cast(cx.elementwise(lambda a: tirx.call_pure_extern(wide.dtype, called, a), wide, name=c_function), x.dtype)

    onnx_op(name, since=9)(function)


_from_c("Sinh", "sinh")
_from_c("Cosh", "cosh")


@onnx_op("Sign", since=9)
def sign(cx: Context, x: Value) -> Value:
    if x.dtype.startswith("uint"):
        return cx.op(relax.op.minimum(x.expr, scalar(1, x)))
    return in_float32(cx, relax.op.sign, x)


@onnx_op("Neg")
def neg(cx: Context, x: Value) -> Value:
    if x.dtype.startswith("uint"):
        raise cx.error(f"{x.dtype} has no negative numbers")
    return cx.op(relax.op.negative(x.expr))


@onnx_op("Round")
def round_(cx: Context, x: Value) -> Value:
    wide = cx.cast(x, "float32") if x.dtype in NARROW_FLOATS else x
    return cx.cast(cx.elementwise(tirx.nearbyint, wide), x.dtype)  # ties to even; relax.op.round takes them away from zero


@onnx_op("Reciprocal")
def reciprocal(cx: Context, x: Value) -> Value:
    return cx.op(relax.op.divide(scalar(1, x), x.expr))


def _finite(cx: Context, x: Value) -> Value:
    """X in a type in which it can be compared with infinity and itself."""
    if x.dtype in narrow.TYPES:
        return narrow.decode(cx, x)
    return x if x.dtype in ("float32", "float64") else cx.cast(x, "float32")


@onnx_op("IsNaN")
def is_nan(cx: Context, x: Value) -> Value:
    return cx.op(relax.op.isnan(_finite(cx, x).expr))


@onnx_op("IsInf")
def is_inf(cx: Context, x: Value, *, detect_negative: int = 1, detect_positive: int = 1) -> Value:
    wide = _finite(cx, x)
    if detect_negative and detect_positive:
        return cx.op(relax.op.isinf(wide.expr))
    if not (detect_negative or detect_positive):
        return cx.elementwise(lambda a: tirx.const(False, "bool"), wide)
    return cx.op(relax.op.equal(wide.expr, scalar(float("inf") if detect_positive else float("-inf"), wide)))


# ---- Of two inputs -------------------------------------------------------------------------------------------------


def binary(cx: Context, operator: Callable[[Any, Any], Any], plain: Callable[[Any, Any], Any], a: Value, b: Value) -> Value:
    """A Relax operator where the shapes provably broadcast, else ``plain`` over scalars."""
    if a.dtype != b.dtype:
        raise cx.error(f"its inputs are of types {a.dtype} and {b.dtype}; they have one type")
    if cx.broadcasts_plainly(a.shape, b.shape):
        return cx.op(operator(a.expr, b.expr))
    return cx.elementwise(plain, a, b)


def _binary(name: str, operator: Callable[[Any, Any], Any], plain: Callable[[Any, Any], Any]) -> None:
    def function(cx: Context, a: Value, b: Value) -> Value:
        return binary(cx, operator, plain, a, b)

    onnx_op(name, since=7)(function)


for _name, _op2, _scalar in (("Add", relax.op.add, lambda a, b: a + b), ("Sub", relax.op.subtract, lambda a, b: a - b),
                             ("Mul", relax.op.multiply, lambda a, b: a * b)):
    _binary(_name, _op2, _scalar)


def has_trap(divisor: Value) -> bool:
    """Whether an integer division by these numbers may stop the process, as division by 0, or of the least number by -1, does."""
    if not divisor.is_small_constant:
        return True
    array = divisor.array
    return array is None or bool((array == 0).any() or (array == -1).any())


def whole_quotient(a: Any, b: Any) -> Any:
    """The truncated quotient of two integers. It never traps: x / 0 is 0, and the least number over -1 is itself."""
    dtype = str(a.ty.dtype)
    zero, one = tirx.const(0, dtype), tirx.const(1, dtype)
    if dtype.startswith("uint"):
        return tirx.Select(b.equal(zero), zero, tirx.truncdiv(a, tirx.max(b, one)))
    unsafe = tirx.any(b.equal(zero), b.equal(tirx.const(-1, dtype)))
    return tirx.Select(b.equal(zero), zero, tirx.Select(unsafe, zero - a, tirx.truncdiv(a, tirx.Select(unsafe, one, b))))


@onnx_op("Div", since=7)
def div(cx: Context, a: Value, b: Value) -> Value:
    if is_integer(a) and a.dtype == b.dtype:
        return cx.elementwise(whole_quotient if has_trap(b) else tirx.truncdiv, a, b, name="divide")
    return binary(cx, relax.op.divide, tirx.div, a, b)


@onnx_op("Pow", since=7)
def power(cx: Context, a: Value, b: Value) -> Value:
    if b.is_small_constant and len(b.shape) <= len(a.shape) and b.array is not None and b.array.size == 1:
        known = _known_power(cx, a, float(b.array.item()))
        if known is not None:
            return known
    if is_integer(a) and is_integer(b):
        return cx.elementwise(_whole_power, a, cx.cast(b, "int64"), dtype=a.dtype, name="power")
    wide = "float64" if "float64" in (a.dtype, b.dtype) or is_integer(a) else "float32"
    return cx.cast(binary(cx, relax.op.power, tirx.power, cx.cast(a, wide), cx.cast(b, wide)), a.dtype)


def _known_power(cx: Context, a: Value, exponent: float) -> Value | None:
    """Powers that are a product or a root, which take a fraction of the general function's time."""
    if exponent == 1:
        return a
    if exponent == 2:
        return cx.op(relax.op.multiply(a.expr, a.expr))
    if exponent == 3:
        return cx.op(relax.op.multiply(relax.op.multiply(a.expr, a.expr), a.expr))
    if exponent == 0.5 and is_float(a):
        return in_float32(cx, relax.op.sqrt, a)
    return None


def _whole_power(a: Any, b: Any) -> Any:
    """An integer to an integer power, exact as long as it fits: by squaring, over the 6 low bits of the exponent.

    A higher exponent overflows unless the base is 0, 1 or -1. A negative one gives the truncated quotient: 0, or 1 / a for 1 and -1.
    """
    dtype = str(a.ty.dtype)
    zero, one = tirx.const(0, dtype), tirx.const(1, dtype)
    minus = tirx.const(-1, dtype) if not dtype.startswith("u") else zero
    result, square = one, a
    for bit in range(6):
        result = result * tirx.Select(tirx.bitwise_and(tirx.shift_right(b, tirx.const(bit, "int64")), tirx.const(1, "int64")).equal(1), square, one)
        square = square * square
    odd = tirx.bitwise_and(b, tirx.const(1, "int64")).equal(1)
    unit = tirx.Select(a.equal(one), one, tirx.Select(a.equal(minus), tirx.Select(odd, minus, one), zero))
    outside = tirx.any(b < 0, b > 63)
    return tirx.Select(outside, unit, result)


# ---- Of many inputs ------------------------------------------------------------------------------------------------


def extreme(cx: Context, operator: Callable[[Any, Any], Any], plain: Callable[[Any, Any], Any], a: Value, b: Value) -> Value:
    """The larger or smaller of two; a NaN in either is the result, as ONNX's reference has it."""
    chosen = binary(cx, operator, plain, a, b)  # of two unordered numbers, this is b
    if not is_float(a) or (a.is_small_constant and a.array is not None and not (a.array != a.array).any()):
        return chosen
    wide = "float32" if a.dtype in NARROW_FLOATS else a.dtype
    return cx.elementwise(lambda x, y: tirx.Select(tirx.isnan(x.astype(wide)), x, y), a, chosen)


def _variadic(name: str, pair: Callable[[Context, Value, Value], Value]) -> None:
    def function(cx: Context, first: Value, *rest: Value) -> Value:
        for other in rest:
            first = pair(cx, first, other)
        return first

    onnx_op(name, since=6)(function)


def maximum(cx: Context, a: Value, b: Value) -> Value:
    """The larger of each pair of elements."""
    return extreme(cx, relax.op.maximum, tirx.max, a, b)


def minimum(cx: Context, a: Value, b: Value) -> Value:
    """The smaller of each pair of elements."""
    return extreme(cx, relax.op.minimum, tirx.min, a, b)


def _plus(cx: Context, a: Value, b: Value) -> Value:
    return binary(cx, relax.op.add, lambda x, y: x + y, a, b)


_variadic("Max", maximum)
_variadic("Min", minimum)
_variadic("Sum", _plus)


@onnx_op("Mean", since=6)
def mean(cx: Context, first: Value, *rest: Value) -> Value:
    total = cx.cast(first, "float32") if first.dtype in NARROW_FLOATS else first
    for other in rest:
        total = _plus(cx, total, cx.cast(other, total.dtype))
    return cx.cast(cx.op(relax.op.divide(total.expr, scalar(1 + len(rest), total))), first.dtype)


@onnx_op("Clip")
def clip_1(cx: Context, x: Value, *, min: float | None = None, max: float | None = None) -> Value:
    return clip(cx, x, None if min is None else cx.constant(min, x.dtype), None if max is None else cx.constant(max, x.dtype))


@onnx_op("Clip", since=11)
def clip(cx: Context, x: Value, low: Value | None = None, high: Value | None = None) -> Value:
    if low is not None:
        x = maximum(cx, low, x)
    return x if high is None else minimum(cx, high, x)


@onnx_op("Where", since=9)
def where(cx: Context, condition: Value, a: Value, b: Value) -> Value:
    if cx.broadcasts_plainly(condition.shape, a.shape, b.shape):
        return cx.op(relax.op.where(condition.expr, a.expr, b.expr))
    return cx.elementwise(tirx.Select, condition, a, b)
