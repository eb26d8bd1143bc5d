"""Operators of quantized tensors that compute with floats in between: dequantize, compute, quantize. Passes find what integers can do."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from tvm import relax

from ingot.importer import registry
from ingot.importer.context import Context
from ingot.importer.ops.contrib.common import microsoft_op, plus, refuse, times
from ingot.importer.ops.elementwise import where
from ingot.importer.ops.integer import qlinear_conv
from ingot.importer.ops.move import concat
from ingot.importer.ops.pool import average_pool, global_average_pool
from ingot.importer.ops.quantize import dequantize_linear, quantize_linear
from ingot.importer.values import Value


def floats(cx: Context, x: Value, scale: Value, zero: Value | None) -> Value:
    """The numbers of a tensor that is quantized as a whole."""
    return dequantize_linear(cx, x, cx.reshape(scale, []), None if zero is None else cx.reshape(zero, []))


def _codes(cx: Context, y: Value, scale: Value, zero: Value | None, dtype: str) -> Value:
    """Numbers quantized as a whole, in a type that the zero point has if there is one."""
    point = cx.constant(np.array(0), dtype) if zero is None else cx.reshape(zero, [])
    return quantize_linear(cx, y, cx.reshape(scale, []), point)


def channels_first(cx: Context, x: Value) -> Value:
    """[N, ..., C] as [N, C, ...]."""
    return cx.transpose(x, [0, x.ndim - 1, *range(1, x.ndim - 1)])


def channels_last(cx: Context, x: Value) -> Value:
    """[N, C, ...] as [N, ..., C]."""
    return cx.transpose(x, [0, *range(2, x.ndim), 1])


def _in_channels_first(cx: Context, x: Value, last: int, function: Callable[[Value], Value]) -> Value:
    return channels_last(cx, function(channels_first(cx, x))) if last else function(x)


@microsoft_op("QuantizeLinear")
def quantize(cx: Context, x: Value, scale: Value, zero: Value | None = None, *, axis: int = 1) -> Value:
    return quantize_linear(cx, x, scale, zero, axis=axis)


@microsoft_op("DequantizeLinear")
def dequantize(cx: Context, x: Value, scale: Value, zero: Value | None = None, *, axis: int = 1) -> Value:
    return dequantize_linear(cx, x, scale, zero, axis=axis)


def _of_two(name: str, operator: Callable[[Context, Value, Value], Value]) -> None:
    def function(cx: Context, a: Value, a_scale: Value, a_zero: Value | None, b: Value, b_scale: Value, b_zero: Value | None, c_scale: Value,
                 c_zero: Value | None = None) -> Value:
        return _codes(cx, operator(cx, floats(cx, a, a_scale, a_zero), floats(cx, b, b_scale, b_zero)), c_scale, c_zero, a.dtype)

    microsoft_op(name)(function)


_of_two("QLinearAdd", plus)
_of_two("QLinearMul", times)


@microsoft_op("QLinearSigmoid")
def qlinear_sigmoid(cx: Context, x: Value, x_scale: Value, x_zero: Value | None, y_scale: Value, y_zero: Value | None = None) -> Value:
    return _codes(cx, cx.op(relax.op.sigmoid(floats(cx, x, x_scale, x_zero).expr)), y_scale, y_zero, x.dtype)


@microsoft_op("QLinearLeakyRelu")
def qlinear_leaky_relu(cx: Context, x: Value, x_scale: Value, x_zero: Value | None, y_scale: Value, y_zero: Value | None = None, *,
                       alpha: float = 0.01) -> Value:
    numbers = floats(cx, x, x_scale, x_zero)
    return _codes(cx, cx.op(relax.op.nn.leakyrelu(numbers.expr, alpha)), y_scale, y_zero, x.dtype)


@microsoft_op("QLinearSoftmax")
def qlinear_softmax(cx: Context, x: Value, x_scale: Value, x_zero: Value | None, y_scale: Value, y_zero: Value, *, opset: int,
                    axis: int = -1) -> Value:
    operator = registry.find("", "Softmax", opset)  # before opset 13, a softmax is over all axes from one on
    if operator is None:
        raise cx.error(f"there is no Softmax in opset {opset}")
    numbers = floats(cx, x, x_scale, x_zero)
    own, cx.opset = cx.opset, opset
    y = operator.function(cx, numbers, axis=axis)
    cx.opset = own
    return _codes(cx, y, y_scale, y_zero, x.dtype)


@microsoft_op("QLinearAveragePool")
def qlinear_average_pool(cx: Context, x: Value, x_scale: Value, x_zero: Value | None, y_scale: Value, y_zero: Value | None = None, *,
                         kernel_shape: list[int], auto_pad: str = "NOTSET", ceil_mode: int = 0, channels_last: int = 0, count_include_pad: int = 0,
                         pads: list[int] | None = None, strides: list[int] | None = None) -> Value:
    def pooled(numbers: Value) -> Value:
        return average_pool(cx, numbers, kernel_shape=kernel_shape, auto_pad=auto_pad, ceil_mode=ceil_mode, count_include_pad=count_include_pad,
                            pads=pads, strides=strides)

    y = _in_channels_first(cx, floats(cx, x, x_scale, x_zero), channels_last, pooled)
    return _codes(cx, y, y_scale, y_zero, x.dtype)


@microsoft_op("QLinearGlobalAveragePool")
def qlinear_global_average_pool(cx: Context, x: Value, x_scale: Value, x_zero: Value, y_scale: Value, y_zero: Value, *,
                                channels_last: int = 0) -> Value:
    y = _in_channels_first(cx, floats(cx, x, x_scale, x_zero), channels_last, lambda numbers: global_average_pool(cx, numbers))
    return _codes(cx, y, y_scale, y_zero, x.dtype)


@microsoft_op("QLinearConcat")
def qlinear_concat(cx: Context, y_scale: Value, y_zero: Value, *inputs: Value, axis: int) -> Value:
    refuse(cx, len(inputs) % 3 != 0 or not inputs, f"there are {len(inputs)} inputs after the first two; each tensor has a scale and a zero point")
    parts = [floats(cx, *inputs[i:i + 3]) for i in range(0, len(inputs), 3)]
    return _codes(cx, concat(cx, *parts, axis=axis), y_scale, y_zero, inputs[0].dtype)


@microsoft_op("QLinearWhere")
def qlinear_where(cx: Context, condition: Value, x: Value, x_scale: Value, x_zero: Value, y: Value, y_scale: Value, y_zero: Value, z_scale: Value,
                  z_zero: Value) -> Value:
    return _codes(cx, where(cx, condition, floats(cx, x, x_scale, x_zero), floats(cx, y, y_scale, y_zero)), z_scale, z_zero, x.dtype)


@microsoft_op("QLinearConv")
def qlinear_convolution(cx: Context, x: Value, x_scale: Value, x_zero: Value, w: Value, w_scale: Value, w_zero: Value, y_scale: Value, y_zero: Value,
                        bias: Value | None = None, *, auto_pad: str = "NOTSET", channels_last: int = 0, dilations: list[int] | None = None,
                        group: int = 1, kernel_shape: list[int] | None = None, pads: list[int] | None = None,
                        strides: list[int] | None = None) -> Value:
    def convolved(codes: Value) -> Value:
        return qlinear_conv(cx, codes, x_scale, x_zero, w, w_scale, w_zero, y_scale, y_zero, bias, auto_pad=auto_pad, dilations=dilations,
                            group=group, kernel_shape=kernel_shape, pads=pads, strides=strides)

    return _in_channels_first(cx, x, channels_last, convolved)
