"""Matrix products and convolutions: register tiles of rows by vectors, whose results go through the fused epilogue to memory once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import tirx

from ingot.lower.cpu import arithmetic, nest, prefetch
from ingot.lower.cpu.contraction import ANNOTATION, Contraction
from ingot.lower.cpu.epilogue import Epilogue
from ingot.lower.cpu.fused import Fused, Stage, keeps_shape, loads
from ingot.lower.cpu.nest import Local, branch, ceildiv, constant, index, loop, parallel, product, sequence, simplify
from ingot.lower.targets import Target

_L2_SHARE = 256 * 1024  # bytes of X that a task keeps in its core's second-level cache, half of the smallest in use (512 KiB)
_TASKS = 16  # for each dimension that is split, at the least: two threads then differ by 6 % at most
_UNROLLED_EPILOGUE = 24  # expression nodes; longer epilogues run as a loop over the tile's rows


def rule(fused: Fused, target: Target) -> tuple[tirx.PrimFunc, str] | None:
    """Schedules a function around one contraction."""
    anchors = [s for s in fused.stages if ANNOTATION in s.annotations]
    if len(anchors) != 1 or not all(s.is_map for s in fused.stages if s is not anchors[0]) or not keeps_shape(fused, anchors[0]):
        return None
    what = Contraction.parse(anchors[0].annotations[ANNOTATION])
    program = _Program(fused, anchors[0], what, target)
    kind = "x".join(str(k) for k in what.window) + " convolution" if what.window else "matmul"
    if what.groups > 1:
        kind = f"grouped {kind}"
    if what.arithmetic != "float32":
        kind = f"{kind} in {what.arithmetic}"
    return program.build(), f"{kind}, tile {what.rows}x{what.vectors * what.lanes}"


@dataclass
class _Tile:
    """A tile at work: its first row, its column block, and what it prefetches: weights of the block that is ``ahead`` blocks further."""

    first: Any
    block: Any
    rows: int
    ahead: int
    share: prefetch.Share


class _Program:
    """Writes the loop nest of one contraction."""

    def __init__(self, fused: Fused, anchor: Stage, what: Contraction, target: Target) -> None:
        self.fused = fused
        self.what = what
        self.target = target
        self.how = arithmetic.find(what.arithmetic, target)
        self.anchor = anchor
        self.dtype = str(anchor.buffer.ty.dtype)
        self.x, self.w = _operands(anchor)
        self.after = Epilogue(fused, anchor)
        self.extents = [constant(e) for e in anchor.extents]
        self.rows = product(self.extents[(1 if what.batch > 1 else 0):-1])  # of one product

    # ---- Loops over tiles -----------------------------------------------------------------------------------

    def build(self) -> tirx.PrimFunc:
        body = self.nest()
        function = self.fused.function
        body = arithmetic.with_definitions(sequence(self.after.declared(), body), self.how)
        body = prefetch.with_functions(body, self.target)
        return tirx.PrimFunc(list(function.params), body, function.ret_type, function.attrs)

    def nest(self) -> Any:
        """Tasks of column blocks by rows: the larger operand is the outer one, so that each thread reads its own part of it."""
        what = self.what
        blocks = what.groups * what.blocks
        tiles = ceildiv(self.rows, what.rows)
        if what.batch > 1:
            return parallel("outer", what.batch * blocks, lambda t: self.panel(t, 1, 0, tiles))
        known = product(e for e in self.extents[:-1] if isinstance(e, int))  # for one image or sequence, if the batch is symbolic
        together = max(1, _L2_SHARE // (what.rows * what.taps * what.depth * np.dtype(self.how.x).itemsize))
        likely = max(1, -(-known // what.rows)) if isinstance(known, int) else 1
        if known < what.groups * what.columns:
            width = max(1, blocks // _TASKS)
            wide = -(-blocks // width)
            few = wide < _TASKS // 2 and likely > 1
            if few:  # too few column blocks to share evenly: tasks of a part of the rows, for which the weights are read once more
                together = min(together, max(1, likely * wide // _TASKS))
            groups = ceildiv(tiles, together)

            def panel(t: Any, g: Any) -> Any:
                return self.panel(t * width, nest.minimum(width, blocks - t * width), g * together, nest.minimum(together, tiles - g * together))

            if few:
                return parallel("outer", wide * groups, lambda t: panel(simplify(tirx.floordiv(t, groups)), simplify(tirx.floormod(t, groups))))
            return parallel("outer", wide, lambda t: loop("group", groups, lambda g: panel(t, g)))
        together = min(together, max(1, likely // _TASKS))
        return parallel("outer", ceildiv(tiles, together), lambda t: self.panel(
            index(0), blocks, t * together, nest.minimum(together, tiles - t * together)))

    def panel(self, first_block: Any, blocks: Any, first_tile: Any, tiles: Any) -> Any:
        """Groups of column blocks whose weights stay in the second-level cache; under each group the tiles of rows, each block by block.

        So the results, and what is added to them, are read and written in runs longer than a tile's columns.
        """
        rows = self.what.rows
        size = self.what.taps * self.what.depth * self.what.tile.columns * np.dtype(self.how.w).itemsize
        together = max(1, _L2_SHARE // size)

        def group(g: Any) -> Any:
            first = simplify(g * together)
            count = nest.minimum(together, blocks - g * together) if not isinstance(blocks, int) or blocks % together else together
            return loop("tile", constant(tiles), lambda t: loop("block", constant(count), lambda b: self.rows_left(
                simplify((first_tile + t) * rows), simplify(first_block + first + b), together, prefetch.Share(t, constant(tiles)))))

        if isinstance(blocks, int) and blocks <= together:
            together = blocks
        return loop("blocks", ceildiv(blocks, together), group)

    def rows_left(self, first: Any, block: Any, ahead: int, share: prefetch.Share) -> Any:
        """A whole tile; at the end of the rows one that is not much taller than what is left."""
        what = self.what
        whole = self.tile(_Tile(first, block, what.rows, ahead, share))
        alone = share if isinstance(share.tiles, int) else prefetch.Share(index(0), 1)  # of few rows a short tile may be the only one
        if isinstance(self.rows, int) and self.rows % what.rows == 0:
            return whole
        short = [r for r in (1, max(2, what.rows // 2)) if r < what.rows]
        if isinstance(self.rows, int):
            left = self.rows % what.rows
            fitting = next((r for r in short if r >= left), what.rows)
            if fitting == what.rows:
                return whole
            if self.rows < what.rows:
                return self.tile(_Tile(first, block, fitting, ahead, share))
            return branch(first + what.rows <= self.rows, whole, self.tile(_Tile(first, block, fitting, ahead, share)))
        for r in reversed(short):
            whole = branch(self.rows - first <= r, self.tile(_Tile(first, block, r, ahead, alone)), whole)
        return whole

    # ---- One tile -------------------------------------------------------------------------------------------

    def tile(self, tile: _Tile) -> Any:
        what, lanes = self.what, self.what.lanes
        sums = Local("sums", tile.rows * what.tile.columns, self.dtype)
        clamped, places = Local("rows", tile.rows, "int64"), Local("starts", tile.rows, "int64")
        group = simplify(tirx.floordiv(tile.block, what.blocks)) if what.groups > 1 else index(0)
        base = simplify(tirx.floordiv(tile.block, what.blocks) * self.rows) if what.batch > 1 else index(0)
        # Stored rather than bound to names: TVM's code generator simplifies what contains a bound name with the name's value in place, which
        # with symbolic extents takes seconds for each function.
        bound = [clamped.allocate(), places.allocate(), *(sequence(
            clamped.store(i, simplify(base + self.row(tile, i, clamped=True))), places.store(i, self.start(clamped.load(i), group)))
            for i in range(tile.rows))]
        starts = [places.load(i) for i in range(tile.rows)]
        zero = tirx.Broadcast(tirx.const(0, self.dtype), lanes)
        zeros = [sums.store(i * what.tile.columns + v * lanes, zero, lanes) for i in range(tile.rows) for v in range(what.vectors)]

        def step(offset: Any, at: Any) -> Any:
            """One step along k: ``offset`` from the starts in X, position ``at`` among the rows of the packed block."""
            statements = prefetch.step(self.after.view(self.w), what, tile.block, tile.ahead, at, tile.share)
            base = (tile.block * what.steps + at) * what.tile.columns
            weights = [self.how.weights(self.after.view(self.w), (base + v * lanes) * what.together, lanes) for v in range(what.vectors)]
            for i, start in enumerate(starts):
                element = self.how.element(self.after.view(self.x), start + offset, lanes)
                for v in range(what.vectors):
                    place = i * what.tile.columns + v * lanes
                    statements.append(sums.store(place, self.how.add(sums.load(place, lanes), element, weights[v], lanes), lanes))
            return sequence(*statements)

        return sequence(sums.allocate(), bound, zeros, self.taps(step), self.epilogue(tile, sums))

    def absolute(self, tile: _Tile, row: Any) -> Any:
        """A row of one product among the rows of all."""
        return simplify(tirx.floordiv(tile.block, self.what.blocks) * self.rows + row) if self.what.batch > 1 else row

    def row(self, tile: _Tile, i: int, clamped: bool = False) -> Any:
        """The i-th row of a tile; rows past the end read the last one, and are not stored."""
        row = simplify(tile.first + i)
        return nest.minimum(row, self.rows - 1) if clamped else row

    def start(self, row: Any, group: Any) -> Any:
        """Where in X the window of a row starts."""
        shape = [constant(d) for d in self.x.ty.shape]
        rank = len(self.what.window)
        channel = group * self.what.depth
        if all(k == 1 and stride == 1 for k, stride in zip(self.what.window, self.what.strides, strict=True)):  # rows of X are rows of the result
            return simplify(row * shape[-1] + channel)
        at = nest.unravel(row, self.extents[:-1])
        batch, positions = at[: len(at) - rank], at[len(at) - rank :]
        moved = [*batch, *(p * s for p, s in zip(positions, self.what.strides, strict=True))]
        offset: Any = index(0)
        for place, extent in zip(moved, shape[:-1], strict=True):
            offset = offset * extent + place
        return simplify(offset * shape[-1] + channel)

    def taps(self, step: Callable[[Any, Any], Any]) -> Any:
        """The reduction: loops over the window, then over k; axes that lie side by side in X and W are one loop."""
        what = self.what
        shape = [constant(d) for d in self.x.ty.shape]
        loops: list[tuple[int, Any]] = []  # extent, stride in X
        stride: Any = shape[-1]
        for axis in reversed(range(len(what.window))):
            loops.insert(0, (what.window[axis], stride * what.dilations[axis]))
            stride = stride * shape[len(shape) - 1 - len(what.window) + axis]
        loops.append((what.depth // what.together, what.together))
        while len(loops) > 1 and isinstance(loops[-2][1], int) and loops[-2][1] == loops[-1][0] * loops[-1][1]:
            (outer, _), (inner, step_size) = loops[-2:]
            loops[-2:] = [(outer * inner, step_size)]

        def descend(level: int, offset: Any, at: Any) -> Any:
            if level == len(loops):
                return step(simplify(offset), simplify(at))
            extent, stride = loops[level]
            return loop("k", extent, lambda i: descend(level + 1, offset + i * stride, at * extent + i))

        return descend(0, index(0), index(0))

    # ---- The epilogue ---------------------------------------------------------------------------------------

    def epilogue(self, tile: _Tile, sums: Local) -> Any:
        """Stores a tile, through whatever was fused; straight from registers where whole blocks of columns are stored."""
        what = self.what
        wide = what.tile.columns
        part = tile.block if what.groups == 1 and what.batch == 1 else simplify(tirx.floormod(tile.block, what.blocks))
        column = simplify(part * wide) if what.groups == 1 else simplify(tirx.floordiv(tile.block, what.blocks) * what.columns + part * wide)
        left = what.columns - part * wide
        direct = self.after.size <= _UNROLLED_EPILOGUE
        whole = self.rows_stored(tile, sums, column, direct)
        if what.columns % wide == 0:
            return whole
        return branch(left >= wide, whole, self.narrow(tile, sums, column, simplify(left)))

    def rows_stored(self, tile: _Tile, sums: Local, column: Any, direct: bool) -> Any:
        what = self.what
        lanes, wide = what.lanes, what.tile.columns

        def one(source: Local, i: Any, at: Any) -> Any:
            row = simplify(tile.first + i)

            def vector(v: int) -> Any:
                return nest.vectorized("lane", lanes, lambda lane: self.after.store(
                    self.absolute(tile, row), simplify(column + v * lanes + lane), source.load(simplify(at + v * lanes + lane))))

            vectors = [vector(v) for v in range(what.vectors)]
            return branch(row < self.rows, sequence(*vectors)) if not self.always(tile) else sequence(*vectors)

        if direct:
            return sequence(*[one(sums, i, i * wide) for i in range(tile.rows)])
        copy, saved = self.saved(tile, sums)
        return sequence(saved, loop("row", tile.rows, lambda i: one(copy, i, i * wide)))

    def narrow(self, tile: _Tile, sums: Local, column: Any, left: Any) -> Any:
        """A last block, with fewer columns than a tile: vectors as long as they fill, or one column at a time."""
        wide, lanes = self.what.tile.columns, self.what.lanes
        copy, saved = self.saved(tile, sums)

        def row(i: Any) -> Any:
            at = simplify(tile.first + i)
            if self.what.columns % lanes == 0:
                stored = loop("vector", simplify(tirx.floordiv(left, lanes)), lambda v: nest.vectorized("lane", lanes, lambda lane: self.after.store(
                    self.absolute(tile, at), simplify(column + v * lanes + lane), copy.load(simplify(i * wide + v * lanes + lane)))))
            else:
                stored = loop("c", left, lambda c: self.after.store(self.absolute(tile, at), simplify(column + c), copy.load(simplify(i * wide + c))))
            return stored if self.always(tile) else branch(at < self.rows, stored)

        return sequence(saved, loop("row", tile.rows, row))

    def always(self, tile: _Tile) -> bool:
        """Whether every tile of this height lies within the rows."""
        return isinstance(self.rows, int) and self.rows % self.what.rows == 0

    def saved(self, tile: _Tile, sums: Local) -> tuple[Local, list[Any]]:
        """A copy of the sums that may be indexed by loops: indexing the sums themselves would keep them out of registers."""
        lanes = self.what.lanes
        copy = Local("tile", tile.rows * self.what.tile.columns, self.dtype)
        places = range(0, tile.rows * self.what.tile.columns, lanes)
        return copy, [copy.allocate(), *(copy.store(p, sums.load(p, lanes), lanes) for p in places)]


def _operands(anchor: Stage) -> tuple[Any, Any]:
    """X and W of a contraction's block."""
    others = [n.source for n in loads(anchor.value) if not n.source.same_as(anchor.buffer)]
    return others[0], others[1]
