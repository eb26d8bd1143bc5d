"""Labels and categories: from one name of a thing to another, whether names are numbers or strings."""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import te, tirx

from ingot.importer import dims
from ingot.importer.context import Context
from ingot.importer.ops.strings import pick, strings
from ingot.importer.registry import onnx_op
from ingot.importer.values import Value
from ingot.importer.weights import STRING, as_strings

_DOMAIN = "ai.onnx.ml"


def _as_array(values: Any) -> np.ndarray:
    """Keys or values as a flat array; strings as str objects."""
    array = np.asarray(values).ravel()
    return as_strings(array) if array.dtype.kind in "OUST" else array


def places(cx: Context, x: Value, keys: np.ndarray, *, nan_is_a_key: bool = False) -> Value:
    """The place of each element among the keys (the last of equal ones), or their number, as int64."""
    if (x.dtype == STRING) != (keys.dtype.kind == "O"):
        raise cx.error(f"keys of type {'string' if keys.dtype.kind == 'O' else keys.dtype} do not go with an input of type "
                       f"{'string' if x.dtype == STRING else x.dtype}")
    if x.dtype == STRING:
        last = {key: place for place, key in enumerate(keys.tolist())}
        ascending = sorted(last, key=str.encode)
        found = cx.wrap(cx.kernel("string_lookup", [x, strings(cx, ascending)], [(x.shape, "int64")]))
        order = [*(last[key] for key in ascending), len(keys)]
        return found if order == list(range(len(order))) and len(ascending) == len(keys) else pick(cx, cx.constant(order, "int64"), found)
    if ("int" in x.dtype) != (keys.dtype.kind in "iu"):
        raise cx.error(f"keys of type {keys.dtype} do not go with an input of type {x.dtype}")
    return _find(cx, x, cx.constant(keys, x.dtype), len(keys), nan_is_a_key and keys.dtype.kind == "f")


def _find(cx: Context, x: Value, keys: Value, count: int, nan_is_a_key: bool) -> Value:

    def compute(t: te.Tensor, k: te.Tensor) -> te.Tensor:
        j = te.reduce_axis((0, dims.expr(count)), name="j")

        def body(*i: Any) -> Any:
            found = t(*i).equal(k(j))
            if nan_is_a_key:
                found = tirx.any(found, tirx.all(tirx.isnan(t(*i)), tirx.isnan(k(j))))
            return te.max(tirx.Select(found, j, tirx.IntImm("int64", -1)), axis=j)

        last = te.compute(t.shape, body, name="find")
        return te.compute(t.shape, lambda *i: tirx.Select(last(*i) < 0, tirx.IntImm("int64", count), last(*i)), name="place")

    return cx.te(compute, x, keys, name="find")


def encode(cx: Context, x: Value, keys: Any, values: Any, default: Any, *, nan_is_a_key: bool = False) -> Value:
    """The value of each element's key, or the default."""
    keys, values = _as_array(keys), _as_array(values)
    if len(keys) != len(values) or not len(keys):
        raise cx.error(f"there are {len(keys)} keys and {len(values)} values")
    if values.dtype.kind == "O":
        table = strings(cx, [*values.tolist(), str(default)])
    else:
        table = cx.constant(np.append(values, np.asarray(default, values.dtype)).astype(values.dtype))
    return pick(cx, table, places(cx, x, keys, nan_is_a_key=nan_is_a_key))


