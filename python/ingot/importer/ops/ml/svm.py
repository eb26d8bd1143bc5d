"""Support vector machines."""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import relax, te, tirx

from ingot.importer import dims
from ingot.importer.context import Context
from ingot.importer.ops.ml.classes import choose, class_labels
from ingot.importer.ops.ml.linear import one_score, product
from ingot.importer.ops.ml.post_transform import post_transform as transformed
from ingot.importer.registry import onnx_op
from ingot.importer.values import Value

_DOMAIN = "ai.onnx.ml"


def _kernels(cx: Context, x: Value, vectors: np.ndarray, kind: str, parameters: list[float]) -> Value:
    """The kernel function of each row and each support vector: [rows, vectors]."""
    gamma, shift, degree = [*parameters, 0.0, 0.0, 0.0][:3]
    x = cx.cast(x, "float32")
    if x.ndim == 1:
        x = cx.reshape(x, [1, x.shape[0]])
    if x.ndim != 2 or not dims.equal(x.shape[1], vectors.shape[1]):
        raise cx.error(f"support vectors of {vectors.shape[1]} features do not go with an input of shape {dims.text(x.shape)}")
    if kind == "RBF":
        def distances(t: te.Tensor, v: te.Tensor) -> te.Tensor:
            k = te.reduce_axis((0, t.shape[1]), name="k")
            return te.compute([t.shape[0], v.shape[0]], lambda i, j: te.sum((t(i, k) - v(j, k)) * (t(i, k) - v(j, k)), axis=k), name="distances")

        squares = cx.te(distances, x, cx.constant(vectors), name="distances")
        return cx.elementwise(lambda d: tirx.exp(d * -gamma), squares)
    products = cx.op(relax.op.matmul(x.expr, cx.constant(np.ascontiguousarray(vectors.T)).expr))
    if kind == "LINEAR":
        return products
    if kind == "POLY":
        power = tirx.const(float(int(degree)), "float32")
        return cx.elementwise(lambda p: tirx.power(p * gamma + shift, power), products)
    if kind == "SIGMOID":
        return cx.elementwise(lambda p: tirx.tanh(p * gamma + shift), products)
    raise cx.error(f"kernel_type '{kind}' does not exist; it can be LINEAR, POLY, RBF or SIGMOID")


@onnx_op("SVMRegressor", domain=_DOMAIN)
def svm_regressor(cx: Context, x: Value, *, coefficients: list[float], kernel_params: list[float] | None = None, kernel_type: str = "LINEAR",
                  n_supports: int = 0, one_class: int = 0, post_transform: str = "NONE", rho: list[float] | None = None,
                  support_vectors: list[float] | None = None) -> Value:
    if post_transform != "NONE":
        raise cx.error(f"post_transform '{post_transform}' of an SVMRegressor is not supported")
    shift = float(rho[0]) if rho else 0.0
    if n_supports:
        vectors = _vectors(cx, support_vectors, n_supports)
        if len(coefficients) != n_supports:
            raise cx.error(f"there are {len(coefficients)} coefficients for {n_supports} support vectors")
        kernels = _kernels(cx, x, vectors, kernel_type, kernel_params or [])
        y = cx.op(relax.op.matmul(kernels.expr, cx.constant(np.asarray(coefficients, np.float32)[:, None]).expr))
    else:
        y = product(cx, x, coefficients, None, 1)

    def finish(v: Any) -> Any:
        value = v + tirx.const(shift, "float32")
        return tirx.Select(value > 0, tirx.const(1, "float32"), tirx.const(-1, "float32")) if one_class else value

    return cx.elementwise(finish, y)


def _vectors(cx: Context, values: list[float] | None, count: int) -> np.ndarray:
    if not values or len(values) % count:
        raise cx.error(f"{len(values or [])} numbers are not {count} support vectors")
    return np.asarray(values, np.float32).reshape(count, -1)


