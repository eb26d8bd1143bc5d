"""Maps as inputs of a pipeline: their values become the columns of one row."""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import te, tirx

from ingot.importer.context import Context
from ingot.importer.ops.cast import convert
from ingot.importer.ops.indexing import scatter_elements
from ingot.importer.ops.ml.labels import places
from ingot.importer.ops.move import concat, window_of
from ingot.importer.ops.strings import pick, strings
from ingot.importer.registry import onnx_op
from ingot.importer.values import AnyValue, MapValue, Value
from ingot.importer.weights import STRING, as_strings

_LARGEST = 2**62  # of keys


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


#: Types of elements by the names that CastMap has for them.
_TYPES = {"TO_FLOAT": "float32", "TO_INT64": "int64", "TO_STRING": STRING}


@onnx_op("CastMap", domain="ai.onnx.ml", sequences=True)
def cast_map(cx: Context, x: AnyValue, *, cast_to: str = "TO_FLOAT", map_form: str = "DENSE", max_map: int = 1) -> Value:
    if not isinstance(x, MapValue) or x.keys.dtype != "int64":
        raise cx.error("its input is not a map of integers")
    if cast_to not in _TYPES or map_form not in ("DENSE", "SPARSE"):
        raise cx.error(f"cast_to '{cast_to}' and map_form '{map_form}' are not both known; they are {', '.join(_TYPES)}, and DENSE or SPARSE")
    dtype = _TYPES[cast_to]
    if (STRING in (dtype, x.values.dtype)) and (dtype != x.values.dtype or map_form == "SPARSE"):
        raise cx.error(f"values of type {x.values.dtype} as {dtype}, {map_form.lower()}, are not supported; numbers become numbers")
    cx.module.vocabularies[x.keys.name] = np.arange(max_map)
    if map_form == "DENSE":  # in ascending order of keys
        _, order = cx.kernel("topk", [x.keys], [(x.keys.shape, "int64"), (x.keys.shape, "int64")], ints=[0, 0, 1])
        row = pick(cx, x.values, order)
    else:
        keys = cx.indices(x.keys, _LARGEST, negative=False)
        at = cx.elementwise(lambda k: tirx.min(k, tirx.IntImm("int64", max_map)), keys, name="places")
        row = _by_place(cx, x, at, max_map)
    return convert(cx, cx.reshape(row, [1, row.shape[0]]), dtype)


def _by_place(cx: Context, x: MapValue, at: Value, count: int) -> Value:
    """The values of a map [count] where ``at`` says; zeros and empty strings elsewhere. Entries at ``count`` are left out."""

    def number(t: te.Tensor) -> te.Tensor:
        return te.compute(t.shape, lambda i: i + 1, name="number")

    # The entry of each place, counted from 1, and one more place for entries that belong nowhere.
    entries: Value = scatter_elements(cx, cx.constant(np.zeros(count + 1, np.int64)), at, cx.te(number, at, name="number"))
    nothing = strings(cx, [""]) if x.values.dtype == STRING else cx.constant([0], x.values.dtype)
    table: Any = concat(cx, nothing, x.values, axis=0)
    return pick(cx, table, window_of(cx, entries, {0: (0, count, 1)}))
