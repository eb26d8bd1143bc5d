"""Layer and RMS normalization over the last axis become calls of the kernel ``normalization`` of GPUs, with the sum before it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import tvm
from tvm import relax, tirx
from tvm.ir.expr import TensorLoad

from ingot.lower.cpu.fused import read, same_place
from ingot.passes.attention_operands import calls, extents_of, same_shape, scalar
from ingot.passes.graph import Graph, Rewriter
from ingot.passes.trace import bindings

_FLOATS = ("float32", "float16", "bfloat16")
# kernels/cuda/normalization/normalization.h
LAYER, RMS = 0, 1


def cuda_normalize(graph: Graph) -> Graph:
    """Rewrites normalizations of rows to calls of the kernel."""
    return _Normalized(graph).run(_visit)


@dataclass(frozen=True)
class _Call:
    """A normalization of a variable of the old function."""

    x: Any
    weight: Any
    bias: Any
    kind: int
    epsilon: float


class _Normalized(Rewriter):
    def __init__(self, graph: Graph) -> None:
        super().__init__(graph)
        self.before: dict[Any, Any] = {}  # what variables of the old function are bound to
        self.calls: dict[Any, _Call] = {}
        self.taken: set[Any] = set()  # normalizations that a cast takes in
        for binding in bindings(graph.function):
            if isinstance(binding, relax.MatchCast):
                continue
            self.before[binding.var] = binding.value
            found = self.find(binding.var, binding.value)
            if found is not None:
                self.calls[binding.var] = found

    def find(self, variable: Any, value: Any) -> _Call | None:
        """The normalization that a binding is the last step of."""
        if calls(value, "relax.nn.layer_norm"):
            axes, rank = [int(a) for a in value.attrs.axes], len(extents_of(value.args[0]))
            if [a % rank for a in axes] != [rank - 1] or str(value.args[0].ty.dtype) not in _FLOATS:
                return None
            return _Call(value.args[0], value.args[1], value.args[2], LAYER, float(value.attrs.epsilon))
        if calls(value, "relax.multiply"):
            return self.rms(value.args)
        if calls(value, "relax.call_tir"):
            return self.rms(value.args[1].fields) if self.scales_columns(value) else None
        if calls(value, "relax.astype") and str(value.ty.dtype) in _FLOATS and value.args[0] in self.calls and self.used_once(value.args[0]):
            self.taken.add(value.args[0])
            return self.calls[value.args[0]]
        return None

    def scales_columns(self, call: Any) -> bool:
        """Whether a TIR function multiplies its first operand by the second, which has an element for each of the last axis."""
        if len(call.args[1].fields) != 2 or any(tvm.ir.is_prim_expr(a) for a in call.args[1].fields):
            return False
        fused = read(self.bb.get()[call.args[0]])
        if fused is None or len(fused.stages) != 1 or not fused.stages[0].is_map or not isinstance(fused.stages[0].value, tirx.Mul):
            return False
        stage = fused.stages[0]
        x, weight = stage.value.a, stage.value.b
        if not isinstance(x, TensorLoad) or not isinstance(weight, TensorLoad) or not same_place(x, stage):
            return False
        return len(weight.indices) == 1 and weight.indices[0].same_as(stage.axes[-1]) and x.source.same_as(fused.function.params[0])

    def rms(self, factors: Any) -> _Call | None:
        """The quotient x / sqrt(mean of x^2 + epsilon) times a weight, as it is written out."""
        for scaled, weight in (factors, list(factors)[::-1]):
            constant = self.weight(weight)
            normal: Any = self.before.get(scaled)
            if constant is None or len(constant.shape) != 1 or constant.dtype not in _FLOATS or not calls(normal, "relax.multiply"):
                continue
            if not self.used_once(scaled):
                continue
            for x, inverse in (normal.args, reversed(normal.args)):
                epsilon = self.inverse(x, inverse)
                if epsilon is not None and constant.shape[0] == extents_of(x)[-1]:
                    return _Call(x, weight, None, RMS, epsilon)
        return None

    def inverse(self, x: Any, variable: Any) -> float | None:
        """The epsilon of 1 / sqrt(mean of x^2 + epsilon)."""
        value: Any = self.before.get(variable)
        if not calls(value, "relax.rsqrt") or not calls(self.before.get(value.args[0]), "relax.add"):
            return None
        total = self.before[value.args[0]]
        for average, epsilon in (total.args, reversed(total.args)):
            number = scalar(self, epsilon)
            mean: Any = self.before.get(average)
            if number is None or not calls(mean, "relax.mean") or not bool(mean.attrs.keepdims) or str(x.ty.dtype) not in _FLOATS:
                continue
            rank = len(extents_of(x))
            squares: Any = self.before.get(mean.args[0])
            axes = [int(a) % rank for a in mean.attrs.axis] if mean.attrs.axis is not None else []
            if axes == [rank - 1] and calls(squares, "relax.multiply") and all(a.same_as(x) for a in squares.args):
                return number
        return None

    def emitted(self, variable: Any, call: _Call) -> Any:
        """The kernel's call."""
        x, residual = call.x, None
        source: Any = self.before.get(call.x)
        if calls(source, "relax.astype") and str(source.args[0].ty.dtype) in _FLOATS and str(x.ty.dtype) == "float32":
            x, source = source.args[0], self.before.get(source.args[0])
        if calls(source, "relax.add") and all(self.is_tensor(a, x) for a in source.args) and not any(self.is_product(a) for a in source.args):
            inner, residual = source.args
        else:
            inner = x
        shape, dtype, sums = list(x.ty.shape.values), str(variable.ty.dtype), str(x.ty.dtype)
        operands = [self.replaced(inner), call.weight, call.bias, None if residual is None else self.replaced(residual)]
        kept = residual is not None and not self.used_once(x)
        types = [relax.TensorType(dtype=dtype, ndim=len(shape)), *([relax.TensorType(dtype=sums, ndim=len(shape))] if kept else [])]
        packed = self.emit(relax.call_pure_packed(
            "ingot.kernel.normalization",
            relax.Tuple([relax.Tuple([]) if o is None else self.replaced(o) for o in operands]),
            relax.ShapeExpr([]),
            relax.Tuple([relax.prim_value(call.kind)]),
            relax.Tuple([relax.const(call.epsilon, "float64"), relax.const(0.0, "float64")]),
            ty_args=relax.TupleType(types) if kept else types[0],
        ))
        if not kept:
            return self.bb.match_cast(packed, relax.TensorType(shape, dtype), self._hint)
        y, total = (self.emit(relax.TupleGetItem(packed, i)) for i in range(2))
        y, total = (self.bb.match_cast(v, relax.TensorType(shape, d), self._hint) for v, d in ((y, dtype), (total, sums)))
        self._replaced[x] = total  # for what reads the sum later
        return y

    def is_product(self, operand: Any) -> bool:
        """Whether an operand of a sum is a product, perhaps with a bias: the sum is then part of the product's call."""
        value: Any = self.before.get(operand)
        if not self.used_once(operand):
            return False
        if calls(value, "relax.add"):
            return any(self.weight(b) is not None and self.is_product(a) for a, b in (value.args, list(value.args)[::-1]))
        return calls(value, "relax.matmul")

    def is_tensor(self, operand: Any, like: Any) -> bool:
        """Whether an operand of a sum is a computed tensor of the sum's shape."""
        return isinstance(operand, relax.Var) and self.weight(operand) is None and same_shape(extents_of(operand), extents_of(like))


def _visit(rewriter: Rewriter, variable: Any, value: Any) -> Any:
    assert isinstance(rewriter, _Normalized)
    call = rewriter.calls.get(variable)
    return rewriter.emitted(variable, call) if call is not None and variable not in rewriter.taken else None
