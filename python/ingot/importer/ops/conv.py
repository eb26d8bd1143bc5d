"""Convolutions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm import relax, te, tirx

from ingot.importer import dims
from ingot.importer.context import Context
from ingot.importer.dims import Dim
from ingot.importer.ops.normalize import add, per_channel
from ingot.importer.ops.windows import Window, window
from ingot.importer.registry import onnx_op
from ingot.importer.values import Value

_LAYOUTS = {1: ("NCW", "OIW", relax.op.nn.conv1d), 2: ("NCHW", "OIHW", relax.op.nn.conv2d), 3: ("NCDHW", "OIDHW", relax.op.nn.conv3d)}


@onnx_op("Conv")
def conv(cx: Context, x: Value, w: Value, b: Value | None = None, *, auto_pad: str = "NOTSET", dilations: list[int] | None = None, group: int = 1,
         kernel_shape: list[int] | None = None, pads: list[int] | None = None, strides: list[int] | None = None) -> Value:
    check_ranks(cx, x, w)
    around = window(cx, x.shape[2:], w.shape[2:], auto_pad=auto_pad, strides=strides, dilations=dilations, pads=pads)
    y = convolve(cx, x, w, around, group)
    return y if b is None else add(cx, y, per_channel(cx, b, y.ndim))


def check_ranks(cx: Context, x: Value, w: Value) -> None:
    """Raises an error unless x is [N, C, ...] and w [O, C/group, ...] of the same rank, 3 to 5."""
    if x.ndim != w.ndim:
        raise cx.error(f"input 'X' has {x.ndim} dimensions and 'W' has {w.ndim}; they have as many")
    if x.ndim - 2 not in _LAYOUTS:
        raise cx.error(f"input 'X' has {x.ndim} dimensions; convolution takes 3, 4 or 5")


def convolve(cx: Context, x: Value, w: Value, around: Window, group: int, out_dtype: str | None = None) -> Value:
    """A convolution without bias; ``out_dtype`` is what it accumulates in, if that is not the input's type."""
    data, kernel, operator = _LAYOUTS[x.ndim - 2]
    if not dims.equal(x.shape[1], w.shape[1] * group):
        raise cx.error(f"input 'X' has {x.shape[1]} channels, but 'W' of shape {dims.text(w.shape)} with group {group} takes {w.shape[1] * group}")
    if not dims.is_static(around.pads):
        x = pad_spatial(cx, x, around.before, around.after)
        around = Window(around.kernel, around.strides, around.dilations, (0,) * len(around.before), (0,) * len(around.after))
    call = operator(x.expr, w.expr, strides=list(around.strides), padding=[int(p) for p in around.pads], dilation=list(around.dilations),
                    groups=group, data_layout=data, kernel_layout=kernel, out_dtype=out_dtype)
    return cx.op(call)


def pad_spatial(cx: Context, x: Value, before: Sequence[Dim], after: Sequence[Dim], value: float | Value = 0) -> Value:
    """Pads the spatial axes with a number, known or computed; pads may be symbolic."""
    shape = [*x.shape[:2], *(e + b + a for e, b, a in zip(x.shape[2:], before, after, strict=True))]

    def compute(t: te.Tensor, *fill: te.Tensor) -> te.Tensor:
        def body(*i: Any) -> Any:
            at = [*i[:2], *(k - dims.expr(b) for k, b in zip(i[2:], before, strict=True))]
            inside = tirx.all(*(tirx.all(k >= 0, k < e) for k, e in zip(at[2:], t.shape[2:], strict=True)))
            return tirx.if_then_else(inside, t(*at), fill[0]() if fill else tirx.const(value, x.dtype))

        return te.compute([dims.expr(dims.dim(d)) for d in shape], body, name="pad")

    return cx.wrap(cx.te(compute, x, *([value] if isinstance(value, Value) else []), name="pad"))
