"""Element-wise functions, concatenations, pads, gathers: a thread computes up to 16 bytes of neighbouring elements."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import tvm_ffi
from tvm import tirx
from tvm.ir.expr import TensorLoad

from ingot.lower.cpu.fused import Fused, Stage, loads, same_place
from ingot.lower.cpu.nest import constant, index, product, simplify
from ingot.lower.cuda.kernel import BLOCK, Generated, Kernel, emitter
from ingot.lower.cuda.source import horner, nbytes, stored
from ingot.lower.cuda.vectors import VECTOR_BYTES, Lanes, depends, lanes_for


def rule(fused: Fused) -> Generated | None:
    """Kernels of a function that computes each element by itself."""
    if not all(s.is_map for s in fused.stages):
        return None
    groups: list[list[Stage]] = []
    for stage in fused.inlined():
        group = next((g for g in groups if _same_extents(g[0], stage)), None)
        if group is None:
            groups.append([stage])
        else:
            group.append(stage)
    kernels, names = [], []
    for group in groups:
        kernel, name = mapped(fused, group)
        kernels.append(kernel)
        names.append(name)
    return Generated(fused.function, kernels, names[0])


def _same_extents(a: Stage, b: Stage) -> bool:
    return len(a.extents) == len(b.extents) and all(constant(simplify(x - y)) == 0 for x, y in zip(a.extents, b.extents, strict=True))


def mapped(fused: Fused, stages: Sequence[Stage], extras: Sequence[Any] = ()) -> tuple[Kernel, str]:
    """One kernel for element-wise stages of the same extents, and its name."""
    values, written = [s.value for s in stages], [str(s.buffer.ty.dtype) for s in stages]
    last = stages[0]
    lanes = lanes_for(last.extents[-1], last.axes[-1], values, written) if last.axes else 1
    aliases = [dict(zip(s.axes, last.axes, strict=True)) for s in stages]
    stages = [replace(s, axes=last.axes, indices=last.axes, value=_renamed(s.value, a)) for s, a in zip(stages, aliases, strict=True)]
    if lanes == 1 and last.axes and all(_is_flat(s) for s in stages):
        return _flat(fused, stages, extras)
    e = emitter(fused.function, extras)
    extents = list(last.extents)
    groups = product([*extents[:-1], simplify(tirx.floordiv(index(constant(extents[-1])), index(lanes)))]) if extents else 1
    count = e.value(groups)
    e.put(f"const int64_t t = (int64_t)blockIdx.x * {BLOCK} + threadIdx.x;")
    e.put(f"if (t >= {count}) return;")
    if not last.axes:
        for stage in stages:
            e.store(stage.buffer, [], e.value(stage.value))
        return Kernel(e.lines, 1), "map"
    group = tirx.Var("group", "int64")
    e.unravel("t", [*last.axes[:-1], group], [*extents[:-1], simplify(tirx.floordiv(index(constant(extents[-1])), index(lanes)))])
    base = e.let("base", f"{e.names[group]} * {lanes}") if lanes > 1 else e.names[group]
    store_all(e, stages, last.axes[-1], base, lanes)
    return Kernel(e.lines, blocks_of(groups)), f"map, {lanes} a thread" if lanes > 1 else "map"


def store_all(e: Lanes, stages: Sequence[Stage], axis: Any, base: str, lanes: int) -> None:
    """Computes elements of element-wise stages along an axis, and stores each stage's in one piece."""
    if lanes == 1:
        e.names[axis] = base
        for stage in stages:
            with e.block(""):
                e.store(stage.buffer, list(stage.indices), e.value(stage.value))
        return
    results = []
    for stage in stages:
        results.append(e.fresh("y"))
        e.put(f"Vec<{stored(str(stage.buffer.ty.dtype))}, {lanes}> {results[-1]};")

    def body() -> None:
        for stage, result in zip(stages, results, strict=True):
            value = e.value(stage.value)
            e.put(f"{result}.v[v] = {e.narrowed(value, str(stage.buffer.ty.dtype))};")

    e.spread(axis, base, lanes, body)
    e.names[axis] = base
    for stage, result in zip(stages, results, strict=True):
        e.put(f"StoreVec({e.pointers[stage.buffer]}, {e.value(horner(stage.indices, stage.buffer.ty.shape))}, {result});")


def _renamed(value: Any, names: dict[Any, Any]) -> Any:
    return tvm_ffi.structural_map(value, (tirx.Var, lambda v: names.get(v, v)))


def blocks_of(count: Any, threads: int = BLOCK) -> Any:
    """How many blocks have a thread for each of ``count``."""
    return -(-count // threads) if isinstance(count, int) else simplify(tirx.floordiv(count + (threads - 1), index(threads)))


def _is_flat(stage: Stage) -> bool:
    """Whether a stage reads only the elements at its own position, and what is the same for all."""
    if any(not same_place(n, stage) and depends_on_axes(n, stage) for n in loads(stage.value)):
        return False
    marked = tvm_ffi.structural_map(stage.value, (TensorLoad, lambda n: tirx.Var("element", str(n.source.ty.dtype))))
    return not depends(marked, stage.axes)


def depends_on_axes(node: Any, stage: Stage) -> bool:
    """Whether a load's place is not the same for all elements of a stage."""
    return any(depends(i, stage.axes) for i in node.indices)


def _flat(fused: Fused, stages: Sequence[Stage], extras: Sequence[Any]) -> tuple[Kernel, str]:
    """Element-wise stages as one row of elements: pieces do not have to end where rows do."""
    e = emitter(fused.function, extras)
    count = product(stages[0].extents)
    sizes = [nbytes(str(b.ty.dtype)) for s in stages for b in (s.buffer, *(n.source for n in loads(s.value) if same_place(n, s)))]
    lanes = max(1, min(8, VECTOR_BYTES // max(sizes)))
    position = tirx.Var("i", "int64")
    flats: dict[Any, Any] = {}

    def flat(buffer: Any) -> Any:
        if buffer not in flats:
            flats[buffer] = tirx.decl_buffer((index(count),), str(buffer.ty.dtype), name=buffer.name)
            e.pointers[flats[buffer]] = e.pointers[buffer]
        return flats[buffer]

    rows = [replace(s, buffer=flat(s.buffer), axes=(position,), extents=(index(count),), indices=(position,), value=tvm_ffi.structural_map(
        s.value, (TensorLoad, lambda n, s=s: tirx.BufferLoad(flat(n.source), [position]) if same_place(n, s) else n))) for s in stages]
    total = e.value(count)
    base = e.let("base", f"((int64_t)blockIdx.x * {BLOCK} + threadIdx.x) * {lanes}")
    with e.block(f"if ({base} + {lanes} <= {total})"):
        store_all(e, rows, position, base, lanes)
    if lanes > 1:
        with e.block("else"), e.block(f"for (int64_t i = {base}; i < {total}; ++i)"):
            store_all(e, rows, position, "i", 1)
    return Kernel(e.lines, blocks_of(count, BLOCK * lanes)), f"map, {lanes} a thread"
