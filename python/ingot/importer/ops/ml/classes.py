"""Class labels: from scores to the label of the best class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm import relax, te

from ingot.importer.context import Context
from ingot.importer.values import Value


def class_labels(cx: Context, ints: Sequence[int] | None, strings: Sequence[str] | None) -> list[int]:
    """The labels of a classifier's classes, which must be integers."""
    if strings:
        raise cx.error("the class labels are strings, which are not supported; export the model with integer labels")
    if not ints or len(ints) < 2:
        raise cx.error(f"a classifier of {len(ints or [])} classes is not supported; it has two or more")
    return [int(i) for i in ints]


def choose(cx: Context, scores: Value, labels: Sequence[int]) -> Value:
    """The label of the largest score of each row, the first of equal ones."""
    best = cx.op(relax.op.argmax(scores.expr, 1))
    if list(labels) == list(range(len(labels))):
        return cx.cast(best, "int64")

    def compute(t: te.Tensor, names: te.Tensor) -> te.Tensor:
        def body(i: Any) -> Any:
            return names(t(i))

        return te.compute(t.shape, body, name="label")

    return cx.te(compute, cx.cast(best, "int64"), cx.constant(labels, "int64"), name="label")
