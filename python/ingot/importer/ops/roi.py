"""Pooling of regions, and the inverses of pooling and unfolding."""

from __future__ import annotations

from typing import Any

from tvm import relax, te, tirx

from ingot.importer import dims
from ingot.importer.context import Context
from ingot.importer.ops.checks import check_equal, check_shape
from ingot.importer.ops.windows import window
from ingot.importer.registry import onnx_op
from ingot.importer.values import Value


def _roi_align(cx: Context, x: Value, rois: Value, batch: Value, mode: str, half_pixel: bool, height: int, width: int, samples: int,
               scale: float) -> Value:
    if mode not in ("avg", "max"):
        raise cx.error(f"mode '{mode}' does not exist; it can be avg or max")
    if x.ndim != 4:
        raise cx.error(f"regions of an input of shape {dims.text(x.shape)} are not supported; it is [N, C, H, W]")
    check_shape(cx, rois, [batch.shape[0], 4], "rois")
    shape = [batch.shape[0], x.shape[1], height, width]
    result: Value = cx.kernel("roi_align", [x, cx.cast(rois, x.dtype), cx.cast(batch, "int64")], [(shape, x.dtype)],
                              ints=[samples, int(half_pixel), int(mode == "max")], floats=[scale])
    return result


@onnx_op("RoiAlign", since=10)
def roi_align_10(cx: Context, x: Value, rois: Value, batch_indices: Value, *, mode: str = "avg", output_height: int = 1, output_width: int = 1,
                 sampling_ratio: int = 0, spatial_scale: float = 1.0) -> Value:
    return _roi_align(cx, x, rois, batch_indices, mode, False, output_height, output_width, sampling_ratio, spatial_scale)


@onnx_op("RoiAlign", since=16)
def roi_align(cx: Context, x: Value, rois: Value, batch_indices: Value, *, coordinate_transformation_mode: str = "half_pixel", mode: str = "avg",
              output_height: int = 1, output_width: int = 1, sampling_ratio: int = 0, spatial_scale: float = 1.0) -> Value:
    if coordinate_transformation_mode not in ("half_pixel", "output_half_pixel"):
        raise cx.error(f"coordinate_transformation_mode '{coordinate_transformation_mode}' does not exist; it can be half_pixel or output_half_pixel")
    return _roi_align(cx, x, rois, batch_indices, mode, coordinate_transformation_mode == "half_pixel", output_height, output_width, sampling_ratio,
                      spatial_scale)


@onnx_op("MaxRoiPool")
def max_roi_pool(cx: Context, x: Value, rois: Value, *, pooled_shape: list[int], spatial_scale: float = 1.0) -> Value:
    if x.ndim != 4 or rois.ndim != 2:
        raise cx.error(f"regions {dims.text(rois.shape)} of an input of shape {dims.text(x.shape)}: they are [R, 5] and [N, C, H, W]")
    check_equal(cx, rois.shape[1], 5, f"rois has shape {dims.text(rois.shape)}; [R, 5] is needed")
    result: Value = cx.kernel("max_roi_pool", [x, cx.cast(rois, x.dtype)], [([rois.shape[0], x.shape[1], *pooled_shape], x.dtype)],
                              floats=[spatial_scale])
    return result


@onnx_op("MaxUnpool", since=9)
def max_unpool(cx: Context, x: Value, indices: Value, output_shape: Value | None = None, *, kernel_shape: list[int], pads: list[int] | None = None,
               strides: list[int] | None = None) -> Value:
    check_shape(cx, indices, x.shape, "indices")
    around = window(cx, x.shape[2:], kernel_shape, strides=strides, pads=pads)
    spatial = [dims.dim((e - 1) * s - p - q + k) for e, s, p, q, k in
               zip(x.shape[2:], around.strides, around.before, around.after, kernel_shape, strict=True)]
    shape = [*x.shape[:2], *spatial]
    count = dims.product(shape)
    zeros = cx.op(relax.op.zeros([dims.expr(count)], x.dtype))
    size = dims.product(x.shape)
    places = cx.reshape(cx.cast(indices, "int64"), [size])
    flat = cx.kernel("scatter_elements", [zeros, places, cx.reshape(x, [size])], [([count], x.dtype)], ints=[0, 0])
    y = cx.reshape(flat, shape)
    if output_shape is None:
        return y
    wanted = cx.dims(output_shape, "output_shape")
    if output_shape.known_elements() is None:
        wanted = cx.let(wanted)
    if len(wanted) != y.ndim:
        raise cx.error(f"output_shape has {len(wanted)} elements; {y.ndim} are needed")

    def compute(t: te.Tensor) -> te.Tensor:
        def body(*i: Any) -> Any:
            inside = tirx.all(*(k < e for k, e in zip(i, t.shape, strict=True)))
            return tirx.if_then_else(inside, t(*i), tirx.const(0, x.dtype))

        return te.compute([dims.expr(d) for d in wanted], body, name="max_unpool")

    return cx.te(compute, y, name="max_unpool")


@onnx_op("Col2Im", since=18)
def col2im(cx: Context, x: Value, image_shape: Value, block_shape: Value, *, dilations: list[int] | None = None, pads: list[int] | None = None,
           strides: list[int] | None = None) -> Value:
    block = cx.ints(block_shape, "block_shape") or []
    image = cx.dims(image_shape, "image_shape")
    if image_shape.known_elements() is None:
        image = cx.let(image)
    around = window(cx, image, block, strides=strides, dilations=dilations, pads=pads)
    count = int(dims.product(block))
    positions = around.output(image)
    channels = dims.floordiv(x.shape[1], count)
    check_shape(cx, x, [x.shape[0], dims.dim(channels * count), dims.product(positions)], "the input")
    split = cx.reshape(x, [x.shape[0], channels, *block, *positions])

    def compute(t: te.Tensor) -> te.Tensor:
        taps = [te.reduce_axis((0, dims.expr(k)), name="k") for k in block]

        def body(n: Any, c: Any, *i: Any) -> Any:
            at, inside = [], []
            for axis, (index, tap) in enumerate(zip(i, taps, strict=True)):
                shifted = index + dims.expr(around.before[axis]) - tap * around.dilations[axis]
                place = tirx.floordiv(shifted, around.strides[axis])
                inside.append(tirx.all(shifted >= 0, tirx.floormod(shifted, around.strides[axis]).equal(0), place < dims.expr(positions[axis])))
                at.append(place)
            return te.sum(tirx.if_then_else(tirx.all(*inside), t(n, c, *taps, *at), tirx.const(0, x.dtype)), axis=taps)

        return te.compute([dims.expr(d) for d in (x.shape[0], channels, *image)], body, name="col2im")

    return cx.te(compute, split, name="col2im")
