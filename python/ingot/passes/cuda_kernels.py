"""Small kernels of the CPU that a GPU computes in generated code, so that nothing is copied for them.

What they refuse on a CPU, an index that is out of range, is reported by the code (lower/cuda/prelude.cuh), and the session fails when it has waited.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tvm_ffi
from tvm import tirx

from ingot.importer import dims
from ingot.lower.cuda.source import WITHIN
from ingot.passes.attention_operands import calls
from ingot.passes.computed import computed
from ingot.passes.graph import Graph, Rewriter


def cuda_kernels(graph: Graph) -> Graph:
    """Rewrites calls of such kernels to TIR functions."""
    return _Kernels(graph).run(_visit)


class _Kernels(Rewriter):
    def match(self, value: Any, ty: Any) -> Any:
        # What stated the type of a kernel's result says nothing new of a function's.
        return value if value in self.values and tvm_ffi.structural_equal(value.ty, ty) else super().match(value, ty)


def _visit(rewriter: Rewriter, variable: Any, value: Any) -> Any:
    if not calls(value, "relax.call_pure_packed"):
        return None
    write = _WRITTEN.get(str(value.args[0].global_symbol))
    if write is None:
        return None
    _, tensors, extents, ints, _ = value.args
    return write(rewriter, list(tensors.fields), list(extents.values), [int(i.value) for i in ints.fields])


def _within(index: Any, extent: Any) -> Any:
    """The place of an index, from the end if negative, on an axis."""
    return tirx.call_pure_extern("int64", WITHIN, index.astype("int64"), extent)


def _wrap_indices(rewriter: Rewriter, tensors: list[Any], extents: list[Any], ints: list[int]) -> Any:
    (x,), (extent,) = tensors, extents
    return computed(rewriter, "wrap_indices", [x], list(x.ty.shape.values), "int64", lambda source, *i: _within(source(*i), extent))


def _gather_nd(rewriter: Rewriter, tensors: list[Any], extents: list[Any], ints: list[int]) -> Any:
    (data, indices), (batch,) = tensors, ints
    shape, at = list(data.ty.shape.values), list(indices.ty.shape.values)
    depth = dims.dims(at)[-1]
    if not isinstance(depth, int):
        return None
    outer = at[:-1]

    def compute(source: Any, places: Any, *i: Any) -> Any:
        here = i[: len(outer)]
        picked = [_within(places(*here, tirx.IntImm("int64", k)), shape[batch + k]) for k in range(depth)]
        return source(*here[:batch], *picked, *i[len(outer) :])

    return computed(rewriter, "gather_nd", [data, indices], [*outer, *shape[batch + depth :]], str(data.ty.dtype), compute)


_WRITTEN: dict[str, Callable[[Rewriter, list[Any], list[Any], list[int]], Any]] = {
    "ingot.kernel.wrap_indices": _wrap_indices,
    "ingot.kernel.check_indices": _wrap_indices,
    "ingot.kernel.gather_nd": _gather_nd,
}
