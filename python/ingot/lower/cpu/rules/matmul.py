"""Matrix products: a register tile of rows by vectors, accumulated in registers over the whole reduction."""

from __future__ import annotations

from typing import Any

from tvm import s_tir, tirx

from ingot.lower.cpu.rules.common import Block, blocks, extent, inline_chains, largest_divisor, spread
from ingot.lower.targets import Target

_ROWS = 6  # with two vectors a row: 12 accumulators, and registers left for the operands, on 16 registers


def is_matmul(sch: s_tir.Schedule, block: Block) -> bool:
    """Whether a block computes ``C[..., i, j] += A[..., i, k] * B[..., k or j, j or k]``."""
    if len(block.reduction) != 1 or len(block.spatial) < 2:
        return False
    node = sch.get(block.rv)
    if node.init is None or not isinstance(node.body, tirx.BufferStore) or len(node.reads) > 2:
        return False
    value = node.body.value
    return isinstance(value, tirx.Add) and isinstance(value.b, tirx.Mul) and "float" in str(value.ty.dtype)


def schedule(sch: s_tir.Schedule, target: Target) -> str | None:
    """Schedules a function whose heavy part is one matrix product with a fixed number of columns."""
    products = [b for b in blocks(sch) if is_matmul(sch, b)]
    if len(products) != 1:
        return None
    columns = extent(sch, products[0].spatial[-1])
    if columns is None or columns < target.lanes(4):
        return None
    inline_chains(sch)
    product = next(b for b in blocks(sch) if is_matmul(sch, b))
    tile = _tile(sch, product, columns, target)
    for block in blocks(sch):
        if block.name != product.name and not block.name.startswith(product.name):
            spread(sch, block)
    return tile


def _tile(sch: s_tir.Schedule, block: Block, columns: int, target: Target) -> str:
    *batch, i, j = block.spatial
    (k,) = block.reduction
    width = largest_divisor(columns, 2 * target.lanes(4))
    rows = extent(sch, i)
    height = largest_divisor(rows, _ROWS) if rows is not None else 1
    io, ii = sch.split(i, [None, height])
    jo, ji = sch.split(j, [None, width])
    sch.reorder(*batch, io, jo, k, ii, ji)
    sch.vectorize(ji)
    sch.unroll(ii)
    cache: Any = sch.cache_write(block.rv, 0, "local")
    sch.reverse_compute_at(cache, jo)
    *_, row, column = sch.get_loops(cache)
    sch.vectorize(column)
    sch.unroll(row)
    outer = [*batch, io]
    sch.parallel(sch.fuse(*outer) if len(outer) > 1 else io)
    init = sch.decompose_reduction(block.rv, k)
    *_, row, column = sch.get_loops(init)
    sch.vectorize(column)
    sch.unroll(row)
    return f"matmul {height}x{width}"
