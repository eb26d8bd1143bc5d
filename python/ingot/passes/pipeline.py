"""The passes between import and lowering, in order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import tvm
from tvm import relax

from ingot.importer.module import Imported
from ingot.importer.weights import Weight
from ingot.passes.attention import fuse_attention
from ingot.passes.attention_precision import round_attention
from ingot.passes.cuda_casts import absorb_casts
from ingot.passes.cuda_integers import cuda_integers
from ingot.passes.cuda_kernels import cuda_kernels
from ingot.passes.cuda_merge import merge_products
from ingot.passes.cuda_normalize import cuda_normalize
from ingot.passes.cuda_normalized import normalized_products
from ingot.passes.cuda_precision import cuda_precision
from ingot.passes.cuda_products import cuda_products
from ingot.passes.cuda_rotary import cuda_rotary
from ingot.passes.extents import name_extents
from ingot.passes.fold import fold_quantized, fold_weights
from ingot.passes.graph import Graph, each_function
from ingot.passes.integers import integer_contractions
from ingot.passes.layout import channels_last
from ingot.passes.legalize import OVERRIDES
from ingot.passes.pack import pack_weights
from ingot.passes.pieces import independent_rows
from ingot.passes.quantized_matmul import CUDA_LAYOUT, quantized_matmuls
from ingot.passes.recurrent import narrow_recurrent_weights
from ingot.passes.requantize import merge_factors
from ingot.passes.scale import fold_scales
from ingot.passes.settings import Settings
from ingot.passes.small_floats import small_floats
from ingot.passes.trace import Trace, trace_fusion


@dataclass
class Optimized:
    """A module of fused TIR functions, the weights behind each function's last parameters, and which imported nodes each call came from."""

    mod: tvm.IRModule
    weights: dict[str, tuple[Weight, ...]]
    trace: Trace
    rows: str | None = None  # the dimension whose rows can be computed one without another (passes/pieces.py)


#: Operators that the program does as views, without code.
VIEWS = ("relax.reshape",)


#: What happens to the graph before any operator becomes code, in order. Each keeps the variables' names (passes/trace.py).
GRAPH_PASSES: tuple[tuple[str, Callable[[Graph, Settings], Graph]], ...] = (
    ("quantized weights", lambda graph, settings: fold_quantized(graph)),
    ("small floats", lambda graph, settings: small_floats(graph)),
    ("integers", integer_contractions),  # before dequantized weights fold to float32
    ("quantized matmul", lambda graph, settings: quantized_matmuls(graph)),
    ("fold weights", lambda graph, settings: fold_weights(graph)),
    ("attention", lambda graph, settings: fuse_attention(graph)),
    ("precision of attention", round_attention),
    ("fold scales", lambda graph, settings: fold_scales(graph)),
    ("channels last", lambda graph, settings: channels_last(graph)),
    ("fold weights", lambda graph, settings: fold_weights(graph)),
    ("factors of quantization", lambda graph, settings: merge_factors(graph)),
    ("recurrent weights", narrow_recurrent_weights),
    ("pack weights", pack_weights),
)

#: The same for GPUs, which have kernels for products and convolutions.
CUDA_PASSES: tuple[tuple[str, Callable[[Graph, Settings], Graph]], ...] = (
    ("quantized weights", lambda graph, settings: fold_quantized(graph)),
    ("integers", integer_contractions),
    ("merge products", lambda graph, settings: merge_products(graph)),
    ("quantized matmul", lambda graph, settings: quantized_matmuls(graph, CUDA_LAYOUT)),
    ("fold weights", lambda graph, settings: fold_weights(graph)),
    ("attention", lambda graph, settings: fuse_attention(graph)),
    ("fold scales", lambda graph, settings: fold_scales(graph)),
    ("channels last", lambda graph, settings: channels_last(graph)),
    ("fold weights", lambda graph, settings: fold_weights(graph)),
    ("integer products", lambda graph, settings: cuda_integers(graph)),
    ("kernels in code", lambda graph, settings: cuda_kernels(graph)),
    ("normalizations", lambda graph, settings: cuda_normalize(graph)),
    ("caches", lambda graph, settings: cuda_rotary(graph)),
    ("precision", cuda_precision),
    ("products", cuda_products),
    ("normalized products", lambda graph, settings: normalized_products(graph)),
)


def optimize(imported: Imported, settings: Settings, note: Callable[[str], None] = lambda line: None) -> Optimized:
    """Turns an imported module into fused TIR functions and the calls of them.

    Args:
        imported: What :func:`ingot.importer.model.import_model` made.
        settings: The target to legalize for, the precision and what chooses tiles.
        note: Called with a line for each pass, for ``--verbose``.
    """
    transform = relax.transform
    llvm = tvm.target.Target(settings.target.llvm)

    def run(stage: tvm.IRModule, *passes: tvm.transform.Pass) -> tvm.IRModule:
        for step in passes:
            before = _count(stage)
            stage = step(stage)
            note(f"{step.info.name}: {before} → {_count(stage)} bindings, {_tir_count(stage)} TIR functions")
        return stage

    rows = None if settings.target.is_cuda else independent_rows(imported, llvm)
    note(f"rows: {rows or 'none'} can be computed one without another")
    with llvm:
        mod = run(imported.mod, transform.CanonicalizeBindings(), transform.EliminateCommonSubexpr(), transform.DeadCodeElimination())
        weights = imported.weights_of()
        for name, change in CUDA_PASSES if settings.target.is_cuda else GRAPH_PASSES:
            before = _count(mod)
            mod, weights = each_function(mod, weights, change, settings)
            note(f"{name}: {before} → {_count(mod)} bindings, {sum(map(len, weights.values()))} weights")
        mod = run(
            mod,
            transform.EliminateCommonSubexpr(),
            transform.LegalizeOps(OVERRIDES, skip_ops=list(VIEWS)),
        )
        if settings.target.is_cuda:
            mod = absorb_casts(mod)
        mod = run(mod, transform.AnnotateTIROpPattern(), transform.DeadCodeElimination())
        fused = run(mod, transform.FuseOps())
        trace = trace_fusion(mod, fused)
        mod = run(fused, transform.FuseTIR())
        before = _tir_count(mod)
        mod = name_extents(mod)
        note(f"name extents: {before} → {_tir_count(mod)} TIR functions")
    return Optimized(mod, weights, trace, rows)


def _count(mod: tvm.IRModule) -> int:
    return sum(len(block.bindings) for f in mod.functions.values() if isinstance(f, relax.Function) and isinstance(f.body, relax.SeqExpr)
               for block in f.body.blocks)


def _tir_count(mod: tvm.IRModule) -> int:
    return sum(isinstance(f, tvm.tirx.PrimFunc) for f in mod.functions.values())
