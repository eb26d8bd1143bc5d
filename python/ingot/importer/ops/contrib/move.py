"""Operators that com.microsoft had before ONNX did, or has for more types: by ONNX's functions."""

from __future__ import annotations

from ingot.importer.context import Context
from ingot.importer.ops.contrib.common import microsoft_op
from ingot.importer.ops.create import range_ as onnx_range
from ingot.importer.ops.grid import grid_sample
from ingot.importer.ops.indexing import gather_nd as onnx_gather_nd
from ingot.importer.ops.indexing import unique as onnx_unique
from ingot.importer.ops.move import pad as onnx_pad
from ingot.importer.ops.move import unsqueeze_1
from ingot.importer.ops.position import trilu as onnx_trilu
from ingot.importer.values import Value


@microsoft_op("GatherND")
def gather_nd(cx: Context, x: Value, indices: Value) -> Value:
    return onnx_gather_nd(cx, x, indices)


@microsoft_op("Pad")
def pad(cx: Context, x: Value, pads: Value, value: Value | None = None, *, mode: str = "constant") -> Value:
    return onnx_pad(cx, x, cx.reshape(pads, [pads.shape[-1]]), value, mode=mode)


@microsoft_op("Trilu")
def trilu(cx: Context, x: Value, k: Value | None = None, *, upper: int = 1) -> Value:
    return onnx_trilu(cx, x, k, upper=upper)


@microsoft_op("Range")
def range_(cx: Context, start: Value, limit: Value, delta: Value | None = None) -> Value:
    return onnx_range(cx, start, limit, cx.constant(1, start.dtype) if delta is None else delta)


@microsoft_op("ExpandDims")
def expand_dims(cx: Context, x: Value, axis: Value) -> Value:
    return unsqueeze_1(cx, x, axes=cx.ints(axis, "the axis") or [])


@microsoft_op("Unique")
def unique(cx: Context, x: Value) -> tuple[Value, ...]:
    values, _, positions, counts = onnx_unique(cx, x, sorted=0)
    return values, positions, counts


@microsoft_op("GridSample")
def sample(cx: Context, x: Value, grid: Value, *, align_corners: int = 0, mode: str = "bilinear", padding_mode: str = "zeros") -> Value:
    return grid_sample(cx, x, grid, align_corners=align_corners, mode=mode, padding_mode=padding_mode)
