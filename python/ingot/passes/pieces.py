"""Whether the rows of a batch depend on nothing of each other, so that a large batch can be run in pieces.

All tensors of a large batch between two layers do not fit a cache; those of a few images do. Where each row of every output is computed from the
same rows of the inputs alone, the runtime runs the model for some rows after others, and needs memory for these (docs/format.md, "Program").

One rule is enough: in every loop nest, tensors whose shape has the batch have it in axis 0, as a factor, are read and written there at the
position of one spatial loop, and neither that loop's position nor the batch's extent occurs anywhere else.
"""

from __future__ import annotations

from typing import Any

import tvm
import tvm_ffi
from tvm import relax, tirx
from tvm.ir.expr import TensorLoad

from ingot.importer import dims
from ingot.importer.dims import Dim
from ingot.importer.module import Imported
from ingot.lower.cpu.abi import is_buffer
from ingot.lower.cpu.fused import Stage, loads, read
from ingot.lower.cpu.nest import substitute
from ingot.passes.legalize import OVERRIDES
from ingot.passes.trace import bindings

_VIEWS = ("relax.reshape",)
#: Calls into the runtime whose results have the elements of the first operand, each computed alone.
_ELEMENTWISE_CALLS = ("ingot.builtin.view", "ingot.kernel.wrap_indices")


def independent_rows(imported: Imported, target: Any) -> str | None:
    """The symbolic dimension that is axis 0 of every output and whose rows can be computed one without another, or None.

    Args:
        imported: The model, before any pass: Winograd's functions, say, have the batch among their tiles.
        target: The LLVM target to legalize for.
    """
    symbol = _candidate(imported)
    if symbol is None:
        return None
    with target:
        mod = relax.transform.DeadCodeElimination()(relax.transform.LegalizeOps(OVERRIDES, skip_ops=list(_VIEWS))(imported.mod))
    rows = _Rows(mod, symbol)
    return symbol.name if all(rows.keeps(binding) for binding in bindings(mod["main"])) else None


def _candidate(imported: Imported) -> Any | None:
    """The symbol that is axis 0 of all outputs; inputs have it there or nowhere."""
    if imported.states or imported.subgraph_weights or not imported.outputs:
        return None
    shapes = [s.shape for s in imported.outputs]
    first = shapes[0][0] if shapes[0] else None
    if first is None or not any(first is s or (isinstance(first, tirx.Var) and first.same_as(s)) for s in imported.symbols):
        return None
    if any(not shape or not dims.equal(shape[0], first) or _has(shape[1:], first) for shape in shapes):
        return None
    inputs = [s.shape for s in imported.inputs]
    if any(_has(shape, first) and (not dims.equal(shape[0], first) or _has(shape[1:], first)) for shape in inputs):
        return None
    if any(s.dtype == "str" for s in (*imported.inputs, *imported.outputs)):
        return None
    checked = [v for conditions in imported.checks.values() for condition, _ in conditions for v in tirx.analysis.undefined_vars(condition)]
    return None if any(v.same_as(first) for v in checked) else first


def _has(extents: Any, symbol: Any) -> bool:
    return any(v.same_as(symbol) for e in extents if not isinstance(e, int) for v in tirx.analysis.undefined_vars(dims.expr(e)))


