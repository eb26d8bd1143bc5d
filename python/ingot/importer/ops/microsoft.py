"""Operators of onnxruntime's own domain, com.microsoft."""

from __future__ import annotations

import numpy as np
from tvm import relax

from ingot.importer import dims
from ingot.importer.context import Context
from ingot.importer.ops.checks import check_equal
from ingot.importer.quantized import quantized_weight
from ingot.importer.registry import onnx_op
from ingot.importer.values import Value
from ingot.importer.weights import Weight, from_array

_FLOATS = ("float32", "float16", "bfloat16")
_INTEGERS = 4  # the accuracy level at which activations may be rounded to int8


@onnx_op("MatMulNBits", domain="com.microsoft")
def matmul_nbits(cx: Context, a: Value, b: Value, scales: Value, zero_points: Value | None = None, g_idx: Value | None = None,
                 bias: Value | None = None, *, K: int, N: int, bits: int = 4, block_size: int = 32, accuracy_level: int = 0) -> Value:
    if bits not in (4, 8):
        raise cx.error(f"weights of {bits} bits are not supported; they have 4 or 8")
    if block_size < 16 or block_size & (block_size - 1):
        raise cx.error(f"block_size is {block_size}; it is a power of two of at least 16")
    if g_idx is not None and not np.array_equal(np.asarray(cx.array(g_idx, "g_idx")).ravel()[:K], np.arange(K) // block_size):
        raise cx.error("g_idx, an order of blocks, is not supported; quantize without activation order")
    if a.dtype not in _FLOATS:
        raise cx.error(f"the left operand is {a.dtype}; it is float32, float16 or bfloat16")
    check_equal(cx, a.shape[-1], K, f"a left operand of shape {dims.text(a.shape)} does not fit K = {K}")
    blocks = -(-K // block_size)
    packed = _constant(cx, b, "the weights", N * blocks * block_size * bits // 8)

    def made() -> Weight:
        codes = packed.map(lambda p: _unpacked(p, bits, (N, blocks * block_size))[:, :K].T, (K, N), ":codes", "int8")
        return quantized_weight(b.name or "weight", a.dtype, codes, _per_block(cx, scales, "scales", N, blocks),
                                _zeros(cx, zero_points, bits, N, blocks), bits, 0, block_size, accuracy_level == _INTEGERS)

    weight = packed.once(("MatMulNBits", a.dtype, K, N, bits, block_size, accuracy_level, scales.weight, zero_points and zero_points.weight), made)
    # A parameter even if it is small: as a constant in the graph it would be floats.
    y = cx.op(relax.op.matmul(a.expr, cx.weight_expr(weight)))
    return y if bias is None else cx.op(relax.op.add(y.expr, cx.cast(cx.reshape(bias, [N]), a.dtype).expr))


def _constant(cx: Context, value: Value, what: str, elements: int) -> Weight:
    """A constant input of so many elements."""
    if value.weight is None:
        raise cx.needs_constant(value, what)
    if int(np.prod(value.weight.shape)) != elements:
        raise cx.error(f"{what} are of shape {dims.text(value.shape)}; {elements} elements are expected")
    return value.weight


def _unpacked(packed: np.ndarray, bits: int, shape: tuple[int, int]) -> np.ndarray:
    """Bytes, or nibbles with the low one first, as int8: less 128, or less 8."""
    flat = packed.astype(np.uint8, copy=False).ravel()
    if bits == 4:
        flat = np.stack([flat & 15, flat >> 4], axis=-1).ravel()
    return (flat.astype(np.int16) - 2 ** (bits - 1)).astype(np.int8).reshape(shape)


def _per_block(cx: Context, value: Value, what: str, columns: int, blocks: int) -> Weight:
    """Numbers [N, blocks] or flat as [blocks, N]."""
    weight = _constant(cx, value, what, columns * blocks)
    return weight.map(lambda s: np.ascontiguousarray(s.reshape(columns, blocks).T), (blocks, columns), ":blocks")


def _zeros(cx: Context, value: Value | None, bits: int, columns: int, blocks: int) -> Weight | None:
    """Zero points, packed as the weights are or as floats, less what codes are less by; None if all are 0 then."""
    if value is None:
        return None
    if value.dtype != "uint8":
        numbers = _per_block(cx, value, "zero points", columns, blocks).load().astype(np.float32) - 2 ** (bits - 1)
    else:
        row = -(-blocks * bits // 8)
        packed = _constant(cx, value, "zero points", columns * row).load()
        numbers = _unpacked(packed, bits, (columns, row * 8 // bits))[:, :blocks].T
    return from_array(f"{value.name}:zeros", np.ascontiguousarray(numbers)) if numbers.any() else None
