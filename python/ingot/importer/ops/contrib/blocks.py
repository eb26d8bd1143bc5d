"""Tables and weights that onnxruntime's quantizers write in blocks of few bits, and its quantized LSTM."""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import relax, te, tirx

from ingot.importer import dims, narrow
from ingot.importer.context import Context
from ingot.importer.ops.checks import check_equal
from ingot.importer.ops.contrib.common import microsoft_op, refuse
from ingot.importer.ops.move import window_of
from ingot.importer.ops.quantize import dequantize_linear
from ingot.importer.ops.recurrent import lstm
from ingot.importer.ops.shape import gather
from ingot.importer.quantized import quantized_weight
from ingot.importer.values import Value
from ingot.importer.weights import Weight
from ingot.lower.cpu.quantized_weights import NF4

#: bitsandbytes' numbers of 4 bits, by their codes, for each ``quant_type``.
_FP4 = (0.0, 5.208333333e-03, 0.66666667, 1.0, 0.33333333, 0.5, 0.16666667, 0.25)
_BNB4: tuple[tuple[float, ...], ...] = ((*_FP4, *(-x for x in _FP4)), NF4.values)


@microsoft_op("GatherBlockQuantized")
def gather_block_quantized(cx: Context, data: Value, indices: Value, scales: Value, zero_points: Value | None = None, *, bits: int = 4,
                           block_size: int = 128, gather_axis: int = 0, quantize_axis: int = 1) -> Value:
    refuse(cx, not (-data.ndim <= gather_axis < data.ndim and -data.ndim <= quantize_axis < data.ndim),
           f"axes {gather_axis} and {quantize_axis} are not those of a tensor of {data.ndim} dimensions")
    taken, blocked = gather_axis % data.ndim, quantize_axis % data.ndim
    packed = data.dtype == "uint8"
    refuse(cx, packed and bits not in (2, 4, 8), f"elements of {bits} bits are not supported; they have 2, 4 or 8")
    refuse(cx, packed and taken == data.ndim - 1 and bits < 8, "elements that lie together in bytes cannot be gathered along the axis of the bytes")
    extent = data.shape[taken]

    def within(i: Any) -> Any:
        return tirx.all(i >= tirx.const(0, i.ty.dtype) - dims.expr(extent).astype(i.ty.dtype), i < dims.expr(extent).astype(i.ty.dtype))

    found = cx.elementwise(within, indices, dtype="bool", name="within")
    places = cx.elementwise(lambda i, ok: tirx.Select(ok, i, tirx.const(0, i.ty.dtype)), indices, found, name="places")
    same = taken == blocked and block_size > 0
    of_blocks = places
    if same:  # each element has a scale of its own then
        wrapped = cx.indices(places, extent)
        of_blocks = cx.elementwise(lambda i: tirx.floordiv(i, tirx.const(block_size, "int64")), wrapped, name="blocks")

    def rows(x: Value, at: Value) -> Value:
        """What is gathered of codes or scales."""
        if x.dtype in narrow.TYPES:
            return narrow.tagged(cx, gather(cx, narrow.codes(cx, x), at, axis=taken), x.dtype)
        return gather(cx, x, at, axis=taken)

    def unpacked(x: Value) -> Value:
        return _unpacked(cx, x, bits) if packed and bits < 8 else x

    if packed and zero_points is None:  # half of the range
        zero_points = cx.constant(np.full([int(d) for d in scales.shape], 2 ** (bits - 1)), "uint8")
        zeros: Value | None = rows(zero_points, of_blocks)
    else:
        zeros = None if zero_points is None else unpacked(rows(zero_points, of_blocks))
        if zeros is not None and packed and bits < 8:  # a last byte may hold more zero points than there are blocks
            zeros = _cut(cx, zeros, scales.shape[-1])
    codes = unpacked(rows(data, places))
    axis = blocked if blocked < taken else blocked + indices.ndim - 1
    y = _dequantized(cx, codes, rows(scales, of_blocks), zeros) if same else dequantize_linear(
        cx, codes, rows(scales, of_blocks), zeros, axis=axis, block_size=block_size or int(codes.shape[axis]))
    spread = cx.reshape(found, [*[1] * taken, *indices.shape, *[1] * (data.ndim - 1 - taken)])
    return cx.elementwise(lambda v, ok: tirx.Select(ok, v, tirx.const(0, v.ty.dtype)), y, spread, name="gathered")


def _dequantized(cx: Context, codes: Value, scales: Value, zeros: Value | None) -> Value:
    """Scales times codes less zero points, all of one shape."""
    y = cx.cast(narrow.decode(cx, codes) if codes.dtype in narrow.TYPES else codes, "float32")
    if zeros is not None:
        offset = cx.cast(narrow.decode(cx, zeros) if zeros.dtype in narrow.TYPES else zeros, "float32")
        y = cx.op(relax.op.subtract(y.expr, offset.expr))
    return cx.cast(cx.op(relax.op.multiply(y.expr, cx.cast(scales, "float32").expr)), scales.dtype)


