"""Several neighbouring elements for each thread: what lies side by side is read and written in one piece of up to 16 bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from tvm import tirx
from tvm.ir.expr import TensorLoad

from ingot.lower.cpu.fused import loads
from ingot.lower.cpu.nest import constant, simplify, substitute
from ingot.lower.cuda.source import NARROW, Emitter, horner, nbytes, stored

#: Bytes that a thread reads or writes at once.
VECTOR_BYTES = 16
#: More elements for a thread take registers and leave too few threads for small tensors.
MOST_LANES = 8


def depends(node: Any, variables: Iterable[Any]) -> bool:
    """Whether an expression reads a variable."""
    wanted = set(variables)
    return any(v in wanted for v in tirx.analysis.undefined_vars(node)) if not isinstance(node, int) else False


def is_contiguous(node: TensorLoad, axis: Any) -> bool:
    """Whether the next element along an axis is the next in memory."""
    place = horner(node.indices, node.source.ty.shape)
    return constant(simplify(substitute(place, {axis: axis + 1}) - place)) == 1


def is_aligned(place: Any, axis: Any, lanes: int) -> bool:
    """Whether a position is a multiple of ``lanes`` wherever ``axis`` is."""
    group = tirx.Var("group", "int64")
    return constant(simplify(tirx.floormod(substitute(place, {axis: group * lanes}), tirx.IntImm("int64", lanes)))) == 0


def lanes_for(extent: Any, axis: Any, values: Sequence[Any], written: Sequence[str], wanted: int = MOST_LANES) -> int:
    """How many elements along ``axis`` a thread computes, at most ``wanted``: as 16 bytes have of what is read in pieces and of ``written``."""
    known = constant(extent)
    if not isinstance(known, int) or known < 2:
        return 1
    pieces = [n for value in values for n in loads(value) if is_contiguous(n, axis)]
    widest = max([nbytes(str(n.source.ty.dtype)) for n in pieces] + [nbytes(d) for d in written])
    lanes = min(wanted, VECTOR_BYTES // widest)
    while lanes > 1 and known % lanes:
        lanes //= 2
    return max(1, lanes)


class Lanes(Emitter):
    """An emitter that can run a piece of code for several elements along an axis, loading what lies side by side in one piece before it."""

    axis: Any = None
    lanes: int = 1
    base: str = ""
    _pieces: list[str]
    _known: dict[tuple[str, ...], str]

    def spread(self, axis: Any, base: str, lanes: int, body: Callable[[], None]) -> None:
        """Writes ``body`` for the elements ``base`` to ``base + lanes - 1`` of an axis; in it, ``v`` counts them."""
        if lanes == 1:
            self.names[axis] = base
            with self.block(""):
                self.put("constexpr int v = 0;")
                body()
            return
        self.axis, self.lanes, self.base = axis, lanes, base
        self._pieces, self._known, self.inside = [], {}, set()
        self.names[axis] = f"({base} + v)"
        try:
            with self.elsewhere() as lines:
                body()
        finally:
            self.axis, self.lanes = None, 1
        self.lines += self._pieces
        self.put("#pragma unroll")
        with self.block(f"for (int v = 0; v < {lanes}; ++v)"):
            self.lines += lines

    def load(self, node: Any) -> str:
        """An element, from a piece where it is in one."""
        if self.lanes > 1 and node.source in self.pointers and node.source not in self.loaders:
            piece = self._piece(node)
            if piece is not None:
                return f"Wide({piece}.v[v])" if str(node.source.ty.dtype) in NARROW else f"{piece}.v[v]"
        return super().load(node)

    def _piece(self, node: Any) -> str | None:
        """The name of the piece that has an element for each lane."""
        place = horner(node.indices, node.source.ty.shape)
        inner = {self.axis, *self.inside}
        if depends(place, self.inside) or any(depends(c, inner) for c in self.conditions):
            return None
        if any(depends(i, inner) for n in loads(place) for i in n.indices):
            return None
        if not is_contiguous(node, self.axis) or not is_aligned(place, self.axis, self.lanes):
            return None
        axis, lanes, conditions = self.axis, self.lanes, self.conditions
        self.names[axis], self.lanes, self.conditions = self.base, 1, []
        try:
            with self.elsewhere() as lines:
                tests = []
                for condition in conditions:
                    tests.append(self.value(condition))
                    self.put(f"if ({tests[-1]}) {{")
                at = self.value(place)
        finally:
            self.names[axis], self.lanes, self.conditions = f"({self.base} + v)", lanes, conditions
        key = (self.pointers[node.source], at, *tests)
        if key not in self._known:
            kind, pointer = f"Vec<{stored(str(node.source.ty.dtype))}, {lanes}>", self.pointers[node.source]
            name = self._known[key] = self.fresh(f"{node.source.name}_piece")
            load = f"LoadVec<{stored(str(node.source.ty.dtype))}, {lanes}>({pointer}, {at})"
            if conditions:
                self._pieces += [f"{kind} {name}{{}};", "{", *lines, f"{name} = {load};", "}" * len(conditions), "}"]
            else:
                self._pieces += [*lines, f"const {kind} {name} = {load};"]
        return self._known[key]
