"""The calling convention of generated functions: ``int32_t f(const int64_t* args)`` (docs/format.md).

TVM's own packed convention decodes and checks every argument in generated code, which doubles its size. The runtime
knows all shapes and types before it calls, so here ``args`` simply holds the address of each buffer, then the
value of each symbolic dimension.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.ir import PointerType, PrimType

_CPU = 1  # kDLCPU


@dataclass(frozen=True)
class Signature:
    """What a TIR function takes: its buffers (Relax's inputs, then outputs), then its integer ``symbols``."""

    buffers: tuple[Any, ...]
    symbols: tuple[Any, ...]


def signature(function: tirx.PrimFunc) -> Signature:
    """The signature of a TIR function whose parameters are buffers and int64 scalars."""
    buffers, symbols = [], []
    for parameter in function.params:
        if is_buffer(parameter):
            buffers.append(parameter)
            for extent in parameter.ty.shape:
                symbols += [v for v in tirx.analysis.undefined_vars(extent) if v not in symbols]
        elif parameter not in symbols:
            symbols.append(parameter)
    return Signature(tuple(buffers), tuple(symbols))


def is_buffer(parameter: Any) -> bool:
    """Whether a function's parameter is a buffer rather than an integer."""
    return hasattr(parameter.ty, "storage_scope")


def lower(function: tirx.PrimFunc, name: str, target: Any) -> tirx.PrimFunc:
    """Turns a lowered TIR function into one that takes ``args`` alone."""
    taken = signature(function)
    args = tirx.Var("args", PointerType(PrimType("int64"), "global"))
    slots = tirx.decl_buffer((max(1, len(taken.buffers) + len(taken.symbols)),), "int64", name="slots")
    head: list[Any] = [tirx.DeclBuffer(slots, data=args)]
    for index, buffer in enumerate(taken.buffers):
        pointer = tirx.Var(f"{buffer.name}_data", PointerType(PrimType(str(buffer.ty.dtype)), "global"))
        head.append(tirx.Bind(pointer, tirx.reinterpret(pointer.ty, tirx.BufferLoad(slots, [index]))))
        head.append(tirx.DeclBuffer(buffer, data=pointer))
    for index, symbol in enumerate(taken.symbols, len(taken.buffers)):
        value = tirx.BufferLoad(slots, [index])
        width = str(symbol.ty.dtype) if hasattr(symbol.ty, "dtype") else "int64"
        head.insert(1, tirx.Bind(symbol, value if width == "int64" else value.astype(width)))
    zero = tirx.IntImm("int32", 0)
    body = tirx.AttrStmt(zero, "device_id", zero, tirx.AttrStmt(zero, "device_type", tirx.IntImm("int32", _CPU), function.body))
    lowered = tirx.PrimFunc([args], tirx.SeqStmt([*head, body, tirx.Return(zero)]), PrimType("int32"))
    return lowered.with_attr({"global_symbol": name, "target": target, "calling_conv": 0, "tirx.is_entry_func": True, "tirx.noalias": True})
