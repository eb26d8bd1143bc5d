"""Which input elements an output element of a resized axis is made of, and with which weights.

The rules of ONNX's Resize are written once, over NumPy arrays where all extents are known and over TIR expressions where
they are not: :data:`NUMPY` and :data:`TIR` give the functions that differ.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import te, tirx

from ingot.importer import dims
from ingot.importer.context import Context
from ingot.importer.dims import Dim
from ingot.importer.values import Value


@dataclass(frozen=True)
class Maths:
    """What NumPy and TIR call differently."""

    floor: Callable[[Any], Any]
    ceil: Callable[[Any], Any]
    absolute: Callable[[Any], Any]
    where: Callable[[Any, Any, Any], Any]
    minimum: Callable[[Any, Any], Any]
    maximum: Callable[[Any, Any], Any]


NUMPY = Maths(np.floor, np.ceil, np.abs, np.where, np.minimum, np.maximum)
TIR = Maths(tirx.floor, tirx.ceil, tirx.abs, lambda c, a, b: tirx.Select(c, _double(a), _double(b)),
            lambda a, b: tirx.min(_double(a), _double(b)), lambda a, b: tirx.max(_double(a), _double(b)))


def _double(value: Any) -> Any:
    return tirx.const(float(value), "float64") if isinstance(value, (int, float)) else value


@dataclass(frozen=True)
class Rule:
    """The attributes of Resize that say how an axis is resized."""

    mode: str = "nearest"
    coordinates: str = "half_pixel"
    nearest: str = "round_prefer_floor"
    antialias: bool = False
    cubic_a: float = -0.75
    exclude_outside: bool = False

    @property
    def reach(self) -> int:
        """How far the interpolation kernel reaches to each side, in elements; 0 for nearest."""
        return {"nearest": 0, "linear": 1, "cubic": 2}[self.mode]

    @property
    def normalizes(self) -> bool:
        """Whether weights must be divided by their sum."""
        return self.mode != "nearest" and (self.antialias or self.exclude_outside)


@dataclass(frozen=True)
class Axis:
    """One axis that is resized from ``size`` elements to ``result``: by a scale, or by a ratio of extents."""

    axis: int
    size: Dim
    result: Dim
    scale: float | tuple[Dim, Dim]
    roi: tuple[float, float] = (0.0, 1.0)

    @property
    def is_static(self) -> bool:
        """Whether the table of indices is known while compiling."""
        return isinstance(self.size, int) and isinstance(self.result, int) and (
            isinstance(self.scale, float) or dims.is_static(self.scale))

    def factor(self) -> Any:
        """The scale as a float or a float64 expression."""
        if isinstance(self.scale, float):
            return self.scale
        above, below = self.scale
        if isinstance(above, int) and isinstance(below, int):
            return above / below
        return dims.expr(above).astype("float64") / dims.expr(below).astype("float64")

    def unscaled(self, x: Any) -> Any:
        """``x`` (float64) divided by the scale, exactly where the result is a float."""
        if isinstance(self.scale, float):
            return x / self.scale
        above, below = (float(d) if isinstance(d, int) else d.astype("float64") for d in self.scale)
        # Halves change nothing: TVM's analyzer cannot bind a float that is made of integers only.
        return x * 0.5 * below / (above * 0.5)

    def before(self, rule: Rule) -> Dim:
        """How many elements before the one at or left of the coordinate take part."""
        if not rule.antialias:
            return max(rule.reach - 1, 0)
        if isinstance(self.scale, float):
            return max(rule.reach, math.ceil(rule.reach / self.scale)) - 1
        above, below = self.scale
        return dims.dim(dims.maximum(rule.reach, dims.ceildiv(below * rule.reach, above)) - 1)

    def taps(self, rule: Rule) -> Dim:
        """How many elements take part."""
        return 1 if rule.mode == "nearest" else dims.dim(self.before(rule) * 2 + 2)


def coordinate(m: Maths, rule: Rule, axis: Axis, i: Any) -> Any:
    """The input coordinate (float64) of output position ``i`` (float64)."""
    scale = axis.factor()
    size, result = (float(d) if isinstance(d, int) else d.astype("float64") for d in (axis.size, axis.result))
    length = scale * size  # not rounded, unlike the result's extent
    if rule.coordinates == "asymmetric":
        return axis.unscaled(i)
    if rule.coordinates == "align_corners":
        return m.where(length == 1, i * 0.0, i * (size - 1.0) / m.where(length == 1, 1.0, length - 1.0))
    if rule.coordinates == "tf_crop_and_resize":
        start, end = axis.roi
        inner = i * (end - start) * (size - 1.0) / m.where(length == 1, 1.0, length - 1.0)
        return m.where(length == 1, i * 0.0 + (end - start) * (size - 1.0) / 2, inner) + start * (size - 1.0)
    if rule.coordinates == "tf_half_pixel_for_nn":
        return axis.unscaled(i + 0.5)
    half = axis.unscaled(i + 0.5) - 0.5
    if rule.coordinates == "half_pixel_symmetric":
        return half + size / 2 * (1.0 - result / length)
    if rule.coordinates == "pytorch_half_pixel":
        return m.where(length > 1, half, i * 0.0)
    return half


def nearest(m: Maths, rule: Rule, axis: Axis, x: Any) -> Any:
    """The nearest element (float64, not clamped) to a coordinate."""
    if rule.nearest == "simple":  # opset 10 does not say; this is what other runtimes settled on
        return m.where(axis.factor() < 1, m.ceil(x), m.floor(x))
    return {"floor": lambda: m.floor(x), "ceil": lambda: m.ceil(x), "round_prefer_ceil": lambda: m.floor(x + 0.5),
            "round_prefer_floor": lambda: m.ceil(x - 0.5)}[rule.nearest]()


def weight(m: Maths, rule: Rule, axis: Axis, x: Any, at: Any) -> Any:
    """The weight, before normalization, of element ``at`` (float64) for a coordinate."""
    d = m.absolute(at - x) * (m.minimum(axis.factor(), 1.0) if rule.antialias else 1.0)
    # Clamped arguments rather than cases: TVM's analyzer fails on some conditions over floats.
    if rule.mode == "linear":
        value = m.maximum(1.0 - d, 0.0)
    else:
        a = rule.cubic_a
        near, far = m.minimum(d, 1.0), m.minimum(m.maximum(d, 1.0), 2.0)
        value = (((a + 2) * near - (a + 3)) * near * near + 1.0) + (((a * far - 5 * a) * far + 8 * a) * far - 4 * a)
    if rule.exclude_outside:
        size = float(axis.size) if isinstance(axis.size, int) else axis.size.astype("float64")
        value = value * m.maximum(m.minimum(at + 1.0, 1.0), 0.0) * m.maximum(m.minimum(size - at, 1.0), 0.0)
    return value


@dataclass(frozen=True)
class Table:
    """``index`` [n, taps] int64 and, but for nearest, ``weights`` [n, taps]; ``outside`` [n] bool: positions to fill."""

    index: Value
    weights: Value | None
    outside: Value | None


def table(cx: Context, rule: Rule, axis: Axis, dtype: str) -> Table:
    """The table of an axis: a constant, or computed at run time from symbolic extents."""
    fills = rule.coordinates == "tf_crop_and_resize"
    if axis.is_static:
        index, weights, outside = static_table(rule, axis)
        return Table(cx.constant(index), None if weights is None else cx.constant(weights, dtype), cx.constant(outside) if fills else None)
    index_value, weight_value = _index_table(cx, rule, axis), None
    if rule.mode != "nearest":
        weight_value = _weight_table(cx, rule, axis, dtype)
    return Table(index_value, weight_value, _outside_table(cx, rule, axis) if fills else None)


def static_table(rule: Rule, axis: Axis) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
    """The table of an axis of known extents, as arrays; weights in float64."""
    x = coordinate(NUMPY, rule, axis, np.arange(axis.result, dtype=np.float64))
    outside = (x < 0) | (x > axis.size - 1)
    if rule.mode == "nearest":
        at = nearest(NUMPY, rule, axis, x)[:, None]
        weights = None
    else:
        at = np.floor(x)[:, None] - axis.before(rule) + np.arange(axis.taps(rule))
        weights = weight(NUMPY, rule, axis, x[:, None], at)
        if rule.normalizes:
            total = weights.sum(1, keepdims=True)
            weights = weights / np.where(total == 0, 1, total)
    return np.clip(at, 0, axis.size - 1).astype(np.int64), weights, outside


def _index_table(cx: Context, rule: Rule, axis: Axis) -> Value:
    def compute() -> te.Tensor:
        def body(i: Any, k: Any) -> Any:
            x = coordinate(TIR, rule, axis, i.astype("float64"))
            at = nearest(TIR, rule, axis, x) if rule.mode == "nearest" else tirx.floor(x)
            first = at.astype("int64") - (0 if rule.mode == "nearest" else dims.expr(axis.before(rule)))
            return tirx.max(tirx.min(first + k, dims.expr(axis.size) - 1), 0)

        return te.compute([dims.expr(axis.result), dims.expr(axis.taps(rule))], body, name="resize_index")

    return cx.te(compute, name="resize_index")


def _weight_table(cx: Context, rule: Rule, axis: Axis, dtype: str) -> Value:
    shape = [dims.expr(axis.result), dims.expr(axis.taps(rule))]

    def compute() -> te.Tensor:
        def body(i: Any, k: Any) -> Any:
            x = coordinate(TIR, rule, axis, i.astype("float64"))
            at = tirx.floor(x) + (k - dims.expr(axis.before(rule))).astype("float64")
            return weight(TIR, rule, axis, x, at)

        raw = te.compute(shape, body, name="resize_weights")
        if not rule.normalizes:
            return te.compute(shape, lambda i, k: raw(i, k).astype(dtype), name="resize_weights")
        tap = te.reduce_axis((0, shape[1]), name="tap")
        total = te.compute(shape[:1], lambda i: te.sum(raw(i, tap), axis=tap), name="resize_total")
        return te.compute(shape, lambda i, k: (raw(i, k) / tirx.Select(total(i).equal(0.0), _double(1), total(i))).astype(dtype), name="normalized")

    return cx.te(compute, name="resize_weights")


def _outside_table(cx: Context, rule: Rule, axis: Axis) -> Value:
    def body(i: Any) -> Any:
        x = coordinate(TIR, rule, axis, i.astype("float64"))
        return tirx.any(x < 0.0, x > dims.expr(axis.size).astype("float64") - 1.0)

    return cx.te(lambda: te.compute([dims.expr(axis.result)], body, name="resize_outside"), name="resize_outside")
