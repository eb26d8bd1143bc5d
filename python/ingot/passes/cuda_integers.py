"""Contractions of codes (passes/integers.py) become calls of kernels, ``qlinear_matmul`` and ``qlinear_conv`` (kernels/cuda), with what follows.

Codes are int8, whose sums are int32, or float8_e4m3fn with sums of float32. Sums are scaled; a bias, a residual, an activation and what is rounded to
codes between these are part of the call, in the order that the kernels have (:data:`_ORDER`). What does not fit is left to generated code, which
reads what the call gives: codes, or float32.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from tvm import relax

from ingot.importer import dims
from ingot.importer.weights import Weight
from ingot.passes.attention_operands import calls, extents_of, same_shape, scalar
from ingot.passes.cuda_products import ACTIVATIONS
from ingot.passes.fold import derived
from ingot.passes.graph import Graph, Rewriter, variables
from ingot.passes.quantized_matmul import UNARY
from ingot.passes.trace import bindings

_CONVOLUTIONS = {"relax.nn.conv1d": "NWC", "relax.nn.conv2d": "NHWC"}
#: What a kernel does with scaled sums (kernels/cuda/matmul/qlinear.h); each once, or not at all.
_ORDER = ("round", "bias", "round", "residual", "activation")
#: Operators that are fused with what dequantizes their operands; reductions and pools are not.
_GENERATED = tuple(f"relax.{name}" for name in ("add", "subtract", "multiply", "divide", "maximum", "minimum", "sigmoid", "tanh", "exp", "erf",
                                                "nn.relu", "nn.gelu", "nn.silu", "nn.leakyrelu", "quantize"))
_NOT_SCALED, _SCALED, _DIVIDED, _BOUNDED, _CODES = "sums", "float32", "float32 / scale", "float32 with a lower limit", "codes"
#: Types of codes, and those of their sums.
_SUMS = {"int8": "int32", "float8_e4m3fn": "float32"}


@dataclass(frozen=True)
class _Codes:
    """Codes of a tensor ``scale * (code - zero)``."""

    inverse: float = 0.0
    zero: float = 0.0
    scale: float = 0.0


@dataclass(frozen=True)
class _Call:
    """A call of a kernel, over variables of the old function. ``state`` says what its result would be.

    ``window`` are the integers of a convolution before its activation; empty for a product. ``outside`` is the code of the pads.
    """

    x: Any
    matrix: Weight
    ty: Any
    columns: int
    window: tuple[int, ...] = ()
    outside: int = 0
    state: str = _NOT_SCALED
    offsets: Weight | None = None
    factors: Weight | None = None
    done: int = 0  # how many of _ORDER are behind
    rounded: tuple[_Codes, _Codes] = (_Codes(), _Codes())
    bias: Weight | None = None
    residual: Any = None
    residual_codes: _Codes = _Codes()
    activation: str = ""
    clamp: tuple[float, float] = (0.0, 0.0)
    result: _Codes = _Codes()

    @property
    def codes(self) -> str:
        """The type of codes."""
        return str(self.x.ty.dtype)

    @property
    def is_linear(self) -> bool:
        """Whether sums have been scaled, and a bias added, at most."""
        return self.rounded == (_Codes(), _Codes()) and self.residual is None and not self.activation

    @property
    def whole(self) -> bool:
        """Whether a kernel can give it."""
        return self.state in (_SCALED, _CODES)

    def then(self, name: str, **changes: Any) -> _Call | None:
        """With one more thing done to scaled sums, if it can still be done."""
        if self.state != _SCALED or name not in _ORDER[self.done:]:
            return None
        return replace(self, done=_ORDER.index(name, self.done) + 1, **changes)


def cuda_integers(graph: Graph) -> Graph:
    """Rewrites products and channels-last convolutions of codes by constant codes to calls of kernels."""
    return _Integers(graph).run(_visit)


class _Integers(Rewriter):
    """What each variable of the old function would be as one call is found first; then the longest calls are emitted."""

    def __init__(self, graph: Graph) -> None:
        super().__init__(graph)
        self.before: dict[Any, Any] = {}
        self.calls: dict[Any, _Call] = {}
        self.readers: dict[Any, list[Any]] = defaultdict(list)
        previous: dict[Any, Any] = {}  # the variable that a call goes on from
        for binding in bindings(graph.function):
            for variable in variables(binding.value):
                self.readers[variable].append(binding.value)
            if isinstance(binding, relax.MatchCast):
                continue
            self.before[binding.var] = binding.value
            found = _find(self, binding.value)
            if found is not None:
                source, call = found
                self.calls[binding.var] = replace(call, ty=binding.var.ty)
                previous[binding.var] = source
        self.taken: set[Any] = set()
        for variable in reversed(self.calls):
            if self.calls[variable].whole or variable in self.taken:
                self.taken.add(previous[variable])
        for variable in [v for v in self.calls if v not in self.taken and calls(self.before[v], "relax.dequantize")]:
            if self._is_fused(variable):  # what reads it decodes as it reads, a quarter of the bytes
                del self.calls[variable]
                self.taken.remove(previous[variable])

    def _is_fused(self, variable: Any) -> bool:
        """Whether generated code that computes each element by itself alone reads a variable."""
        readers = self.readers[variable]
        return len(readers) == self.uses[variable] and all(calls(r, *_GENERATED) for r in readers)

    def take(self, variable: Any) -> _Call | None:
        """The call that a variable would be, for another to go on from, if nothing else reads the variable."""
        return self.calls.get(variable) if self.uses[variable] == 1 else None

    def kernel(self, call: _Call) -> Any:
        """Emits a call."""
        line = len(call.window) > 0 and len(call.ty.shape.values) == 3  # a sequence, as an image of one row
        weights = [None if w is None else self.constant(w) for w in (call.matrix, call.factors, call.offsets, call.bias)]
        residual = None if call.residual is None else self._image(self.replaced(call.residual), line)
        before, after = call.rounded
        ints = (*call.window, ACTIVATIONS[call.activation], *((call.outside,) if call.window else ()), 0)
        floats = (*call.clamp, before.inverse, before.zero, before.scale, after.inverse, after.zero, after.scale, call.residual_codes.scale,
                  call.residual_codes.zero, call.result.inverse, call.result.zero)
        shape, dtype = list(call.ty.shape.values), str(call.ty.dtype)
        wide = [shape[0], dims.expr(1), *shape[1:]] if line else shape
        emitted = self.emit(relax.call_pure_packed(
            f"ingot.kernel.{'qlinear_conv' if call.window else 'qlinear_matmul'}",
            relax.Tuple([relax.Tuple([]) if i is None else i for i in (self._image(self.replaced(call.x), line), *weights, residual)]),
            relax.ShapeExpr([]),
            relax.Tuple([relax.prim_value(i) for i in ints]),
            relax.Tuple([relax.const(f, "float64") for f in floats]),
            ty_args=relax.TensorType(dtype=dtype, ndim=len(wide)),
        ))
        result = self.bb.match_cast(emitted, relax.TensorType(wide, dtype), self._hint)
        return self.emit(relax.op.reshape(result, shape)) if line else result

    def _image(self, value: Any, line: bool) -> Any:
        shape = list(value.ty.shape.values)
        return self.emit(relax.op.reshape(value, [shape[0], dims.expr(1), *shape[1:]])) if line else value


def _visit(rewriter: Rewriter, variable: Any, value: Any) -> Any:
    assert isinstance(rewriter, _Integers)
    call = rewriter.calls.get(variable)
    # What a later call takes in stays as it was: nothing reads it then.
    return rewriter.kernel(call) if call is not None and call.whole and variable not in rewriter.taken else None


def _find(graph: _Integers, value: Any) -> tuple[Any, _Call] | None:
    """The call that a binding would be, and the variable that it goes on from."""
    if not isinstance(value, relax.Call) or not hasattr(value.op, "name"):
        return None
    name = value.op.name
    if name == "relax.matmul" or name in _CONVOLUTIONS:
        call = (_product if name == "relax.matmul" else _convolution)(graph, value)
        return (None, call) if call is not None else None
    follow = _FOLLOWING.get(name)
    for result, other in _operands(value) if follow is not None else ():
        call = graph.take(result)
        made = follow(graph, call, value, other) if call is not None and follow is not None else None
        if made is not None:
            return result, made
    return None


def _operands(value: Any) -> list[tuple[Any, Any]]:
    """Each operand that a call may go on from, with the other one, if there is one."""
    first, *rest = value.args
    both = value.op.name in ("relax.add", "relax.multiply", "relax.maximum", "relax.minimum")
    return [(first, rest[0] if rest else None), *([(rest[0], first)] if both else [])]


# ---- Sums ----------------------------------------------------------------------------------------------------------


def _product(graph: _Integers, value: Any) -> _Call | None:
    weight = _multiplied(graph, value)
    if weight is None or len(weight.shape) != 2 or len(extents_of(value.args[0])) < 2:
        return None
    return _Call(value.args[0], weight.transposed([1, 0]), value.ty, int(weight.shape[1]))


def _convolution(graph: _Integers, value: Any) -> _Call | None:
    weight = _multiplied(graph, value)
    if weight is None or str(value.attrs.data_layout) != _CONVOLUTIONS[value.op.name]:
        return None
    rank = len(weight.shape) - 2
    groups = int(value.attrs.groups)
    if groups > 1 and weight.shape[-2] == 1 and weight.shape[-1] == groups:
        return None  # each channel by itself adds too little for a kernel of products
    strides, dilations, pads = ([int(v) for v in a] for a in (value.attrs.strides, value.attrs.dilation, value.attrs.padding))
    x, outside, more = _padded(graph, value.args[0], rank)
    pads = [a + b for a, b in zip(pads, more, strict=True)] if not any(pads) or outside == 0 else [-1]
    if any(p < 0 for p in pads):
        return None
    moved = weight.transposed([rank + 1, *range(rank), rank])  # [window, C / groups, O] -> [O, window, C / groups]
    if rank == 1:
        shape = (moved.shape[0], 1, *moved.shape[1:])
        moved = moved.map(lambda a: a.reshape(shape), shape, "")
        strides, dilations, pads = [1, *strides], [1, *dilations], [0, pads[0], 0, pads[1]]
    return _Call(x, moved, value.ty, int(weight.shape[-1]), (*strides, *pads, *dilations, groups), outside)


def _multiplied(graph: _Integers, value: Any) -> Weight | None:
    """The weight of a contraction of codes by a constant, none of whose extents is 0."""
    x, w = value.args
    weight = graph.weight(w)
    if weight is None or weight.dtype not in _SUMS or str(x.ty.dtype) != weight.dtype or str(value.ty.dtype) != _SUMS[weight.dtype]:
        return None
    return None if any(dims.equal(e, 0) for e in (*extents_of(x), *weight.shape)) else weight


def _padded(graph: _Integers, x: Any, rank: int) -> tuple[Any, int, list[int]]:
    """What was padded with a code before a convolution, that code, and the pads in the order of a convolution's."""
    value: Any = graph.before.get(x)
    none = [0] * (2 * rank)
    if not calls(value, "relax.nn.pad") or str(value.attrs.pad_mode) != "constant":
        return x, 0, none
    width = [int(p) for p in value.attrs.pad_width]  # before and after, of each axis in turn
    inner = width[2:-2]
    if any(width[:2]) or any(width[-2:]) or any(p < 0 for p in inner):
        return x, 0, none
    return value.args[0], int(value.attrs.pad_value), [*inner[::2], *inner[1::2]]


