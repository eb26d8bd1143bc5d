"""TIR → machine code: the passes that lower scheduled TIR functions, and LLVM."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tvm
import tvm_ffi
from tvm import s_tir, tirx

from ingot.lower.cpu import abi, names
from ingot.lower.targets import Target

#: Symbols of generated functions start with this (artifact/link.py takes it off): one called `exp` would be what a call of C's `exp` reaches.
SYMBOL_PREFIX = "ingot."
#: Bytes of the largest array on the stack.
_MOST_STACK = 16 << 10
#: An attribute of functions that allocate no more than they use. TVM would look for less for as long as all of its other passes take together, and
#: finds some where memory is handed to other functions.
EXACT = "ingot.exact"


def _allocates(function: tirx.PrimFunc) -> bool:
    found = False

    def visit(node: Any) -> Any:
        nonlocal found
        found = True
        return node

    for kind in (tirx.AllocBuffer, s_tir.SBlock):
        tvm_ffi.structural_map(function.body, (kind, visit))
    return found


def _compacted(module: tvm.IRModule, _: tvm.transform.PassContext) -> tvm.IRModule:
    """What functions allocate, as small as what they use of it, where they may allocate more; else TVM would bound accesses for minutes."""
    those = {variable: f for variable, f in module.functions.items() if _allocates(f) and EXACT not in (f.attrs or {})}
    return tvm.IRModule({**module.functions, **s_tir.transform.CompactBufferAllocation()(tvm.IRModule(those)).functions})


def _on_stack(module: tvm.IRModule, _: tvm.transform.PassContext) -> tvm.IRModule:
    """Arrays of known size on the stack, where LLVM keeps them in registers; TVM would ask for workspaces for those of 1 KiB and more."""
    def marked(node: Any) -> Any:
        ty = node.buffer.ty
        known = all(isinstance(extent, tirx.IntImm) for extent in ty.shape)
        if not known or math.prod(map(int, ty.shape)) * tvm.DataType(str(ty.dtype)).itemsize > _MOST_STACK:
            return node
        return tirx.AllocBuffer(node.buffer, {**dict(node.annotations or {}), "disable_lower_builtin": tirx.IntImm("bool", 1)})

    return tvm.IRModule({v: f.with_body(tvm_ffi.structural_map(f.body, (tirx.AllocBuffer, marked))) for v, f in module.functions.items()})


def _scheduled_to_loops() -> list[tvm.transform.Pass]:
    """Blocks and buffers → loops over flat memory; TVM's s_tir pipeline without its GPU parts."""
    return [
        s_tir.transform.CanonicalizeLoop(),
        s_tir.transform.LowerInitBlock(),
        s_tir.transform.PlanAndUpdateBufferAllocationLocation(),
        s_tir.transform.ConvertBlocksToOpaque(),
        tvm.transform.module_pass(_compacted, opt_level=0, name="ingot.CompactBufferAllocation"),
        s_tir.transform.LowerMatchBuffer(),
        s_tir.transform.StmtSimplify(),
        s_tir.transform.LowerOpaqueBlock(),
        tvm.transform.module_pass(names.pass_, opt_level=0, name="ingot.StoreLongChains"),
        tirx.transform.FlattenBuffer(),
        tirx.transform.BF16ComputeLegalize(),
        tirx.transform.NarrowDataType(32),
        s_tir.transform.LoopPartition(),
        tirx.transform.VectorizeLoop(True),
        tirx.transform.StorageRewrite(),
        s_tir.transform.HoistIfThenElse(),
        tirx.transform.UnrollLoop(),
        s_tir.transform.RenormalizeSplitPattern(),
        tirx.transform.StmtSimplify(),
        tirx.transform.RemoveNoOp(),
        s_tir.transform.RewriteUnsafeSelect(),
        tirx.transform.CommonSubexprElim(),
        tirx.transform.FP8ComputeLegalize(),
        tirx.transform.VerifyMemory(),
    ]


def _loops_to_intrinsics() -> list[tvm.transform.Pass]:
    return [
        tirx.transform.FP8StorageLegalize(),
        tirx.transform.BF16StorageLegalize(),
        tvm.transform.module_pass(_on_stack, opt_level=0, name="ingot.KeepOnStack"),
        tirx.transform.LowerTVMBuiltin(),
        tirx.transform.LowerIntrin(),
    ]


def generate(functions: Mapping[str, tirx.PrimFunc], target: Target) -> bytes:
    """Compiles scheduled TIR functions into one relocatable ELF object, in which each has the name it is given by after ``SYMBOL_PREFIX``."""
    functions = {SYMBOL_PREFIX + name: function for name, function in functions.items()}
    llvm = tvm.target.Target(target.llvm)
    llvm = llvm.with_host(llvm)
    module = tvm.IRModule({tvm.ir.GlobalVar(name): f.with_attr({"global_symbol": name, "target": llvm}) for name, f in functions.items()})
    module = tvm.transform.Sequential(_scheduled_to_loops())(module)
    module = tvm.IRModule({tvm.ir.GlobalVar(gv.name_hint): abi.lower(f, gv.name_hint, llvm) for gv, f in module.functions.items()})
    module = tvm.transform.Sequential(_loops_to_intrinsics())(module)
    built = tvm.get_global_func("target.build.llvm")(module, llvm)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "code.o"
        built.write_to_file(str(path), "o")
        return path.read_bytes()
