"""What was fused after a heavy stage: computed on its results as they leave the registers."""

from __future__ import annotations

from typing import Any

import tvm_ffi
from tvm import tirx
from tvm.ir import Call
from tvm.ir.expr import TensorLoad

from ingot.lower.cpu import nest
from ingot.lower.cpu.fused import Fused, Stage, same_place
from ingot.lower.cpu.nest import Flat, constant, sequence, simplify


class Epilogue:
    """The outputs of a function as expressions of the results of one stage, its ``anchor``.

    Positions are (row, column): the row-major position over all axes but the last, and the last.
    """

    def __init__(self, fused: Fused, anchor: Stage) -> None:
        self.buffer = anchor.buffer
        self.extents = [constant(e) for e in anchor.extents]
        stages = fused.inlined(keep=tuple(s for s in fused.stages if s.buffer.same_as(anchor.buffer)))
        self.parameters = list(fused.function.params)
        self.outputs = [s for s in stages if any(s.buffer.same_as(p) for p in fused.function.params)]
        self.flat: dict[Any, Flat] = {}
        self.scalars: dict[Any, Any] = {}  # a buffer of one element without axes → the name of its value

    def view(self, buffer: Any) -> Flat:
        """A buffer as one row of elements; it is declared by :meth:`declared`."""
        if buffer not in self.flat:
            self.flat[buffer] = Flat(buffer)
        return self.flat[buffer]

    def declared(self) -> list[Any]:
        """The declarations of all views, for the start of the function; to be asked for last.

        Numbers without axes (scales, zero points) are read there, too: within the loops each would be read again after every store, which might
        have changed it for all that LLVM knows.
        """
        return [*(flat.declare() for flat in self.flat.values()),
                *(tirx.Bind(name, tirx.BufferLoad(buffer, [])) for buffer, name in self.scalars.items())]

    def scalar(self, buffer: Any) -> Any:
        """The value of a buffer of one element without axes."""
        if buffer not in self.scalars:
            self.scalars[buffer] = tirx.Var(f"{buffer.name}_value", str(buffer.ty.dtype))
        return self.scalars[buffer]

    @property
    def size(self) -> int:
        """About how many instructions the outputs take for a vector."""
        count = 0

        def visit(node: Any) -> Any:
            nonlocal count
            call = isinstance(node, Call) and getattr(node.op, "name", "") != "tirx.nearbyint"
            count += 12 if call else 1  # a call is an intrinsic: exp and its like are polynomials
            return node

        kinds = (tirx.Add, tirx.Sub, tirx.Mul, tirx.Div, tirx.Max, tirx.Min, tirx.Select, Call)
        for output in self.outputs:
            if not output.buffer.same_as(self.buffer):
                tvm_ffi.structural_map(output.value, (kinds, visit))
        return count

    def store(self, row: Any, column: Any, result: Any) -> Any:
        """Stores every output's element of one position, given the anchor's result there."""
        position = simplify(row * self.extents[-1] + column)
        return sequence([self.view(o.buffer).store(position, self._value(o, row, column, position, result)) for o in self.outputs])

    def _value(self, output: Stage, row: Any, column: Any, position: Any, result: Any) -> Any:
        if output.buffer.same_as(self.buffer):
            return result
        where = {output.axes[-1]: column, **dict(zip(output.axes[:-1], nest.unravel(row, self.extents[:-1]), strict=True))}

        def load(node: Any) -> Any:
            if node.source.same_as(self.buffer):
                return result
            if not node.indices and any(node.source.same_as(p) for p in self.parameters):
                return self.scalar(node.source)
            if same_place(node, output):
                return self.view(node.source).load(position)
            return tirx.BufferLoad(node.source, [simplify(nest.substitute(i, where)) for i in node.indices])

        return nest.substitute(tvm_ffi.structural_map(output.value, (TensorLoad, load)), where)
