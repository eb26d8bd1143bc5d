"""Operators that compute each output element from the input elements at its position."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm import relax, tirx, topi

from ingot.importer.context import Context
from ingot.importer.registry import onnx_op
from ingot.importer.values import Value


def _unary(name: str, operator: Callable[[Any], Any]) -> None:
    def function(cx: Context, x: Value) -> Value:
        return cx.op(operator(x.expr))

    onnx_op(name)(function)


for _name, _operator in {"Relu": relax.op.nn.relu, "Exp": relax.op.exp, "Sqrt": relax.op.sqrt, "Tanh": relax.op.tanh, "Sigmoid": relax.op.sigmoid,
                         "Erf": relax.op.erf, "Neg": relax.op.negative, "Log": relax.op.log}.items():
    _unary(_name, _operator)


def _binary(name: str, operator: Callable[[Any, Any], Any], scalar: Callable[[Any, Any], Any]) -> None:
    def function(cx: Context, a: Value, b: Value) -> Value:
        if cx.broadcasts_plainly(a.shape, b.shape):
            return cx.op(operator(a.expr, b.expr))
        return cx.elementwise(scalar, a, b)

    onnx_op(name, since=7)(function)


for _name, _op2, _scalar in (("Add", relax.op.add, lambda a, b: a + b), ("Sub", relax.op.subtract, lambda a, b: a - b),
                             ("Mul", relax.op.multiply, lambda a, b: a * b)):
    _binary(_name, _op2, _scalar)


@onnx_op("LeakyRelu")
def leaky_relu(cx: Context, x: Value, *, alpha: float = 0.01) -> Value:
    return cx.te(topi.nn.leaky_relu, x, alpha)


@onnx_op("Where", since=9)
def where(cx: Context, condition: Value, a: Value, b: Value) -> Value:
    return cx.elementwise(lambda c, x, y: tirx.Select(c, x, y), condition, a, b)
