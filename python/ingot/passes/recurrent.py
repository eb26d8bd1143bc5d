"""Recurrent layers with a precision of 16 bits: weights that every time step reads again, in half the bytes."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
from tvm import relax

from ingot.passes.attention_operands import calls
from ingot.passes.graph import Graph, Rewriter
from ingot.passes.settings import Settings

_GRU = 2  # the cell whose gates z and r come before those of h: Cell::kGru of kernels/cpu/recurrent/step.h
_GATES = {0: 1, 1: 4, _GRU: 3, 3: 3}  # by cell
_LANES = 8  # kLanes there
_DEPTH = 32  # Layout<Bfloat16>::kDepth there
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
        if settings.precision == "bf16":
            cell = int(value.args[3].fields[0].value)
            narrow = narrow.map(lambda w: _paired(w, cell), _paired_shape(weight.shape, cell), ":pairs")
        operands[_WEIGHTS] = rewriter.constant(narrow)
        attributes = list(value.args)[2:]
        return rewriter.emit(relax.call_pure_packed("ingot.kernel.recurrent", relax.Tuple(operands), *attributes, ty_args=list(value.ty_args)))

    return Rewriter(graph).run(visit)


def _paired(weights: np.ndarray, cell: int) -> np.ndarray:
    """[D, N H G 8] → [D, N K / 2 G 8, 2]: two k side by side, K of them with zeros after H."""
    hidden = _hidden(weights.shape[1], cell)
    blocks = -(-hidden // _LANES)
    split = blocks * hidden * 2 * _LANES if cell == _GRU else 0
    parts = [p.reshape(len(weights), blocks, hidden, -1) for p in (weights[:, :split], weights[:, split:]) if p.size]
    deep = [np.pad(p, [(0, 0), (0, 0), (0, -hidden % _DEPTH), (0, 0)]) for p in parts]
    pairs = [p.reshape(len(p), blocks, -1, 2, p.shape[3]).swapaxes(3, 4).reshape(len(p), -1, 2) for p in deep]
    return np.ascontiguousarray(np.concatenate(pairs, 1))


def _paired_shape(shape: tuple[int, ...], cell: int) -> tuple[int, ...]:
    hidden = _hidden(shape[1], cell)
    return shape[0], shape[1] // hidden * (-(-hidden // _DEPTH) * _DEPTH) // 2, 2


def _hidden(size: int, cell: int) -> int:
    """The hidden units H of a layer with N H G 8 weights."""
    products = size // (_GATES[cell] * _LANES)  # ceil(H / 8) H
    return next(h for h in range(1, products + 1) if -(-h // _LANES) * h == products)
