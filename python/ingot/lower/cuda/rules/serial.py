"""Functions of any stages, each a kernel of its own, in which a thread computes elements by itself: pooling, depthwise convolutions, the rest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm import tirx

from ingot.lower.cpu.fused import Fused, Stage, keeps_shape
from ingot.lower.cpu.nest import constant, index, product, simplify
from ingot.lower.cuda.kernel import BLOCK, Generated, Kernel, emitter
from ingot.lower.cuda.rules.maps import blocks_of, mapped, store_all
from ingot.lower.cuda.source import computed
from ingot.lower.cuda.vectors import lanes_for


def rule(fused: Fused) -> Generated | None:
    """Kernels of a function: one for each stage that is not computed where it is used."""
    heavy = tuple(s for s in fused.stages if not s.is_map)
    if len(heavy) == 1 and heavy[0].init is not None and heavy[0].axes and keeps_shape(fused, heavy[0]):
        stages = fused.inlined(keep=heavy)
        anchor = next(s for s in stages if s.buffer.same_as(heavy[0].buffer))
        kernel, lanes = _reduced(fused, anchor, [s for s in stages if s is not anchor], ())
        return Generated(fused.function, [kernel], f"columns, {lanes} a thread" if lanes > 1 else "columns")
    parameters = set(fused.function.params)
    stages = fused.inlined(keep=heavy)
    extras = [s.buffer for s in stages if s.buffer not in parameters]
    kernels = []
    for stage in stages:
        if stage.is_map:
            kernels.append(mapped(fused, [stage], extras)[0])
        else:
            kernels.append(_reduced(fused, stage, [], extras)[0])
    return Generated(fused.function, kernels, f"{len(kernels)} kernels", extras)


def _reduced(fused: Fused, stage: Stage, followers: Sequence[Stage], extras: Sequence[Any]) -> tuple[Kernel, int]:
    """A kernel for a stage that is no map: with a reduction, its sums stay in registers; element-wise ``followers`` of its shape use them there."""
    e = emitter(fused.function, extras)
    stored = e.pointers.get(stage.buffer) is not None
    written = [str(s.buffer.ty.dtype) for s in ([stage] if stored else []) + list(followers)]
    plain = all(i.same_as(a) for i, a in zip(stage.indices, stage.axes, strict=False)) and len(stage.indices) == len(stage.axes)
    lanes = lanes_for(stage.extents[-1], stage.axes[-1], [stage.value], written, 4) if plain and stage.axes else 1
    extents = list(stage.extents)
    last = simplify(tirx.floordiv(index(constant(extents[-1])), index(lanes))) if extents else 1
    count = product([*extents[:-1], last]) if extents else 1
    e.put(f"const int64_t t = (int64_t)blockIdx.x * {BLOCK} + threadIdx.x;")
    e.put(f"if (t >= {e.value(count)}) return;")
    axis, base = tirx.Var("none", "int64"), "0L"
    if extents:
        axis, group = stage.axes[-1], tirx.Var("group", "int64")
        e.unravel("t", [*stage.axes[:-1], group], [*extents[:-1], last])
        base = e.let("base", f"{e.names[group]} * {lanes}") if lanes > 1 else e.names[group]
    e.names[axis] = base
    kind, sums = computed(str(stage.buffer.ty.dtype)), e.fresh("sum")
    if stage.init is None:
        e.store(stage.buffer, list(stage.indices), e.value(stage.value))
        return Kernel(e.lines, blocks_of(count)), 1
    e.put(f"{kind} {sums}[{lanes}];")
    e.spread(axis, base, lanes, lambda: e.put(f"{sums}[v] = {e.value(stage.init)};"))
    e.names[axis] = base
    e.loaders[stage.buffer] = lambda node: f"{sums}[v]"
    _loops(e, list(stage.reduced), list(stage.reduced_extents), lambda: e.spread(
        axis, base, lanes, lambda: e.put(f"{sums}[v] = {e.value(stage.value)};")))
    for follower in followers:
        for mine, theirs in zip(follower.axes, stage.axes, strict=True):
            if not theirs.same_as(axis):
                e.names[mine] = e.names[theirs]
    if stored:
        _store(e, [stage], stage, axis, base, lanes, sums)
    for follower in followers:
        mine = follower.axes[-1] if follower.axes else axis
        e.names[mine] = base
        store_all(e, [follower], mine, base, lanes) if lanes > 1 else _single(e, follower)
    return Kernel(e.lines, blocks_of(count)), lanes


def _single(e: Any, follower: Stage) -> None:
    with e.block(""):
        e.put("constexpr int v = 0;")
        e.store(follower.buffer, list(follower.indices), e.value(follower.value))


def _store(e: Any, stages: Sequence[Stage], stage: Stage, axis: Any, base: str, lanes: int, sums: str) -> None:
    """Stores the sums themselves."""
    def body() -> None:
        e.store(stage.buffer, list(stage.indices), f"{sums}[v]")

    e.spread(axis, base, lanes, body)
    e.names[axis] = base


def _loops(e: Any, axes: list[Any], extents: list[Any], body: Any) -> None:
    if not axes:
        body()
        return
    with e.loop(axes[0], extents[0]):
        _loops(e, axes[1:], extents[1:], body)
