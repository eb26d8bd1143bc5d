"""Operators of ONNX's first versions that converters from Core ML and Caffe2 still write; onnxruntime has them in ONNX's own domain."""

from __future__ import annotations

from tvm import relax

from ingot.importer import dims
from ingot.importer.context import Context
from ingot.importer.ops.contrib.common import plus, refuse
from ingot.importer.ops.elementwise import in_float32, scalar
from ingot.importer.ops.move import window_of
from ingot.importer.ops.normalize import per_channel
from ingot.importer.registry import onnx_op
from ingot.importer.values import Value


@onnx_op("ImageScaler")
def image_scaler(cx: Context, x: Value, *, bias: list[float], scale: float = 1.0) -> Value:
    refuse(cx, not dims.equal(x.shape[1], len(bias)), f"there are {len(bias)} numbers in bias for {dims.show(x.shape[1])} channels")
    return plus(cx, cx.op(relax.op.multiply(x.expr, scalar(scale, x))), per_channel(cx, cx.constant(bias, x.dtype), x.ndim))


@onnx_op("Crop")
def crop(cx: Context, x: Value, *, border: list[int], scale: list[int] | None = None) -> Value:
    refuse(cx, x.ndim != 4 or len(border) != 4, f"borders {border} of an input of shape {dims.text(x.shape)} are not supported; they are left, top, "
           "right and bottom of [N, C, H, W]")
    left, top, right, bottom = border
    height, width = scale or (dims.dim(x.shape[2] - top - bottom), dims.dim(x.shape[3] - left - right))
    for start, count, extent in ((top, height, x.shape[2]), (left, width, x.shape[3])):
        cx.check(start + count <= extent, f"{dims.show(count)} pixels after {start} do not lie inside {dims.show(extent)}")
        cx.check(count >= 0, f"borders {border} are wider than the image")
    return window_of(cx, x, {2: (top, height, 1), 3: (left, width, 1)})


@onnx_op("ScaledTanh")
def scaled_tanh(cx: Context, x: Value, *, alpha: float, beta: float) -> Value:
    return in_float32(cx, lambda e: relax.op.multiply(relax.op.tanh(relax.op.multiply(e, relax.const(beta, e.ty.dtype))),
                                                      relax.const(alpha, e.ty.dtype)), x)
