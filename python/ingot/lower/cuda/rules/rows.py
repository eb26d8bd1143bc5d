"""Reductions over the last axes, row by row: softmax, layer normalization, sums and means, in one kernel with what reads their results.

A row is a warp's or a block's. All stages of such a function share their leading axes, the rows; each row runs all stages in turn:
reductions, whose results every thread of the row has, then outputs. Element-wise stages are computed where they are used: the row is
read again from the first-level cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm import tirx

from ingot.lower.cpu.fused import Combination, Fused, Stage, combination, loads
from ingot.lower.cpu.nest import constant, index, product, simplify
from ingot.lower.cuda.kernel import BLOCK, Generated, Kernel, emitter
from ingot.lower.cuda.rules.maps import blocks_of, store_all
from ingot.lower.cuda.source import computed
from ingot.lower.cuda.vectors import Lanes, is_contiguous, lanes_for

#: Pieces of a row, of up to 16 bytes, for each thread of a warp, at most; longer rows are a block's.
_MOST_OF_WARP = 8
#: Where neighbouring threads would not read neighbouring elements, rows are worth a warp only if there are this few and they are this long.
_FEW_ROWS, _LONG_ROW = 4096, 128


def rule(fused: Fused) -> Generated | None:
    """A kernel of a function of reductions over trailing axes."""
    heavy = [s for s in fused.stages if s.init is not None]
    if not heavy or any(combination(s) is None or not s.reduced for s in heavy) or any(s.init is None and not s.is_map for s in fused.stages):
        return None
    rows = _Rows(fused, heavy, min(len(_kept(s)) for s in heavy))
    return rows.build() if rows.fits() and rows.pays() else None


def _kept(stage: Stage) -> list[Any]:
    """The axes of a reduction's result without trailing ones of extent 1."""
    axes = list(stage.axes)
    while axes and constant(stage.extents[len(axes) - 1]) == 1:
        axes.pop()
    return axes


