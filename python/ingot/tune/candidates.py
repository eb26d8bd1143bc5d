"""Which choices are worth measuring for a problem: those that the cost model ranks first, and its own among them."""

from __future__ import annotations

from ingot.lower.cpu.choices import WINOGRAD_SIZES, Choice, CostModel, Problem, all_tiles
from ingot.lower.cpu.tiles import Tile, cycles
from ingot.lower.targets import Target

#: For each problem. A candidate takes about half a second to compile: ResNet-50's 23 problems then take about a minute.
_TILES = 5
_TILES_WITH_WINOGRAD = 2  # for each of plain convolution and F(m x m)
_HEIGHTS = 2  # tiles with the same columns: the tallest that fits the registers, and one that divides the rows better
_LEAST_CHANNELS = 16  # below it Winograd's transforms cost more than the products that they save


def candidates(target: Target, problem: Problem) -> list[Choice]:
    """What to measure: the cost model's own choice first."""
    found = [CostModel(target).choice(problem)]
    if not (problem.winograd_fits and min(problem.depth, problem.columns) >= _LEAST_CHANNELS):
        found += [Choice(tile) for tile in best_tiles(target, problem, _TILES)]
    else:
        found += [Choice(tile) for tile in best_tiles(target, problem, _TILES_WITH_WINOGRAD)]
        for m in WINOGRAD_SIZES:
            found += [Choice(tile, m) for tile in best_tiles(target, problem.under(problem.tiling(m)), _TILES_WITH_WINOGRAD)]
    return list(dict.fromkeys(found))


def best_tiles(target: Target, problem: Problem, count: int) -> list[Tile]:
    """The ``count`` tiles that the cost model ranks first, at most two with the same number of columns."""
    ranked = sorted(all_tiles(target, problem), key=lambda t: (cycles(t, problem.rows, problem.columns, problem.column_bytes), -t.rows * t.vectors))
    kept: list[Tile] = []
    for tile in ranked:
        if sum(k.vectors == tile.vectors for k in kept) < _HEIGHTS:
            kept.append(tile)
    return kept[:count]
