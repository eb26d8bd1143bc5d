"""Long chains of names become small arrays: TVM's passes and its code generator would take hours over them.

Each puts a name's value in its place to see what it knows of a number, in the values of later names too: an expression that grows by a factor
with each name. They do not look into what was stored. LLVM keeps most of the arrays in registers.
"""

from __future__ import annotations

from typing import Any

import tvm
import tvm_ffi
from tvm import tirx

from ingot.lower.cpu.nest import Local, constant, index, sequence, substitute

#: The most names around a value that stay: those of three activations, in code that is faster than that of arrays. TVM takes seconds over four.
FEW = 12
#: The most of them for integers: TVM looks much further into these, for bounds and remainders. Four floor divisions took 11 s, five minutes.
FEW_INTEGERS = 2


def store_long_chains(function: tirx.PrimFunc) -> tirx.PrimFunc:
    """A function, without blocks and before loops are vectorized, in which few names are around any stored value."""
    body = tvm_ffi.structural_map(function.body, (tirx.For, _vectors))  # first: a store alone would allocate for each element of a vector
    return function.with_body(tvm_ffi.structural_map(body, (tirx.BufferStore, lambda store: _stored(store, None))))


def _vectors(node: Any) -> Any:
    """A vectorized loop of one store: the arrays have a place for each element and lie outside of it."""
    if node.kind != tirx.ForKind.VECTORIZED or not isinstance(node.body, tirx.BufferStore):
        return node
    lanes = constant(node.extent)
    return _stored(node.body, node) if isinstance(lanes, int) else node


def _stored(store: Any, vector: Any) -> Any:
    """A store whose names are stored before it, in order, if they are many."""
    chain = []
    value = store.value
    while isinstance(value, tirx.Let):
        chain.append((value.var, value.value))
        value = value.body
    if len(chain) <= FEW and sum("int" in str(name.ty.dtype) for name, _ in chain) <= FEW_INTEGERS:
        return store if vector is None else vector
    lanes, at = (1, index(0)) if vector is None else (constant(vector.extent), vector.loop_var - vector.min)
    kept = {name: Local(str(name.name), lanes, str(name.ty.dtype)) for name, _ in chain}
    reads = {name: local.load(at) for name, local in kept.items()}
    steps = [kept[name].store(at, substitute(bound, reads)) for name, bound in chain]
    steps.append(tirx.BufferStore(store.buffer, substitute(value, reads), [substitute(i, reads) for i in store.indices]))
    body = sequence(steps)
    if vector is not None:
        body = tirx.For(vector.loop_var, vector.min, vector.extent, vector.kind, body)
    return sequence([local.allocate() for local in kept.values()], body)


def pass_(module: tvm.IRModule, _: tvm.transform.PassContext) -> tvm.IRModule:
    """:func:`store_long_chains` of all functions of a module."""
    return tvm.IRModule({variable: store_long_chains(f) for variable, f in module.functions.items()})
