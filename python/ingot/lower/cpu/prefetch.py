"""Packed weights on their way to the caches while earlier ones are multiplied.

Every tile of rows reads the same weights, which come from memory or the last cache the first time: hardware prefetchers stop at the end of a
page, and a block of weights fills dozens. So each tile fetches its share of the next ones, a line every few steps: 60 products of 128 rows by
768 x 768 weights measured 174 GFLOP/s where the first tiles fetched everything, and 190 with the lines spread, on a core of Emerald Rapids whose
peak is 217.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import tirx
from tvm.ir import StringImm

from ingot.lower.cpu.contraction import Contraction
from ingot.lower.cpu.nest import Flat, loop, sequence, simplify
from ingot.lower.targets import Target

_LINE = 64  # bytes of a cache line
_EVERY = 4  # steps along k from one fetch to the next where the number of tiles is not known
#: LLVM writes loops of up to so many instructions out, and then loads so far ahead that sums leave their registers, except with AVX-512, whose
#: multiply-adds read elements from memory.
_WRITTEN_OUT = 320

#: An instruction of an architecture as a function of LLVM's that neither reads nor writes what generated code can see: LLVM's own intrinsic counts as
#: a use of all memory, which keeps sums out of registers.
_FUNCTION = """
define linkonce_odr void @ingot.prefetch(ptr %address) #0 {{
  call void asm sideeffect "{instruction} $0", "*m"(ptr elementtype(i8) %address) #1
  ret void
}}
attributes #0 = {{ alwaysinline nounwind willreturn memory(inaccessiblemem: readwrite) }}
attributes #1 = {{ nounwind willreturn memory(inaccessiblemem: readwrite) }}
"""
_INSTRUCTIONS = {"x86_64": "prefetcht1", "aarch64": "prfm pldl2keep,"}


@dataclass(frozen=True)
class Share:
    """One of several tiles of rows that read the same weights, each of which fetches a part of the next ones: tile ``number`` of ``tiles``."""

    number: Any
    tiles: Any


@dataclass(frozen=True)
class Plan:
    """What one tile fetches: ``lines`` cache lines before every ``every`` steps along the innermost loop over k."""

    w: Flat
    row: int
    share: Share
    times: int
    every: int
    lines: Any

    def fetch(self, later: Any, number: Any) -> Any:
        """The ``number``-th time along k that a tile fetches: its share of the weights from step ``later`` on."""
        line = _LINE // _item(self.w)
        first = later * self.row + (self.share.number * self.times + number) * self.lines * line
        if isinstance(self.lines, int):
            return sequence(*[_fetch(self.w, first + j * line) for j in range(self.lines)])
        return loop("line", self.lines, lambda j: _fetch(self.w, first + j * line))


def plan(w: Flat, what: Contraction, share: Share, steps: int, extent: int, target: Target) -> Plan:
    """Spreads the cache lines of the weights of ``steps`` steps evenly over the tiles of rows and along k: a burst would wait for itself.

    ``extent`` is that of the innermost loop over k. Addresses past the end of the weights are fetched in vain.
    """
    row = what.tile.columns * what.together
    total = -(-steps * row * _item(w) // _LINE)
    tile = what.tile
    least = 1 if target.lanes(4) == 16 else -(-_WRITTEN_OUT // (tile.rows * tile.vectors + tile.rows + tile.vectors))
    if isinstance(share.tiles, int):
        each = -(-total // share.tiles)  # lines for each tile
        every = min(extent, max(least, steps // each))
        every = next((e for e in range(every, max(least - 1, every // 2), -1) if extent % e == 0), every)
        times = steps // extent * (extent // every)
        return Plan(w, row, share, times, every, -(-each // times))
    every = min(extent, max(least, _EVERY))
    times = steps // extent * (extent // every)
    return Plan(w, row, share, times, every, simplify(tirx.floordiv(share.tiles * times + (total - 1), share.tiles * times)))


def _item(w: Flat) -> int:
    return np.dtype(str(w.buffer.dtype)).itemsize


def with_function(body: Any, target: Target) -> Any:
    """A statement with the LLVM function that a plan calls."""
    return tirx.AttrStmt(tirx.IntImm("int32", 0), "pragma_import_llvm", StringImm(_FUNCTION.format(instruction=_INSTRUCTIONS[target.arch])), body)


def _fetch(w: Flat, at: Any) -> Any:
    return tirx.Evaluate(tirx.call_extern("void", "ingot.prefetch", tirx.address_of(w.load(simplify(at)))))
