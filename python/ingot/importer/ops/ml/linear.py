"""LinearRegressor and LinearClassifier."""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import relax, te, tirx

from ingot.importer import dims
from ingot.importer.context import Context
from ingot.importer.ops.ml.classes import choose, class_labels, named
from ingot.importer.ops.ml.post_transform import logistic
from ingot.importer.ops.ml.post_transform import post_transform as transformed
from ingot.importer.registry import onnx_op
from ingot.importer.values import Value

_DOMAIN = "ai.onnx.ml"


def product(cx: Context, x: Value, coefficients: list[float], intercepts: list[float] | None, targets: int) -> Value:
    """The rows times the coefficients [targets, features], plus intercepts: float32 [rows, targets]."""
    if x.ndim == 1:
        x = cx.reshape(x, [1, x.shape[0]])
    if x.ndim != 2 or not targets or len(coefficients) % targets:
        raise cx.error(f"{len(coefficients)} coefficients do not go with {targets} targets and an input of shape {dims.text(x.shape)}")
    features = len(coefficients) // targets
    if not dims.equal(x.shape[1], features):
        raise cx.error(f"the input has {x.shape[1]} features; {len(coefficients)} coefficients for {targets} targets are for {features}")
    matrix = np.asarray(coefficients, np.float32).reshape(targets, features).T
    y = cx.op(relax.op.matmul(cx.cast(x, "float32").expr, cx.constant(np.ascontiguousarray(matrix)).expr))
    if not intercepts:
        return y
    if len(intercepts) not in (1, targets):
        raise cx.error(f"there are {len(intercepts)} intercepts for {targets} targets")
    return cx.elementwise(lambda a, b: a + b, y, cx.constant(intercepts, "float32"))


@onnx_op("LinearRegressor", domain=_DOMAIN)
def linear_regressor(cx: Context, x: Value, *, coefficients: list[float], intercepts: list[float] | None = None, post_transform: str = "NONE",
                     targets: int = 1) -> Value:
    return transformed(cx, product(cx, x, coefficients, intercepts, targets), post_transform)


@onnx_op("LinearClassifier", domain=_DOMAIN)
def linear_classifier(cx: Context, x: Value, *, coefficients: list[float], intercepts: list[float] | None = None,
                      classlabels_ints: list[int] | None = None, classlabels_strings: list[str] | None = None, multi_class: int = 0,
                      post_transform: str = "NONE") -> tuple[Value, Value]:
    labels = class_labels(cx, classlabels_ints, classlabels_strings)
    features = x.shape[-1]
    single = len(labels) == 2 and dims.equal(features, len(coefficients))
    y = product(cx, x, coefficients, intercepts, 1 if single else len(labels))
    if not single:
        return choose(cx, y, labels), transformed(cx, y, post_transform)
    if post_transform not in ("NONE", "LOGISTIC"):
        raise cx.error(f"a linear classifier of two classes with one row of coefficients and post_transform '{post_transform}' is not supported: "
                       "what its scores mean is not defined")
    return one_score(cx, y, labels, post_transform == "LOGISTIC", complement=True)


def one_score(cx: Context, y: Value, labels: list[int] | list[str], with_logistic: bool, *, complement: bool) -> tuple[Value, Value]:
    """Label and scores of two classes, from the score [rows, 1] of the second one."""

    def both(t: te.Tensor) -> te.Tensor:
        def body(i: Any, j: Any) -> Any:
            score = t(i, 0)
            if with_logistic:
                return tirx.Select(j.equal(0), logistic(-score), logistic(score))
            return tirx.Select(j.equal(0), 1.0 - score if complement else -score, score)

        return te.compute([t.shape[0], dims.expr(2)], body, name="scores")

    def decide(t: te.Tensor) -> te.Tensor:
        return te.compute(t.shape[:1], lambda i: (t(i, 0) > 0).astype("int64"), name="class")

    return named(cx, cx.wrap(cx.te(decide, y, name="class")), labels), cx.te(both, y, name="scores")
