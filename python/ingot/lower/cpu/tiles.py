"""The cost model of register tiles: how many rows by how many vectors of columns a micro-kernel computes at once."""

from __future__ import annotations

from dataclasses import dataclass

from ingot.lower.targets import Target

#: Loads and multiply-adds that a core starts in a cycle: 2 and 2 on Zen 2 to 5, Intel since Haswell, and Cortex-X (their optimization guides).
_LOADS = 2
_MULTIPLY_ADDS = 2
_LATENCY = 5  # cycles until a multiply-add's result can be added to again: 4 on Intel and Zen 3 to 5, 5 on Zen 2
_MISSES = 0.5  # cycles for each cycle of loads, on top of what hides behind the arithmetic
#: Weights of one block of columns beyond this size are read from the third level of cache for each tile of rows (second levels have 0.5 to 2 MiB): a
#: vector in 8 cycles, over the half of a multiply-add. Products of 1000 x 12544 x 512 measured 121 GFLOP/s with 6 x 64, 60 % of smaller ones.
_CACHED_BYTES = 2 << 20
_STREAMED = 16
_MOST_ROWS = 14  # beyond it the rows' addresses no longer fit the general registers


@dataclass(frozen=True)
class Tile:
    """``rows`` by ``vectors`` vectors of ``lanes`` columns: one accumulator register each."""

    rows: int
    vectors: int
    lanes: int

    @property
    def columns(self) -> int:
        """How many columns it spans."""
        return self.vectors * self.lanes

    @property
    def cost(self) -> float:
        """Cycles for each multiply-add of a vector, over its best: loads may take longer, and too few sums wait for themselves.

        Loads that fit beside the arithmetic still cost something, since some of them miss the first-level cache: products of 128 x 768 x 768
        measured 94 GFLOP/s with 4 x 24 and 87 with 6 x 16 on a core of Zen 3 whose peak is 104.
        """
        loads = (self.rows + self.vectors) / _LOADS
        arithmetic = self.rows * self.vectors / _MULTIPLY_ADDS
        return (max(loads, arithmetic, _LATENCY) + _MISSES * loads) / arithmetic


def tiles(target: Target, dtype_bytes: int = 4, temporaries: int = 0) -> list[Tile]:
    """The tiles that fit the registers: accumulators, one vector of weights for each column of them, one broadcast element, temporaries."""
    found = []
    for vectors in (1, 2, 3, 4):
        rows = min(_MOST_ROWS, (target.registers - 1 - temporaries) // vectors - 1)
        if rows >= 2:
            found.append(Tile(rows, vectors, target.lanes(dtype_bytes)))
    return found


def cycles(tile: Tile, rows: int | None, columns: int, column_bytes: int = 0) -> float:
    """What a result of ``rows`` (None: many, not known) by ``columns`` costs, padding included, for each row.

    ``column_bytes`` is the size of the weights of one column.
    """
    wide = -(-columns // tile.columns) * tile.columns
    tall = -(-rows // tile.rows) * tile.rows / rows if rows else 1.0
    streamed = _STREAMED / tile.rows if tile.columns * column_bytes > _CACHED_BYTES else 0.0
    return wide * tall * max(tile.cost, streamed)


def pick(target: Target, rows: int | None, columns: int, dtype_bytes: int = 4, temporaries: int = 0, column_bytes: int = 0) -> Tile:
    """The tile that computes a result in the fewest cycles."""
    return min(tiles(target, dtype_bytes, temporaries), key=lambda t: (round(cycles(t, rows, columns, column_bytes), 2), -t.rows * t.vectors))


#: Two by two matrices of 16 rows by 16 columns, for which each operand is loaded once and used twice; and half of it, for few rows.
MATRICES = (Tile(32, 2, 16), Tile(16, 2, 16))


def matrices(rows: int | None) -> Tile:
    """The tile of matrix registers for a result of ``rows`` (None: many, not known)."""
    tall, low = MATRICES
    return low if rows is not None and rows <= low.rows else tall
