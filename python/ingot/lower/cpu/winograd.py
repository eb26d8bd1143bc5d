"""3x3 convolutions by Winograd's minimal filtering: fewer multiplications, paid for with additions and larger weights.

F(m x m, 3 x 3) computes tiles of m x m results from tiles of (m+2) x (m+2) inputs with one multiplication for each input of a tile
(A. Lavin and S. Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016; the matrices are theirs). Three functions:

- ``winograd_input``   X [N, H, W, C] → V [p, T, C]: the transformed tiles, p = (m+2)², T tiles;
- a contraction        V, U → M [p, T, O]: one matrix product for each of the p positions;
- ``winograd_output``  M → Y [N, H', W', O], into which what follows is fused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import te, tirx

from ingot.lower.cpu.contraction import OUT_ELEMENTWISE_FUSABLE
from ingot.lower.cpu.nest import Flat, Local, branch, ceildiv, constant, index, loop, parallel, product, sequence, simplify, substitute, variable

OUTPUT_ANNOTATION = "ingot.winograd_output"
#: A function whose loops are final: its schedule's name.
SCHEDULED = "ingot.scheduled"

_INPUT: dict[int, np.ndarray] = {
    2: np.array([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]], np.float64),
    4: np.array([[4, 0, -5, 0, 1, 0], [0, -4, -4, 1, 1, 0], [0, 4, -4, -1, 1, 0], [0, -2, -1, 2, 1, 0], [0, 2, -1, -2, 1, 0],
                 [0, 4, 0, -5, 0, 1]], np.float64),
}
_FILTER: dict[int, np.ndarray] = {
    2: np.array([[1, 0, 0], [1 / 2, 1 / 2, 1 / 2], [1 / 2, -1 / 2, 1 / 2], [0, 0, 1]], np.float64),
    4: np.array([[1 / 4, 0, 0], [-1 / 6, -1 / 6, -1 / 6], [-1 / 6, 1 / 6, -1 / 6], [1 / 24, 1 / 12, 1 / 6], [1 / 24, -1 / 12, 1 / 6], [0, 0, 1]],
                np.float64),
}
_OUTPUT: dict[int, np.ndarray] = {
    2: np.array([[1, 1, 1, 0], [0, 1, -1, -1]], np.float64),
    4: np.array([[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]], np.float64),
}
#: A side of results whose height or width is a symbol, as choices assume it: that of an image halfway through a network.
USUAL_SIDE = 56
#: What a core does in the time of one multiply-add, in multiply-adds: reading a byte of weights (113 GFLOP/s to 20 GB/s measured on Zen 3).
_WEIGHT_BYTE = 2.8


@dataclass(frozen=True)
class Tiling:
    """Tiles of ``m`` x ``m`` results over a result of [N, height, width, ...], extents that may be index expressions."""

    m: int
    height: Any
    width: Any

    @property
    def down(self) -> Any:
        """Tiles in a column."""
        return ceildiv(self.height, self.m)

    @property
    def across(self) -> Any:
        """Tiles in a row."""
        return ceildiv(self.width, self.m)

    @property
    def side(self) -> int:
        """Inputs on each side of a tile."""
        return self.m + 2

    @property
    def points(self) -> int:
        """Inputs of a tile, and matrix products."""
        return self.side * self.side


def pick(height: int, width: int, depth: int, columns: int) -> Tiling | None:
    """The tiling for one image that takes the least time, or None if plain convolution does.

    Counted in multiply-adds: those of the products and of the transforms, and the time to read the weights once where that is longer.
    """
    if depth < 16 or columns < 16:
        return None
    best, least = None, max(9.0 * height * width * depth * columns, _WEIGHT_BYTE * 4 * 9 * depth * columns)
    for m in (2, 4):
        tiling = Tiling(m, height, width)
        tiles = tiling.down * tiling.across
        rows = -(-tiles // 4) * 4  # of a register tile
        products = tiling.points * rows * depth * columns
        transforms = tiles * (depth * 2 * np.count_nonzero(_INPUT[m]) * tiling.side + columns * np.count_nonzero(_OUTPUT[m]) * (tiling.side + m))
        moved = 8.0 * tiling.points * tiles * (depth + columns)  # V and M through the outer caches
        cost = max(float(products), _WEIGHT_BYTE * 4 * tiling.points * depth * columns) + transforms + moved
        if cost < 0.9 * least:
            best, least = tiling, cost
    return best


def transformed(tiling: Tiling, weights: np.ndarray) -> np.ndarray:
    """Weights [3, 3, C, O] as [p, C, O]; computed in float64."""
    g = _FILTER[tiling.m]
    wide = np.einsum("ai,bj,ijco->abco", g, g, weights.astype(np.float64), optimize=True)
    return wide.reshape(tiling.points, *weights.shape[2:]).astype(weights.dtype)


def _combined(matrix: np.ndarray, values: Sequence[Any], dtype: str, lanes: int) -> list[Any]:
    """Each row of a matrix times values."""

    def scaled(factor: float, value: Any) -> Any:
        if factor == 1:
            return value
        number = tirx.const(float(factor), dtype)
        return value * (tirx.Broadcast(number, lanes) if lanes > 1 else number)

    results = []
    for row in matrix:
        terms = sorted(((f, v) for f, v in zip(row, values, strict=True) if f != 0), key=lambda t: t[0] < 0)  # starts with a sum, not a negation
        total = scaled(terms[0][0], terms[0][1])
        for factor, value in terms[1:]:
            total = total - scaled(-factor, value) if factor < 0 else total + scaled(factor, value)
        results.append(total)
    return results


def _two_sided(matrix: np.ndarray, load: Callable[[int, int], Any], between: Local, store: Callable[[int, int, Any], Any], dtype: str,
               lanes: int) -> list[Any]:
    """``matrix · values · matrixᵀ`` for values [side, side], by columns into ``between``, then by rows."""
    rows, side = matrix.shape
    statements = []
    for j in range(side):
        column = _combined(matrix, [load(i, j) for i in range(side)], dtype, lanes)
        statements += [between.store((i * side + j) * lanes, value, lanes) for i, value in enumerate(column)]
    for i in range(rows):
        row = _combined(matrix, [between.load((i * side + j) * lanes, lanes) for j in range(side)], dtype, lanes)
        statements += [store(i, j, value) for j, value in enumerate(row)]
    return statements


def input_function(m: int, shape: Sequence[Any], pads: Sequence[int], dtype: str, lanes: int) -> tirx.PrimFunc:
    """X of ``shape`` [N, H, W, C], with zeros of ``pads`` (top, left, bottom, right) around it, to V [p, T, C]; C is known."""
    named: dict[Any, Any] = {}  # short names for extents keep index arithmetic short, which takes time to simplify

    def short(extent: Any, name: str) -> Any:
        if not isinstance(extent, int):
            named[symbol := variable(name)] = extent
            return symbol
        return extent

    n, h, w, c = (short(constant(extent), name) for extent, name in zip(shape, ("n", "h", "w", "c"), strict=True))
    tiling = Tiling(m, h + pads[0] + pads[2] - 2, w + pads[1] + pads[3] - 2)
    tiles = short(product([n, tiling.down, tiling.across]), "tiles")
    x = tirx.decl_buffer([index(d) for d in (n, h, w, c)], dtype, name="x")
    v = tirx.decl_buffer([index(d) for d in (tiling.points, tiles, c)], dtype, name="v")
    from_, to = Flat(x), Flat(v)

    def tile(image: Any, down: Any, across: Any, number: Any) -> Any:
        top, left = simplify(down * tiling.m - pads[0]), simplify(across * tiling.m - pads[1])

        def channels(inside: bool) -> Any:
            def vector(channel: Any, lanes: int) -> Any:
                between = Local("between", tiling.points * lanes, dtype)

                def load(i: int, j: int) -> Any:
                    at = from_.load(simplify(((image * h + top + i) * w + left + j) * c + channel), lanes)
                    if inside:
                        return at
                    zero = tirx.const(0, dtype)
                    there = tirx.all(top + i >= 0, top + i < h, left + j >= 0, left + j < w)
                    return tirx.if_then_else(there, at, tirx.Broadcast(zero, lanes) if lanes > 1 else zero)

                def store(i: int, j: int, value: Any) -> Any:
                    return to.store(simplify(((i * tiling.side + j) * tiles + number) * c + channel), value, lanes)

                return sequence(between.allocate(), _two_sided(_INPUT[tiling.m], load, between, store, dtype, lanes))

            whole, left_over = c // lanes, c % lanes
            return sequence(loop("v", whole, lambda k: vector(simplify(k * lanes), lanes)) if whole else None,
                            loop("k", left_over, lambda k: vector(simplify(whole * lanes + k), 1)) if left_over else None)

        within = tirx.all(top >= 0, left >= 0, top + tiling.side <= h, left + tiling.side <= w)
        return branch(within, channels(True), channels(False))

    def line(position: Any) -> Any:
        image, down = simplify(tirx.floordiv(position, tiling.down)), simplify(tirx.floormod(position, tiling.down))
        return loop("across", tiling.across, lambda a: tile(image, down, a, simplify(position * tiling.across + a)))

    body = sequence(from_.declare(), to.declare(), parallel("line", product([n, tiling.down]), line))
    function = tirx.PrimFunc([x, v], body)
    for symbol, extent in reversed(named.items()):
        function = substitute(function, {symbol: extent})
    return function.with_attr({SCHEDULED: f"winograd {m}x{m}, input", "op_pattern": 8, "tirx.noalias": True})


def output_function(tiling: Tiling, n: Any, columns: int, dtype: str) -> tirx.PrimFunc:
    """M [p, T, O] to Y [N, height, width, O] by plain loops; ``rules/winograd.py`` writes them anew with what is fused."""
    matrix = _OUTPUT[tiling.m]
    side = tiling.side
    tiles = product([n, tiling.down, tiling.across])
    products = te.placeholder([index(d) for d in (tiling.points, tiles, columns)], dtype, name="m")
    a, b = (te.reduce_axis((index(0), index(side)), name=name) for name in "ab")

    def factor(row: Any, column: Any) -> Any:
        chosen: Any = tirx.const(0, dtype)
        for i in range(tiling.m):
            for j in range(side):
                if matrix[i, j] != 0:
                    chosen = tirx.Select(tirx.all(row.equal(i), column.equal(j)), tirx.const(float(matrix[i, j]), dtype), chosen)
        return chosen

    def compute(image: Any, h: Any, w: Any, o: Any) -> Any:
        tile = (image * tiling.down + tirx.floordiv(h, tiling.m)) * tiling.across + tirx.floordiv(w, tiling.m)
        scale = factor(tirx.floormod(h, tiling.m), a) * factor(tirx.floormod(w, tiling.m), b)
        return te.sum(products(a * side + b, tile, o) * scale, axis=[a, b])

    y = te.compute([index(d) for d in (n, tiling.height, tiling.width, columns)], compute, name="winograd_output",
                   attrs={OUTPUT_ANNOTATION: str(tiling.m)})
    return te.create_prim_func([products, y]).without_attr("global_symbol").with_attr("op_pattern", OUT_ELEMENTWISE_FUSABLE)


def output_tile(tiling: Tiling, load: Callable[[int, int], Any], between: Local, store: Callable[[int, int, Any], Any], dtype: str,
                lanes: int) -> list[Any]:
    """The results of one tile from its products."""
    return _two_sided(_OUTPUT[tiling.m], load, between, store, dtype, lanes)


