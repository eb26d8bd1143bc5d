"""Comparisons, logic and operations on bits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm import relax, tirx

from ingot.importer.context import Context
from ingot.importer.ops.elementwise import binary
from ingot.importer.registry import onnx_op
from ingot.importer.values import Value


def _compare(name: str, operator: Callable[[Any, Any], Any], plain: Callable[[Any, Any], Any], since: int = 7) -> None:
    def function(cx: Context, a: Value, b: Value) -> Value:
        if name == "Equal" and a.dtype == b.dtype == "bool":  # machine code compares numbers
            a, b = cx.cast(a, "uint8"), cx.cast(b, "uint8")
        return binary(cx, operator, plain, a, b)

    onnx_op(name, since=since)(function)


for _name, _operator, _plain in (
    ("Equal", relax.op.equal, lambda a, b: a.equal(b)),
    ("Less", relax.op.less, lambda a, b: a < b),
    ("LessOrEqual", relax.op.less_equal, lambda a, b: a <= b),
    ("Greater", relax.op.greater, lambda a, b: a > b),
    ("GreaterOrEqual", relax.op.greater_equal, lambda a, b: a >= b),
    ("And", relax.op.logical_and, tirx.all),
    ("Or", relax.op.logical_or, tirx.any),
    ("Xor", relax.op.logical_xor, lambda a, b: tirx.any(tirx.all(a, tirx.Not(b)), tirx.all(tirx.Not(a), b))),
    ("BitwiseAnd", relax.op.bitwise_and, tirx.bitwise_and),
    ("BitwiseOr", relax.op.bitwise_or, tirx.bitwise_or),
    ("BitwiseXor", relax.op.bitwise_xor, tirx.bitwise_xor),
):
    _compare(_name, _operator, _plain)


@onnx_op("Not")
def not_(cx: Context, x: Value) -> Value:
    return cx.op(relax.op.logical_not(x.expr))


@onnx_op("BitwiseNot", since=18)
def bitwise_not(cx: Context, x: Value) -> Value:
    return cx.op(relax.op.bitwise_not(x.expr))


@onnx_op("BitShift", since=11)
def bit_shift(cx: Context, x: Value, amount: Value, *, direction: str) -> Value:
    if direction not in ("LEFT", "RIGHT"):
        raise cx.error(f"direction is '{direction}'; it is LEFT or RIGHT")
    bits = int(x.dtype.lstrip("uint"))
    zero, most = tirx.const(0, x.dtype), tirx.const(bits - 1, x.dtype)

    def shifted(a: Any, n: Any) -> Any:
        # The machine takes the amount modulo the width. Here, shifting all bits out leaves the sign, or 0.
        outside = tirx.any(n < zero, n > most)
        within = tirx.Select(outside, most, n)
        if direction == "LEFT":
            return tirx.Select(outside, zero, tirx.shift_left(a, within))
        moved = tirx.shift_right(a, within)
        return tirx.Select(outside, tirx.Select(a < zero, tirx.const(-1, x.dtype), zero), moved) if x.dtype.startswith("int") else tirx.Select(
            outside, zero, moved)

    return cx.elementwise(shifted, x, amount)