# ---- What follows sums ---------------------------------------------------------------------------------------------


def _offset(graph: _Integers, call: _Call, value: Any, other: Any) -> _Call | None:
    weight = _for_columns(graph, call, other, "int32")
    ready = call.state == _NOT_SCALED and call.offsets is None and str(value.ty.dtype) == "int32"
    return replace(call, offsets=weight) if ready and weight is not None else None


def _cast(graph: _Integers, call: _Call, value: Any, other: Any) -> _Call | None:
    # The type of the result says that sums were cast; factors come next.
    return call if call.state == _NOT_SCALED and str(call.ty.dtype) == "int32" and str(value.ty.dtype) == "float32" else None


def _scaled(graph: _Integers, call: _Call, value: Any, other: Any) -> _Call | None:
    if call.state == _NOT_SCALED and str(call.ty.dtype) == "float32":
        weight = _for_columns(graph, call, other, "float32")
        return replace(call, state=_SCALED, factors=weight) if weight is not None else None
    if (weight := _for_columns(graph, call, other, "float32")) is not None and call.columns > 1:
        return _scaled_again(call, weight, np.multiply)
    inverse = scalar(graph, other) if call.state == _SCALED else None
    return replace(call, state=_DIVIDED, result=_Codes(inverse)) if inverse is not None and inverse > 0 and math.isfinite(inverse) else None


