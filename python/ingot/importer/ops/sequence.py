"""Sequences and optionals. Their structure is known while compiling, so that these operators cost nothing at run time."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx

from ingot.importer import dims, subgraph
from ingot.importer.context import Context
from ingot.importer.ops.indexing import axis_of
from ingot.importer.ops.move import concat, window_of
from ingot.importer.ops.shape import gather
from ingot.importer.registry import onnx_op
from ingot.importer.values import AnyValue, MissingValue, SequenceValue, Value
from ingot.importer.weights import dtype_name


@onnx_op("SequenceConstruct", sequences=True)
def sequence_construct(cx: Context, *items: AnyValue) -> SequenceValue:
    tensors = tuple(_tensor(cx, item) for item in items)
    if not tensors:
        raise cx.error("has no inputs; SequenceEmpty makes an empty sequence")
    return _sequence(cx, tensors, tensors[0].dtype)


@onnx_op("SequenceEmpty", sequences=True)
def sequence_empty(cx: Context, *, dtype: int = onnx.TensorProto.FLOAT) -> SequenceValue:
    return SequenceValue((), dtype_name(onnx.helper.tensor_dtype_to_np_dtype(dtype)))


@onnx_op("SequenceInsert", sequences=True)
def sequence_insert(cx: Context, sequence: AnyValue, tensor: AnyValue, position: Value | None = None) -> SequenceValue:
    items = list(_items(cx, sequence).items)
    at = len(items) if position is None else _position(cx, position, len(items), len(items))
    new = _tensor(cx, tensor)
    return _sequence(cx, (*items[:at], new, *items[at:]), _items(cx, sequence).dtype if items else new.dtype)


@onnx_op("SequenceErase", sequences=True)
def sequence_erase(cx: Context, sequence: AnyValue, position: Value | None = None) -> SequenceValue:
    items = list(_items(cx, sequence).items)
    del items[len(items) - 1 if position is None and items else _position(cx, position, len(items), len(items) - 1)]
    return SequenceValue(tuple(items), _items(cx, sequence).dtype)


@onnx_op("SequenceAt", sequences=True)
def sequence_at(cx: Context, sequence: AnyValue, position: Value) -> Value:
    items = _items(cx, sequence).items
    alike = all(len(items[0].shape) == v.ndim and all(map(dims.equal, items[0].shape, v.shape)) for v in items[1:]) if items else False
    if position.is_constant or not alike:
        return items[_position(cx, position, len(items), len(items) - 1)]
    return gather(cx, _joined(cx, items, 0, True), cx.reshape(position, []), axis=0)


@onnx_op("SequenceLength", sequences=True)
def sequence_length(cx: Context, sequence: AnyValue) -> Value:
    return cx.constant(len(_items(cx, sequence).items), "int64")


@onnx_op("SplitToSequence", sequences=True)
def split_to_sequence(cx: Context, x: Value, split: Value | None = None, *, axis: int = 0, keepdims: int = 1) -> SequenceValue:
    x = _tensor(cx, x)
    axis = axis_of(cx, axis, x.ndim)
    extent = x.shape[axis]
    sizes = cx.ints(split, "split")
    if split is None or split.ndim == 0:
        if not isinstance(extent, int):
            raise cx.error(f"axis {axis} of shape {dims.text(x.shape)} must be known while compiling: it decides how many tensors there are")
        chunk = 1 if sizes is None else sizes[0]
        if chunk < 1:
            raise cx.error(f"split is {chunk}; it must be at least 1")
        sizes = [min(chunk, extent - start) for start in range(0, extent, chunk)]
    elif sizes is not None:
        cx.check(sum(sizes) == extent if isinstance(extent, int) else extent.equal(sum(sizes)),
                 f"split adds up to {sum(sizes)}, but axis {axis} has {extent} elements")
        if any(s < 0 for s in sizes):
            raise cx.error(f"split has a negative size: {sizes}")
    items, start = [], 0
    for size in sizes or []:
        part = window_of(cx, x, {axis: (start, size, 1)})
        items.append(part if keepdims or split is not None else cx.reshape(part, [*x.shape[:axis], *x.shape[axis + 1:]]))
        start += size
    return SequenceValue(tuple(items), x.dtype)


@onnx_op("ConcatFromSequence", sequences=True)
def concat_from_sequence(cx: Context, sequence: AnyValue, *, axis: int, new_axis: int = 0) -> Value:
    items = _items(cx, sequence).items
    if not items:
        raise cx.error("the sequence is empty: the result's shape is unknown")
    return _joined(cx, items, axis_of(cx, axis, items[0].ndim + bool(new_axis)), bool(new_axis))


@onnx_op("SequenceMap", sequences=True)
def sequence_map(cx: Context, sequence: AnyValue, *others: AnyValue, body: onnx.GraphProto) -> tuple[SequenceValue, ...]:
    count = len(_items(cx, sequence).items)
    for other in others:
        if isinstance(other, SequenceValue) and len(other.items) != count:
            raise cx.error(f"sequences of {count} and {len(other.items)} tensors are mapped together; their lengths must be the same")
    if count == 0:
        kinds = [onnx.helper.tensor_dtype_to_np_dtype(o.type.tensor_type.elem_type) for o in body.output]
        return tuple(SequenceValue((), dtype_name(k)) for k in kinds)
    rows = []
    for i in range(count):
        inputs = [v.items[i] if isinstance(v, SequenceValue) else v for v in (sequence, *others)]
        rows.append([_tensor(cx, v) for v in subgraph.import_in_place(cx, body, inputs)])
    return tuple(SequenceValue(tuple(column), column[0].dtype) for column in zip(*rows, strict=True))


@onnx_op("Optional", sequences=True)
def optional(cx: Context, x: AnyValue | None = None, *, type: Any = None) -> AnyValue:
    return MissingValue() if x is None else x


@onnx_op("OptionalHasElement", sequences=True)
def optional_has_element(cx: Context, x: AnyValue | None = None) -> Value:
    return cx.constant(np.array(not (x is None or isinstance(x, MissingValue))))


@onnx_op("OptionalGetElement", sequences=True)
def optional_get_element(cx: Context, x: AnyValue) -> AnyValue:
    if isinstance(x, MissingValue):
        raise cx.error("the optional has no element")
    return x


def _tensor(cx: Context, value: AnyValue) -> Value:
    if not isinstance(value, Value):
        raise cx.error("a sequence or a missing optional stands where a tensor is needed")
    return value


def _items(cx: Context, value: AnyValue) -> SequenceValue:
    if not isinstance(value, SequenceValue):
        raise cx.error("a tensor or a missing optional stands where a sequence is needed")
    return value


def _sequence(cx: Context, items: tuple[Value, ...], dtype: str) -> SequenceValue:
    for item in items:
        if item.dtype != dtype:
            raise cx.error(f"a sequence of {dtype} cannot hold {item.dtype}")
    return SequenceValue(items, dtype)


def _position(cx: Context, position: Value | None, length: int, last: int) -> int:
    """A position in a sequence, counted from the start, at most ``last``."""
    at = (cx.ints(position, "the position in a sequence") or [-1])[0]
    if not -length <= at <= last:
        raise cx.error(f"position {at} does not exist in a sequence of {length}")
    return at + length if at < 0 else at


def _joined(cx: Context, items: tuple[Value, ...], axis: int, new_axis: bool) -> Value:
    if new_axis:
        items = tuple(cx.reshape(v, [*v.shape[:axis], 1, *v.shape[axis:]]) for v in items)
    return concat(cx, *items, axis=axis)
