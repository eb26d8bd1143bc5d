"""Attention whose operands may be rounded to bfloat16, as those of products are in that precision."""

from __future__ import annotations

from typing import Any

from tvm import relax

from ingot.passes.attention_operands import calls
from ingot.passes.graph import Graph, Rewriter
from ingot.passes.settings import Settings

_KERNEL = "ingot.kernel.attention"
_FLAGS = 6  # of the integers
_ROUNDS = 2  # kernels/cpu/attention/attention.h, kRoundsOperands


def round_attention(graph: Graph, settings: Settings) -> Graph:
    """With ``--precision bf16`` on CPUs that multiply matrices of bfloat16, attention does too."""
    if settings.precision != "bf16" or not settings.target.has("amx_bf16"):
        return graph

    def visit(rewriter: Rewriter, variable: Any, value: Any) -> Any:
        if not calls(value, "relax.call_pure_packed") or str(value.args[0].global_symbol) != _KERNEL:
            return None
        _, inputs, dims, ints, floats = value.args
        flags = int(ints.fields[_FLAGS].value) | _ROUNDS
        rounded = relax.Tuple([*ints.fields[:_FLAGS], relax.prim_value(flags), *ints.fields[_FLAGS + 1:]])
        return rewriter.emit(relax.call_pure_packed(_KERNEL, inputs, dims, rounded, floats, ty_args=value.ty_args[0]))

    return Rewriter(graph).run(visit)
