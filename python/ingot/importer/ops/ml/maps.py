"""Maps as inputs of a pipeline: their values become the columns of one row."""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import te

from ingot.importer.context import Context
from ingot.importer.ops.indexing import scatter_elements
from ingot.importer.ops.ml.labels import places
from ingot.importer.ops.move import concat, window_of
from ingot.importer.ops.strings import pick, strings
from ingot.importer.registry import onnx_op
from ingot.importer.values import AnyValue, MapValue, Value
from ingot.importer.weights import STRING, as_strings


@onnx_op("DictVectorizer", domain="ai.onnx.ml", sequences=True)
def dict_vectorizer(cx: Context, x: AnyValue, *, int64_vocabulary: list[int] | None = None, string_vocabulary: list[str] | None = None) -> Value:
    if not isinstance(x, MapValue):
        raise cx.error("its input is not a map")
    if bool(int64_vocabulary) == bool(string_vocabulary):
        raise cx.error(f"{'both' if int64_vocabulary else 'none'} of int64_vocabulary and string_vocabulary are given; one of them names the columns")
    names = as_strings(np.asarray(string_vocabulary, object)) if string_vocabulary else np.asarray(int64_vocabulary, np.int64)
    if len(set(names.tolist())) < len(names):
        raise cx.error("a name stands twice in the vocabulary; each of them is one column")
    cx.module.vocabularies[x.keys.name] = names
    return cx.reshape(_by_place(cx, x, places(cx, x.keys, names), len(names)), [1, len(names)])


def _by_place(cx: Context, x: MapValue, at: Value, count: int) -> Value:
    """The values of a map [count] where ``at`` says; zeros and empty strings elsewhere. Entries at ``count`` are left out."""

    def number(t: te.Tensor) -> te.Tensor:
        return te.compute(t.shape, lambda i: i + 1, name="number")

    # The entry of each place, counted from 1, and one more place for entries that belong nowhere.
    entries: Value = scatter_elements(cx, cx.constant(np.zeros(count + 1, np.int64)), at, cx.te(number, at, name="number"))
    nothing = strings(cx, [""]) if x.values.dtype == STRING else cx.constant([0], x.values.dtype)
    table: Any = concat(cx, nothing, x.values, axis=0)
    return pick(cx, table, window_of(cx, entries, {0: (0, count, 1)}))