@onnx_op("SVMClassifier", domain=_DOMAIN)
def svm_classifier(cx: Context, x: Value, *, coefficients: list[float], classlabels_ints: list[int] | None = None,
                   classlabels_strings: list[str] | None = None, kernel_params: list[float] | None = None, kernel_type: str = "LINEAR",
                   post_transform: str = "NONE", prob_a: list[float] | None = None, prob_b: list[float] | None = None,
                   rho: list[float] | None = None, support_vectors: list[float] | None = None,
                   vectors_per_class: list[int] | None = None) -> tuple[Value, Value]:
    labels = class_labels(cx, classlabels_ints, classlabels_strings)
    classes = len(labels)
    if not vectors_per_class or not sum(vectors_per_class):
        y = product(cx, x, coefficients, [float(rho[0])] if rho else None, classes)
        return choose(cx, y, labels), transformed(cx, y, post_transform)
    pairs = classes * (classes - 1) // 2
    count = sum(vectors_per_class)
    if len(vectors_per_class) != classes or len(rho or []) != pairs or len(coefficients) != count * (classes - 1):
        raise cx.error(f"{len(vectors_per_class)} groups of support vectors, {len(rho or [])} values of rho and {len(coefficients)} coefficients do "
                       f"not go with {classes} classes and {count} support vectors")
    kernels = _kernels(cx, x, _vectors(cx, support_vectors, count), kernel_type, kernel_params or [])
    decisions = cx.op(relax.op.matmul(kernels.expr, cx.constant(_pairwise(coefficients, vectors_per_class)).expr))
    decisions = cx.elementwise(lambda a, b: a + b, decisions, cx.constant(rho, "float32"))
    chosen = choose(cx, _votes(cx, decisions, classes), labels)
    if prob_a:
        if len(prob_a) != pairs or len(prob_b or []) != pairs:
            raise cx.error(f"there are {len(prob_a)} and {len(prob_b or [])} parameters of probabilities for {pairs} pairs of classes")
        inputs = [decisions, cx.constant(prob_a, "float32"), cx.constant(prob_b, "float32")]
        probabilities = cx.kernel("svm_probabilities", inputs, [([decisions.shape[0], classes], "float32")])
        return chosen, transformed(cx, probabilities, post_transform)
    if classes > 2:
        return chosen, transformed(cx, decisions, post_transform)
    if post_transform not in ("NONE", "LOGISTIC") or min(coefficients) >= 0:
        raise cx.error(f"an SVMClassifier of two classes without probabilities and with post_transform '{post_transform}' is not supported: "
                       "what its scores mean is not defined")
    return chosen, one_score(cx, decisions, labels, post_transform == "LOGISTIC", complement=False)[1]


def _pairwise(coefficients: list[float], sizes: list[int]) -> np.ndarray:
    """The coefficients [vectors, pairs] of the decision between each pair of classes."""
    starts = np.cumsum([0, *sizes])
    given = np.asarray(coefficients, np.float32).reshape(-1, starts[-1])
    columns = []
    for i in range(len(sizes)):
        for j in range(i + 1, len(sizes)):
            column = np.zeros(starts[-1], np.float32)
            column[starts[i]:starts[i + 1]] = given[j - 1, starts[i]:starts[i + 1]]
            column[starts[j]:starts[j + 1]] = given[i, starts[j]:starts[j + 1]]
            columns.append(column)
    return np.stack(columns, 1)


def _votes(cx: Context, decisions: Value, classes: int) -> Value:
    """How many decisions each class wins."""
    pairs = [(i, j) for i in range(classes) for j in range(i + 1, classes)]
    first, second = np.zeros((len(pairs), classes), np.float32), np.zeros((len(pairs), classes), np.float32)
    for p, (i, j) in enumerate(pairs):
        first[p, i] = 1
        second[p, j] = 1

    def compute(t: te.Tensor, a: te.Tensor, b: te.Tensor) -> te.Tensor:
        p = te.reduce_axis((0, dims.expr(len(pairs))), name="p")
        return te.compute([t.shape[0], dims.expr(classes)], lambda n, c: te.sum(tirx.Select(t(n, p) > 0, a(p, c), b(p, c)), axis=p), name="votes")

    return cx.te(compute, decisions, cx.constant(first), cx.constant(second), name="votes")
