"""What the operators of com.microsoft share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm import relax

from ingot.importer.context import Context
from ingot.importer.ops.elementwise import binary
from ingot.importer.registry import onnx_op
from ingot.importer.values import Value

DOMAIN = "com.microsoft"


def microsoft_op(name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Registers a function as an operator of com.microsoft, whose only version is 1."""
    return onnx_op(name, domain=DOMAIN)


def plus(cx: Context, a: Value, b: Value | None) -> Value:
    """The sum of two tensors that broadcast; the first alone if there is no second."""
    return a if b is None else binary(cx, relax.op.add, lambda p, q: p + q, a, b)


def times(cx: Context, a: Value, b: Value) -> Value:
    """The product of two tensors that broadcast."""
    return binary(cx, relax.op.multiply, lambda p, q: p * q, a, b)


def wanted(cx: Context, output: int) -> bool:
    """Whether the node names an output."""
    return cx.node is not None and output < len(cx.node.output) and bool(cx.node.output[output])


def refuse(cx: Context, problem: bool, message: str) -> None:
    """Raises an error about the node if there is a problem."""
    if problem:
        raise cx.error(message)
