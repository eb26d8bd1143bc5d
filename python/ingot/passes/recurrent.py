"""Recurrent layers with a precision of 16 bits: weights that every time step reads again, in half the bytes."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
from tvm import relax

from ingot.passes.attention_operands import calls
from ingot.passes.graph import Graph, Rewriter
from ingot.passes.settings import Settings

#: The type that weights are stored in, and its largest number.
_STORED: dict[str, tuple[np.dtype, float]] = {"bf16": (np.dtype(ml_dtypes.bfloat16), float.fromhex("0x1.fep127")),
                                              "f16": (np.dtype(np.float16), 65504.0)}
_WEIGHTS = 1  # the kernel's input that holds them


def narrow_recurrent_weights(graph: Graph, settings: Settings) -> Graph:
    """Stores the recurrent weights of float32 layers in the type of the precision; sums stay float32. Numbers beyond it saturate."""
    if settings.precision not in _STORED:
        return graph
    stored, most = _STORED[settings.precision]

    def visit(rewriter: Rewriter, variable: Any, value: Any) -> Any:
        if not calls(value, "relax.call_pure_packed") or str(value.args[0].global_symbol) != "ingot.kernel.recurrent":
            return None
        operands = list(value.args[1].fields)
        weight = rewriter.weight(operands[_WEIGHTS])
        if weight is None or weight.dtype != "float32":
            return None
        narrow = weight.map(lambda w: np.clip(w, -most, most).astype(stored), weight.shape, f":{settings.precision}", stored.name)
        operands[_WEIGHTS] = rewriter.constant(narrow)
        attributes = list(value.args)[2:]
        return rewriter.emit(relax.call_pure_packed("ingot.kernel.recurrent", relax.Tuple(operands), *attributes, ty_args=list(value.ty_args)))

    return Rewriter(graph).run(visit)
