"""What becomes of a fused function: launches of kernels, in order, and the values that one leaves for another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import tvm_ffi
from tvm import tirx
from tvm.ir import Call

from ingot.lower.cpu.abi import Signature, is_buffer, signature
from ingot.lower.cuda.source import is_within, stored
from ingot.lower.cuda.vectors import Lanes

#: Threads of a block where nothing asks for another number.
BLOCK = 256


@dataclass(frozen=True)
class Kernel:
    """The body of one kernel and how it is launched: ``blocks`` of ``threads``, an expression over the function's symbols."""

    lines: Sequence[str]
    blocks: Any
    threads: int = BLOCK


@dataclass(frozen=True)
class Generated:
    """A function as kernels.

    ``extras`` are buffers that a kernel leaves for later ones: further outputs of the function. ``kernel`` is what ``ingot inspect`` calls it.
    """

    function: tirx.PrimFunc
    kernels: Sequence[Kernel]
    kernel: str
    extras: Sequence[Any] = ()
    operations: int = 0

    @property
    def checks(self) -> bool:
        """Whether kernels report data that they do not take: they have two more parameters, where and as whose."""
        found: list[Any] = []

        def visit(node: Any) -> Any:
            if is_within(node):
                found.append(node)
            return node

        tvm_ffi.structural_map(self.function.body, (Call, visit))
        return bool(found)

    def kernel_name(self, name: str, number: int) -> str:
        """What a kernel is called in the code."""
        return f"ingot_{name}_{number}" if len(self.kernels) > 1 else f"ingot_{name}"  # a function called exp must not be C's

    def source(self, name: str) -> str:
        """The kernels as CUDA C++."""
        taken = signature(self.function)
        read = _names(taken, self.extras)
        written = written_buffers(self.function)
        parameters = []
        for buffer in (*taken.buffers, *self.extras):
            kind = stored(str(buffer.ty.dtype))
            only_read = buffer not in written and buffer not in self.extras
            parameters.append(f"const {kind}* __restrict__ {read[buffer]}" if only_read else f"{kind}* {read[buffer]}")
        parameters += [f"int64_t {symbol_name(i)}" for i in range(len(taken.symbols))]
        parameters += ["void* fault", "uint64_t fault_step"] if self.checks else []
        text = []
        for number, kernel in enumerate(self.kernels):
            body = "\n".join(f"  {line}" for line in kernel.lines)
            text.append(f"extern \"C\" __global__ void __launch_bounds__({kernel.threads}) {self.kernel_name(name, number)}("
                        f"{', '.join(parameters)}) {{\n{body}\n}}\n")
        return "\n".join(text)


def written_buffers(function: tirx.PrimFunc) -> set[Any]:
    """The parameters that a function writes."""
    parameters = {p for p in function.params if is_buffer(p)}
    found: set[Any] = set()

    def visit(node: Any) -> Any:
        if node.buffer in parameters:
            found.add(node.buffer)
        return node

    tvm_ffi.structural_map(function.body, (tirx.BufferStore, visit))
    return found


def symbol_name(number: int) -> str:
    """What the function's symbol of a number is called in the code."""
    return f"s{number}"


def _names(taken: Signature, extras: Sequence[Any]) -> Mapping[Any, str]:
    return {buffer: f"p{number}" for number, buffer in enumerate([*taken.buffers, *extras])}


def emitter(function: tirx.PrimFunc, extras: Sequence[Any] = ()) -> Lanes:
    """An emitter that knows a function's buffers and symbols."""
    taken = signature(function)
    made = Lanes(dict(_names(taken, extras)))
    for number, symbol in enumerate(taken.symbols):
        made.names[symbol] = symbol_name(number)
    # Integers that are given as such, rather than by shapes, may be negative.
    given = [p for p in function.params if not is_buffer(p)]
    shapes = {e for b in taken.buffers for e in b.ty.shape if isinstance(e, tirx.Var)}
    made.signed = frozenset(s for s in given if s not in shapes)
    return made
