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
    if not 2 <= bits <= 8:
        raise cx.error(f"weights of {bits} bits are not supported; they have 2 to 8")
    if block_size < 16 or block_size & (block_size - 1):
        raise cx.error(f"block_size is {block_size}; it is a power of two of at least 16")
    if a.dtype not in _FLOATS:
        raise cx.error(f"the left operand is {a.dtype}; it is float32, float16 or bfloat16")
    check_equal(cx, a.shape[-1], K, f"a left operand of shape {dims.text(a.shape)} does not fit K = {K}")
    blocks = -(-K // block_size)
    packed = _constant(cx, b, "the weights", N * blocks * (block_size * bits // 8))
    order = None if g_idx is None else _order(cx, g_idx, K, block_size)

    def made() -> Weight:
        def unpacked(p: np.ndarray) -> np.ndarray:
            codes = _unpacked(p, bits, (N, blocks * block_size))[:, :K].T
            return codes if order is None else codes[order]

        return quantized_weight(b.name or "weight", a.dtype, packed.map(unpacked, (K, N), ":codes", "int8"),
                                _per_block(cx, scales, "scales", N, blocks), _zeros(cx, zero_points, bits, N, blocks), 4 if bits <= 4 else 8, 0,
                                block_size, accuracy_level == _INTEGERS)

    weight = packed.once(("MatMulNBits", a.dtype, K, N, bits, block_size, accuracy_level, scales.weight, zero_points and zero_points.weight,
                          None if order is None else order.tobytes()), made)
    if order is not None:  # layers that read one tensor mostly have one order: equal calls become one
        a = cx.op(relax.op.take(a.expr, relax.const(order, "int64"), axis=a.ndim - 1))
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


def _order(cx: Context, g_idx: Value, depth: int, block_size: int) -> np.ndarray | None:
    """The order of K in which each block's inputs stand together, where ``g_idx`` says which block each is of; None if they do so already."""
    block_of = np.asarray(cx.array(g_idx, "g_idx")).ravel()[:depth].astype(np.int64)
    blocks = -(-depth // block_size)
    if len(block_of) != depth or block_of.min(initial=0) < 0 or block_of.max(initial=0) >= blocks:
        raise cx.error(f"g_idx does not give each of {depth} inputs one of {blocks} blocks")
    counts = np.bincount(block_of, minlength=blocks)
    if (counts[:-1] != block_size).any() or counts[-1] != depth - block_size * (blocks - 1):
        raise cx.error(f"g_idx makes blocks of {counts.min()} to {counts.max()} inputs; all have block_size, {block_size}, but the last, "
                       "which has the rest")
    order = np.argsort(block_of, kind="stable").astype(np.int64)
    return None if (order == np.arange(depth)).all() else order


def _unpacked(packed: np.ndarray, bits: int, shape: tuple[int, int]) -> np.ndarray:
    """Codes that follow one another in bytes, low bits first, as int8: less half of their range."""
    flat = packed.astype(np.uint8, copy=False).ravel()
    if bits == 4:
        flat = np.stack([flat & 15, flat >> 4], axis=-1).ravel()
    elif bits < 8:  # 16 codes, the least that a block has, are whole bytes
        each = np.unpackbits(flat, bitorder="little").reshape(-1, bits)
        flat = np.packbits(np.pad(each, ((0, 0), (0, 8 - bits))), axis=1, bitorder="little").ravel()
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
        packed = _constant(cx, value, "zero points", columns * row).load().reshape(columns, row)
        whole = -(-blocks // 8) * 8  # codes of so many are whole bytes
        numbers = _unpacked(np.pad(packed, ((0, 0), (0, whole * bits // 8 - row))), bits, (columns, whole))[:, :blocks].T
    return from_array(f"{value.name}:zeros", np.ascontiguousarray(numbers)) if numbers.any() else None