def _divided(graph: _Integers, call: _Call, value: Any, other: Any) -> _Call | None:
    weight = _for_columns(graph, call, other, "float32") if value.args[1].same_as(other) else None
    return _scaled_again(call, weight, np.divide) if weight is not None else None


def _scaled_again(call: _Call, by: Weight, how: Callable[..., np.ndarray]) -> _Call | None:
    """With one more factor for each column: of a normalization behind a convolution, say, that was trained with rounding."""
    if call.state != _SCALED or not call.is_linear or call.factors is None:
        return None

    def scaled(weight: Weight) -> Weight:
        return derived(how, [weight, by], weight.shape, "float32")

    return replace(call, factors=scaled(call.factors), bias=None if call.bias is None else scaled(call.bias))


def _quantized(graph: _Integers, call: _Call, value: Any, other: Any) -> _Call | None:
    scale, zero = (scalar(graph, a) for a in value.args[1:])
    if call.state not in (_SCALED, _DIVIDED) or scale is None or zero is None or scale <= 0 or str(value.attrs.out_dtype) != call.codes:
        return None
    inverse = (call.result.inverse if call.state == _DIVIDED else 1.0) * float(np.float32(1) / np.float32(scale))
    return replace(call, state=_CODES, result=_Codes(inverse, zero)) if 0 < inverse < math.inf else None


