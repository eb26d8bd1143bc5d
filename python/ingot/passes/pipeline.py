"""The passes between import and lowering, in order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import tvm
from tvm import relax

from ingot.lower.targets import Target
from ingot.passes.trace import Trace, trace_fusion


@dataclass
class Optimized:
    """A module of fused TIR functions, and which imported nodes each call of them came from."""

    mod: tvm.IRModule
    trace: Trace
    log: list[str] = field(default_factory=list)


#: Operators that the program does as views, without code.
VIEWS = ("relax.reshape",)


def optimize(mod: tvm.IRModule, target: Target, note: Callable[[str], None] = lambda line: None) -> Optimized:
    """Turns an imported module into fused TIR functions and the calls of them.

    Args:
        mod: What :func:`ingot.importer.model.import_model` made.
        target: The target to legalize for.
        note: Called with a line for each pass, for ``--verbose``.
    """
    transform = relax.transform
    llvm = tvm.target.Target(target.llvm)

    def run(stage: tvm.IRModule, *passes: tvm.transform.Pass) -> tvm.IRModule:
        for step in passes:
            before = _count(stage)
            stage = step(stage)
            note(f"{step.info.name}: {before} → {_count(stage)} bindings, {_tir_count(stage)} TIR functions")
        return stage

    with llvm:
        mod = run(
            mod,
            transform.CanonicalizeBindings(),
            transform.EliminateCommonSubexpr(),
            transform.DeadCodeElimination(),
            transform.LegalizeOps(skip_ops=list(VIEWS)),
            transform.AnnotateTIROpPattern(),
            transform.DeadCodeElimination(),
        )
        fused = run(mod, transform.FuseOps())
        trace = trace_fusion(mod, fused)
        mod = run(fused, transform.FuseTIR())
    return Optimized(mod, trace)


def _count(mod: tvm.IRModule) -> int:
    return sum(len(block.bindings) for f in mod.functions.values() if isinstance(f, relax.Function) and isinstance(f.body, relax.SeqExpr)
               for block in f.body.blocks)


def _tir_count(mod: tvm.IRModule) -> int:
    return sum(isinstance(f, tvm.tirx.PrimFunc) for f in mod.functions.values())
