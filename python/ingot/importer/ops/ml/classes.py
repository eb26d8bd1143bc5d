"""Class labels: from scores to the label of the best class."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from tvm import relax

from ingot.importer.context import Context
from ingot.importer.ops.strings import pick
from ingot.importer.values import Value


def class_labels(cx: Context, ints: Sequence[int] | None, strings: Sequence[str] | None) -> list[int] | list[str]:
    """The labels of a classifier's classes."""
    labels = [str(s) for s in strings] if strings else [int(i) for i in ints or []]
    if len(labels) < 2:
        raise cx.error(f"a classifier of {len(labels)} classes is not supported; it has two or more")
    return labels


def choose(cx: Context, scores: Value, labels: Sequence[int] | Sequence[str]) -> Value:
    """The label of the largest score of each row, the first of equal ones."""
    return named(cx, cx.cast(cx.op(relax.op.argmax(scores.expr, 1)), "int64"), labels)


def named(cx: Context, classes: Value, labels: Sequence[int] | Sequence[str]) -> Value:
    """The labels (int64 or strings) of int64 numbers of classes."""
    if list(labels) == list(range(len(labels))):
        return classes
    return pick(cx, cx.constant(np.asarray(labels, object if isinstance(labels[0], str) else np.int64)), classes)
