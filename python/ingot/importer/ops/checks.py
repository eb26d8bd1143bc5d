"""Conditions on shapes: decided while compiling where extents are known, else at run time."""

from __future__ import annotations

from collections.abc import Sequence

from ingot.importer import dims
from ingot.importer.context import Context
from ingot.importer.dims import Dim
from ingot.importer.values import Value


def check_equal(cx: Context, a: Dim, b: Dim, message: str) -> None:
    """Fails with ``message`` unless two extents are equal."""
    if not dims.equal(a, b):
        cx.check(a == b if isinstance(a, int) and isinstance(b, int) else dims.expr(a).equal(dims.expr(b)), message)


def check_shape(cx: Context, value: Value, shape: Sequence[Dim], what: str) -> None:
    """Fails unless ``value`` has ``shape``."""
    message = f"{what} has shape {dims.text(value.shape)}; {dims.text(shape)} is needed"
    if value.ndim != len(shape):
        raise cx.error(message)
    for a, b in zip(value.shape, shape, strict=True):
        check_equal(cx, a, b, message)
