"""Calls of functions that are written as tensor expressions, for passes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tvm import relax, te

from ingot.importer import dims
from ingot.importer.context import with_scalars
from ingot.passes.graph import Rewriter


def computed(rewriter: Rewriter, name: str, operands: Sequence[Any], shape: Sequence[Any], dtype: str, compute: Callable[..., Any]) -> Any:
    """Emits a call of a function that computes each element of a tensor from some tensors and its indices, ``compute(*tensors, *indices)``."""
    sources = [te.placeholder([dims.expr(d) for d in dims.dims(o.ty.shape.values)], str(o.ty.dtype), name=f"x{i}") for i, o in enumerate(operands)]
    result = te.compute(list(shape), lambda *i: compute(*sources, *i), name=name)
    function, scalars = with_scalars(te.create_prim_func([*sources, result]).without_attr("global_symbol"))
    arguments = relax.Tuple([*operands, *(dims.expr(s) for s in scalars)])
    return rewriter.emit(relax.call_tir(rewriter.function(function, name), arguments, relax.TensorType(list(shape), dtype)))
