"""Reductions that keep the last axis: pooling, depthwise convolution, means over height and width. Vectors along the last axis."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import tvm_ffi
from tvm import tirx
from tvm.ir import Call

from ingot.lower.cpu import nest
from ingot.lower.cpu.epilogue import Epilogue
from ingot.lower.cpu.fused import Fused, Stage, combination, keeps_shape, loads
from ingot.lower.cpu.nest import Local, branch, ceildiv, constant, index, is_choice, loop, parallel, product, sequence, simplify
from ingot.lower.cpu.rules.maps import CHUNK, lanes_of
from ingot.lower.targets import Target

_LEAST_LANES = 8  # of vectors where the machine's own are too long
_POSITIONS = 4  # neighbouring outputs that share what they load of the weights


def rule(fused: Fused, target: Target) -> tuple[tirx.PrimFunc, str] | None:
    """Schedules a function of one reduction whose operands run along the result's last axis."""
    heavy = [s for s in fused.stages if s.init is not None]
    if len(heavy) != 1 or not all(s.is_map for s in fused.stages if s is not heavy[0]) or not heavy[0].axes:
        return None
    reduction = next(s for s in fused.inlined(keep=(heavy[0],)) if s.init is not None)
    if combination(reduction) is None or not keeps_shape(fused, heavy[0]):
        return None
    if not all(_runs_along(n, reduction.axes[-1]) for n in loads(reduction.value) if not n.source.same_as(reduction.buffer)):
        return None
    width = constant(reduction.extents[-1])
    lanes = lanes_of(reduction, target)
    if not isinstance(width, int) or width < min(lanes, _LEAST_LANES):
        return None
    # Shorter vectors where fewer elements are then left to be computed one by one.
    shorter = [lanes >> i for i in range(lanes.bit_length()) if min(lanes, _LEAST_LANES) <= lanes >> i <= width]
    lanes = min(shorter, key=lambda n: width // n + width % n)
    program = _Program(fused, reduction, lanes, width)
    return program.build(), f"reduction of columns, {program.positions}x{program.vectors * lanes}"


def _runs_along(node: Any, axis: Any) -> bool:
    last = node.indices[-1] if node.indices else None
    others = [i for i in node.indices[:-1] if axis in set(tirx.analysis.undefined_vars(i))]
    if others or last is None:
        return not others and last is None
    return bool(last.same_as(axis)) or axis not in set(tirx.analysis.undefined_vars(last))


class _Program:
    def __init__(self, fused: Fused, reduction: Stage, lanes: int, width: int) -> None:
        self.reduction = reduction
        self.lanes = lanes
        self.width = width
        self.epilogue = Epilogue(fused, reduction)
        self.extents = [constant(e) for e in reduction.extents]
        self.taps = [constant(e) for e in reduction.reduced_extents]
        self.vectors = next(v for v in (2, 1) if width >= v * lanes)
        small = all(isinstance(t, int) for t in self.taps) and product(self.taps) <= 64
        self.positions = _POSITIONS if small and len(self.extents) > 2 else 1
        self.fused = fused

    def build(self) -> tirx.PrimFunc:
        """The function anew."""
        rows = product(self.extents[:-2]) if self.positions > 1 else product(self.extents[:-1])
        body = self.shared(rows)
        function = self.fused.function
        return tirx.PrimFunc(list(function.params), sequence(self.epilogue.declared(), body), function.ret_type, function.attrs)

    def shared(self, rows: Any) -> Any:
        """Rows of positions on all threads; where there are few, blocks of columns."""
        across = self.extents[-2] if self.positions > 1 else 1
        work = product([across, self.width, *(t for t in self.taps if isinstance(t, int))])
        known = rows if isinstance(rows, int) else None
        if known is not None and isinstance(work, int) and known * work <= CHUNK:
            return loop("row", rows, lambda r: self.columns(r, 0, self.width))
        if (known is not None and known < 8) or (known is None and isinstance(work, int) and len(self.extents) == 2):
            step = self.vectors * self.lanes * max(1, self.width // (self.vectors * self.lanes) // 8)
            return parallel("block", ceildiv(self.width, step), lambda b: loop("row", rows, lambda r: self.columns(
                r, simplify(b * step), nest.minimum(step, self.width - b * step))))
        return parallel("row", rows, lambda r: self.columns(r, 0, self.width))

    def columns(self, row: Any, first: Any, count: Any) -> Any:
        """A row's columns: whole blocks, then vectors, then one by one."""
        wide = self.vectors * self.lanes

        def across(column: Any, vectors: int, lanes: int) -> Any:
            if self.positions == 1:
                return self.tile([row], column, vectors, lanes)
            extent = self.extents[-2]
            whole = extent // self.positions if isinstance(extent, int) else simplify(tirx.floordiv(extent, index(self.positions)))
            left = extent - whole * self.positions
            return sequence(
                loop("across", whole, lambda a: self.tile([simplify(row * extent + a * self.positions + p) for p in range(self.positions)],
                                                          column, vectors, lanes)) if not (isinstance(whole, int) and whole == 0) else None,
                loop("rest", left, lambda a: self.tile([simplify(row * extent + whole * self.positions + a)], column, vectors, lanes))
                if not (isinstance(left, int) and left == 0) else None)

        def part(start: Any, count: Any, size: int, body: Callable[[Any], Any]) -> tuple[Any, Any, Any]:
            many = count // size if isinstance(count, int) else simplify(tirx.floordiv(count, index(size)))
            statement = None if isinstance(many, int) and many == 0 else loop("block", many, lambda b: body(simplify(start + b * size)))
            return statement, simplify(start + many * size) if not isinstance(many, int) or not isinstance(start, int) else start + many * size, \
                constant(simplify(index(count) - many * size))

        blocks, start, left = part(first, count, wide, lambda c: across(c, self.vectors, self.lanes))
        vectors, start, left = part(start, left, self.lanes, lambda c: across(c, 1, self.lanes)) if self.vectors > 1 else (None, start, left)
        single, _, _ = part(start, left, 1, lambda c: across(c, 1, 1))
        return sequence(blocks, vectors, single)

    def tile(self, rows: list[Any], column: Any, vectors: int, lanes: int) -> Any:
        """Some positions by some vectors: sums stay in registers over all taps."""
        reduction = self.reduction
        dtype = str(reduction.buffer.ty.dtype)
        combine = combination(reduction)
        assert combine is not None
        sums = Local("sums", len(rows) * vectors * lanes, dtype)
        places = [(i, v, (i * vectors + v) * lanes) for i in range(len(rows)) for v in range(vectors)]
        at = [nest.unravel(r, self.extents[:-1]) for r in rows]

        def run(lane_body: Callable[[Any], Any]) -> Any:
            return nest.vectorized("lane", lanes, lane_body) if lanes > 1 else lane_body(index(0))

        def started(place: int) -> Any:
            return run(lambda lane: sums.store(simplify(lane + place), reduction.init))

        def step(taps: list[Any], operand: Any) -> Any:
            def one(i: int, v: int, place: int) -> Any:
                def body(lane: Any) -> Any:
                    where = dict(zip(reduction.axes, [*at[i], simplify(column + v * lanes + lane)], strict=True))
                    where.update(zip(reduction.reduced, taps, strict=True))
                    value = nest.substitute(operand, where)
                    return sums.store(simplify(lane + place), combine.apply(sums.load(simplify(lane + place)), value))

                return run(body)

            return sequence([one(*p) for p in places])

        def descend(level: int, taps: list[Any], operand: Any) -> Any:
            if level == len(self.taps):
                return step(taps, operand)
            return loop("tap", self.taps[level], lambda t: descend(level + 1, [*taps, t], operand))

        guarded = descend(0, [], combine.operand)
        inside, plain = self.unguarded(combine.operand, [at[0], at[-1]])
        swept = guarded if inside is None else branch(inside, descend(0, [], plain), guarded)

        stored = [run(lambda lane, i=i, v=v, p=p: self.epilogue.store(  # type: ignore[misc]
            rows[i], simplify(column + v * lanes + lane), sums.load(simplify(lane + p)))) for i, v, p in places]
        return sequence(sums.allocate(), [started(p) for _, _, p in places], swept, stored)

    def unguarded(self, operand: Any, ends: list[list[Any]]) -> tuple[Any, Any]:
        """When all taps of a tile lie inside (None if nothing is guarded), and the operand without its guards.

        Guards are conjunctions of inequalities that are linear in positions and taps: where they hold at the ends, they hold between.
        """
        guards: list[Any] = []

        def visit(node: Any) -> Any:
            if is_choice(node):
                guards.append(node.args[0])
                return node.args[1]
            return node

        plain = tvm_ffi.structural_map(operand, (Call, visit))
        if not guards or not all(isinstance(t, int) for t in self.taps):
            return None, operand
        conditions = []
        for corner in itertools.product(*[(0, t - 1) for t in self.taps]):
            for end in ends:
                where = dict(zip(self.reduction.axes[:-1], end, strict=True))
                where.update(zip(self.reduction.reduced, map(index, corner), strict=True))
                conditions += [nest.substitute(g, where) for g in guards]
        return tirx.all(*conditions), plain
