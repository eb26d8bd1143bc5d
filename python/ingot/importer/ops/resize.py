"""Resize and Upsample."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
from tvm import te, tirx

from ingot.importer import dims
from ingot.importer.context import Context
from ingot.importer.dims import Dim
from ingot.importer.ops.interpolate import Axis, Rule, Table, static_table, table
from ingot.importer.registry import onnx_op
from ingot.importer.values import Value

_MODES = {"nearest": "nearest", "linear": "linear", "bilinear": "linear", "cubic": "cubic"}
_COORDINATES = ("half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric", "tf_crop_and_resize",
                "tf_half_pixel_for_nn")
_NEAREST = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil", "simple")
_UNROLLED = 4  # sums of more elements than a cubic kernel has are loops


@onnx_op("Upsample", since=7)
def upsample_7(cx: Context, x: Value, *, scales: list[float], mode: str = "nearest") -> Value:
    return _by_scales(cx, x, [float(s) for s in scales], mode)


@onnx_op("Upsample", since=9)
def upsample(cx: Context, x: Value, scales: Value, *, mode: str = "nearest") -> Value:
    return _by_scales(cx, x, _floats(cx, scales), mode)


@onnx_op("Resize", since=10)
def resize_10(cx: Context, x: Value, scales: Value, *, mode: str = "nearest") -> Value:
    return _by_scales(cx, x, _floats(cx, scales), mode)


def _by_scales(cx: Context, x: Value, scales: list[float], mode: str) -> Value:
    rule = _rule(cx, mode, coordinates="asymmetric", nearest="simple")
    return _resize(cx, x, rule, [_scaled(cx, x, axis, s) for axis, s in enumerate(scales)], 0.0)


def _floats(cx: Context, scales: Value) -> list[float]:
    array = cx.array(scales, "scales")
    return [float(s) for s in np.asarray(array).ravel()]


@onnx_op("Resize", since=11)
def resize(cx: Context, x: Value, roi: Value | None = None, scales: Value | None = None, sizes: Value | None = None, *, antialias: int = 0,
           axes: list[int] | None = None, coordinate_transformation_mode: str = "half_pixel", cubic_coeff_a: float = -0.75,
           exclude_outside: int = 0, extrapolation_value: float = 0.0, keep_aspect_ratio_policy: str = "stretch", mode: str = "nearest",
           nearest_mode: str = "round_prefer_floor") -> Value:
    rule = _rule(cx, mode, coordinates=coordinate_transformation_mode, nearest=nearest_mode, antialias=bool(antialias), cubic_a=cubic_coeff_a,
                 exclude_outside=bool(exclude_outside))
    where = [a % x.ndim for a in axes] if axes else list(range(x.ndim))
    region = [0.0] * len(where) + [1.0] * len(where)
    if coordinate_transformation_mode == "tf_crop_and_resize":
        region = [float(v) for v in np.asarray(cx.array(roi, "roi"), np.float64).ravel()] if roi is not None else []
        if len(region) != 2 * len(where):
            raise cx.error(f"roi has {len(region)} elements; {2 * len(where)} are needed, a start and an end for each axis")
    given = [v for v in (scales, sizes) if v is not None and not (v.ndim == 1 and dims.equal(v.shape[0], 0))]
    if len(given) != 1:
        raise cx.error("either scales or sizes must be given" + (", not both" if given else ""))
    if given[0] is scales:
        factors = _floats(cx, scales)
        found = [_scaled(cx, x, a, s) for a, s in zip(where, _as_many(cx, factors, where, "scales"), strict=True)]
    else:
        wanted = cx.dims(given[0], "sizes")
        if given[0].known_elements() is None:
            wanted = cx.let(wanted)
        found = _sized(cx, x, where, _as_many(cx, wanted, where, "sizes"), keep_aspect_ratio_policy)
    boxed = [Axis(a.axis, a.size, a.result, a.scale, (region[i], region[len(where) + i])) for i, a in enumerate(found)]
    return _resize(cx, x, rule, boxed, extrapolation_value)


def _as_many(cx: Context, values: list[Any], axes: Sequence[int], what: str) -> list[Any]:
    if len(values) != len(axes):
        raise cx.error(f"{what} has {len(values)} elements, but {len(axes)} axes are resized")
    return values


def _rule(cx: Context, mode: str, **options: Any) -> Rule:
    if mode not in _MODES:
        raise cx.error(f"mode '{mode}' does not exist; it can be {', '.join(sorted(_MODES))}")
    if options["coordinates"] not in _COORDINATES:
        raise cx.error(f"coordinate_transformation_mode '{options['coordinates']}' does not exist; it can be {', '.join(_COORDINATES)}")
    if options["nearest"] not in _NEAREST:
        raise cx.error(f"nearest_mode '{options['nearest']}' does not exist; it can be {', '.join(_NEAREST[:-1])}")
    if options.get("antialias") and mode == "nearest":
        raise cx.error("antialias does not go with mode 'nearest'")
    return Rule(_MODES[mode], **options)


def _scaled(cx: Context, x: Value, axis: int, scale: float) -> Axis:
    """An axis that is resized by a float32 scale; the result's extent is rounded down, as ONNX infers it."""
    if not scale > 0:
        raise cx.error(f"scale {scale} of axis {axis} is not positive")
    size = x.shape[axis]
    if isinstance(size, int):
        return Axis(axis, size, int(np.floor(np.float32(size) * np.float32(scale))), scale)
    ratio = Fraction(scale).limit_denominator(1000)  # 0.7 as a float32 is a little less, but means 7/10
    if np.float32(ratio.numerator / ratio.denominator) != np.float32(scale):
        ratio = Fraction(scale)
    return Axis(axis, size, dims.floordiv(size * ratio.numerator, ratio.denominator), scale)


