"""What no other rule reads: loop nests as they stand, a kernel for each, a thread for each iteration of its outer loops."""

from __future__ import annotations

from typing import Any

from tvm import s_tir, tirx

from ingot.lower.cpu.nest import product
from ingot.lower.cuda.kernel import BLOCK, Generated, Kernel, emitter
from ingot.lower.cuda.rules.maps import blocks_of


def rule(function: tirx.PrimFunc) -> Generated:
    """Kernels of any function."""
    root = function.body
    if isinstance(root, s_tir.SBlockRealize) and root.block.name_hint == "root":
        body, extras = root.block.body, list(root.block.alloc_buffers)
    else:
        body, extras = root, []
    statements = list(body.seq) if isinstance(body, tirx.SeqStmt) else [body]
    if not any(isinstance(s, tirx.For) for s in statements):  # numbers: one thread computes them all
        e = emitter(function, extras)
        e.put("if (blockIdx.x != 0 || threadIdx.x != 0) return;")
        e.statement(body)
        return Generated(function, [Kernel(e.lines, 1, 32)], "one thread", extras)
    kernels = [_nest(function, statement, extras) for statement in statements]
    return Generated(function, kernels, "loops", extras)


def _nest(function: tirx.PrimFunc, statement: Any, extras: list[Any]) -> Kernel:
    e = emitter(function, extras)
    spatial = _spatial(statement)
    axes, extents = [], []
    while isinstance(statement, tirx.For) and statement.loop_var in spatial:
        axes.append(statement.loop_var)
        extents.append(statement.extent)
        statement = statement.body
    count = product(extents) if extents else 1
    e.put(f"const int64_t t = (int64_t)blockIdx.x * {BLOCK} + threadIdx.x;")
    e.put(f"if (t >= {e.value(count)}) return;")
    e.unravel("t", axes, extents)
    e.statement(statement)
    return Kernel(e.lines, blocks_of(count))


def _spatial(statement: Any) -> set[Any]:
    """The loops of a nest whose iterations do not depend on each other."""
    loops = []
    while isinstance(statement, tirx.For):
        loops.append(statement)
        statement = statement.body
    if not isinstance(statement, s_tir.SBlockRealize):
        return set()
    kinds = [(value, v.iter_type) for v, value in zip(statement.block.iter_vars, statement.iter_values, strict=True)]
    found = set()
    for loop in loops:
        mine = [kind for value, kind in kinds if any(loop.loop_var.same_as(x) for x in tirx.analysis.undefined_vars(value))]
        if mine and all(kind == tirx.IterVar.DataPar for kind in mine):
            found.add(loop.loop_var)
    return found