def _dequantized(graph: _Integers, call: _Call, value: Any, other: Any) -> _Call | None:
    scale, zero = (scalar(graph, a) for a in value.args[1:])
    if call.state != _CODES or scale is None or zero != call.result.zero or str(value.ty.dtype) != "float32":
        return None
    codes = replace(call.result, scale=scale)
    floats = replace(call, state=_SCALED, result=_Codes())
    first = "round" in _ORDER[call.done:_ORDER.index("bias")]
    return floats.then("round", rounded=(codes, call.rounded[1]) if first else (call.rounded[0], codes))


def _sum(graph: _Integers, call: _Call, value: Any, other: Any) -> _Call | None:
    if str(value.ty.dtype) != "float32":
        return None
    bias = _for_columns(graph, call, other, "float32")
    if bias is not None and call.bias is not None and call.state == _SCALED and call.is_linear:
        return replace(call, bias=derived(np.add, [call.bias, bias], bias.shape, "float32"))
    if bias is not None:
        return call.then("bias", bias=bias)
    if graph.weight(other) is not None or not same_shape(extents_of(other), extents_of(value)):
        return None
    return _added_codes(graph, call, other) or call.then("residual", residual=other)


def _added_codes(graph: _Integers, call: _Call, other: Any) -> _Call | None:
    """A residual that is dequantized: the kernel reads its codes."""
    made: Any = graph.before.get(other)
    if not calls(made, "relax.dequantize") or str(made.args[0].ty.dtype) != call.codes or (other in graph.calls and graph.uses[other] > 1):
        return None
    scale, zero = (scalar(graph, a) for a in made.args[1:])
    if scale is None or zero is None:
        return None
    found = call.then("residual", residual=made.args[0], residual_codes=_Codes(0.0, zero, scale))
    if found is not None:
        graph.calls.pop(other, None)  # a call before that could give it in float32 ends with the codes
    return found


def _activated(graph: _Integers, call: _Call, value: Any, other: Any) -> _Call | None:
    return call.then("activation", activation=UNARY[value.op.name])


def _at_least(graph: _Integers, call: _Call, value: Any, other: Any) -> _Call | None:
    least = scalar(graph, other)
    if least is None or not math.isfinite(least):
        return None
    if least == 0:
        return call.then("activation", activation="relu")
    bounded = call.then("activation", activation="clamp", clamp=(least, math.inf))
    return replace(bounded, state=_BOUNDED) if bounded is not None else None


def _at_most(graph: _Integers, call: _Call, value: Any, other: Any) -> _Call | None:
    most = scalar(graph, other)
    if most is None or not math.isfinite(most) or not (call.state == _BOUNDED or (call.state == _SCALED and call.activation == "relu")):
        return None
    least = 0.0 if call.activation == "relu" else call.clamp[0]
    return replace(call, state=_SCALED, activation="clamp", clamp=(least, most)) if least <= most else None


def _for_columns(graph: _Integers, call: _Call, other: Any, dtype: str) -> Weight | None:
    """A constant with a number for each column, as one row."""
    weight = graph.weight(other)
    if weight is None or weight.dtype != dtype or len(weight.shape) == 0 or weight.shape[-1] != call.columns:
        return None
    return weight.map(lambda a: a.reshape(-1), (call.columns,), ":row") if all(e == 1 for e in weight.shape[:-1]) else None


_FOLLOWING: dict[str, Callable[[_Integers, _Call, Any, Any], _Call | None]] = {
    "relax.subtract": _offset, "relax.astype": _cast, "relax.multiply": _scaled, "relax.divide": _divided, "relax.quantize": _quantized,
    "relax.dequantize": _dequantized, "relax.add": _sum, "relax.maximum": _at_least, "relax.minimum": _at_most, **dict.fromkeys(UNARY, _activated)}
