"""What the operators of ai.onnx.ml do to scores at the end."""

from __future__ import annotations

import math
from typing import Any

from tvm import te, tirx

from ingot.importer.context import Context
from ingot.importer.values import Value

NAMES = ("NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO", "PROBIT")


def logistic(x: Any) -> Any:
    """1 / (1 + exp(-x)), without overflow."""
    one = tirx.const(1, x.ty.dtype)
    positive = one / (one + tirx.exp(-tirx.abs(x)))
    return tirx.Select(x < 0, one - positive, positive)


def probit(x: Any) -> Any:
    """The quantile of the normal distribution, by the approximation that other runtimes use."""
    c = 0.147
    y = x * 2.0 - 1.0
    log = tirx.log((1.0 - y) * (1.0 + y))
    v = 2 / (math.pi * c) + log * 0.5
    root = tirx.sqrt(tirx.sqrt(v * v - log * (1 / c)) - v)
    return tirx.Select(y < 0, -root, root) * math.sqrt(2)


def post_transform(cx: Context, scores: Value, name: str) -> Value:
    """Transforms scores [rows, targets] as the attribute ``post_transform`` says."""
    if name not in NAMES:
        raise cx.error(f"post_transform '{name}' does not exist; it can be {', '.join(NAMES)}")
    if name == "NONE":
        return scores
    if name in ("LOGISTIC", "PROBIT"):
        return cx.elementwise(logistic if name == "LOGISTIC" else probit, scores)
    return softmax(cx, scores, keep_zeros=name == "SOFTMAX_ZERO")


def softmax(cx: Context, scores: Value, *, keep_zeros: bool = False) -> Value:
    """Softmax of rows; with ``keep_zeros``, scores of 0 stay 0 and do not count."""

    def compute(t: te.Tensor) -> te.Tensor:
        k, m = (te.reduce_axis((0, t.shape[1]), name=n) for n in "km")
        most = te.compute(t.shape[:1], lambda i: te.max(t(i, k), axis=k), name="most")

        def exponential(i: Any, j: Any) -> Any:
            value = tirx.exp(t(i, j) - most(i))
            return tirx.if_then_else(tirx.abs(t(i, j)) > 1e-7, value, tirx.const(0, scores.dtype)) if keep_zeros else value

        parts = te.compute(t.shape, exponential, name="exponential")
        total = te.compute(t.shape[:1], lambda i: te.sum(parts(i, m), axis=m), name="total")
        return te.compute(t.shape, lambda i, j: parts(i, j) / total(i), name="softmax")

    return cx.te(compute, scores, name="softmax")
