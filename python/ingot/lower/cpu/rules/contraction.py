"""Matrix products and convolutions: register tiles of rows by vectors, whose results go through the fused epilogue to memory once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from tvm import tirx

from ingot.lower.cpu import arithmetic, nest, prefetch
from ingot.lower.cpu.contraction import ANNOTATION, Contraction
from ingot.lower.cpu.epilogue import Epilogue
from ingot.lower.cpu.fused import Fused, Stage, keeps_shape, loads
from ingot.lower.cpu.nest import Local, branch, ceildiv, constant, index, loop, parallel, product, sequence, simplify
from ingot.lower.targets import Target

L2_SHARE = 256 * 1024  # bytes of X that a task keeps in its core's second-level cache, half of the smallest in use (512 KiB)
TASKS = 16  # for each dimension that is split, at the least: two threads then differ by 6 % at most
_MANY = 1 << 30  # tiles of rows
_UNROLLED_EPILOGUE = 24  # expression nodes; longer epilogues run as a loop over the tile's rows


def rule(fused: Fused, target: Target) -> tuple[tirx.PrimFunc, str] | None:
    """Schedules a function around one contraction."""
    found = contraction_of(fused)
    if found is None:
        return None
    program = Program(fused, *found, target)
    return program.build(), program.name


def contraction_of(fused: Fused) -> tuple[Stage, Contraction] | None:
    """The one contraction that a function is made around, if that is what it is."""
    anchors = [s for s in fused.stages if ANNOTATION in s.annotations]
    if len(anchors) != 1 or not all(s.is_map for s in fused.stages if s is not anchors[0]) or not keeps_shape(fused, anchors[0]):
        return None
    return anchors[0], Contraction.parse(anchors[0].annotations[ANNOTATION])


@dataclass
class TileAtWork:
    """A tile at work: its first row, its column block, its part of k, and what it prefetches: its share of the weights from step ``later`` on."""

    first: Any
    block: Any
    rows: int
    later: Any
    share: prefetch.Share
    part: Part | None = None
    whole: bool = False  # all of its rows exist


@dataclass
class Part:
    """One of several parts of k: sums go from one to the next through memory, from ``place`` on."""

    number: Any
    partial: Local
    place: Any


class Program:
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
        self.step_bytes = what.tile.columns * what.together * np.dtype(self.how.w).itemsize
        self.depth = self.part_of_k()  # steps

    @property
    def name(self) -> str:
        """What ``ingot inspect`` calls the schedule."""
        what = self.what
        kind = "x".join(str(k) for k in what.window) + " convolution" if what.window else "matmul"
        if what.groups > 1:
            kind = f"grouped {kind}"
        if what.arithmetic != "float32":
            kind = f"{kind} in {what.arithmetic}"
        return f"{kind}, tile {what.rows}x{what.vectors * what.lanes}"

    def part_of_k(self) -> int:
        """How many steps a tile runs at once: all, or a part where a block of weights does not fit the second-level cache beside the next one.

        Chains of 128 rows by 768 x 3072 x 768 took 0.85 of the time on one thread and 0.9 on two.
        """
        what = self.what
        if what.steps * self.step_bytes <= L2_SHARE or what.taps > 1 or what.batch > 1:
            return what.steps
        most = L2_SHARE // 2 // self.step_bytes
        return next((d for d in range(most, most // 2, -1) if what.steps % d == 0), what.steps)

    # ---- Loops over tiles -----------------------------------------------------------------------------------

    def build(self) -> tirx.PrimFunc:
        """The function."""
        body = self.nest()
        function = self.fused.function
        body = arithmetic.with_definitions(sequence(self.after.declared(), body), self.how)
        body = prefetch.with_function(body, self.target)
        return tirx.PrimFunc(list(function.params), body, function.ret_type, function.attrs)

    def nest(self) -> Any:
        """Tasks of column blocks or of rows: of blocks where the weights are larger than what goes in and out, so that each thread reads its own."""
        what = self.what
        blocks = what.groups * what.blocks
        tiles = ceildiv(self.rows, what.rows)
        if what.batch > 1:
            return parallel("outer", what.batch * blocks, lambda t: self.panel(t, 1, 1, 0, tiles, _MANY))
        known = product(e for e in self.extents[:-1] if isinstance(e, int))  # for one image or sequence, if the batch is symbolic
        deep, share = (self.depth * what.together, 2 * L2_SHARE) if self.depth < what.steps else (what.taps * what.depth, L2_SHARE)
        together = max(1, share // (what.rows * deep * np.dtype(self.how.x).itemsize))
        likely = max(1, -(-known // what.rows)) if isinstance(known, int) else 1
        weights = what.taps * what.depth * what.columns * what.groups
        if known * (what.depth + what.columns) * what.groups < weights:
            width = max(1, blocks // TASKS)
            wide = -(-blocks // width)
            few = wide < TASKS // 2 and likely > 1
            if few:  # too few column blocks to share evenly: tasks of a part of the rows, for which the weights are read once more
                together = min(together, max(1, likely * wide // TASKS))
            groups = ceildiv(tiles, together)

            def panel(t: Any, g: Any) -> Any:
                return self.panel(t * width, width, nest.minimum(width, blocks - t * width), g * together,
                                  nest.minimum(together, tiles - g * together), together)

            if few:
                return parallel("outer", wide * groups, lambda t: panel(simplify(tirx.floordiv(t, groups)), simplify(tirx.floormod(t, groups))))
            return parallel("outer", wide, lambda t: loop("group", groups, lambda g: panel(t, g)))
        together = min(together, max(1, likely // TASKS))
        return parallel("outer", ceildiv(tiles, together), lambda t: self.panel(
            index(0), blocks, blocks, t * together, nest.minimum(together, tiles - t * together), together))

    def panel(self, first_block: Any, most_blocks: int, blocks: Any, first_tile: Any, tiles: Any, most: int) -> Any:
        """Groups of column blocks whose weights stay in the second-level cache; under each group the tiles of rows, each block by block.

        So the results, and what is added to them, are read and written in runs longer than a tile's columns. Blocks that are larger than that come
        in parts of k, each of them for every tile.
        """
        what = self.what
        together = max(1, L2_SHARE // (self.depth * self.step_bytes))

        def group(first: Any, count: Any, later: Callable[[Any], Any], part: Callable[[Any, Any], Part | None]) -> Any:
            return loop("tile", constant(tiles), lambda t: loop("block", constant(count), lambda b: self.rows_left(TileAtWork(
                simplify((first_tile + t) * what.rows), simplify(first_block + first + b), what.rows, later(first_block + first + b),
                self.share(t, constant(tiles), most), part(first + b, t)))))

        if self.depth < what.steps:
            return self.parts(group, first_block, most_blocks, blocks, most)
        if isinstance(blocks, int) and blocks <= together:
            together = blocks
        cached = together == what.groups * what.blocks  # every tile reads all of the weights
        return loop("blocks", ceildiv(blocks, together), lambda g: group(
            simplify(g * together), nest.minimum(together, blocks - g * together) if not isinstance(blocks, int) or blocks % together else together,
            lambda block: None if cached else (block + together) * what.steps, lambda block, t: None))

    def parts(self, group: Callable[..., Any], first_block: Any, most_blocks: int, blocks: Any, most: int) -> Any:
        """A part of k for every tile and a few column blocks, then the next part; ``most`` tiles keep their sums in memory meanwhile."""
        what = self.what
        size = most * what.rows * what.tile.columns  # of the sums of one block
        few = min(most_blocks, max(1, L2_SHARE // (size * np.dtype(self.dtype).itemsize)))
        partial = Local("partial", size * few, self.dtype)

        def together(g: Any) -> Any:
            start = simplify(g * few)
            count = constant(nest.minimum(few, blocks - start) if not isinstance(blocks, int) or blocks % few else few)

            def later(number: Any, block: Any) -> Any:
                """The same part of the next block; after the last block, the next part of the first."""
                return simplify(tirx.Select(block < first_block + start + count - 1, (block + 1) * what.steps + number * self.depth,
                                            (first_block + start) * what.steps + (number + 1) * self.depth))

            return loop("part", what.steps // self.depth, lambda p: loop("blocks", count, lambda b: group(
                simplify(start + b), 1, lambda block: later(p, block),
                lambda block, t: Part(p, partial, simplify(b * size + t * (what.rows * what.tile.columns))))))

        return sequence(partial.allocate(), loop("few", ceildiv(blocks, few), together))

    def share(self, number: Any, tiles: Any, most: int) -> prefetch.Share:
        """What one of a group's tiles is to fetch: where their number is not known, that of one image or sequence, up to ``most``, if it is."""
        known = product(e for e in self.extents[:-1] if isinstance(e, int))
        likely = min(most, -(-known // self.what.rows))
        if isinstance(tiles, int) or likely == 1:
            return prefetch.Share(number, tiles)
        return prefetch.Share(simplify(tirx.floormod(number, likely)), likely)

    def rows_left(self, tile: TileAtWork) -> Any:
        """A whole tile; at the end of the rows one that is not much taller than what is left, or shorter ones."""
        rows = self.what.rows
        short = [r for r in (1, max(2, rows // 2)) if r < rows]
        if isinstance(self.rows, int) and self.rows % rows == 0:
            return self.tile(replace(tile, whole=True))
        # Neither clamped nor guarded, MobileNetV2 takes 0.93 of the time; in int8 ResNet-50 took 1.1 times as long.
        exact = self.what.arithmetic == "float32"
        whole = self.tile(replace(tile, whole=exact))
        if isinstance(self.rows, int):
            left = self.rows % rows
            fitting = next((r for r in short if r >= left), rows)
            end = self.tile(replace(tile, rows=fitting, whole=fitting == left))
            return end if self.rows < rows else branch(tile.first + rows <= self.rows, whole, end)
        alone = tile.share if isinstance(tile.share.tiles, int) else prefetch.Share(index(0), 1)  # of few rows a short tile may be the only one
        if not exact:
            for r in reversed(short):
                whole = branch(self.rows - tile.first <= r, self.tile(replace(tile, rows=r, share=alone)), whole)
            return whole
        end = None
        if short:
            lower = replace(tile, rows=short[-1], share=alone)
            end = loop("lower", ceildiv(self.rows - tile.first, short[-1]), lambda i: self.tile(self.moved(lower, i * short[-1])))
        if len(short) > 1:
            end = branch(self.rows - tile.first <= 1, self.tile(replace(tile, rows=1, share=alone, whole=True)), end)
        return branch(tile.first + rows <= self.rows, whole, end)

    def moved(self, tile: TileAtWork, rows: Any) -> TileAtWork:
        """A tile some rows further."""
        part = tile.part and replace(tile.part, place=simplify(tile.part.place + rows * self.what.tile.columns))
        return replace(tile, first=simplify(tile.first + rows), part=part)

    # ---- One tile -------------------------------------------------------------------------------------------

    def tile(self, tile: TileAtWork) -> Any:
        """The sums of one tile, and what becomes of them."""
        what, lanes = self.what, self.what.lanes
        sums = Local("sums", tile.rows * what.tile.columns, self.dtype)
        clamped, places = Local("rows", tile.rows, "int64"), Local("starts", tile.rows, "int64")
        group = simplify(tirx.floordiv(tile.block, what.blocks)) if what.groups > 1 else index(0)
        base = simplify(tirx.floordiv(tile.block, what.blocks) * self.rows) if what.batch > 1 else index(0)
        # Stored rather than bound to names: TVM's code generator simplifies what contains a bound name with the name's value in place, which
        # with symbolic extents takes seconds for each function.
        bound = [clamped.allocate(), places.allocate(), *(sequence(
            clamped.store(i, simplify(base + self.row(tile, i))), places.store(i, self.start(clamped.load(i), group)))
            for i in range(tile.rows))]
        starts = [places.load(i) for i in range(tile.rows)]
        zero = tirx.Broadcast(tirx.const(0, self.dtype), lanes)
        zeros = [sums.store(i * what.tile.columns + v * lanes, zero, lanes) for i in range(tile.rows) for v in range(what.vectors)]

        def step(offset: Any, at: Any) -> Any:
            """One step along k: ``offset`` from the starts in X, position ``at`` among the rows of the packed block."""
            statements = []
            base = (tile.block * what.steps + at) * what.tile.columns
            weights = [self.how.weights(self.after.view(self.w), (base + v * lanes) * what.together, lanes) for v in range(what.vectors)]
            for i, start in enumerate(starts):
                element = self.how.element(self.after.view(self.x), start + offset, lanes)
                for v in range(what.vectors):
                    place = i * what.tile.columns + v * lanes
                    statements.append(sums.store(place, self.how.add(sums.load(place, lanes), element, weights[v], lanes), lanes))
            return sequence(*statements)

        if tile.part is None:
            return sequence(sums.allocate(), bound, zeros, self.taps(tile, step), self.epilogue(tile, sums))
        part = tile.part
        places_of_sums = range(0, tile.rows * what.tile.columns, lanes)
        resumed = [sums.store(p, part.partial.load(simplify(part.place + p), lanes), lanes) for p in places_of_sums]
        kept = [part.partial.store(simplify(part.place + p), sums.load(p, lanes), lanes) for p in places_of_sums]
        last = what.steps // self.depth - 1
        return sequence(sums.allocate(), bound, branch(part.number == 0, sequence(*zeros), sequence(*resumed)), self.taps(tile, step),
                        branch(part.number == last, self.epilogue(tile, sums), sequence(*kept)))

    def absolute(self, tile: TileAtWork, row: Any) -> Any:
        """A row of one product among the rows of all."""
        return simplify(tirx.floordiv(tile.block, self.what.blocks) * self.rows + row) if self.what.batch > 1 else row

    def row(self, tile: TileAtWork, i: int) -> Any:
        """The i-th row of a tile; rows past the end read the last one, and are not stored."""
        row = simplify(tile.first + i)
        return row if tile.whole else nest.minimum(row, self.rows - 1)

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

    def taps(self, tile: TileAtWork, step: Callable[[Any, Any], Any]) -> Any:
        """The reduction: loops over the window, then over k; axes that lie side by side in X and W are one loop.

        The innermost is in stretches, each of which begins with a fetch of later weights.
        """
        what = self.what
        shape = [constant(d) for d in self.x.ty.shape]
        loops: list[tuple[int, Any]] = []  # extent, stride in X
        stride: Any = shape[-1]
        for axis in reversed(range(len(what.window))):
            if what.window[axis] > 1:
                loops.insert(0, (what.window[axis], stride * what.dilations[axis]))
            stride = stride * shape[len(shape) - 1 - len(what.window) + axis]
        loops.append((what.depth // what.together, what.together))
        while len(loops) > 1 and isinstance(loops[-2][1], int) and loops[-2][1] == loops[-1][0] * loops[-1][1]:
            (outer, _), (inner, step_size) = loops[-2:]
            loops[-2:] = [(outer * inner, step_size)]

        if tile.part is not None:
            (_, stride), = loops
            loops, before = [(self.depth, stride)], tile.part.number * self.depth
        else:
            before = index(0)
        extent, stride = loops[-1]
        fetches = None if tile.later is None else prefetch.plan(self.after.view(self.w), what, tile.share, self.depth, extent, self.target)
        every = fetches.every if fetches else extent

        def steps(first: Any, count: int, offset: Any, at: Any) -> Any:
            return loop("k", count, lambda i: step(
                simplify(offset + (before + first + i) * stride), simplify(at + before + first + i)))

        def innermost(offset: Any, at: Any) -> Any:
            if fetches is None:
                return steps(0, extent, offset, at * extent)
            times = extent // every
            stretches = loop("stretch", times, lambda s: sequence(
                fetches.fetch(tile.later, simplify(at * times + s)), steps(s * every, every, offset, at * extent)))
            return sequence(stretches, steps(times * every, extent % every, offset, at * extent) if extent % every else None)

        def descend(level: int, offset: Any, at: Any) -> Any:
            if level == len(loops) - 1:
                return innermost(offset, at)
            extent, stride = loops[level]
            return loop("k", extent, lambda i: descend(level + 1, offset + i * stride, at * extent + i))

        return descend(0, index(0), index(0))

    # ---- The epilogue ---------------------------------------------------------------------------------------

    def epilogue(self, tile: TileAtWork, sums: Local) -> Any:
        """Stores a tile, through whatever was fused; straight from registers where whole blocks of columns are stored."""
        what = self.what
        wide = what.tile.columns
        part = tile.block if what.groups == 1 and what.batch == 1 else simplify(tirx.floormod(tile.block, what.blocks))
        column = simplify(part * wide) if what.groups == 1 else simplify(tirx.floordiv(tile.block, what.blocks) * what.columns + part * wide)
        left = what.columns - part * wide
        whole = self.rows_stored(tile, sums, column)
        if what.columns % wide == 0:
            return whole
        return branch(left >= wide, whole, self.narrow(tile, sums, column, simplify(left)))

    def rows_stored(self, tile: TileAtWork, sums: Local, column: Any) -> Any:
        """A whole block of columns."""
        if self.after.size <= _UNROLLED_EPILOGUE:
            return sequence(*[self.row_stored(tile, sums, i, column) for i in range(tile.rows)])
        copy, saved = self.saved(tile, sums)
        return sequence(saved, loop("row", tile.rows, lambda i: self.row_stored(tile, copy, i, column)))

    def row_stored(self, tile: TileAtWork, source: Local, i: Any, column: Any) -> Any:
        """The i-th row of a whole block of columns."""
        what, lanes = self.what, self.what.lanes
        row, at = simplify(tile.first + i), i * what.tile.columns

        def vector(v: int) -> Any:
            return nest.vectorized("lane", lanes, lambda lane: self.after.store(
                self.absolute(tile, row), simplify(column + v * lanes + lane), source.load(simplify(at + v * lanes + lane))))

        vectors = [vector(v) for v in range(what.vectors)]
        return branch(row < self.rows, sequence(*vectors)) if not tile.whole else sequence(*vectors)

    def narrow(self, tile: TileAtWork, sums: Local, column: Any, left: Any) -> Any:
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
            return stored if tile.whole else branch(at < self.rows, stored)

        return sequence(saved, loop("row", self.count(tile), row))

    def count(self, tile: TileAtWork) -> Any:
        """How many rows of a tile may be stored."""
        return tile.rows

    def saved(self, tile: TileAtWork, sums: Local) -> tuple[Local, list[Any]]:
        """A copy of the sums that may be indexed by loops: indexing the sums themselves would keep them out of registers."""
        lanes = self.what.lanes
        copy = Local("tile", tile.rows * self.what.tile.columns, self.dtype)
        places = range(0, tile.rows * self.what.tile.columns, lanes)
        return copy, [copy.allocate(), *(copy.store(p, sums.load(p, lanes), lanes) for p in places)]


def _operands(anchor: Stage) -> tuple[Any, Any]:
    """X and W of a contraction's block."""
    others = [n.source for n in loads(anchor.value) if not n.source.same_as(anchor.buffer)]
    return others[0], others[1]