class _Rows:
    """Goes through the bindings of a function; ``symbol`` is the batch."""

    def __init__(self, mod: tvm.IRModule, symbol: Any) -> None:
        self.mod = mod
        self.symbol = symbol
        self.known = {v for p in mod["main"].params for e in _shape(p.ty) for v in tirx.analysis.undefined_vars(e)}
        self.verdicts: dict[Any, bool] = {}

    def keeps(self, binding: Any) -> bool:
        """Whether rows of what a binding computes depend on the same rows of its operands alone."""
        value = binding.value
        if isinstance(binding, relax.MatchCast):
            return self.factor(_shape(binding.ty)) is not None and self.known.issuperset(
                v for e in _shape(binding.ty) for v in tirx.analysis.undefined_vars(e))
        if isinstance(value, relax.Tuple):
            return all(isinstance(f, (relax.Var, tvm.ir.GenericConst)) for f in value.fields)
        if isinstance(value, (relax.TupleGetItem, relax.Var, tvm.ir.GenericConst)):
            return True
        if not isinstance(value, relax.Call) or not isinstance(value.op, tvm.ir.Op):
            return False
        if value.op.name == "relax.call_tir":
            return self.function(value)
        if value.op.name in _VIEWS:
            return self.factor(_shape(value.args[0].ty)) is not None and self.factor(_shape(binding.var.ty)) is not None
        return value.op.name == "relax.call_pure_packed" and value.args[0].global_symbol in _ELEMENTWISE_CALLS

    def factor(self, shape: list[Any]) -> Dim | None:
        """What is multiplied with the batch in axis 0, 0 for a shape without the batch, None for one that has it elsewhere."""
        if not _has(shape, self.symbol):
            return 0
        found = dims.floordiv(dims.dim(shape[0]), self.symbol)
        return found if not _has([found, *shape[1:]], self.symbol) and dims.equal(found * self.symbol, dims.dim(shape[0])) else None

    def function(self, call: Any) -> bool:
        """Whether a TIR function keeps to the rule, for the arguments of a call."""
        outputs = list(call.ty_args[0].fields) if isinstance(call.ty_args[0], relax.TupleType) else [call.ty_args[0]]
        arguments = [a if tvm.ir.is_prim_expr(a) else _shape(a.ty) for a in call.args[1].fields] + [_shape(t) for t in outputs]
        if not any(_has([a] if tvm.ir.is_prim_expr(a) else a, self.symbol) for a in arguments):
            return True
        function = self.mod[call.args[0]]
        buffers = [p for p in function.params if is_buffer(p)]
        scalars = [p for p in function.params if not is_buffer(p)]
        known: dict[Any, Any] = dict(zip(scalars, [a for a in arguments if tvm.ir.is_prim_expr(a)], strict=True))
        for buffer, shape in zip(buffers, [a for a in arguments if not tvm.ir.is_prim_expr(a)], strict=True):
            known.update((e, dims.expr(given)) for e, given in zip(buffer.ty.shape, shape, strict=True) if isinstance(e, tirx.Var))
        key = (call.args[0].name_hint, tuple(map(str, known.values())))
        if key not in self.verdicts:
            fused = read(function)
            self.verdicts[key] = fused is not None and all(self.stage(stage, known) for stage in fused.stages)
        return self.verdicts[key]

    def stage(self, stage: Stage, known: dict[Any, Any]) -> bool:
        """Whether a loop nest keeps to the rule; ``known`` are the function's symbols in terms of the model's."""
        def model(extents: Any) -> list[Any]:
            return [substitute(e, known) for e in extents]

        if _has(model(stage.reduced_extents), self.symbol):
            return False
        axes = [(axis, self.factor([extent])) for axis, extent in zip(stage.axes, model(stage.extents), strict=True) if _has([extent], self.symbol)]
        row, factor = axes[0] if len(axes) == 1 else (None, 0)
        if len(axes) > 1 or factor is None or not self.at_row(stage.buffer, stage.indices, row, factor, known):
            return False
        broken = False

        def without_rows(load: Any) -> Any:
            nonlocal broken
            if self.factor(model(load.source.ty.shape)) == 0:
                return load
            broken = broken or not self.at_row(load.source, load.indices, row, factor, known)
            return tirx.const(0, str(load.source.ty.dtype))

        values = [stage.value] if stage.init is None else [stage.value, stage.init]
        rest = [tvm_ffi.structural_map(value, (TensorLoad, without_rows)) for value in values]
        used = [v for value in rest for e in (value, *(i for load in loads(value) for i in load.indices)) for v in tirx.analysis.undefined_vars(e)]
        return not broken and not any(v.same_as(row) or (v in known and _has([known[v]], self.symbol)) for v in used)

    def at_row(self, buffer: Any, indices: Any, row: Any, factor: Dim, known: dict[Any, Any]) -> bool:
        """Whether a buffer is accessed at the row that the loop is at, or has no rows and is accessed without regard to them."""
        own = self.factor([substitute(e, known) for e in buffer.ty.shape])
        if own is None:
            return False
        if own == 0:
            return row is None or not _has(indices, row)
        return row is not None and dims.equal(own, factor) and indices[0].same_as(row) and not _has(indices[1:], row)


def _shape(ty: Any) -> list[Any]:
    return list(ty.shape.values) if isinstance(ty, relax.TensorType) and ty.shape is not None else []
