"""Signal processing: Fourier transforms, windows, mel filters."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from tvm import te, tirx

from ingot.importer import dims
from ingot.importer.context import Context
from ingot.importer.dims import Dim
from ingot.importer.ops.cast import dtype_of
from ingot.importer.ops.checks import check_equal
from ingot.importer.registry import onnx_op
from ingot.importer.values import Value
from ingot.importer.weights import numpy_dtype


def _extent(cx: Context, value: Value, what: str) -> Dim:
    """The integer of a tensor of one element, as an extent."""
    known = cx.dims(value, what)
    if len(known) != 1:
        raise cx.error(f"{what} has {len(known)} elements; it is one number")
    return known[0] if value.known_elements() is not None else cx.let(known)[0]


def _transform(cx: Context, x: Value, length: Dim | None, axis: int, inverse: bool, onesided: bool) -> Value:
    if x.ndim < 2 or not -x.ndim <= axis < x.ndim or axis % x.ndim == x.ndim - 1:
        raise cx.error(f"there is no axis {axis} to transform in shape {dims.text(x.shape)}, whose last axis holds the parts of complex numbers")
    axis %= x.ndim
    if not (isinstance(x.shape[-1], int) and x.shape[-1] in (1, 2)):
        raise cx.error(f"the last axis of shape {dims.text(x.shape)} must have 1 element (real) or 2 (complex)")
    if onesided and not inverse and x.shape[-1] == 2:
        raise cx.error("a one-sided transform takes real numbers, not complex ones")
    if length is None:
        length = dims.dim((x.shape[axis] - 1) * 2) if inverse and onesided else x.shape[axis]
    shape = list(x.shape)
    shape[axis] = dims.dim(dims.floordiv(length, 2) + 1) if onesided and not inverse else length
    shape[-1] = 1 if onesided and inverse else 2
    result: Value = cx.kernel("dft", [x], [(shape, x.dtype)], dims_=[length], ints=[axis, int(inverse), int(onesided)])
    return result


@onnx_op("DFT", since=17)
def dft_17(cx: Context, x: Value, dft_length: Value | None = None, *, axis: int = 1, inverse: int = 0, onesided: int = 0) -> Value:
    length = None if dft_length is None else _extent(cx, dft_length, "dft_length")
    return _transform(cx, x, length, axis, bool(inverse), bool(onesided))


@onnx_op("DFT", since=20)
def dft(cx: Context, x: Value, dft_length: Value | None = None, axis: Value | None = None, *, inverse: int = 0, onesided: int = 0) -> Value:
    where = cx.ints(axis, "the axis") or [-2]
    length = None if dft_length is None else _extent(cx, dft_length, "dft_length")
    return _transform(cx, x, length, where[0], bool(inverse), bool(onesided))


@onnx_op("STFT", since=17)
def stft(cx: Context, signal: Value, frame_step: Value, window: Value | None = None, frame_length: Value | None = None, *,
         onesided: int = 1) -> Value:
    if signal.ndim == 2:
        signal = cx.reshape(signal, [*signal.shape, 1])
    if signal.ndim != 3:
        raise cx.error(f"a signal of shape {dims.text(signal.shape)} is not supported; it is [batch, length, 1 or 2]")
    step = _extent(cx, frame_step, "frame_step")
    cx.check(step > 0, f"frame_step is {step}; it must be positive")
    if frame_length is not None:
        length = _extent(cx, frame_length, "frame_length")
    elif window is not None:
        length = window.shape[0]
    else:
        raise cx.error("either a window or frame_length must be given")
    if window is not None:
        check_equal(cx, window.shape[0], length, f"the window has {window.shape[0]} elements, but a frame has {length}")
    count = dims.dim(dims.floordiv(signal.shape[1] - length, step) + 1)
    cx.check(signal.shape[1] >= length, f"a signal of {signal.shape[1]} elements is shorter than a frame of {length}")
    shape = [signal.shape[0], count, length, signal.shape[2]]

    def frames(t: te.Tensor, *w: te.Tensor) -> te.Tensor:
        def body(b: Any, f: Any, i: Any, part: Any) -> Any:
            value = t(b, f * dims.expr(step) + i, part)
            return value * w[0](i).astype(signal.dtype) if w else value

        return te.compute([dims.expr(d) for d in shape], body, name="frames")

    framed = cx.te(frames, signal, *([window] if window is not None else []), name="frames")
    return _transform(cx, framed, length, 2, False, bool(onesided))


def _window(name: str, coefficients: tuple[float, ...]) -> None:
    """Registers a window that is a sum of cosines: c0 - c1 cos(x) + c2 cos(2 x)."""

    def function(cx: Context, size: Value, *, output_datatype: int = 1, periodic: int = 1) -> Value:
        extent = _extent(cx, size, "the size")
        dtype = dtype_of(cx, output_datatype)

        def compute() -> te.Tensor:
            def body(i: Any) -> Any:
                count = dims.expr(extent).astype("float64") - (0.0 if periodic else 1.0)
                angle = i.astype("float64") * (2 * math.pi) / tirx.max(count, tirx.const(1, "float64"))
                total: Any = tirx.const(coefficients[0], "float64")
                for k, c in enumerate(coefficients[1:], 1):
                    total = total + tirx.cos(angle * float(k)) * ((-1) ** k * c)
                return total.astype(dtype)

            return te.compute([dims.expr(extent)], body, name="window")

        return cx.te(compute, name="window")

    onnx_op(name, since=17)(function)


_window("HannWindow", (0.5, 0.5))
_window("HammingWindow", (25 / 46, 21 / 46))
_window("BlackmanWindow", (0.42, 0.5, 0.08))


@onnx_op("MelWeightMatrix", since=17)
def mel_weight_matrix(cx: Context, num_mel_bins: Value, dft_length: Value, sample_rate: Value, lower_edge_hertz: Value, upper_edge_hertz: Value, *,
                      output_datatype: int = 1) -> Value:
    bands, length, rate = ((cx.ints(v, what) or [0])[0] for v, what in
                           ((num_mel_bins, "num_mel_bins"), (dft_length, "dft_length"), (sample_rate, "sample_rate")))
    low, high = (float(np.asarray(cx.array(v, what), np.float64).ravel()[0]) for v, what in
                 ((lower_edge_hertz, "lower_edge_hertz"), (upper_edge_hertz, "upper_edge_hertz")))
    spectrum = length // 2 + 1
    edges = np.arange(bands + 2, dtype=np.float64)
    low_mel, high_mel = (2595 * math.log10(1 + hertz / 700) for hertz in (low, high))
    mels = edges * ((high_mel - low_mel) / (bands + 2)) + low_mel  # ONNX divides by one more than there are steps
    bins = ((length + 1) * (700 * (np.power(10, mels / 2595) - 1)) // rate).astype(np.int64)
    if bins.min(initial=0) < 0 or bins[1:].max(initial=0) >= spectrum + 1 or bins[1:-1].max(initial=0) >= spectrum:
        raise cx.error(f"frequencies of {low} to {high} Hz do not lie in a spectrum of {spectrum} bins at {rate} Hz")
    matrix = np.zeros((spectrum, bands))
    for band in range(bands):
        first, center, last = bins[band:band + 3]
        if center == first:
            matrix[center, band] = 1
        for i in range(first, center + 1):
            if center != first:
                matrix[i, band] = (i - first) / (center - first)
        for i in range(center, last):
            matrix[i, band] = (last - i) / (last - center)
    return cx.constant(matrix.astype(numpy_dtype(dtype_of(cx, output_datatype))))
