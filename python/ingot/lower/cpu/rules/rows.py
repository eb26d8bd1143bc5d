"""Reductions over the last axes, row by row: softmax, layer normalization, sums and means. A row stays in the first-level cache.

All stages of such a function share their leading axes, the rows. Each row runs all stages in turn: reductions into scalars, with one
vector of partial results for each of a few chains; element-wise stages that several others read into a buffer of the row's length;
outputs into the result.
"""

from __future__ import annotations

from typing import Any

import tvm_ffi
from tvm import tirx
from tvm.ir import Call
from tvm.ir.expr import TensorLoad

from ingot.lower.cpu import nest
from ingot.lower.cpu.fused import Fused, Stage, combination, loads
from ingot.lower.cpu.nest import Local, constant, index, loop, product, sequence, simplify
from ingot.lower.cpu.rules.maps import CHUNK, contiguous, lanes_of, shared, stretch
from ingot.lower.targets import Target

_CHAINS = 4  # vectors of partial results: additions that do not wait for one another


def rule(fused: Fused, target: Target) -> tuple[tirx.PrimFunc, str] | None:
    """Schedules a function of reductions over trailing axes."""
    heavy = [s for s in fused.stages if s.init is not None]
    if not heavy or any(combination(s) is None for s in heavy):
        return None
    shared = min(len(_kept(s)) for s in heavy)
    program = _Program(fused, target, shared)
    return (program.build(), f"rows, {len(heavy)} reduction{'s' if len(heavy) > 1 else ''}") if program.fits() else None


def _kept(stage: Stage) -> list[Any]:
    """The axes of a reduction's result without trailing ones of extent 1."""
    axes = list(stage.axes)
    while axes and constant(stage.extents[len(axes) - 1]) == 1:
        axes.pop()
    return axes


