"""Matrix products and convolutions become calls of the kernels ``matmul`` and ``convolution`` (kernels/cuda), with what follows them.

A bias, an activation and a residual that follow a product are part of its call. Types that the kernels do not have (float64, integers) are left
to generated code.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from tvm import relax

from ingot.importer import dims
from ingot.importer.weights import Weight
from ingot.passes.attention_operands import calls, extents_of, order_of, same_shape, scalar
from ingot.passes.graph import Graph, Rewriter, variables
from ingot.passes.pack import depthwise
from ingot.passes.quantized_matmul import UNARY, gated
from ingot.passes.settings import Settings
from ingot.passes.trace import bindings

_FLOATS = ("float32", "float16", "bfloat16")
# kernels/cuda/matmul/matmul.h
ACTIVATIONS = {"": 0, "relu": 1, "gelu": 2, "gelu_tanh": 3, "silu": 4, "clamp": 5}
ROWS_OF_K, ROWS_OF_N = 0, 1
#: How float32 is multiplied: --precision tf32 rounds operands to TF32; without it, products have float32's accuracy.
TF32, FLOAT32 = 0, 1
_CONVOLUTIONS = {"relax.nn.conv1d": "NWC", "relax.nn.conv2d": "NHWC"}


def cuda_products(graph: Graph, settings: Settings) -> Graph:
    """Rewrites products and channels-last convolutions to calls of kernels."""
    return _Products(graph, TF32 if settings.precision == "tf32" else FLOAT32).run(_visit)


@dataclass(frozen=True)
class _Call:
    """A call of a kernel, over variables of the old function.

    ``matrix`` is W: a variable, or a constant. ``window`` are the integers of a convolution before its activation; empty for a product.
    """

    x: Any
    matrix: Any
    ty: Any
    columns: Any
    layout: int = ROWS_OF_K
    window: tuple[int, ...] = ()
    bias: Weight | None = None
    activation: str = ""
    clamp: tuple[float, float] = (0.0, 0.0)
    residual: Any = None
    residual_last: bool = False


class _Products(Rewriter):
    """What each variable of the old function would be as one call is found first; then those that no later call takes in are emitted."""

    def __init__(self, graph: Graph, precision: int) -> None:
        super().__init__(graph)
        self.precision = precision
        self.before: dict[Any, Any] = {}  # what variables are bound to
        self.calls: dict[Any, _Call] = {}
        self.taken: set[Any] = set()  # variables with a call that is part of a later one
        self.read = {v for b in bindings(graph.function) for v in variables(b.value)
                     if isinstance(b.value, relax.Call) and not calls(b.value, "relax.reshape")}
        for binding in bindings(graph.function):
            if isinstance(binding, relax.MatchCast):
                continue
            self.before[binding.var] = binding.value
            found = _find(self, binding.var, binding.value)
            if found is not None:
                self.calls[binding.var] = replace(found, ty=binding.var.ty)

    def take(self, variable: Any, readers: int = 1) -> _Call | None:
        """The call that a variable would be, if so many bindings read it, for a later call to take in."""
        call = self.calls.get(variable)
        return call if call is not None and self.uses[variable] == readers else None

    def kernel(self, call: _Call) -> Any:
        """Emits a call."""
        one_dimension = len(call.window) > 0 and len(call.ty.shape.values) == 3
        x = self.image(self.replaced(call.x), one_dimension)
        w = self.constant(call.matrix) if isinstance(call.matrix, Weight) else self.replaced(call.matrix)
        bias = None if call.bias is None else self.constant(call.bias)
        residual = None if call.residual is None else self.image(self.replaced(call.residual), one_dimension)
        if call.window:
            ints = (*call.window, ACTIVATIONS[call.activation], int(call.residual_last), self.precision, 0)
        else:
            ints = (call.layout, ACTIVATIONS[call.activation], self.precision, 0)
        shape, dtype = list(call.ty.shape.values), str(call.ty.dtype)
        wide = [shape[0], dims.expr(1), *shape[1:]] if one_dimension else shape
        emitted = self.emit(relax.call_pure_packed(
            f"ingot.kernel.{'convolution' if call.window else 'matmul'}",
            relax.Tuple([relax.Tuple([]) if i is None else i for i in (x, w, bias, residual)]),
            relax.ShapeExpr([]),
            relax.Tuple([relax.prim_value(i) for i in ints]),
            relax.Tuple([relax.const(f, "float64") for f in call.clamp]),
            ty_args=relax.TensorType(dtype=dtype, ndim=len(wide)),
        ))
        result = self.bb.match_cast(emitted, relax.TensorType(wide, dtype), self._hint)
        return self.emit(relax.op.reshape(result, shape)) if one_dimension else result

    def image(self, value: Any, one_dimension: bool) -> Any:
        """A sequence [B, L, C] as an image of one row."""
        if not one_dimension:
            return value
        shape = list(value.ty.shape.values)
        return self.emit(relax.op.reshape(value, [shape[0], dims.expr(1), *shape[1:]]))


def _visit(rewriter: Rewriter, variable: Any, value: Any) -> Any:
    assert isinstance(rewriter, _Products)
    if calls(value, *_CONVOLUTIONS) and (made := _each_channel(rewriter, value)) is not None:
        return made
    call = rewriter.calls.get(variable)
    # What a later call takes in stays as it was: nothing reads it then.
    return rewriter.kernel(call) if call is not None and variable not in rewriter.taken else None


def _find(products: _Products, variable: Any, value: Any) -> _Call | None:
    """The call that a binding would be, or None."""
    if calls(value, "relax.matmul"):
        return _product(products, value)
    if calls(value, *_CONVOLUTIONS):
        return _convolution(products, value)
    if calls(value, "relax.add"):
        return _sum(products, value)
    if calls(value, *UNARY):
        return _activated(products, value.args[0], UNARY[value.op.name])
    if calls(value, "relax.minimum", "relax.maximum"):
        return _clamped(products, value)
    if calls(value, "relax.multiply"):
        found: _Call | None = gated(products, value)
        return found
    if calls(value, "relax.astype"):
        return _cast(products, variable, value)
    return None


def _product(products: _Products, call: Any) -> _Call | None:
    x, w = call.args
    dtype = str(x.ty.dtype)
    if dtype not in _FLOATS or str(w.ty.dtype) != dtype or len(extents_of(x)) < 1 or len(extents_of(w)) < 2:
        return None
    if len(extents_of(x)) == 1 or any(dims.equal(e, 0) for e in (*extents_of(x), *extents_of(w))):
        return None
    columns = extents_of(w)[-1]
    weight = products.weight(w)
    if weight is not None:
        axes = [*range(len(weight.shape) - 2), len(weight.shape) - 1, len(weight.shape) - 2]
        return _Call(x, weight.transposed(axes), None, columns)
    made: Any = products.before.get(w)
    if calls(made, "relax.permute_dims") and _swaps_last(made, len(extents_of(w))):
        return _Call(x, made.args[0], None, columns)
    return _Call(x, w, None, columns, ROWS_OF_N)


def _swaps_last(call: Any, rank: int) -> bool:
    """Whether a transpose exchanges the last two axes alone."""
    return list(order_of(call, rank)) == [*range(rank - 2), rank - 1, rank - 2]


def _each_channel(rewriter: Rewriter, call: Any) -> Any:
    """A convolution of each channel by itself reads and adds too little for a kernel of products: it is generated, with what follows it."""
    weight = rewriter.weight(call.args[1])
    if weight is None or str(call.attrs.data_layout) != _CONVOLUTIONS[call.op.name]:
        return None
    *window, depth, channels = weight.shape
    groups = int(call.attrs.groups)
    if groups == 1 or depth != 1 or channels != groups:
        return None
    return depthwise(rewriter, call, list(window), [int(p) for p in call.attrs.padding])


def _convolution(products: _Products, call: Any) -> _Call | None:
    x, w = call.args
    dtype = str(x.ty.dtype)
    weight = products.weight(w)
    if weight is None or weight.dtype != dtype or dtype not in _FLOATS or str(call.attrs.data_layout) != _CONVOLUTIONS[call.op.name]:
        return None
    if any(dims.equal(e, 0) for e in (*extents_of(x), *weight.shape)):
        return None
    if int(call.attrs.groups) > 1 and weight.shape[-2] == 1 and weight.shape[-1] == int(call.attrs.groups):
        return None
    rank = len(weight.shape) - 2
    moved = weight.transposed([rank + 1, *range(rank), rank])  # [window, C / groups, O] -> [O, window, C / groups]
    strides, dilations, pads = ([int(v) for v in a] for a in (call.attrs.strides, call.attrs.dilation, call.attrs.padding))
    if rank == 1:
        shape = (moved.shape[0], 1, *moved.shape[1:])
        moved = moved.map(lambda a: a.reshape(shape), shape, "")
        strides, dilations, pads = [1, *strides], [1, *dilations], [0, pads[0], 0, pads[1]]
    if any(p < 0 for p in pads):
        return None
    window = (*strides, *pads, *dilations, int(call.attrs.groups))
    return _Call(x, moved, None, weight.shape[-1], window=window)


# ---- What follows a product ----------------------------------------------------------------------------------------


def _sum(products: _Products, value: Any) -> _Call | None:
    """A bias or a residual that is added."""
    for result, other in (value.args, reversed(value.args)):
        call = products.take(result)
        if call is None or call.residual is not None or str(value.ty.dtype) != str(result.ty.dtype):
            continue
        weight = products.weight(other)
        found = None
        if weight is None and same_shape(extents_of(other), extents_of(result)) and str(other.ty.dtype) == str(result.ty.dtype):
            found = replace(call, residual=other, residual_last=bool(call.activation))
            if call.activation == "" and not call.window:
                found = replace(found, residual_last=True)
        elif weight is not None and _is_bias(weight, call) and call.bias is None and not call.activation:
            found = replace(call, bias=weight.map(lambda b: b.reshape(-1), (int(call.columns),), ":bias"))
        if found is not None:
            products.taken.add(result)
            return found
    return None


def _is_bias(weight: Weight, call: _Call) -> bool:
    """Whether a constant has a number for each column."""
    return (isinstance(call.columns, int) and len(weight.shape) >= 1 and weight.shape[-1] == call.columns
            and all(e == 1 for e in weight.shape[:-1]) and weight.dtype in _FLOATS)


def _activated(products: _Products, variable: Any, name: str) -> _Call | None:
    call = products.take(variable)
    if call is None or call.activation or (call.residual is not None and (not call.window or call.residual_last)):
        return None
    products.taken.add(variable)
    return replace(call, activation=name)


def _clamped(products: _Products, value: Any) -> _Call | None:
    """A clamp between two numbers, or from 0 on, of a product: ReLU6 and the like."""
    found = _limited(products, value)
    if found is None:
        return None
    variable, limit = found
    if calls(value, "relax.maximum"):
        return _activated(products, variable, "relu") if limit == 0 else None
    inner: Any = products.before.get(variable)
    below = _limited(products, inner) if calls(inner, "relax.maximum") and products.used_once(variable) else None
    if below is None or not below[1] <= limit:
        return None
    # A clamp from 0 on may be a call already; its ReLU changes nothing here.
    relu = products.take(variable)
    call = replace(relu, activation="") if relu is not None and relu.activation == "relu" else _activated(products, below[0], "clamp")
    if call is None:
        return None
    products.taken.add(variable)
    return replace(call, activation="clamp", clamp=(below[1], limit))


def _limited(products: _Products, value: Any) -> tuple[Any, float] | None:
    """The tensor and the finite number of a maximum or minimum of both."""
    for variable, limit in (value.args, list(value.args)[::-1]):
        number = scalar(products, limit)
        if number is not None and math.isfinite(number) and isinstance(variable, relax.Var) and products.weight(variable) is None:
            return variable, number
    return None


def _cast(products: _Products, variable: Any, value: Any) -> _Call | None:
    """A result of the model in float32 although operands are of 16 bits: sums are not rounded before."""
    call = products.take(value.args[0])
    if call is None or call.residual is not None or str(value.ty.dtype) != "float32" or str(value.args[0].ty.dtype) not in ("float16", "bfloat16"):
        return None
    if variable in products.read:
        return None  # reading twice as much costs more than a cast does
    products.taken.add(value.args[0])
    return call
