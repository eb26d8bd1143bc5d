"""Two-dimensional convolution on NCHW: a register tile of output channels by a stretch of one output row."""

from __future__ import annotations

from typing import Any

from tvm import s_tir

from ingot.lower.cpu.rules.common import Block, blocks, extent, inline_chains, largest_divisor, spread
from ingot.lower.targets import Target


def is_convolution(block: Block) -> bool:
    """Whether a block is TOPI's direct convolution: spatial (n, c, h, w), reduction over channels and the kernel."""
    return "conv2d" in block.name and len(block.spatial) == 4 and len(block.reduction) == 3


def schedule(sch: s_tir.Schedule, target: Target) -> str | None:
    """Schedules a function whose heavy part is one 2-D convolution with fixed channels and width."""
    found = [b for b in blocks(sch) if is_convolution(b)]
    if len(found) != 1 or any(extent(sch, loop) is None for loop in (*found[0].spatial[1:], *found[0].reduction)):
        return None
    inline_chains(sch)
    block = next(b for b in blocks(sch) if is_convolution(b))
    name = _tile(sch, block, target)
    for other in blocks(sch):
        if not other.name.startswith(block.name):
            spread(sch, other)
    return name


def _tile(sch: s_tir.Schedule, block: Block, target: Target) -> str:
    n, c, h, w = block.spatial
    width = largest_divisor(extent(sch, w) or 1, 2 * target.lanes(4))
    channels = largest_divisor(extent(sch, c) or 1, 8)
    co, ci = sch.split(c, [None, channels])
    wo, wi = sch.split(w, [None, width])
    sch.reorder(n, co, h, wo, *block.reduction, ci, wi)
    sch.vectorize(wi)
    sch.unroll(ci)
    cache: Any = sch.cache_write(block.rv, 0, "local")
    sch.reverse_compute_at(cache, wo)
    loops = sch.get_loops(cache)
    sch.vectorize(loops[-1])
    sch.parallel(sch.fuse(n, co, h))
    init = sch.decompose_reduction(block.rv, block.reduction[0])
    *_, channel, column = sch.get_loops(init)
    sch.vectorize(column)
    sch.unroll(channel)
    return f"conv2d {channels}x{width}"
