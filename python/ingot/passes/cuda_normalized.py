"""RMS normalizations move into the products with quantized weights that read them: a launch less, for few rows."""

from __future__ import annotations

from typing import Any

import tvm_ffi
from tvm import relax

from ingot.passes.attention_operands import calls
from ingot.passes.cuda_normalize import RMS
from ingot.passes.graph import Graph, Rewriter
from ingot.passes.trace import bindings

_NARROW = ("float16", "bfloat16")  # of float32 nothing is saved
_NORMALIZATION, _PRODUCT, _BOTH = (f"ingot.kernel.{name}" for name in ("normalization", "quantized_matmul", "normalized_matmul"))


def normalized_products(graph: Graph) -> Graph:
    """Rewrites products of normalized rows, which nothing else reads, to calls of ``normalized_matmul``."""
    return _Products(graph).run(_visit)


class _Products(Rewriter):
    def __init__(self, graph: Graph) -> None:
        super().__init__(graph)
        self.before = {b.var: b.value for b in bindings(graph.function)}
        self.taken: dict[Any, Any] = {}  # a product → the normalization that it takes in
        self.rows: set[Any] = set()  # of the new function, which stand for normalizations that are taken in
        for variable, value in self.before.items():
            found = self.normalization(value.args[1].fields[0]) if _is_kernel(value, _PRODUCT) else None
            if found is not None:
                self.taken[variable] = found
        self.dropped = set(self.taken.values())

    def normalization(self, variable: Any) -> Any:
        """What the call of the kernel is bound to that gives a variable, which nothing else reads, if products can take it in."""
        while isinstance(self.before.get(variable), relax.Var) and self.used_once(variable):  # its shape is stated
            variable = self.before[variable]
        call: Any = self.before.get(variable)
        if not _is_kernel(call, _NORMALIZATION) or not self.used_once(variable):
            return None
        x, _, bias, residual = call.args[1].fields
        alone = isinstance(call.ty_args[0], relax.TensorType) and _left_out(bias) and _left_out(residual)
        if not alone or [int(i) for i in call.args[3].fields] != [RMS]:
            return None
        narrow = str(x.ty.dtype) in _NARROW and str(x.ty.dtype) == str(call.ty_args[0].dtype)
        return variable if narrow else None

    def match(self, value: Any, ty: Any) -> Any:
        # Nothing is left to state of what was taken in.
        return value if value in self.rows and tvm_ffi.structural_equal(value.ty, ty) else super().match(value, ty)


def _is_kernel(value: Any, name: str) -> bool:
    return calls(value, "relax.call_pure_packed") and str(value.args[0].global_symbol) == name


def _left_out(operand: Any) -> bool:
    return isinstance(operand, relax.Tuple) and not operand.fields


def _visit(rewriter: Rewriter, variable: Any, value: Any) -> Any:
    assert isinstance(rewriter, _Products)
    if variable in rewriter.dropped:
        rewriter.rows.add(value.args[1].fields[0])
        return value.args[1].fields[0]
    if variable not in rewriter.taken:
        return None
    # Its first operand is X by now.
    old: Any = rewriter.before[rewriter.taken[variable]]
    weight, floats = rewriter.replaced(old.args[1].fields[1]), old.args[4]
    inputs = relax.Tuple([*value.args[1].fields, weight])
    return rewriter.emit(relax.call_pure_packed(_BOTH, inputs, *value.args[2:4], floats, ty_args=value.ty_args[0]))
