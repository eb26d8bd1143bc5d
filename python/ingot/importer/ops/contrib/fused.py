"""Products, convolutions and pools with what onnxruntime's optimizer fuses into them."""

from __future__ import annotations

from collections.abc import Sequence

from tvm import relax

from ingot.importer import registry
from ingot.importer.context import Context
from ingot.importer.ops.contrib.common import microsoft_op, plus
from ingot.importer.ops.contrib.qlinear import channels_first, channels_last
from ingot.importer.ops.conv import conv
from ingot.importer.ops.linear import gemm, matmul
from ingot.importer.ops.pool import max_pool
from ingot.importer.values import Value

#: Activations by name: the attributes that their parameters are, in order. Clip has attributes in ONNX's first version.
_ACTIVATIONS: dict[str, tuple[str, ...]] = {
    "Relu": (), "Tanh": (), "Sigmoid": (), "Softplus": (), "Softsign": (), "LeakyRelu": ("alpha",), "Elu": ("alpha",), "ThresholdedRelu": ("alpha",),
    "HardSigmoid": ("alpha", "beta"), "Selu": ("alpha", "gamma"), "Clip": ("min", "max"), "HardSwish": (),
}
_VERSIONS = {"Clip": 6}
_NEWEST = 10**6


def _activated(cx: Context, x: Value, name: str, parameters: Sequence[float | None]) -> Value:
    """An ONNX activation by its name, with as many parameters as are given."""
    if not name:
        return x
    if name not in _ACTIVATIONS:
        raise cx.error(f"activation '{name}' is not supported; it can be {', '.join(sorted(_ACTIVATIONS))}")
    operator = registry.find("", name, _VERSIONS.get(name, _NEWEST))
    assert operator is not None
    given = {key: value for key, value in zip(_ACTIVATIONS[name], parameters, strict=False) if value is not None}
    return cx.wrap(operator.function(cx, x, **given))


def _matmul(cx: Context, a: Value, b: Value, *, alpha: float = 1.0, transA: int = 0, transB: int = 0, transBatchA: int = 0,
            transBatchB: int = 0) -> Value:
    y = matmul(cx, _turned(cx, a, transA, transBatchA), _turned(cx, b, transB, transBatchB))
    return y if alpha == 1 else cx.op(relax.op.multiply(y.expr, relax.const(alpha, y.dtype)))


def _turned(cx: Context, x: Value, transposed: int, batch: int) -> Value:
    """An operand with its last two axes swapped, and before that its first axis moved behind those of batches. A vector stays one."""
    if x.ndim < 2:
        return x
    axes = list(range(x.ndim))
    if batch:
        axes = [*axes[1:-1], axes[0], axes[-1]]
    if transposed:
        axes[-2:] = axes[:-3:-1]
    return cx.transpose(x, axes)


@microsoft_op("CDist")
def cdist(cx: Context, a: Value, b: Value, *, metric: str = "sqeuclidean") -> Value:
    if metric not in ("sqeuclidean", "euclidean"):
        raise cx.error(f"metric '{metric}' is not supported; it is sqeuclidean or euclidean")

    def squares(x: Value, axis: int) -> Value:
        return cx.op(relax.op.expand_dims(relax.op.sum(relax.op.multiply(x.expr, x.expr), 1), axis))

    products = cx.op(relax.op.multiply(matmul(cx, a, cx.transpose(b, [1, 0])).expr, relax.const(-2, a.dtype)))
    y = plus(cx, plus(cx, products, squares(a, 1)), squares(b, 0))
    y = cx.op(relax.op.maximum(y.expr, relax.const(0, y.dtype)))
    return y if metric == "sqeuclidean" else cx.op(relax.op.sqrt(y.expr))


microsoft_op("FusedMatMul")(_matmul)
microsoft_op("TransposeMatMul")(_matmul)


@microsoft_op("FusedGemm")
def fused_gemm(cx: Context, a: Value, b: Value, c: Value | None = None, *, activation: str = "", activation_alpha: float | None = None,
               activation_beta: float | None = None, activation_gamma: float | None = None, alpha: float = 1.0, beta: float = 1.0, transA: int = 0,
               transB: int = 0) -> Value:
    parameters = [p for p in (activation_alpha, activation_beta, activation_gamma) if p is not None]
    return _activated(cx, gemm(cx, a, b, c, alpha=alpha, beta=beta, transA=transA, transB=transB), activation, parameters)


@microsoft_op("FusedConv")
def fused_conv(cx: Context, x: Value, w: Value, b: Value | None = None, z: Value | None = None, *, activation: str = "",
               activation_params: list[float] | None = None, auto_pad: str = "NOTSET", dilations: list[int] | None = None, group: int = 1,
               kernel_shape: list[int] | None = None, pads: list[int] | None = None, strides: list[int] | None = None) -> Value:
    y = conv(cx, x, w, b, auto_pad=auto_pad, dilations=dilations, group=group, kernel_shape=kernel_shape, pads=pads, strides=strides)
    return _activated(cx, plus(cx, y, z), activation, activation_params or ())


@microsoft_op("NhwcConv")
def nhwc_conv(cx: Context, x: Value, w: Value, b: Value | None = None, *, auto_pad: str = "NOTSET", dilations: list[int] | None = None,
              group: int = 1, kernel_shape: list[int] | None = None, pads: list[int] | None = None, strides: list[int] | None = None) -> Value:
    y = conv(cx, channels_first(cx, x), w, b, auto_pad=auto_pad, dilations=dilations, group=group, kernel_shape=kernel_shape, pads=pads,
             strides=strides)
    return channels_last(cx, y)


@microsoft_op("NhwcFusedConv")
def nhwc_fused_conv(cx: Context, x: Value, w: Value, b: Value | None = None, z: Value | None = None, *, activation: str = "",
                    activation_params: list[float] | None = None, auto_pad: str = "NOTSET", dilations: list[int] | None = None, group: int = 1,
                    kernel_shape: list[int] | None = None, pads: list[int] | None = None, strides: list[int] | None = None) -> Value:
    y = nhwc_conv(cx, x, w, b, auto_pad=auto_pad, dilations=dilations, group=group, kernel_shape=kernel_shape, pads=pads, strides=strides)
    return _activated(cx, plus(cx, y, z), activation, activation_params or ())


@microsoft_op("NhwcMaxPool")
def nhwc_max_pool(cx: Context, x: Value, *, kernel_shape: list[int], auto_pad: str = "NOTSET", ceil_mode: int = 0,
                  dilations: list[int] | None = None, pads: list[int] | None = None, strides: list[int] | None = None) -> Value:
    y = max_pool(cx, channels_first(cx, x), kernel_shape=kernel_shape, auto_pad=auto_pad, ceil_mode=ceil_mode, dilations=dilations, pads=pads,
                 strides=strides)
    return channels_last(cx, cx.wrap(y))