def _label_encoder(nan_is_a_key: bool) -> Any:
    def function(cx: Context, x: Value, *, default_float: float = -0.0, default_int64: int = -1, default_string: str = "_Unused",
                 default_tensor: np.ndarray | None = None, keys_floats: list[float] | None = None, keys_int64s: list[int] | None = None,
                 keys_strings: list[str] | None = None, keys_tensor: np.ndarray | None = None, values_floats: list[float] | None = None,
                 values_int64s: list[int] | None = None, values_strings: list[str] | None = None,
                 values_tensor: np.ndarray | None = None) -> Value:
        def given(tensor: np.ndarray | None, texts: list[str] | None, floats: list[float] | None, ints: list[int] | None) -> np.ndarray:
            if tensor is not None:
                return tensor
            return np.asarray(texts, object) if texts else np.asarray(floats, np.float32) if floats else np.asarray(ints or [], np.int64)

        values = given(values_tensor, values_strings, values_floats, values_int64s)
        default: Any = default_string if values.dtype.kind in "OUS" else default_float if values.dtype.kind == "f" else default_int64
        if default_tensor is not None and values_tensor is not None:
            default = _as_array(default_tensor)[0]
        keys = given(keys_tensor, keys_strings, keys_floats, keys_int64s)
        return encode(cx, x, keys, values, default, nan_is_a_key=nan_is_a_key)

    return function


@onnx_op("LabelEncoder", domain=_DOMAIN)
@onnx_op("LabelEncoder", domain=_DOMAIN, strings=True)
def label_encoder_1(cx: Context, x: Value, *, classes_strings: list[str], default_int64: int = -1, default_string: str = "_Unused") -> Value:
    return category_mapper(cx, x, cats_int64s=list(range(len(classes_strings))), cats_strings=classes_strings, default_int64=default_int64,
                           default_string=default_string)


for _since, _nan in ((2, False), (4, True)):
    for _strings in (False, True):
        onnx_op("LabelEncoder", since=_since, domain=_DOMAIN, strings=_strings)(_label_encoder(_nan))


@onnx_op("CategoryMapper", domain=_DOMAIN)
@onnx_op("CategoryMapper", domain=_DOMAIN, strings=True)
def category_mapper(cx: Context, x: Value, *, cats_int64s: list[int], cats_strings: list[str], default_int64: int = -1,
                    default_string: str = "_Unused") -> Value:
    if x.dtype == STRING:
        return encode(cx, x, np.asarray(cats_strings, object), np.asarray(cats_int64s, np.int64), default_int64)
    return encode(cx, x, np.asarray(cats_int64s, np.int64), np.asarray(cats_strings, object), default_string)


@onnx_op("OneHotEncoder", domain=_DOMAIN)
@onnx_op("OneHotEncoder", domain=_DOMAIN, strings=True)
def one_hot_encoder(cx: Context, x: Value, *, cats_int64s: list[int] | None = None, cats_strings: list[str] | None = None, zeros: int = 1) -> Value:
    categories = np.asarray(cats_strings, object) if x.dtype == STRING else np.asarray(cats_int64s or [], np.int64)
    if categories.ndim != 1 or not len(categories):
        raise cx.error("there are no categories of the input's type")
    where = places(cx, x if x.dtype == STRING else cx.cast(x, "int64"), categories)
    if not zeros:  # an element of no category is an error
        where = cx.indices(where, len(categories))

    def compute(t: te.Tensor) -> te.Tensor:
        def body(*i: Any) -> Any:
            return tirx.Select(t(*i[:-1]).equal(i[-1]), tirx.const(1, "float32"), tirx.const(0, "float32"))

        return te.compute([*t.shape, dims.expr(len(categories))], body, name="one_hot")

    return cx.te(compute, where, name="one_hot")


@onnx_op("ZipMap", domain=_DOMAIN)
def zip_map(cx: Context, x: Value, *, classlabels_int64s: list[int] | None = None, classlabels_strings: list[str] | None = None) -> Value:
    labels = classlabels_strings or classlabels_int64s
    if not labels or not x.ndim or not dims.equal(x.shape[-1], len(labels)):
        raise cx.error(f"there are {len(labels or [])} labels for scores of shape {dims.text(x.shape)}")
    name = cx.node.output[0] if cx.node is not None else ""
    cx.module.maps[name] = labels
    return Value(cx, x.dtype, x.shape, name, _expr=x.expr)  # the map is a tensor whose columns the manifest names
