"""What may be chosen for a contraction: its register tile, and for a 3x3 convolution whether Winograd computes it.

``passes/pack.py`` asks a :class:`Choices` for each contraction of a model. The cost model answers by default; ``ingot compile --tune``
answers from measurements (:mod:`ingot.tune`).
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from ingot.lower.cpu import arithmetic, tiles, winograd
from ingot.lower.cpu.tiles import Tile
from ingot.lower.cpu.winograd import Tiling
from ingot.lower.targets import Target

#: The m of F(m x m) that winograd.py has matrices for.
WINOGRAD_SIZES = (2, 4)


@dataclass(frozen=True)
class Problem:
    """A matrix product or convolution with constant weights.

    ``window``, ``strides`` and ``dilations`` have an entry for each spatial axis, ``pads`` one before and then one after each; a matrix
    product has none. ``extents`` are the result's without its last axis, None where they are symbolic. ``depth`` and ``columns`` are those
    of each of ``groups``. ``dtypes`` are NumPy's names for X and the weights as they are stored, ``arithmetic`` the row of
    :mod:`ingot.lower.cpu.arithmetic` that multiplies them. With ``winograd`` set to m these are the products inside
    Winograd's F(m x m) of that convolution, whose key is ``convolution``.
    """

    window: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[int, ...]
    groups: int
    depth: int
    columns: int
    extents: tuple[int | None, ...]
    dtypes: tuple[str, str]
    arithmetic: str = "float32"
    winograd: int = 0
    convolution: str = ""

    @property
    def rows(self) -> int | None:
        """The product of the extents that are known: rows for a batch of one; None if none is."""
        if self.winograd:
            tiling = self.tiling(self.winograd)
            return tiling.down * tiling.across
        known = [e for e in self.extents if e is not None]
        return math.prod(known) if any(e > 1 for e in known) else None

    @property
    def column_bytes(self) -> int:
        """The size of the weights of one column."""
        return (1 if self.winograd else math.prod(self.window)) * self.depth * np.dtype(self.dtypes[1]).itemsize

    def lanes(self, target: Target) -> int:
        """How many sums a vector register of the target holds."""
        return target.lanes(np.dtype(arithmetic.find(self.arithmetic, target).sums).itemsize)

    @property
    def winograd_fits(self) -> bool:
        """Whether Winograd can compute it: a plain 3x3 convolution of float32."""
        return (self.dtypes[0] == "float32" and self.window == (3, 3) and self.groups == 1
                and self.strides == (1, 1) and self.dilations == (1, 1))

    def tiling(self, m: int) -> Tiling:
        """The tiling of F(m x m) over the result, whose height and width are usual ones where they are symbols."""
        height, width = (winograd.USUAL_SIDE if e is None else e for e in self.extents[-2:])
        return Tiling(m, height, width)

    def under(self, tiling: Tiling) -> Problem:
        """The products inside Winograd, in float32 whatever the weights are stored as elsewhere."""
        return replace(self, winograd=tiling.m, arithmetic="float32", dtypes=("float32", "float32"), convolution=self.key())

    def key(self) -> str:
        """One line that stands for the problem, for people and for files of measurements: it must not change between versions.

        Of the products inside Winograd it is the convolution's.
        """
        if self.convolution:
            return self.convolution

        def by(values: tuple[int | None, ...]) -> str:
            return "x".join("?" if v is None else str(v) for v in values)

        parts = [f"{by(self.window)} convolution" if self.window else "matmul", by(self.extents), f"{self.depth}>{self.columns}"]
        if self.window:
            parts += [f"strides {by(self.strides)}", f"dilations {by(self.dilations)}", f"pads {by(self.pads)}", f"groups {self.groups}"]
        return ", ".join([*parts, self.arithmetic])


@dataclass(frozen=True)
class Choice:
    """A register tile, and the m of Winograd's F(m x m) or 0."""

    tile: Tile
    winograd: int = 0

    def __str__(self) -> str:
        """``tile 6x16``, or ``winograd 4x4, tile 6x16``: as ``ingot inspect`` names schedules."""
        return (f"winograd {self.winograd}x{self.winograd}, " if self.winograd else "") + f"tile {self.tile.rows}x{self.tile.columns}"

    @staticmethod
    def parse(text: str, problem: Problem, target: Target) -> Choice | None:
        """Reads what ``str`` wrote; None if it is not a choice for this problem and target."""
        found = re.fullmatch(r"(?:winograd (\d)x\1, )?tile (\d{1,3})x(\d{1,4})", text)
        if found is None:
            return None
        m, rows, columns = (int(g or 0) for g in found.groups())
        if m and not (m in WINOGRAD_SIZES and problem.winograd_fits):
            return None
        inner = problem.under(problem.tiling(m)) if m else problem
        lanes = inner.lanes(target)
        tile = Tile(rows, columns // lanes, lanes)
        return Choice(tile, m) if columns % lanes == 0 and tile in all_tiles(target, inner) else None


def all_tiles(target: Target, problem: Problem) -> list[Tile]:
    """Every tile that the registers hold, of any height."""
    how = arithmetic.find(problem.arithmetic, target)
    if how.matrices:
        return list(tiles.MATRICES)
    tallest = tiles.tiles(target, np.dtype(how.sums).itemsize, how.temporaries)
    return [Tile(rows, t.vectors, t.lanes) for t in tallest for rows in range(2, t.rows + 1)]


class Choices(Protocol):
    """Answers for one target."""

    def winograd(self, problem: Problem) -> Tiling | None:
        """The tiling by which Winograd computes a problem that it fits, or None for plain convolution."""

    def tile(self, problem: Problem) -> Tile:
        """The register tile of a problem."""


@dataclass(frozen=True)
class CostModel:
    """Choices by counting: :mod:`ingot.lower.cpu.tiles` and :mod:`ingot.lower.cpu.winograd`."""

    target: Target

    def winograd(self, problem: Problem) -> Tiling | None:
        """See :class:`Choices`."""
        usual = problem.tiling(WINOGRAD_SIZES[0])
        return winograd.pick(usual.height, usual.width, problem.depth, problem.columns)

    def tile(self, problem: Problem) -> Tile:
        """See :class:`Choices`."""
        how = arithmetic.find(problem.arithmetic, self.target)
        if how.matrices:
            return tiles.matrices(problem.rows)
        return tiles.pick(self.target, problem.rows, problem.columns, np.dtype(how.sums).itemsize, how.temporaries, problem.column_bytes)

    def choice(self, problem: Problem) -> Choice:
        """Both answers."""
        tiling = self.winograd(problem) if problem.winograd_fits else None
        return Choice(self.tile(problem), 0) if tiling is None else Choice(self.tile(problem.under(tiling)), tiling.m)
