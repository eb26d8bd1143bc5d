"""Contractions: matrix products and convolutions as one kind of computation, described once, in any of the arithmetics of ``arithmetic.py``.

A contraction gives ``C[row, column] = sum over taps and k of X[start(row) + tap + k] * W[column block, tap, k, column]``. Rows are the
positions of the result (batch, height, width; or everything before the last axis of a matrix), columns its last axis. X is
channels-last; W is packed in blocks of a tile's columns, so that a micro-kernel reads it front to back: for each column the k's that one
step takes lie side by side.

The Relax side (``passes/pack.py``) emits a TIR function that computes this by plain loops and carries a :class:`Contraction` as an
annotation of its block; ``rules/contraction.py`` replaces the loops. Whatever fuses into the function stays generic.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from tvm import te, tirx

from ingot.lower.cpu.arithmetic import Arithmetic
from ingot.lower.cpu.nest import constant, index
from ingot.lower.cpu.tiles import Tile

ANNOTATION = "ingot.contraction"
#: FuseOps' class of functions that element-wise consumers fuse into (relax/op_attr_types.h: kOutEWiseFusable).
OUT_ELEMENTWISE_FUSABLE = 4


@dataclass(frozen=True)
class Contraction:
    """What a contraction's block computes.

    ``window`` (kernel extents), ``strides`` and ``dilations`` have an entry for each spatial axis of X, and none for a matrix product.
    ``depth`` is the length of k, ``columns`` the number of result columns, both for each of ``groups``. With a ``batch`` the first axis of
    X and of the result counts that many products, each with weights of its own. ``depth`` is a multiple of ``together``, the k's of a step
    of the ``arithmetic``, and the number of steps for which there are weights one of ``multiple``.
    """

    window: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    groups: int
    depth: int
    columns: int
    rows: int
    vectors: int
    lanes: int
    batch: int = 1
    arithmetic: str = "float32"
    together: int = 1
    multiple: int = 1

    @property
    def tile(self) -> Tile:
        """The register tile that the weights are packed for."""
        return Tile(self.rows, self.vectors, self.lanes)

    @property
    def taps(self) -> int:
        """The number of positions of the window."""
        return int(np.prod(self.window, dtype=np.int64))

    @property
    def blocks(self) -> int:
        """Column blocks of each group."""
        return -(-self.columns // self.tile.columns)

    def text(self) -> str:
        """The annotation."""
        return json.dumps(asdict(self))

    @staticmethod
    def parse(text: str) -> Contraction:
        """Reads an annotation."""
        fields: dict[str, Any] = json.loads(str(text))
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
        return Contraction(**values)

    @property
    def steps(self) -> int:
        """How many steps a sum takes."""
        return -(-self.taps * self.depth // (self.together * self.multiple)) * self.multiple

    @property
    def packed_shape(self) -> tuple[int, ...]:
        """The shape of the packed weights: [batch * groups * blocks, steps, tile columns * together]."""
        return (self.batch * self.groups * self.blocks, self.steps, self.tile.columns * self.together)

    def pack(self, weights: np.ndarray) -> np.ndarray:
        """Weights [(batch,) *window, at most depth, groups * columns] in the packed layout; what pads them is 0."""
        wide = self.blocks * self.tile.columns
        grouped = weights.reshape(self.batch, self.taps, -1, self.groups, self.columns)
        grouped = np.pad(grouped, ((0, 0), (0, 0), (0, self.depth - grouped.shape[2]), (0, 0), (0, wide - self.columns)))
        deep = grouped.reshape(self.batch, self.taps * self.depth, self.groups, wide)
        deep = np.pad(deep, ((0, 0), (0, self.steps * self.together - self.taps * self.depth), (0, 0), (0, 0)))
        blocked = deep.reshape(self.batch, self.steps, self.together, self.groups * self.blocks, self.tile.columns)
        return np.ascontiguousarray(blocked.transpose(0, 3, 1, 4, 2)).reshape(self.packed_shape)


def result_shape(what: Contraction, shape: Sequence[Any]) -> list[Any]:
    """The shape that a contraction makes of X's."""
    batch, spatial = list(shape[: len(shape) - 1 - len(what.window)]), shape[len(shape) - 1 - len(what.window) : -1]
    moved = [constant((e - ((k - 1) * d + 1)) // s + 1 if isinstance(e, int) else tirx.floordiv(e - ((k - 1) * d + 1), s) + 1)
             for e, k, s, d in zip(map(constant, spatial), what.window, what.strides, what.dilations, strict=True)]
    return [*batch, *moved, what.groups * what.columns]


def contraction_function(what: Contraction, shape: Sequence[Any], arithmetic: Arithmetic) -> tirx.PrimFunc:
    """The contraction as plain loops over X of ``shape`` (already padded) and packed weights."""
    x = te.placeholder([index(constant(d)) for d in shape], arithmetic.x, name="x")
    w = te.placeholder([index(d) for d in what.packed_shape], arithmetic.w, name="w")
    taps = [te.reduce_axis((index(0), index(k)), name="tap") for k in what.window]
    k = te.reduce_axis((index(0), index(what.depth)), name="k")
    rank = len(what.window)
    wide, together = what.tile.columns, what.together

    def compute(*i: Any) -> Any:
        *batch, column = i
        batch, positions = batch[: len(batch) - rank], batch[len(batch) - rank :]
        at = [p * s + t * d for p, t, s, d in zip(positions, taps, what.strides, what.dilations, strict=True)]
        group, within = (index(0), column) if what.groups == 1 else (tirx.floordiv(column, what.columns), tirx.floormod(column, what.columns))
        tap: Any = index(0)
        for t, extent in zip(taps, what.window, strict=True):
            tap = tap * extent + t
        channel: Any = k if what.groups == 1 else group * what.depth + k
        if what.batch > 1:
            group = batch[0]
        weight = w(group * what.blocks + tirx.floordiv(within, wide), tirx.floordiv(tap * what.depth + k, together),
                   tirx.floormod(within, wide) * together + tirx.floormod(tap * what.depth + k, together))
        return te.sum(arithmetic.product(x(*batch, *at, channel), weight), axis=[*taps, k])

    y = te.compute([index(constant(d)) for d in result_shape(what, shape)], compute, name="contraction", attrs={ANNOTATION: what.text()})
    function = te.create_prim_func([x, w, y])
    return function.without_attr("global_symbol").with_attr("op_pattern", OUT_ELEMENTWISE_FUSABLE)
