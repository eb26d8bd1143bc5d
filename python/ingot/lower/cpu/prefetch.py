"""Packed weights on their way to the caches while earlier ones are multiplied.

Every tile of rows reads the same weights, which come from memory or the last cache the first time: hardware prefetchers stop at the end of a
page, and a block of weights fills dozens. Products of 36 and 126 rows by 768 x 768 weights that no cache held measured 95 and 144 GFLOP/s
without prefetching and 145 and 166 with it, on a core of Emerald Rapids whose peak is 208.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import tirx
from tvm.ir import StringImm

from ingot.lower.cpu.contraction import Contraction
from ingot.lower.cpu.nest import Flat, simplify
from ingot.lower.targets import Target

_LINE = 64  # bytes of a cache line
_NEXT = 512 * 1024  # bytes of a block up to which it and the next one both fit a second-level cache of 1 MiB or more
_DISTANCE = 16  # steps along k from one use to what is fetched for a later one, within a block that fits no cache

#: An instruction of an architecture as a function of LLVM's that neither reads nor writes what generated code can see: LLVM's own intrinsic counts as
#: a use of all memory, which keeps sums out of registers.
_FUNCTION = """
define linkonce_odr void @ingot.prefetch.{level}(ptr %address) #0 {{
  call void asm sideeffect "{instruction} $0", "*m"(ptr elementtype(i8) %address) #1
  ret void
}}
attributes #0 = {{ alwaysinline nounwind willreturn memory(inaccessiblemem: readwrite) }}
attributes #1 = {{ nounwind willreturn memory(inaccessiblemem: readwrite) }}
"""
_INSTRUCTIONS = {"x86_64": ("prefetcht0", "prefetcht1"), "aarch64": ("prfm pldl1keep,", "prfm pldl2keep,")}


@dataclass(frozen=True)
class Share:
    """One of several tiles of rows that read the same weights, each of which fetches a part of the next ones: tile ``number`` of ``tiles``."""

    number: Any
    tiles: Any


def step(w: Flat, what: Contraction, block: Any, ahead: int, at: Any, share: Share) -> list[Any]:
    """What step ``at`` along k of column block ``block`` fetches: a part of the block ``ahead`` further, which all tiles of rows fetch together.

    Of blocks too large for that, later steps of the same block. Addresses past the end of the weights are fetched in vain.
    """
    item = np.dtype(str(w.buffer.dtype)).itemsize
    row = what.tile.columns * what.together
    line = _LINE // item
    lines = -(-row // line)
    if what.steps * row * item > _NEXT:
        later = (block * what.steps + at + _DISTANCE) * row
        return [_fetch(w, later + j * line, 1) for j in range(lines)]
    if what.batch * what.groups * what.blocks == 1:
        return []
    each = -(-lines // share.tiles) if isinstance(share.tiles, int) else 1
    parts = -(-lines // each)
    part = simplify(tirx.floormod(share.number, parts)) if parts > 1 else 0
    first = (block + ahead) * (what.steps * row)
    return [_fetch(w, first + ((part * what.steps + at) * each + j) * line, 2) for j in range(each)]


def with_functions(body: Any, target: Target) -> Any:
    """A statement with the LLVM functions that :func:`step` calls."""
    for level, instruction in enumerate(_INSTRUCTIONS[target.arch], 1):
        body = tirx.AttrStmt(tirx.IntImm("int32", 0), "pragma_import_llvm", StringImm(_FUNCTION.format(level=level, instruction=instruction)), body)
    return body


def _fetch(w: Flat, at: Any, level: int) -> Any:
    return tirx.Evaluate(tirx.call_extern("void", f"ingot.prefetch.{level}", tirx.address_of(w.load(simplify(at)))))
