"""Names for composite extents: in each TIR function, ``(height - 1) // 2 + 1`` becomes one symbol, and functions that are then alike become one.

The extents of a model with symbolic height and width are expressions that grow with every stride. The program knows them all as numbers when
it calls a function, and solves a function's symbols from the shapes of its arguments; a name keeps the expressions out of index arithmetic,
which costs time while compiling (five times as much in a YOLOv8 of symbolic size) and while running. It also makes the
functions of layers alike that differ in their extents alone.
"""

from __future__ import annotations

from typing import Any

import tvm
import tvm_ffi
from tvm import relax, tirx
from tvm.ir import Call

from ingot.importer import dims
from ingot.lower.cpu.abi import is_buffer

_COMPOSITE = (tirx.Add, tirx.Sub, tirx.Mul, tirx.FloorDiv, tirx.FloorMod, tirx.Min, tirx.Max, tirx.Select, Call)


def name_extents(mod: tvm.IRModule) -> tvm.IRModule:
    """A module whose TIR functions have numbers, and symbols plus numbers, as extents of their arguments, each function once."""
    kept: dict[Any, tirx.PrimFunc] = {}
    replaced: dict[Any, Any] = {}
    alike: dict[int, list[Any]] = {}
    for variable, function in mod.functions_items():
        if not isinstance(function, tirx.PrimFunc):
            continue
        named = _named(function)
        same = alike.setdefault(tvm_ffi.structural_hash(named, map_free_vars=True), [])
        twin = next((v for v in same if tvm_ffi.structural_equal(kept[v], named, map_free_vars=True)), None)
        if twin is None:
            same.append(variable)
            kept[variable] = named
        else:
            replaced[variable] = twin
    functions: dict[Any, Any] = dict(kept)
    for variable, function in mod.functions_items():
        if isinstance(function, relax.Function):
            functions[variable] = tvm_ffi.structural_map(function, (tvm.ir.GlobalVar, lambda v: replaced.get(v, v)))
    return tvm.IRModule(functions, attrs=mod.attrs)


def _named(function: tirx.PrimFunc) -> tirx.PrimFunc:
    """A function with a symbol for each composite extent of its arguments, wherever its loops and buffers have it."""
    names: list[tuple[Any, Any]] = []
    for parameter in function.params:
        for extent in parameter.ty.shape if is_buffer(parameter) else ():
            if not isinstance(extent, (tirx.Var, tirx.IntImm)):
                simple = dims.dim(extent)
                if not isinstance(simple, (int, tirx.Var)) and not any(dims.equal(simple, known) for known, _ in names):
                    names.append((simple, dims.symbol(f"extent{len(names)}")))
    if not names:
        return function
    known = {symbol for parameter in function.params if is_buffer(parameter) for extent in parameter.ty.shape
             for symbol in tirx.analysis.undefined_vars(extent)} | {p for p in function.params if not is_buffer(p)}
    given = {p for p in function.params if not is_buffer(p)} | {
        e for p in function.params if is_buffer(p) for e in p.ty.shape if isinstance(e, tirx.Var)}
    if known - given:
        return function  # a symbol that only a composite extent gives

    def name(node: Any) -> Any:
        if str(getattr(node.ty, "dtype", "")) != "int64" or not known.issuperset(tirx.analysis.undefined_vars(node)):
            return node
        if not tirx.analysis.undefined_vars(node):
            return node
        for extent, symbol in names:
            beyond = dims.dim(node - extent)
            if isinstance(beyond, int):  # a guard against the last element, say
                return symbol + beyond if beyond else symbol
        return node

    return tvm_ffi.structural_map(function, (_COMPOSITE, name), order="pre")
