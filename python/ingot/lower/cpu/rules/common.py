"""What scheduling rules share: looking at blocks, inlining, and spreading loops over threads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm import s_tir, tirx

#: Work below this many loop iterations stays on one thread: waking another costs about as much (a few microseconds).
PARALLEL_WORK = 16384


@dataclass(frozen=True)
class Block:
    """A block of a TIR function, with its loops split into spatial and reduction ones."""

    rv: Any
    name: str
    spatial: tuple[Any, ...]
    reduction: tuple[Any, ...]


def blocks(sch: s_tir.Schedule) -> list[Block]:
    """The blocks below the root that are still simple loop nests, in order of execution."""
    found = []
    for rv in sch.get_child_blocks(sch.get_sblock("root")):
        node = sch.get(rv)
        loops = sch.get_loops(rv)
        if len(loops) != len(node.iter_vars):
            found.append(Block(rv, node.name_hint, (), ()))
            continue
        kinds = [iv.iter_type for iv in node.iter_vars]
        spatial = tuple(loop for loop, kind in zip(loops, kinds, strict=True) if kind == tirx.IterVar.DataPar)
        reduction = tuple(loop for loop, kind in zip(loops, kinds, strict=True) if kind == tirx.IterVar.CommReduce)
        if len(spatial) + len(reduction) != len(loops):
            spatial, reduction = (), ()
        found.append(Block(rv, node.name_hint, spatial, reduction))
    return found


def extent(sch: s_tir.Schedule, loop: Any) -> int | None:
    """A loop's extent, or None if it is symbolic."""
    value = sch.get(loop).extent
    return int(value) if isinstance(value, tirx.IntImm) else None


def work(sch: s_tir.Schedule, loops: tuple[Any, ...]) -> int | None:
    """The number of iterations of a loop nest, or None if it is symbolic."""
    total = 1
    for loop in loops:
        size = extent(sch, loop)
        if size is None:
            return None
        total *= size
    return total


def inline_chains(sch: s_tir.Schedule) -> None:
    """Computes element-wise intermediates where they are used, if they are used by one element-wise block."""
    for block in blocks(sch):
        consumers = sch.get_consumers(block.rv)
        if block.reduction or not block.spatial or len(consumers) != 1:
            continue
        consumer = sch.get(consumers[0])
        if any(iv.iter_type != tirx.IterVar.DataPar for iv in consumer.iter_vars):
            continue
        try:
            sch.compute_inline(block.rv)
        except s_tir.ScheduleError:
            continue  # not an element-wise block, or an output: it stays a loop nest of its own


def spread(sch: s_tir.Schedule, block: Block) -> None:
    """Runs a block's outer spatial loops on all threads, if there is work enough; the innermost stays for vectors."""
    if not block.spatial:
        return
    total = work(sch, block.spatial + block.reduction)
    if total is not None and total < PARALLEL_WORK:
        return
    outer = block.spatial if block.reduction or len(block.spatial) == 1 else block.spatial[:-1]
    if len(block.spatial) == 1 and not block.reduction:
        size = extent(sch, block.spatial[0])
        chunk = PARALLEL_WORK // 4
        if size is not None and size % chunk:
            return
        loop, _ = sch.split(block.spatial[0], [None, chunk])
        sch.parallel(loop)
        return
    sch.parallel(sch.fuse(*outer) if len(outer) > 1 else outer[0])


def largest_divisor(value: int, limit: int) -> int:
    """The largest divisor of ``value`` that is at most ``limit``."""
    return next(d for d in range(min(limit, value), 0, -1) if value % d == 0)
