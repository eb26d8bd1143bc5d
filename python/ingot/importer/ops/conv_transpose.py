"""Transposed convolutions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from tvm import te, tirx

from ingot.importer import dims
from ingot.importer.context import Context
from ingot.importer.dims import Dim
from ingot.importer.ops.conv import check_ranks, convolve
from ingot.importer.ops.normalize import add, per_channel
from ingot.importer.ops.windows import Window, window
from ingot.importer.registry import onnx_op
from ingot.importer.values import Value

#: TVM's OpPatternKind kInjective: dealing out is not element-wise, even where a stride of 1 makes it look so; it would not fit a contraction's tiles.
_INJECTIVE = 2


@onnx_op("ConvTranspose")
def conv_transpose(cx: Context, x: Value, w: Value, b: Value | None = None, *, auto_pad: str = "NOTSET", dilations: list[int] | None = None,
                   group: int = 1, kernel_shape: list[int] | None = None, output_padding: list[int] | None = None,
                   output_shape: list[int] | None = None, pads: list[int] | None = None, strides: list[int] | None = None) -> Value:
    check_ranks(cx, x, w)
    rank = x.ndim - 2
    around = window(cx, x.shape[2:], w.shape[2:], strides=strides, dilations=dilations, pads=pads)
    extra = list(output_padding or [0] * rank)
    full = [(e - 1) * s + around.reach(i) + extra[i] for i, (e, s) in enumerate(zip(x.shape[2:], around.strides, strict=True))]
    before: list[Dim] = list(around.before)
    sizes = [f - p - q for f, p, q in zip(full, around.before, around.after, strict=True)]
    if output_shape or auto_pad in ("SAME_UPPER", "SAME_LOWER"):
        sizes = list(output_shape[-rank:]) if output_shape else [e * s for e, s in zip(x.shape[2:], around.strides, strict=True)]
        totals = [dims.maximum(f - s, 0) for f, s in zip(full, sizes, strict=True)]
        before = [dims.floordiv(t, 2) if auto_pad != "SAME_LOWER" else dims.dim(t - dims.floordiv(t, 2)) for t in totals]
    if w.weight is not None and dims.is_static(around.strides) and dims.is_static(around.dilations):
        y = _by_phases(cx, x, w, around, group, before, dims.dims(sizes))
    else:
        y = cx.te(_transposed(x, w, around, group, before, dims.dims(sizes)), x, w, name="conv_transpose")
    return y if b is None else add(cx, y, per_channel(cx, b, y.ndim))


def _by_phases(cx: Context, x: Value, w: Value, around: Window, group: int, before: Sequence[Dim], sizes: Sequence[Dim]) -> Value:
    """A convolution of stride 1 whose channels are the results at each phase of the stride, and those dealt out to their positions.

    Position p = q·s + r (before pads are cut off) gets x[q - m] · w[r + s·m] for all m: with m turned round, a window of ceil(K / s) taps for
    each of the s phases r (Shi et al. 2016, "Is the deconvolution layer the same as a convolutional layer?").
    """
    strides = [int(s) for s in around.strides]
    taps = [-(-int(around.reach(i)) // s) for i, s in enumerate(strides)]
    phases, per_group = int(np.prod(strides)), int(w.shape[1])
    weight = _phase_weights(w, group, strides, [int(d) for d in around.dilations], taps)
    wide = Window(tuple(taps), (1,) * len(taps), (1,) * len(taps), tuple(t - 1 for t in taps), tuple(t - 1 for t in taps))
    y = convolve(cx, x, weight, wide, group)
    rank = x.ndim
    last = cx.transpose(y, [0, *range(2, rank), 1])

    def deal(t: te.Tensor) -> te.Tensor:
        def at(n: Any, *rest: Any) -> Any:
            *i, c = rest
            moved = [p + dims.expr(b) for p, b in zip(i, before, strict=True)]
            phase: Any = tirx.IntImm("int64", 0)
            for p, s in zip(moved, strides, strict=True):
                phase = phase * s + tirx.floormod(p, s)
            channel = phase * per_group + c if group == 1 else (
                (tirx.floordiv(c, per_group) * phases + phase) * per_group + tirx.floormod(c, per_group))
            source = [tirx.floordiv(p, s) for p, s in zip(moved, strides, strict=True)]
            inside = tirx.all(*(q < e for q, e in zip(source, t.shape[1:-1], strict=True)))  # not within output padding beyond the last window
            return tirx.if_then_else(inside, t(n, *source, channel), tirx.const(0, x.dtype))

        return te.compute([dims.expr(d) for d in (x.shape[0], *sizes, per_group * group)], at, name="deal_phases")

    return cx.transpose(cx.wrap(cx.te(deal, last, name="deal_phases", pattern=_INJECTIVE)), [0, rank - 1, *range(1, rank - 1)])


def _phase_weights(w: Value, group: int, strides: list[int], dilations: list[int], taps: list[int]) -> Value:
    """Weights [C, O/group, K...] of a transposed convolution as those [group · phases · O/group, C/group, taps...] of a convolution."""
    assert w.weight is not None
    inputs, outputs, *window = (int(d) for d in w.shape)
    rank = len(window)

    def arranged(a: np.ndarray) -> np.ndarray:
        spread = np.zeros((inputs, outputs, *(t * s for t, s in zip(taps, strides, strict=True))), a.dtype)
        places = [slice(None), slice(None), *(slice(0, (k - 1) * d + 1, d) for k, d in zip(window, dilations, strict=True))]
        spread[tuple(places)] = a
        split = spread.reshape(group, inputs // group, outputs, *(e for t, s in zip(taps, strides, strict=True) for e in (t, s)))
        turned = np.flip(split, tuple(3 + 2 * i for i in range(rank)))  # m is the number of the tap, counted from the last
        return turned.transpose(0, *(4 + 2 * i for i in range(rank)), 2, 1, *(3 + 2 * i for i in range(rank))).reshape(shape)

    shape = (group * int(np.prod(strides)) * outputs, inputs // group, *taps)
    return Value(w.context, w.dtype, shape, weight=w.weight.map(arranged, shape, ":phases"))


def _transposed(x: Value, w: Value, around: Window, group: int, before: Sequence[Dim], sizes: Sequence[Dim]) -> Callable[..., te.Tensor]:
    """Gathers, for each output position, the inputs whose windows cover it: no scattered writes."""
    per_group = w.shape[1]
    inner = dims.floordiv(x.shape[1], group)

    def compute(t: te.Tensor, k: te.Tensor) -> te.Tensor:
        channel = te.reduce_axis((0, dims.expr(inner)), name="c")
        taps = [te.reduce_axis((0, dims.expr(e)), name="k") for e in w.shape[2:]]

        def body(n: Any, o: Any, *i: Any) -> Any:
            at, inside = [], []
            for axis, (position, tap) in enumerate(zip(i, taps, strict=True)):
                shifted = position + before[axis] - tap * around.dilations[axis]
                stride = around.strides[axis]
                source = tirx.floordiv(shifted, stride)
                inside.append(tirx.all(shifted >= 0, tirx.floormod(shifted, stride).equal(0), source < t.shape[2 + axis]))
                at.append(source)
            first = tirx.floordiv(o, per_group) * inner
            value = tirx.if_then_else(tirx.all(*inside), t(n, first + channel, *at), tirx.const(0, x.dtype))
            return te.sum(value * k(first + channel, tirx.floormod(o, per_group), *taps), axis=[channel, *taps])

        shape = [x.shape[0], dims.dim(per_group * group), *sizes]
        return te.compute([dims.expr(d) for d in shape], body, name="conv_transpose")

    return compute