def _unpacked(cx: Context, x: Value, bits: int) -> Value:
    """The elements in the bytes of the last axis, low ones first, as uint8."""
    each = 8 // bits

    def compute(t: te.Tensor) -> te.Tensor:
        def body(*i: Any) -> Any:
            shift = (tirx.floormod(i[-1], each) * bits).astype("uint8")
            return tirx.bitwise_and(tirx.shift_right(t(*i[:-1], tirx.floordiv(i[-1], each)), shift), tirx.const(2**bits - 1, "uint8"))

        return te.compute([*t.shape[:-1], t.shape[-1] * each], body, name="unpack")

    return cx.wrap(cx.te(compute, x, name="unpack"))


def _cut(cx: Context, x: Value, extent: Any) -> Value:
    """The first elements of the last axis."""
    return x if dims.equal(x.shape[-1], extent) else window_of(cx, x, {x.ndim - 1: (0, extent, 1)})


@microsoft_op("MatMulBnb4")
def matmul_bnb4(cx: Context, a: Value, b: Value, absmax: Value, *, K: int, N: int, block_size: int, quant_type: int, training_mode: int = 0,
                transB: int = 1) -> Value:
    refuse(cx, quant_type not in (0, 1), f"quant_type {quant_type} does not exist; it is 0 (FP4) or 1 (NF4)")
    refuse(cx, not transB, "transB = 0, which is for training, is not supported")
    check_equal(cx, a.shape[-1], K, f"a left operand of shape {dims.text(a.shape)} does not fit K = {K}")
    count, blocks = K * N, -(-K * N // block_size)
    for value, what, elements in ((b, "the weights", -(-count // 2)), (absmax, "absmax", blocks)):
        if value.weight is None:
            raise cx.needs_constant(value, what)
        refuse(cx, int(np.prod(value.weight.shape)) != elements, f"{what} are of shape {dims.text(value.shape)}; {elements} elements are expected")
    assert b.weight is not None and absmax.weight is not None
    scales = absmax.weight
    values = _BNB4[quant_type]

    def codes(p: np.ndarray) -> np.ndarray:  # the first of two is in the high bits
        return np.stack([p.ravel() >> 4, p.ravel() & 15], axis=-1).ravel()[:count].astype(np.int8).reshape(N, K).T

    name = b.name or "weight"
    whole = b.weight.map(codes, (K, N), ":codes", "int8")
    if K % block_size == 0 and quant_type == 1:  # each column has blocks of its own: it stays quantized
        per_block = scales.map(lambda s: np.ascontiguousarray(s.reshape(N, K // block_size).T), (K // block_size, N), ":blocks")
        weight: Weight = quantized_weight(name, a.dtype, whole, per_block, None, 4, 0, block_size, False, values)
    else:
        def numbers(c: np.ndarray) -> np.ndarray:
            spread = np.repeat(scales.load().astype(np.float32).ravel(), block_size)[:count].reshape(N, K).T
            return (np.asarray(values, np.float32)[c] * spread).astype(scales.load().dtype)

        weight = whole.map(numbers, (K, N), ":numbers", a.dtype)
    return cx.op(relax.op.matmul(a.expr, Value(cx, a.dtype, (K, N), name, weight=weight).expr))


@microsoft_op("DynamicQuantizeLSTM")
def dynamic_quantize_lstm(cx: Context, x: Value, w: Value, r: Value, b: Value | None, sequence_lens: Value | None, initial_h: Value | None,
                          initial_c: Value | None, p: Value | None, w_scale: Value, w_zero: Value, r_scale: Value, r_zero: Value, *,
                          activations: list[str] | None = None, activation_alpha: list[float] | None = None,
                          activation_beta: list[float] | None = None, clip: float = 0.0, direction: str = "forward",
                          hidden_size: int | None = None, input_forget: int = 0) -> tuple[Value, ...]:
    # Its weights are numbers again: onnxruntime rounds inputs and states to 8 bits besides, in each step anew.
    return lstm(cx, x, _gates(cx, w, w_scale, w_zero), _gates(cx, r, r_scale, r_zero), b, sequence_lens, initial_h, initial_c, p,
                activations=activations, activation_alpha=activation_alpha, activation_beta=activation_beta, clip=clip, direction=direction,
                hidden_size=hidden_size, input_forget=input_forget)


def _gates(cx: Context, codes: Value, scale: Value, zero: Value) -> Value:
    """Quantized weights [directions, inputs, gates], with a scale for each direction or each gate, as LSTM takes them."""
    refuse(cx, codes.ndim != 3 or scale.ndim not in (1, 2), f"weights of shape {dims.text(codes.shape)} with scales of shape "
           f"{dims.text(scale.shape)} are not supported")

    def along(value: Value) -> Value:
        return cx.cast(cx.reshape(value, [value.shape[0], 1, value.shape[1] if value.ndim == 2 else 1]), "float32")

    numbers = relax.op.multiply(relax.op.subtract(cx.cast(codes, "float32").expr, along(zero).expr), along(scale).expr)
    return cx.transpose(cx.op(numbers), [0, 2, 1])