def _sized(cx: Context, x: Value, axes: list[int], wanted: list[Dim], policy: str) -> list[Axis]:
    ratios = list(zip(wanted, [x.shape[a] for a in axes], strict=True))
    if policy == "stretch":
        return [Axis(a, size, result, (result, size)) for a, (result, size) in zip(axes, ratios, strict=True)]
    if policy not in ("not_larger", "not_smaller"):
        raise cx.error(f"keep_aspect_ratio_policy '{policy}' does not exist; it can be stretch, not_larger or not_smaller")
    above, below = ratios[0]
    for a, b in ratios[1:]:  # the smallest or largest ratio, compared without division
        left, right = dims.dim(a * below), dims.dim(above * b)
        better: Any = left < right if policy == "not_larger" else left > right
        above, below = dims.select(better, a, above), dims.select(better, b, below)
    return [Axis(axis, size, dims.floordiv(above * size * 2 + below, below * 2), (above, below))
            for axis, (_, size) in zip(axes, ratios, strict=True)]


def _resize(cx: Context, x: Value, rule: Rule, axes: list[Axis], fill: float) -> Value:
    changed = [a for a in axes if not _is_identity(a)]
    if not changed:
        return x
    for a in changed:
        if isinstance(a.size, int) and isinstance(a.result, int) and a.size == 0 < a.result:
            raise cx.error(f"axis {a.axis} has no elements and cannot be resized to {a.result}")
        cx.check(a.size > 0 if not isinstance(a.size, int) else True, f"axis {a.axis} has no elements and cannot be resized")
    if any(isinstance(d, int) and d == 0 for d in (*x.shape, *(a.result for a in axes))):
        shape = [next((a.result for a in axes if a.axis == i), d) for i, d in enumerate(x.shape)]
        return cx.te(lambda: te.compute([dims.expr(d) for d in shape], lambda *i: tirx.const(0, x.dtype), name="empty"), name="empty")
    if rule.mode == "nearest":
        return _nearest(cx, x, rule, changed, fill)
    wide = "float64" if x.dtype in ("float64", "int64", "int32", "uint64", "uint32") else "float32"
    y = x
    for a in sorted(changed, key=lambda a: a.factor() if isinstance(a.factor(), float) else 1.0):  # what shrinks comes first
        y = _interpolate(cx, y, a, table(cx, rule, a, wide), wide, fill)
    return _back(cx, y, x.dtype)


def _is_identity(a: Axis) -> bool:
    same = dims.equal(a.size, a.result) and (dims.equal(*a.scale) if isinstance(a.scale, tuple) else a.scale == 1)
    return same and a.roi == (0.0, 1.0)