class _Rows:
    def __init__(self, fused: Fused, heavy: Sequence[Stage], shared: int) -> None:
        self.fused = fused
        self.heavy = heavy
        self.shared = shared  # leading axes that all stages share: the rows
        self.stages = fused.inlined(keep=tuple(heavy))
        self.extents = [constant(e) for e in heavy[-1].extents[:shared]]
        self.parameters = set(fused.function.params)

    def fits(self) -> bool:
        """Whether every stage runs within rows."""
        for stage in self.stages:
            if len(stage.axes) < self.shared or any(constant(simplify(a - b)) != 0 for a, b in zip(
                    stage.extents[: self.shared], map(index, self.extents), strict=True)):
                return False
            if stage.init is not None and any(constant(e) != 1 for e in stage.extents[self.shared :]):
                return False
            for node in loads(stage.value):
                producer = next((s for s in self.heavy if s.buffer.same_as(node.source)), None)
                if producer is not None and not stage.buffer.same_as(node.source) and not all(
                        i.same_as(a) for i, a in zip(node.indices[: self.shared], stage.axes, strict=False)):
                    return False
        return True

    def pays(self) -> bool:
        """Whether the threads of a row read what lies side by side, or rows are too few for a thread each."""
        contiguous = all(any(is_contiguous(n, s.reduced[-1]) for n in loads(_combine(s).operand)) for s in self.heavy)
        count, longest = product(self.extents), max((self.longest(s) for s in self.heavy), default=0)
        few = isinstance(count, int) and count <= _FEW_ROWS and longest >= _LONG_ROW
        return contiguous or few or len(self.heavy) > 1

    @staticmethod
    def longest(stage: Stage) -> int:
        """The number of elements of a row; some number if that is symbolic."""
        length = product(stage.reduced_extents)
        return length if isinstance(length, int) else 1024

    def build(self) -> Generated:
        """The kernel."""
        pieces = max(self.longest(s) // self.lanes(s) for s in self.heavy)
        count = product(self.extents)
        alone = isinstance(count, int) and count < 132 * 8  # less than a warp for each scheduler of a large GPU
        threads = 32 if pieces <= 32 * (1 if alone else _MOST_OF_WARP) else 128 if pieces <= 2048 else 512
        e = emitter(self.fused.function)
        per_block = max(1, BLOCK // threads) if threads == 32 else 1
        e.put(f"const int lane = (int)threadIdx.x % {threads};")
        row = e.let("row", f"(int64_t)blockIdx.x * {per_block} + threadIdx.x / {threads}")
        e.put(f"if ({row} >= {e.value(count)}) return;")
        axes = list(self.heavy[-1].axes[: self.shared])
        e.unravel(row, axes, self.extents)
        kinds: dict[str, str] = {}
        if threads > 32:
            for stage in self.heavy:
                kind = computed(str(stage.buffer.ty.dtype))
                if kind not in kinds:
                    kinds[kind] = e.fresh("shared")
                    e.put(f"__shared__ {kind} {kinds[kind]}[32];")
        for stage in self.stages:
            for mine, row_axis in zip(stage.axes[: self.shared], axes, strict=True):
                e.names[mine] = e.names[row_axis]
            if stage.init is not None:
                self.reduce(e, stage, threads, kinds)
            else:
                self.store(e, stage, threads)
        kernel = Kernel(e.lines, blocks_of(count, per_block) if threads == 32 else count, threads * per_block)
        unit = "a warp" if threads == 32 else f"{threads} threads"
        return Generated(self.fused.function, [kernel], f"rows, {len(self.heavy)} reduction{'s' if len(self.heavy) > 1 else ''}, {unit} a row")

    def lanes(self, stage: Stage) -> int:
        """How many elements a thread reads at once for a reduction."""
        return lanes_for(stage.reduced_extents[-1], stage.reduced[-1], [_combine(stage).operand], [])

    def reduce(self, e: Lanes, stage: Stage, threads: int, kinds: dict[str, str]) -> None:
        """A reduction, whose result all threads of the row have."""
        combine, kind, lanes = _combine(stage), computed(str(stage.buffer.ty.dtype)), self.lanes(stage)
        total = e.fresh(stage.name)
        a, b = tirx.Var("a", stage.buffer.ty.dtype), tirx.Var("b", stage.buffer.ty.dtype)
        e.put(f"{kind} {total} = {e.value(stage.init)};")
        for axis in stage.axes[self.shared :]:
            e.names[axis] = "0L"
        e.names[a] = total

        def body() -> None:
            e.names[b] = e.let("operand", e.value(combine.operand), kind)
            e.put(f"{total} = {e.value(combine.apply(a, b))};")

        self.over(e, list(stage.reduced), list(stage.reduced_extents), lanes, threads, lambda axis, base: e.spread(axis, base, lanes, body))
        e.names[a], e.names[b] = "a", "b"
        with e.elsewhere() as lines:
            result = e.value(combine.apply(a, b))
        e.put(f"{total} = Combined<{threads}>({total}, {f'{kinds[kind]}' if threads > 32 else f'({kind}*)nullptr'}, "
              f"[]({kind} a, {kind} b) -> {kind} {{ {' '.join(lines)} return {result}; }});")
        e.loaders[stage.buffer] = lambda node: total
        if stage.buffer in self.parameters:
            with e.block("if (lane == 0)"):
                e.store(stage.buffer, list(stage.indices), total)

    def store(self, e: Lanes, stage: Stage, threads: int) -> None:
        """An element-wise stage of the row."""
        axes, extents = list(stage.axes[self.shared :]), list(stage.extents[self.shared :])
        if all(constant(x) == 1 for x in extents):
            e.names.update(dict.fromkeys(axes, "0L"))
            with e.block("if (lane == 0)"):
                e.store(stage.buffer, list(stage.indices), e.value(stage.value))
            return
        lanes = lanes_for(extents[-1], axes[-1], [stage.value], [str(stage.buffer.ty.dtype)])
        self.over(e, axes, extents, lanes, threads, lambda axis, base: store_all(e, [stage], axis, base, lanes))

    @staticmethod
    def over(e: Lanes, axes: list[Any], extents: list[Any], lanes: int, threads: int, body: Any) -> None:
        """A loop over the elements of a row, which its threads share piece by piece."""
        last = simplify(tirx.floordiv(index(constant(extents[-1])), index(lanes)))
        count = e.value(product([*extents[:-1], last]))
        name = e.fresh("q")
        with e.block(f"for (int64_t {name} = lane; {name} < {count}; {name} += {threads})"):
            group = tirx.Var("group", "int64")
            e.unravel(name, [*axes[:-1], group], [*extents[:-1], last])
            body(axes[-1], e.let("base", f"{e.names[group]} * {lanes}") if lanes > 1 else e.names[group])


def _combine(stage: Stage) -> Combination:
    found = combination(stage)
    assert found is not None
    return found
