"""Preparation of features: scaling, encoding, filling in, selecting."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from tvm import relax, te, tirx

from ingot.importer import dims
from ingot.importer.context import Context
from ingot.importer.registry import onnx_op
from ingot.importer.values import Value

_DOMAIN = "ai.onnx.ml"


def _per_feature(cx: Context, x: Value, values: Sequence[float], what: str) -> list[float]:
    """One number for each feature (the last axis), or one for all."""
    if len(values) not in (1,) and not dims.equal(len(values), x.shape[-1] if x.ndim else 1):
        raise cx.error(f"{what} has {len(values)} elements, but the input has {x.shape[-1] if x.ndim else 1} features")
    return list(values)


@onnx_op("Scaler", domain=_DOMAIN)
def scaler(cx: Context, x: Value, *, offset: list[float] | None = None, scale: list[float] | None = None) -> Value:
    y = cx.cast(x, "float32")
    if offset:
        y = cx.elementwise(lambda a, b: a - b, y, cx.constant(_per_feature(cx, x, offset, "offset"), "float32"))
    if scale:
        y = cx.elementwise(lambda a, b: a * b, y, cx.constant(_per_feature(cx, x, scale, "scale"), "float32"))
    return y


@onnx_op("Normalizer", domain=_DOMAIN)
def normalizer(cx: Context, x: Value, *, norm: str = "MAX") -> Value:
    if x.ndim not in (1, 2):
        raise cx.error(f"an input of shape {dims.text(x.shape)} is not supported; it is [rows, features]")
    y = cx.cast(x, "float32")
    axis = x.ndim - 1
    if norm == "MAX":
        size = relax.op.max(y.expr, axis, keepdims=True)
    elif norm == "L1":
        size = relax.op.sum(relax.op.abs(y.expr), axis, keepdims=True)
    elif norm == "L2":
        size = relax.op.sqrt(relax.op.sum(relax.op.multiply(y.expr, y.expr), axis, keepdims=True))
    else:
        raise cx.error(f"norm '{norm}' does not exist; it can be MAX, L1 or L2")
    return cx.elementwise(lambda a, s: tirx.Select(s.equal(0), a, a / tirx.Select(s.equal(0), tirx.const(1, "float32"), s)), y, cx.op(size))


@onnx_op("Binarizer", domain=_DOMAIN)
def binarizer(cx: Context, x: Value, *, threshold: float = 0.0) -> Value:
    one, zero = tirx.const(1, x.dtype), tirx.const(0, x.dtype)
    if "int" in x.dtype:  # above the threshold is at or above the next integer
        return cx.elementwise(lambda a: tirx.Select(a >= tirx.const(math.floor(threshold) + 1, x.dtype), one, zero), x)
    return cx.elementwise(lambda a: tirx.Select(a > tirx.const(threshold, x.dtype), one, zero), x)


@onnx_op("Imputer", domain=_DOMAIN)
def imputer(cx: Context, x: Value, *, imputed_value_floats: list[float] | None = None, imputed_value_int64s: list[int] | None = None,
            replaced_value_float: float = 0.0, replaced_value_int64: int = 0) -> Value:
    whole = "int" in x.dtype
    given = imputed_value_int64s if whole else imputed_value_floats
    replaced = replaced_value_int64 if whole else replaced_value_float
    if not given:
        raise cx.error(f"there are no values to fill in for an input of type {x.dtype}")
    values = cx.constant(_per_feature(cx, x, given, "the values to fill in"), x.dtype)

    def fill(a: Any, v: Any) -> Any:
        gone = tirx.isnan(a) if math.isnan(replaced) else a.equal(tirx.const(replaced, x.dtype))
        return tirx.Select(gone, v, a)

    return cx.elementwise(fill, x, values)


@onnx_op("ArrayFeatureExtractor", domain=_DOMAIN)
def array_feature_extractor(cx: Context, x: Value, y: Value) -> Value:
    if not x.ndim:
        raise cx.error("features cannot be selected of a scalar")
    where = cx.indices(cx.reshape(y, [dims.product(y.shape)]), x.shape[-1])
    data = cx.reshape(x, [1, *x.shape]) if x.ndim == 1 else x

    def compute(t: te.Tensor, i: te.Tensor) -> te.Tensor:
        return te.compute([*t.shape[:-1], i.shape[0]], lambda *at: t(*at[:-1], i(at[-1])), name="select_features")

    return cx.te(compute, data, where, name="select_features")


@onnx_op("FeatureVectorizer", domain=_DOMAIN)
def feature_vectorizer(cx: Context, *inputs: Value, inputdimensions: list[int] | None = None) -> Value:
    wanted = inputdimensions or []
    if len(wanted) != len(inputs):
        raise cx.error(f"inputdimensions has {len(wanted)} elements for {len(inputs)} inputs")
    parts = [_columns(cx, cx.cast(x, "float32"), count) for x, count in zip(inputs, wanted, strict=True)]
    return cx.op(relax.op.concat([p.expr for p in parts], 1)) if len(parts) > 1 else parts[0]


def _columns(cx: Context, x: Value, count: int) -> Value:
    """An input as rows of ``count`` features: cut, or continued by zeros."""
    if x.ndim == 1:
        x = cx.reshape(x, [x.shape[0], 1])
    if x.ndim != 2:
        raise cx.error(f"an input of shape {dims.text(x.shape)} is not supported; it is [rows, features]")
    if dims.equal(x.shape[1], count):
        return x

    def compute(t: te.Tensor) -> te.Tensor:
        def body(i: Any, j: Any) -> Any:
            return tirx.if_then_else(j < t.shape[1], t(i, j), tirx.const(0, "float32"))

        return te.compute([t.shape[0], dims.expr(count)], body, name="columns")

    return cx.te(compute, x, name="columns")
