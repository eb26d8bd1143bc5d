"""Matrix products and convolutions by instructions that multiply matrices (Intel's AMX): tiles of two by two registers of 16 rows by 16 columns.

A register of X is 16 rows of 64 bytes of k, some distance apart; one of weights is 16 packed steps, as dot products of vectors read them, too. Rows
that lie in X at one distance, as those of matrix products do, are read there, if their length is a multiple of 64 bytes. Others, as those of a
convolution's windows, are gathered first, as are the last rows, of which there may be fewer than a register has: by the task that multiplies
them with all weights, or, where tasks divide the weights, by a parallel loop before.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import tirx
from tvm.ir import StringImm

from ingot.lower.cpu import arithmetic, matrix_code
from ingot.lower.cpu.arithmetic import MATRIX_BYTES, MATRIX_ROWS, MATRIX_STEPS
from ingot.lower.cpu.contraction import Contraction
from ingot.lower.cpu.fused import Fused, Stage
from ingot.lower.cpu.nest import Local, branch, ceildiv, index, loop, minimum, parallel, product, sequence, simplify
from ingot.lower.cpu.prefetch import Share
from ingot.lower.cpu.rules.contraction import Part, Program, TileAtWork, contraction_of
from ingot.lower.targets import Target

#: Bytes of a block of weights that all tiles of a task are multiplied with before the next ones: more would not leave room for their rows in a
#: second-level cache of 2 MiB.
_PART_BYTES = 160 << 10
#: And of these rows, of which more than so many are multiplied in groups.
_ROWS_BYTES = 640 << 10
_MANY_ROWS = 256
#: Of rows that are read as they lie before the next ones are.
_READ_BYTES = 1 << 20
#: Of the rows that are gathered at once.
_GATHERED_BYTES = 4 << 20

_LINES = 2 * MATRIX_ROWS  # cache lines of weights that a step reads: two registers


def rule(fused: Fused, target: Target) -> tuple[tirx.PrimFunc, str] | None:
    """Schedules a function around one contraction by matrices."""
    found = contraction_of(fused)
    if found is None:
        return None
    anchor, what = found
    if not arithmetic.find(what.arithmetic, target).matrices:
        return None
    program = _Program(fused, anchor, what, target)
    return program.build(), program.name


def _calls() -> tuple[Any, Any]:
    """What a thread does before its first and after its last matrix."""
    begin, end = (tirx.Evaluate(tirx.call_extern("void", f"ingot.matrices_{name}")) for name in ("begin", "end"))
    return begin, end


class _Within(Local):
    """A part of an array, from a place on."""

    def __init__(self, whole: Local, place: Any) -> None:
        self.buffer = whole.buffer
        self.place = place

    def load(self, at: Any, lanes: int = 1) -> Any:
        """The elements from an offset on."""
        return super().load(simplify(self.place + at), lanes)


class _Program(Program):
    """Writes the loop nest of one contraction by matrices."""

    def __init__(self, fused: Fused, anchor: Stage, what: Contraction, target: Target) -> None:
        super().__init__(fused, anchor, what, target)
        self.item = np.dtype(self.how.x).itemsize
        self.lanes = MATRIX_BYTES // self.item  # k in a row of a register
        plain = all(k == 1 and s == 1 for k, s in zip(what.window, what.strides, strict=True))
        self.lies = plain and what.groups == 1 and what.depth % self.lanes == 0
        lines = what.steps * what.together // self.lanes
        # An odd number of cache lines apart, rows do not meet in the same set of a cache.
        self.distance = (lines if lines % 2 else lines + 1) * self.lanes
        self.size = what.rows * self.distance  # of a tile's gathered rows
        self.held: Local | None = None  # gathered rows of all groups, tile by tile
        self.origin: Any = index(0)  # the first of them

    def part_of_k(self) -> int:
        """How many steps a tile runs at once: a part of them where a block of weights, or the rows that it is multiplied with, are large."""
        what = self.what
        steps = what.steps // MATRIX_STEPS
        known = product(e for e in self.extents[:-1] if isinstance(e, int))
        rows = min(max(1, known), _MANY_ROWS) * MATRIX_BYTES
        most = max(1, min(_PART_BYTES // (self.step_bytes * MATRIX_STEPS), _ROWS_BYTES // rows))
        if steps <= most:
            return what.steps
        return MATRIX_STEPS * next((d for d in range(most, 0, -1) if steps % d == 0), steps)

    def build(self) -> tirx.PrimFunc:
        """The function."""
        function = super().build()
        definitions = StringImm(matrix_code.definitions(self.dtype))
        return function.with_body(tirx.AttrStmt(tirx.IntImm("int32", 0), "pragma_import_llvm", definitions, function.body))

    # ---- Loops over tiles -----------------------------------------------------------------------------------

    def nest(self) -> Any:
        """As for vectors where tasks divide the rows. Where they divide the weights, rows come in groups that stay in a second-level cache."""
        what = self.what
        known = product(e for e in self.extents[:-1] if isinstance(e, int))
        if known * (what.depth + what.columns) >= what.taps * what.depth * what.columns:
            return super().nest()
        blocks, tiles = what.groups * what.blocks, ceildiv(self.rows, what.rows)
        most = _READ_BYTES if self.lies else _GATHERED_BYTES
        together = max(1, most // (what.groups * self.size * self.item))
        together = min(together, tiles) if isinstance(tiles, int) else together
        size = what.rows * what.tile.columns
        partial = Local("partial", blocks * together * size, self.dtype)
        whole = self.depth == what.steps
        self.held = None if self.lies and self.exact else self.room(1 if self.lies else together)

        def group(g: Any) -> Any:
            first, count = simplify(g * together), minimum(together, tiles - g * together)
            if not self.lies:
                self.origin = simplify(first * what.rows)

            def product(part: Any, block: Any, tile: Any) -> Any:
                return self.rows_left(TileAtWork(
                    simplify((first + tile) * what.rows), block, what.rows, simplify((block + 1) * what.steps + part * self.depth),
                    Share(tile, count), None if whole else Part(part, partial, simplify((block * together + tile) * size))))

            # Every thread goes through the parts of k, and at each through its own blocks: they share the rows, which stay in a cache.
            products = loop("part", what.steps // self.depth, lambda p: parallel(
                "outer", blocks, lambda b: loop("tile", count, lambda t: product(p, b, t))))
            begin, end = _calls()
            launched = sequence(begin, products, end)
            if blocks > 1:
                launched = tirx.AttrStmt(tirx.IntImm("int32", 0), "pragma_parallel_launch_point", tirx.IntImm("int32", 1), launched)
            return launched if self.lies else sequence(parallel("gathered", count, self.gathered), launched)

        last = None
        if self.lies and not self.exact:
            self.origin = simplify(tirx.floordiv(self.rows, what.rows) * what.rows)
            last = branch(self.origin < self.rows, self.gathered(index(0)))
        return sequence(None if self.held is None else self.held.allocate(), None if whole else partial.allocate(), last,
                        loop("group", ceildiv(tiles, together), group))

    def panel(self, first_block: Any, most_blocks: int, blocks: Any, first_tile: Any, tiles: Any, most: int) -> Any:
        """A task, or a part of one: what it gathers first are all of its rows, or, where X is read as it lies, a last tile that is not whole."""
        def products() -> Any:
            return super(_Program, self).panel(first_block, most_blocks, blocks, first_tile, tiles, most)

        begin, end = _calls()
        if self.held is not None or (self.lies and self.exact):
            return sequence(begin, products(), end)
        if self.lies:
            self.held = self.room(1)
            last = simplify(first_tile + tiles - 1)
            self.origin = simplify(last * self.what.rows)
            gathered = branch(self.origin + self.what.rows > self.rows, self.gathered(index(0)))
        else:
            self.held = self.room(most if not isinstance(tiles, int) else tiles)
            self.origin = simplify(first_tile * self.what.rows)
            gathered = loop("gathered", tiles, self.gathered)
        whole = sequence(self.held.allocate(), gathered, begin, products(), end)
        self.held = None
        return whole

    @property
    def exact(self) -> bool:
        """Whether all tiles are whole."""
        return isinstance(self.rows, int) and self.rows % self.what.rows == 0

    # ---- Gathering ------------------------------------------------------------------------------------------

    def room(self, tiles: int) -> Local:
        """Room for the rows of so many tiles."""
        return Local("gathered", self.what.groups * tiles * self.size, self.how.x)

    def gathered(self, number: Any) -> Any:
        """Copies the rows of a tile, one of those that are held, each with its windows side by side and zeros behind."""
        what = self.what
        first = simplify(self.origin + number * what.rows)
        start = Local("start", 1, "int64")

        def row(group: Any, i: Any) -> Any:
            to = simplify((number * what.groups + group) * self.size + i * self.distance)
            return sequence(start.store(0, self.start(simplify(first + i), group)), self.copied(to, start.load(0)))

        count = minimum(what.rows, self.rows - first)
        return sequence(start.allocate(), loop("part", what.groups, lambda g: loop("row", count, lambda i: row(g, i))))

    def copied(self, to: Any, source: Any) -> Any:
        """Copies one row of X, from the start of its window on."""
        assert self.held is not None
        what, held, x = self.what, self.held, self.after.view(self.x)
        outer, run = self.runs()

        def descend(level: int, offset: Any, at: Any) -> Any:
            if level == len(outer):
                return tirx.Evaluate(tirx.call_extern(
                    "void", "ingot.matrices_copy", tirx.address_of(held.load(simplify(to + at * run))),
                    tirx.address_of(x.load(simplify(source + offset))), index(run)))
            extent, stride = outer[level]
            return loop("k", extent, lambda i: descend(level + 1, offset + i * stride, at * extent + i))

        used = what.taps * what.depth
        zero = tirx.const(0, self.how.x)
        ends = self.in_vectors(what.steps * what.together - used, lambda k, lanes: held.store(
            simplify(to + used + k), tirx.Broadcast(zero, lanes) if lanes > 1 else zero, lanes))
        return sequence(descend(0, index(0), index(0)), ends)

    def runs(self) -> tuple[list[tuple[int, Any]], int]:
        """Loops over a window (extents, and strides in X), and how many elements lie side by side inside of them."""
        what = self.what
        shape = [simplify(d) for d in self.x.ty.shape]
        loops: list[tuple[int, Any]] = []
        stride: Any = shape[-1]
        for axis in reversed(range(len(what.window))):
            if what.window[axis] > 1:
                loops.insert(0, (what.window[axis], simplify(stride * what.dilations[axis])))
            stride = stride * shape[len(shape) - 1 - len(what.window) + axis]
        run = what.depth
        while loops and isinstance(loops[-1][1], tirx.IntImm) and int(loops[-1][1]) == run:
            run *= loops.pop()[0]
        return loops, run

    def in_vectors(self, count: int, one: Any) -> Any:
        """``one(k, lanes)`` for k from 0 to ``count``, by vectors of 64 bytes and then shorter ones."""
        whole, left = divmod(count, self.lanes)
        statements = [loop("v", whole, lambda v: one(v * self.lanes, self.lanes))] if whole else []
        done, lanes = count - left, self.lanes
        while left:
            lanes //= 2
            if left >= lanes:
                statements.append(one(index(done), lanes))
                done, left = done + lanes, left - lanes
        return sequence(*statements) if statements else None

    # ---- One tile -------------------------------------------------------------------------------------------

    def rows_left(self, tile: TileAtWork) -> Any:
        """One tile, of which as many rows are stored as there are."""
        what, part = self.what, tile.part
        tile.whole = True  # count says how many rows are stored
        sums: Local = Local("sums", what.rows * what.tile.columns, self.dtype) if part is None else _Within(part.partial, part.place)
        before = index(0) if part is None else simplify(part.number * (self.depth // MATRIX_STEPS * self.lanes))  # of a row of X
        if self.lies:
            x = self.after.view(self.x)
            width = simplify(self.x.ty.shape[-1])
            product = self.multiplied(tile, sums, x.load(simplify(tile.first * width + before)), width)
            if not self.exact:
                assert self.held is not None
                product = branch(tile.first + what.rows <= self.rows, product, self.low(tile, sums, self.held.load(before)))
        else:
            assert self.held is not None
            group = simplify(tirx.floordiv(tile.block, what.blocks)) if what.groups > 1 else index(0)
            place = (tirx.floordiv(tile.first - self.origin, what.rows) * what.groups + group) * self.size + before
            product = self.low(tile, sums, self.held.load(simplify(place)))
        if part is None:
            return sequence(sums.allocate(), product, self.epilogue(tile, sums))
        return sequence(product, branch(part.number == what.steps // self.depth - 1, self.epilogue(tile, sums)))

    def low(self, tile: TileAtWork, sums: Local, x: Any) -> Any:
        """The product of gathered rows, of which there may be few."""
        whole = self.multiplied(tile, sums, x, self.distance)
        if self.what.rows == MATRIX_ROWS or self.exact:
            return whole
        return branch(self.rows - tile.first > MATRIX_ROWS, whole, self.multiplied(tile, sums, x, self.distance, MATRIX_ROWS))

    def multiplied(self, tile: TileAtWork, sums: Local, x: Any, distance: Any, rows: int = 0) -> Any:
        """The call that multiplies a tile, or a part of k."""
        what, w, part = self.what, self.after.view(self.w), tile.part
        row = what.tile.columns * what.together
        start = tile.block * (what.steps * row) + (0 if part is None else part.number * (self.depth * row))
        first = index(1) if part is None else tirx.Select(part.number == 0, index(1), index(0))
        lines, share = index(0), tile.share
        following = start
        if tile.later is not None:
            lines = simplify(tirx.floordiv(index(share.tiles) + (_LINES - 1), index(share.tiles)))
            following = tile.later * row + share.number * lines * (self.depth // MATRIX_STEPS * self.lanes)
        return tirx.Evaluate(tirx.call_extern(
            "void", f"ingot.matrices{(rows or what.rows) // MATRIX_ROWS}", tirx.address_of(sums.load(0)), tirx.address_of(x),
            simplify(index(distance) * self.item), tirx.address_of(w.load(simplify(start))),
            index(self.depth // MATRIX_STEPS), simplify(first), tirx.address_of(w.load(simplify(following))), lines))

    # ---- The epilogue ---------------------------------------------------------------------------------------

    def rows_stored(self, tile: TileAtWork, sums: Local, column: Any) -> Any:
        """A whole block of columns: sums are in memory."""
        return loop("row", self.count(tile), lambda i: self.row_stored(tile, sums, i, column))

    def count(self, tile: TileAtWork) -> Any:
        """How many rows of a tile there are."""
        return tile.rows if self.exact else minimum(tile.rows, self.rows - tile.first)

    def saved(self, tile: TileAtWork, sums: Local) -> tuple[Local, list[Any]]:
        """The sums themselves."""
        return sums, []