def _nearest(cx: Context, x: Value, rule: Rule, axes: list[Axis], fill: float) -> Value:
    tables: list[Value] = []
    picks: dict[int, Callable[..., Any]] = {}
    outside: list[tuple[int, int]] = []
    for a in axes:
        repeats = _repeats(rule, a)
        if repeats is not None:
            picks[a.axis] = lambda i, tensors, n=repeats: tirx.floordiv(i, n)
            continue
        found = table(cx, rule, a, "float32")
        place = len(tables)
        picks[a.axis] = lambda i, tensors, n=place: tensors[n](i, 0)
        tables.append(found.index)
        if found.outside is not None:
            outside.append((a.axis, len(tables)))
            tables.append(found.outside)
    shape = [next((a.result for a in axes if a.axis == i), d) for i, d in enumerate(x.shape)]

    def compute(t: te.Tensor, *tensors: te.Tensor) -> te.Tensor:
        def body(*i: Any) -> Any:
            value = t(*(picks[axis](k, tensors) if axis in picks else k for axis, k in enumerate(i)))
            if not outside:
                return value
            return tirx.Select(tirx.any(*(tensors[n](i[axis]) for axis, n in outside)), tirx.const(fill, x.dtype), value)

        return te.compute([dims.expr(d) for d in shape], body, name="resize_nearest")

    return cx.te(compute, x, *tables, name="resize_nearest")


def _repeats(rule: Rule, a: Axis) -> int | None:
    """How often each element is repeated, if that is all that happens."""
    if isinstance(a.scale, float) and a.scale.is_integer() and rule.coordinates in ("asymmetric", "half_pixel"):
        count = int(a.scale)  # coordinates do not depend on the extent: what holds for a few elements holds for all
        sample = Axis(a.axis, 4, 4 * count, a.scale)
    elif a.is_static and a.result % max(a.size, 1) == 0:
        count, sample = a.result // a.size, a
    else:
        return None
    if rule.coordinates == "tf_crop_and_resize":
        return None
    index = static_table(rule, sample)[0][:, 0]
    return count if np.array_equal(index, np.arange(sample.result) // count) else None


def _interpolate(cx: Context, x: Value, a: Axis, rows: Table, wide: str, fill: float) -> Value:
    """The weighted sums along one axis."""
    taps = rows.index.shape[1]
    assert rows.weights is not None

    def compute(t: te.Tensor, index: te.Tensor, weights: te.Tensor, *outside: te.Tensor) -> te.Tensor:
        shape = [dims.expr(a.result if axis == a.axis else d) for axis, d in enumerate(x.shape)]

        def term(i: Any, tap: Any) -> Any:
            at = [index(k, tap) if axis == a.axis else k for axis, k in enumerate(i)]
            return t(*at).astype(wide) * weights(i[a.axis], tap)

        def filled(i: Any, value: Any) -> Any:
            return tirx.Select(outside[0](i[a.axis]), tirx.const(fill, wide), value) if outside else value

        if isinstance(taps, int) and taps <= _UNROLLED:
            return te.compute(shape, lambda *i: filled(i, sum((term(i, k) for k in range(1, taps)), term(i, 0))), name="resize")
        tap = te.reduce_axis((0, dims.expr(taps)), name="tap")
        total = te.compute(shape, lambda *i: te.sum(term(i, tap), axis=tap), name="resize")
        return te.compute(shape, lambda *i: filled(i, total(*i)), name="resize_fill") if outside else total

    return cx.te(compute, x, rows.index, rows.weights, *([rows.outside] if rows.outside is not None else []), name="resize")


def _back(cx: Context, y: Value, dtype: str) -> Value:
    """Rounds and clips what was computed in a wider type to the input's."""
    if y.dtype == dtype:
        return y
    if "int" not in dtype:
        return cx.cast(y, dtype)
    low, high = (float(f(dtype).value) for f in (tirx.min_value, tirx.max_value))

    def narrow(v: Any) -> Any:
        return tirx.max(tirx.min(tirx.nearbyint(v), tirx.const(high, y.dtype)), tirx.const(low, y.dtype)).astype(dtype)

    return cx.elementwise(narrow, y, dtype=dtype)
