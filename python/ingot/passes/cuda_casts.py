"""Functions read operands in the type that they have: a cast in front of a TIR function moves into it, where it costs nothing.

Relax's fusion does not put element-wise work in front of what reduces, so that a softmax of bfloat16 numbers would be two kernels.
"""

from __future__ import annotations

from typing import Any

import tvm
import tvm_ffi
from tvm import relax, tirx
from tvm.ir.expr import TensorLoad

from ingot.lower.cpu.fused import read, same_place
from ingot.passes.attention_operands import calls
from ingot.passes.trace import bindings


def absorb_casts(mod: tvm.IRModule) -> tvm.IRModule:
    """A module of TIR functions and calls of them in which functions that only cast are read through."""
    if "main" not in {v.name_hint for v in mod.functions}:
        return mod
    casts: dict[Any, Any] = {}  # a variable → the call's operand that it is a cast of
    made: dict[Any, Any] = {}
    bb = relax.BlockBuilder(mod)
    main = mod["main"]
    changed: dict[Any, Any] = {}
    for binding in bindings(main):
        value: Any = getattr(binding, "value", None)
        if not calls(value, "relax.call_tir"):
            continue
        function = mod[value.args[0]]
        operands = list(value.args[1].fields)
        tensors = [i for i, a in enumerate(operands) if not tvm.ir.is_prim_expr(a)]
        if len(operands) == 1 and len(tensors) == 1 and _only_casts(function):
            casts[binding.var] = operands[0]
            continue
        taken = [i for i in tensors if operands[i] in casts]
        # What is cast and read more than once is read in the narrow type as often.
        if not taken:
            continue
        key = (value.args[0].name_hint, *((i, str(casts[operands[i]].ty.dtype)) for i in taken))
        if key not in made:
            made[key] = bb.add_func(retyped(function, {i: str(casts[operands[i]].ty.dtype) for i in taken}), value.args[0].name_hint)
        for i in taken:
            operands[i] = casts[operands[i]]
        changed[binding.var] = relax.Call(value.op, [made[key], relax.Tuple(operands)], value.attrs, value.ty_args)
    if not changed:
        return mod
    blocks = []
    for block in main.body.blocks:
        rebound = [relax.VarBinding(b.var, changed[b.var]) if b.var in changed else b for b in block.bindings]
        blocks.append(relax.DataflowBlock(rebound) if isinstance(block, relax.DataflowBlock) else relax.BindingBlock(rebound))
    result = bb.get()
    body = relax.SeqExpr(blocks, main.body.body)
    result.update_func(result.get_global_var("main"), relax.Function(main.params, body, main.ret_ty, main.is_pure, main.attrs))
    return relax.transform.DeadCodeElimination()(result)


def _only_casts(function: tirx.PrimFunc) -> bool:
    """Whether a function widens its one operand's elements to float32."""
    fused = read(function)
    if fused is None or len(fused.stages) != 1 or not fused.stages[0].is_map:
        return False
    stage = fused.stages[0]
    value = stage.value
    return (isinstance(value, tirx.Cast) and str(value.ty.dtype) == "float32" and isinstance(value.value, TensorLoad)
            and str(value.value.ty.dtype) in ("float16", "bfloat16") and same_place(value.value, stage))


def retyped(function: tirx.PrimFunc, dtypes: dict[int, str]) -> tirx.PrimFunc:
    """A function whose parameters of some numbers have other types: it casts what it reads of them and writes to them."""
    parameters = list(function.params)
    others = {}
    for number, dtype in dtypes.items():
        old = parameters[number]
        parameters[number] = others[old] = tirx.decl_buffer(old.ty.shape, dtype, name=old.name, layout=None)

    def load(node: Any) -> Any:
        if node.source not in others:
            return node
        return tirx.BufferLoad(others[node.source], list(node.indices)).astype(str(node.source.ty.dtype))

    def store(node: Any) -> Any:
        if node.buffer not in others:
            return node
        buffer = others[node.buffer]
        return tirx.BufferStore(buffer, node.value.astype(str(buffer.ty.dtype)), list(node.indices))

    body = tvm_ffi.structural_map(tvm_ffi.structural_map(function.body, (TensorLoad, load)), (tirx.BufferStore, store))
    body = tvm_ffi.structural_map(body, (tirx.Var, lambda v: others.get(v, v)))  # in what blocks say that they read and write
    return tirx.PrimFunc(parameters, body, function.ret_type, function.attrs)
