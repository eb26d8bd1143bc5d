"""Shape arithmetic: operators on integers that are known as expressions over symbolic dimensions.

Exporters compute shapes with ordinary nodes (Shape, Gather, Mul, Concat, ...). Following them symbolically keeps a
Reshape's target a shape, instead of a tensor that is only known at run time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from tvm import tirx

from ingot.importer import dims
from ingot.importer.values import SMALL, Value, symbolic

if TYPE_CHECKING:
    from ingot.importer.context import Context

_INTEGERS = {onnx.TensorProto.INT64: "int64", onnx.TensorProto.INT32: "int32"}


def shape_math(cx: Context, node: onnx.NodeProto, inputs: list[Value | None]) -> list[Value] | None:
    """The node's result as symbolic integers, or None if it is not shape arithmetic."""
    function = _TABLE.get(node.op_type) if node.domain in ("", "ai.onnx") else None
    if function is None or not inputs or inputs[0] is None:
        return None
    if node.op_type in ("Shape", "Size"):
        elements = function(node, inputs[0])
        return [symbolic(cx, elements, "int64")]
    if any(v is not None and v.known_elements() is None for v in inputs):
        return None
    if not any(v is not None and v.elements is not None for v in inputs):
        return None
    arrays = [None if v is None else v.known_elements() for v in inputs]
    result = function(node, *arrays)
    if result is None:
        return None
    result = np.asarray(result, dtype=object)
    if result.size > SMALL:
        return None
    dtype = _result_dtype(node, inputs)
    return [symbolic(cx, _simplify(result), dtype)]


def _result_dtype(node: onnx.NodeProto, inputs: list[Value | None]) -> str:
    if node.op_type == "Cast":
        return _INTEGERS.get(_get(node, "to", 0), "int64")
    if node.op_type in _COMPARISONS:
        return "bool"
    source = inputs[1] if node.op_type == "Where" else inputs[0]
    assert source is not None
    return source.dtype


def _simplify(array: np.ndarray) -> np.ndarray:
    flat = np.empty(array.size, dtype=object)
    flat[:] = [dims.dim(v) if not isinstance(v, (bool, np.bool_)) else bool(v) for v in array.ravel()]
    return flat.reshape(array.shape)


def _get(node: onnx.NodeProto, name: str, default: Any = None) -> Any:
    for attribute in node.attribute:
        if attribute.name == name:
            return onnx.helper.get_attribute_value(attribute)
    return default


def _pairwise(function: Callable[[Any, Any], Any]) -> Callable[..., np.ndarray]:
    vectorized = np.frompyfunc(function, 2, 1)
    return lambda node, a, b: np.asarray(vectorized(a, b), dtype=object)


def _fold_many(function: Callable[[Any, Any], Any]) -> Callable[..., np.ndarray]:
    vectorized = np.frompyfunc(function, 2, 1)

    def apply(node: onnx.NodeProto, first: np.ndarray, *rest: np.ndarray) -> np.ndarray:
        for other in rest:
            first = np.asarray(vectorized(first, other), dtype=object)
        return first

    return apply


def _compare(python: Callable[[Any, Any], bool], symbolic_: Callable[[Any, Any], Any]) -> Callable[..., np.ndarray]:
    def function(a: Any, b: Any) -> Any:
        if isinstance(a, int) and isinstance(b, int):
            return python(a, b)
        result = dims.dim(symbolic_(dims.expr(a), dims.expr(b)))
        return bool(result) if isinstance(result, int) else result

    return _pairwise(function)


