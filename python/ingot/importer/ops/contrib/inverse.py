"""Inverses of small matrices, by their minors: what geometry in exported models needs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm import te, tirx

from ingot.importer import dims
from ingot.importer.context import Context
from ingot.importer.ops.checks import check_equal
from ingot.importer.ops.contrib.common import microsoft_op
from ingot.importer.values import Value

_MOST = 4  # a determinant by its minors has n! terms


def _determinant(at: Callable[[int, int], Any], rows: list[int], columns: list[int]) -> Any:
    if not rows:
        return tirx.const(1, "float64")
    terms = [at(rows[0], c) * _determinant(at, rows[1:], columns[:i] + columns[i + 1:]) * (-1.0) ** i for i, c in enumerate(columns)]
    return sum(terms[1:], terms[0])


@microsoft_op("Inverse")
def inverse(cx: Context, x: Value) -> Value:
    if x.ndim < 2:
        raise cx.error(f"an input of shape {dims.text(x.shape)} is not supported; it is [..., n, n]")
    check_equal(cx, x.shape[-1], x.shape[-2], f"matrices of shape {dims.text(x.shape[-2:])} are not square")
    n = x.shape[-1]
    if not isinstance(n, int) or not 1 <= n <= _MOST:
        raise cx.error(f"inverses of {dims.show(n)} rows are not supported; they are found of up to {_MOST}, which must be known while compiling")
    every = list(range(n))

    def compute(t: te.Tensor) -> te.Tensor:
        shape = [dims.expr(d) for d in x.shape]
        whole = te.compute(shape[:-2], lambda *i: _determinant(lambda r, c: t(*i, r, c).astype("float64"), every, every), name="determinant")

        def body(*index: Any) -> Any:
            *i, row, column = index

            def minor(r: int, c: int) -> Any:
                """An element of the matrix without row ``column`` and column ``row``."""
                r, c = (k + tirx.Select(skipped <= k, tirx.IntImm("int64", 1), tirx.IntImm("int64", 0)) for k, skipped in ((r, column), (c, row)))
                return t(*i, r, c).astype("float64")

            sign = tirx.Select(tirx.floormod(row + column, 2).equal(0), tirx.const(1, "float64"), tirx.const(-1, "float64"))
            return (sign * _determinant(minor, every[:-1], every[:-1]) / whole(*i)).astype(x.dtype)

        return te.compute(shape, body, name="inverse")

    return cx.wrap(cx.te(compute, x, name="inverse"))