class _Program:
    def __init__(self, fused: Fused, target: Target, shared: int) -> None:
        self.fused = fused
        self.target = target
        self.shared = shared  # leading axes that all stages share: the rows
        self.extents = [constant(e) for e in fused.stages[-1].extents[:shared]]
        self.stages = self._inlined()
        self.scalars: dict[Any, Local] = {}
        self.buffers: dict[Any, Any] = {}
        self.parameters = set(fused.function.params)

    def _inlined(self) -> list[Stage]:
        """The stages that are computed on their own: reductions, outputs, and what more than one of them reads and is worth keeping."""
        readers: dict[Any, int] = {}
        for stage in self.fused.stages:
            for buffer in {n.source for n in loads(stage.value)}:
                readers[buffer] = readers.get(buffer, 0) + 1
        keep = tuple(s for s in self.fused.stages if s.init is not None or (readers.get(s.buffer, 0) > 1 and _costly(s.value)))
        return self.fused.inlined(keep=keep)

    def fits(self) -> bool:
        """Whether every stage runs within rows, and every operand runs along the axes that are reduced."""
        for stage in self.stages:
            if len(stage.axes) < self.shared or any(constant(simplify(a - b)) != 0 for a, b in zip(
                    map(index, map(constant, stage.extents[: self.shared])), map(index, self.extents), strict=True)):
                return False
            inner = stage.reduced if stage.init is not None else stage.axes[self.shared :]
            if stage.init is not None and any(constant(e) != 1 for e in stage.extents[self.shared :]):
                return False
            for node in loads(stage.value):
                producer = next((s for s in self.stages if s.buffer.same_as(node.source)), None)
                if producer is not None and not stage.buffer.same_as(node.source) and not all(
                        i.same_as(a) for i, a in zip(node.indices[: self.shared], stage.axes, strict=False)):
                    return False
            if not inner and stage.init is not None:
                return False
        return True

    def build(self) -> tirx.PrimFunc:
        """The function anew."""
        rows = product(self.extents)
        longest = max((constant(product(s.reduced_extents)) for s in self.stages if s.init is not None), key=lambda e: e if isinstance(e, int) else 0)
        body = shared(rows, longest, self.row, CHUNK // 4)
        function = self.fused.function
        return tirx.PrimFunc(list(function.params), body, function.ret_type, function.attrs)

    def row(self, position: Any) -> Any:
        """All stages of one row."""
        at = nest.unravel(position, self.extents)
        self.scalars, self.buffers = {}, {}
        statements: list[Any] = []
        for stage in self.stages:
            statements.append(self.reduced(stage, at) if stage.init is not None else self.mapped(stage, at))
            if stage.init is not None and stage.buffer in self.parameters:
                rest = [index(0)] * (len(stage.axes) - self.shared)
                statements.append(tirx.BufferStore(stage.buffer, self.scalars[stage.buffer].load(0), [*at, *rest]))
        return sequence(statements)

    def value(self, expression: Any, stage: Stage, at: list[Any]) -> Any:
        """An expression at a row, with the results of earlier stages from where they are kept."""
        where = dict(zip(stage.axes[: self.shared], at, strict=True))

        def load(node: Any) -> Any:
            if node.source in self.scalars:
                return self.scalars[node.source].load(0)
            if node.source in self.buffers:
                return tirx.BufferLoad(self.buffers[node.source], list(node.indices[self.shared :]))
            return node

        return nest.substitute(tvm_ffi.structural_map(expression, (TensorLoad, load)), where)

    def mapped(self, stage: Stage, at: list[Any]) -> Any:
        """An element-wise stage of one row."""
        inner = stage.axes[self.shared :]
        extents = [constant(e) for e in stage.extents[self.shared :]]
        value = self.value(stage.value, stage, at)
        if stage.buffer in self.parameters:
            def put(indices: list[Any], element: Any) -> Any:
                return tirx.BufferStore(stage.buffer, element, [*at, *indices])
            before = None
        elif not inner or all(e == 1 for e in extents):
            kept = Local(stage.name, 1, str(stage.buffer.ty.dtype))
            self.scalars[stage.buffer] = kept
            return sequence(kept.allocate(), kept.store(0, nest.substitute(value, dict.fromkeys(inner, index(0)))))
        else:
            buffer = tirx.decl_buffer([index(e) for e in extents], str(stage.buffer.ty.dtype), name=f"{stage.name}_row")
            self.buffers[stage.buffer] = buffer

            def put(indices: list[Any], element: Any) -> Any:
                return tirx.BufferStore(buffer, element, indices)
            before = tirx.AllocBuffer(buffer)
        if not inner:
            return put([], value)
        lanes = lanes_of(stage, self.target) if all(contiguous(n, inner[-1]) for n in loads(value)) else 1
        return sequence(before, self.over(list(inner[:-1]), extents[:-1], {}, lambda where: stretch(extents[-1], lanes, lambda p: put(
            [*(where[a] for a in inner[:-1]), p], nest.substitute(value, {**where, inner[-1]: p})))))

    def over(self, axes: list[Any], extents: list[Any], where: dict[Any, Any], body: Any) -> Any:
        """Loops over axes around a body that gets their positions."""
        if not axes:
            return body(where)
        return loop("i", extents[0], lambda i: self.over(axes[1:], extents[1:], {**where, axes[0]: i}, body))

    def reduced(self, stage: Stage, at: list[Any]) -> Any:
        """A reduction of one row into a scalar."""
        combine = combination(stage)
        assert combine is not None
        dtype = str(stage.buffer.ty.dtype)
        operand = nest.substitute(self.value(combine.operand, stage, at), dict.fromkeys(stage.axes[self.shared :], index(0)))
        inner, extents = list(stage.reduced), [constant(e) for e in stage.reduced_extents]
        lanes = lanes_of(stage, self.target) if all(contiguous(n, inner[-1]) for n in loads(operand)) else 1
        total = Local(f"{stage.name}_sum", 1, dtype)
        self.scalars[stage.buffer] = total
        first = total.store(0, stage.init)

        def one(where: dict[Any, Any], position: Any) -> Any:
            return nest.substitute(operand, {**where, inner[-1]: position})

        def single(where: dict[Any, Any], position: Any) -> Any:
            return total.store(0, combine.apply(total.load(0), one(where, position)))

        if lanes == 1:
            return sequence(total.allocate(), first, self.over(inner, extents, {}, lambda where: total.store(
                0, combine.apply(total.load(0), nest.substitute(operand, where)))))
        wide = _CHAINS * lanes
        partial = Local(f"{stage.name}_partial", wide, dtype)
        width = extents[-1]
        many = width // wide if isinstance(width, int) else simplify(tirx.floordiv(width, index(wide)))

        def vectors(where: dict[Any, Any]) -> Any:
            def chain(v: Any, c: int) -> Any:
                def added(lane: Any) -> Any:
                    place = simplify(lane + c * lanes)
                    return partial.store(place, combine.apply(partial.load(place), one(where, simplify(v * wide + c * lanes + lane))))

                return nest.vectorized("lane", lanes, added)

            def step(v: Any) -> Any:
                return sequence([chain(v, c) for c in range(_CHAINS)])

            whole = None if isinstance(many, int) and many == 0 else loop("v", many, step)
            left = simplify(index(width) - many * wide)
            rest = None if isinstance(constant(left), int) and constant(left) == 0 else loop(
                "i", constant(left), lambda i: single(where, simplify(many * wide + i)))
            return sequence(whole, rest)

        starts = [nest.vectorized("lane", lanes, lambda lane, c=c: partial.store(simplify(lane + c * lanes), stage.init))  # type: ignore[misc]
                  for c in range(_CHAINS)]
        joined = []
        half = wide // 2
        while half >= 1:
            joined.append(nest.vectorized("lane", half, lambda lane, h=half: partial.store(  # type: ignore[misc]
                lane, combine.apply(partial.load(lane), partial.load(simplify(lane + h))))) if half > 1 else
                partial.store(0, combine.apply(partial.load(0), partial.load(1))))
            half //= 2
        return sequence(total.allocate(), partial.allocate(), first, starts, self.over(inner[:-1], extents[:-1], {}, vectors), joined,
                        total.store(0, combine.apply(total.load(0), partial.load(0))))


def _costly(value: Any) -> bool:
    """Whether a value calls an intrinsic, such as exp, which is not to be computed twice."""
    found = False

    def visit(node: Any) -> Any:
        nonlocal found
        found = True
        return node

    tvm_ffi.structural_map(value, (Call, visit))
    return found