def _divide(a: Any, b: Any) -> Any:
    if isinstance(a, int) and isinstance(b, int):  # ONNX truncates, as C does
        return int(a / b) if abs(a) < 2**52 else (abs(a) // abs(b)) * (1 if (a < 0) == (b < 0) else -1)
    return dims.floordiv(a, b)


def _shape(node: onnx.NodeProto, value: Value) -> np.ndarray:
    shape = value.shape[slice(_get(node, "start", 0), _get(node, "end", None))]
    return np.array(list(shape) + [None], dtype=object)[:-1]


def _slice(node: onnx.NodeProto, data: np.ndarray, *rest: Any) -> Any:
    if rest:
        starts, ends, axes, steps = (list(rest) + [None] * 4)[:4]
    else:
        starts, ends, axes, steps = (_get(node, k) for k in ("starts", "ends", "axes", "steps"))
    flat = [None if v is None else list(np.asarray(v, dtype=object).ravel()) for v in (starts, ends, axes, steps)]
    if any(not isinstance(v, (int, np.integer)) for values in flat if values is not None for v in values):
        return None
    starts, ends = flat[0] or [], flat[1] or []
    axes, steps = flat[2:]
    picks: list[Any] = [slice(None)] * data.ndim
    for i, axis in enumerate(axes if axes is not None else range(len(starts))):
        step = steps[i] if steps is not None else 1
        end = ends[i] if not (step < 0 and ends[i] < -data.shape[axis]) else None
        picks[axis] = slice(starts[i], end, step)
    return data[tuple(picks)]


def _gather(node: onnx.NodeProto, data: np.ndarray, indices: np.ndarray) -> np.ndarray | None:
    if not dims.is_static(indices.ravel()):
        return None
    return np.take(data, indices.astype(np.int64), axis=_get(node, "axis", 0))


def _axes(node: onnx.NodeProto, axes: np.ndarray | None) -> tuple[int, ...] | None:
    given = _get(node, "axes") if axes is None else [int(a) for a in axes.ravel()]
    return None if given is None else tuple(given)


def _unsqueeze(node: onnx.NodeProto, data: np.ndarray, axes: np.ndarray | None = None) -> np.ndarray:
    return np.expand_dims(data, _axes(node, axes) or ())


def _squeeze(node: onnx.NodeProto, data: np.ndarray, axes: np.ndarray | None = None) -> np.ndarray:
    return np.asarray(np.squeeze(data, axis=_axes(node, axes)), dtype=object)


def _reshape(node: onnx.NodeProto, data: np.ndarray, shape: np.ndarray) -> np.ndarray | None:
    return data.reshape([int(s) for s in shape]) if dims.is_static(shape.ravel()) else None


def _expand(node: onnx.NodeProto, data: np.ndarray, shape: np.ndarray) -> np.ndarray | None:
    if not dims.is_static(shape.ravel()):
        return None
    return np.broadcast_to(data, np.broadcast_shapes(data.shape, tuple(int(s) for s in shape)))


def _reduce(function: Callable[[list[Any]], Any]) -> Callable[..., np.ndarray | None]:
    def apply(node: onnx.NodeProto, data: np.ndarray, axes: np.ndarray | None = None) -> np.ndarray | None:
        if data.ndim != 1:
            return None
        result = function(list(data))
        return np.array([result] if _get(node, "keepdims", 1) else result, dtype=object)

    return apply


def _cast(node: onnx.NodeProto, data: np.ndarray) -> np.ndarray | None:
    return data if _get(node, "to") in _INTEGERS else None


def _where(node: onnx.NodeProto, condition: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.asarray(np.frompyfunc(dims.select, 3, 1)(condition, a, b), dtype=object)


def _sum(values: list[Any]) -> Any:
    total: Any = 0
    for value in values:
        total = total + value
    return total


_COMPARISONS = frozenset({"Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual"})
_TABLE: dict[str, Callable[..., Any]] = {
    "Shape": _shape,
    "Size": lambda node, value: np.array(dims.product(value.shape), dtype=object),
    "Add": _pairwise(lambda a, b: a + b),
    "Sub": _pairwise(lambda a, b: a - b),
    "Mul": _pairwise(lambda a, b: b * a if isinstance(a, int) else a * b),
    "Div": _pairwise(_divide),
    "Mod": _pairwise(lambda a, b: a % b if isinstance(a, int) and isinstance(b, int) else tirx.floormod(dims.expr(a), dims.expr(b))),
    "Min": _fold_many(dims.minimum),
    "Max": _fold_many(dims.maximum),
    "Neg": lambda node, a: -1 * a,
    "Identity": lambda node, a: a,
    "Cast": _cast,
    "Concat": lambda node, *arrays: np.concatenate(arrays, axis=_get(node, "axis", 0)),
    "Gather": _gather,
    "Slice": _slice,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Reshape": _reshape,
    "Expand": _expand,
    "Flatten": lambda node, a: a.reshape(1, -1) if _get(node, "axis", 1) == 0 else None,
    "ReduceProd": _reduce(dims.product),
    "ReduceSum": _reduce(_sum),
    "ReduceMax": _reduce(lambda v: _fold_list(dims.maximum, v)),
    "ReduceMin": _reduce(lambda v: _fold_list(dims.minimum, v)),
    "Equal": _compare(lambda a, b: a == b, lambda a, b: a.equal(b)),
    "Less": _compare(lambda a, b: a < b, lambda a, b: a < b),
    "LessOrEqual": _compare(lambda a, b: a <= b, lambda a, b: a <= b),
    "Greater": _compare(lambda a, b: a > b, lambda a, b: a > b),
    "GreaterOrEqual": _compare(lambda a, b: a >= b, lambda a, b: a >= b),
    "Where": _where,
}


def _fold_list(function: Callable[[Any, Any], Any], values: list[Any]) -> Any:
    result = values[0]
    for value in values[1:]:
        result = function(result, value)
    return result
