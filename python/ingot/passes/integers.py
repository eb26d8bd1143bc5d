"""Statically quantized models compute in integers.

Quantizers write ``dequantize(x) · dequantize(w)`` and then ``quantize``. A product or convolution of two dequantized tensors becomes one of
their integers, whose int32 sums are scaled once: ``(x - zx) · w · (sx · sw)``; what follows (bias, residual, activation, the next
quantize) is element-wise and fuses behind it. Integers travel between these as *codes*, in the type that the target's arithmetic reads:
16 bits with the zero point taken off, so that pads are 0, or 8 bits with the zero point kept, whose part in the sums is then taken off.

Small floats (float8_e4m3fn) are codes as well, without a zero point, where the target multiplies them: their sums are float32.

Between a product of two activations and the softmax that it leads to, and behind that softmax, quantized numbers are left as they were
before: attention (passes/attention.py) keeps scores in registers, in float32.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import tvm
from tvm import relax

from ingot.importer.weights import Weight, from_array
from ingot.lower.cpu import arithmetic
from ingot.passes.attention_operands import calls, order_of, scalar
from ingot.passes.graph import Graph, Rewriter
from ingot.passes.settings import Settings
from ingot.passes.trace import bindings

_CONVOLUTIONS: dict[str, Callable[..., Any]] = {
    "relax.nn.conv1d": relax.op.nn.conv1d, "relax.nn.conv2d": relax.op.nn.conv2d, "relax.nn.conv3d": relax.op.nn.conv3d}
#: Operators that move numbers without changing them: their results are quantized as their operands are.
_MOVES = ("relax.reshape", "relax.permute_dims", "relax.squeeze", "relax.expand_dims", "relax.broadcast_to", "relax.strided_slice")
_BETWEEN = ("relax.multiply", "relax.divide", "relax.add", "relax.where", "relax.reshape", "relax.astype", "relax.tanh")
_EIGHT = ("int8", "uint8")
_SMALL_FLOAT = "float8_e4m3fn"
#: The first GPUs that multiply small floats.
_SMALL_FLOAT_CAPABILITY = 89
_MOST_STEPS = 40


def integer_contractions(graph: Graph, settings: Settings) -> Graph:
    """Rewrites products and convolutions of dequantized tensors, where the weights are constant, to ones of integers.

    A graph without any is left as it is: what it quantizes for its own sake is divided by the scale, as ONNX says.
    """
    small = settings.target.is_cuda and min(settings.target.architectures) >= _SMALL_FLOAT_CAPABILITY
    types = (*_EIGHT, _SMALL_FLOAT) if small else _EIGHT
    weights = [w for w in _multiplied_weights(graph) if w.dtype in types]
    return _Integers(graph, _codes_type(weights, settings), types).run(_visit) if weights else graph


@dataclass(frozen=True)
class _Quantized:
    """A tensor ``scale * (codes - offset)``, one number each; ``source`` holds it as it is quantized, with ``zero``."""

    codes: Any
    offset: int
    source: Any
    scale: float
    zero: int


@dataclass(frozen=True)
class _QuantizedWeight:
    """A constant ``scale * (integers - zero)``; scale and zero are one number or one for each position of ``axis``."""

    integers: Weight
    scale: Weight
    zero: Weight
    axis: int

    def transposed(self, order: list[int]) -> _QuantizedWeight:
        """With its axes permuted."""
        shape = tuple(self.integers.shape[a] for a in order)
        name = "".join(map(str, order))
        return _QuantizedWeight(self.integers.map(lambda a: a.transpose(order), shape, f":transposed{name}"), self.scale, self.zero,
                                order.index(self.axis % len(order)))


def _multiplied_weights(graph: Graph) -> list[Weight]:
    """The weights that products and convolutions read dequantized."""
    weights = dict(zip(list(graph.function.params)[len(graph.function.params) - len(graph.weights):], graph.weights, strict=True))
    bound = {b.var: b.value for b in bindings(graph.function)}
    found = []
    for value in bound.values():
        if calls(value, "relax.matmul", *_CONVOLUTIONS):
            operand = value.args[1]
            while calls(bound.get(operand), "relax.dequantize", "relax.permute_dims"):
                operand = bound[operand].args[0]
            found.append(from_array("constant", operand.value.numpy()) if isinstance(operand, tvm.ir.GenericConst) else weights.get(operand))
    return [w for w in found if w is not None]


def _codes_type(weights: list[Weight], settings: Settings) -> str:
    """The type of codes: what the target multiplies bytes by, or, where it has no products of any bytes, of those of 7 bits if all are."""
    if settings.target.is_cuda:
        return "int8"  # passes/cuda_integers.py
    wide = arithmetic.choose("int8", settings.target).x
    narrow = arithmetic.fitting("int7", settings.target)
    if wide != "int16" or narrow is None:
        return wide
    fits = all(w.dtype == "int8" and np.abs(w.load().astype(np.int16)).max(initial=0) <= arithmetic.SEVEN_BITS for w in weights)
    return narrow.x if fits else wide


class _Integers(Rewriter):
    def __init__(self, graph: Graph, x: str, types: tuple[str, ...]) -> None:
        super().__init__(graph)
        self.x = x  # the type of integers' codes
        self.types = types  # of quantized numbers that are looked at
        self.codes: dict[Any, tuple[Any, int]] = {}  # a quantized variable with a zero point of its own → its codes and their offset
        self.quantized: dict[Any, _Quantized] = {}  # dequantized variables
        self.constants: dict[Any, _QuantizedWeight] = {}  # dequantized constants
        self.numbers: dict[tuple[float, str], Any] = {}
        self.moved: dict[Any, Any] = {}  # quantized variables that were moved → what was moved as float32, which equals them dequantized
        self.before: dict[Any, Any] = {}  # quantized variables → what was quantized
        self.dropped = _between_products_and_softmax(graph)

    def number(self, value: float, dtype: str) -> Any:
        """A constant that code reads from memory, so that functions which differ in nothing else are one."""
        key = (value, dtype)
        if key not in self.numbers:
            self.numbers[key] = self.constant(from_array(f"number_{len(self.numbers)}", np.array(value, dtype)))
        return self.numbers[key]

    def codes_of(self, source: Any, zero: int) -> tuple[Any, int]:
        """The codes of a quantized variable, and the number that stands for 0."""
        if source not in self.codes:
            dtype = str(source.ty.dtype)
            if dtype == _SMALL_FLOAT:
                self.codes[source] = (source, 0)
            elif self.x == "int16":
                wide = self.emit(relax.op.astype(source, "int16"))
                self.codes[source] = (self.emit(relax.op.subtract(wide, self.number(zero, "int16"))) if zero else wide, 0)
            elif self.x == dtype:
                self.codes[source] = (source, zero)
            else:
                shift = 128 if self.x == "uint8" else -128
                wide = self.emit(relax.op.add(self.emit(relax.op.astype(source, "int16")), relax.const(shift, "int16")))
                self.codes[source] = (self.emit(relax.op.astype(wide, self.x)), zero + shift)
        return self.codes[source]


def _visit(rewriter: Rewriter, variable: Any, value: Any) -> Any:
    assert isinstance(rewriter, _Integers)
    if not isinstance(value, relax.Call) or not hasattr(value.op, "name"):
        return None
    name = value.op.name
    if name == "relax.quantize":
        return _quantize(rewriter, value)
    if name == "relax.dequantize":
        before = rewriter.before.get(value.args[0]) if variable in rewriter.dropped else None  # none where a scale is not one number
        return _dequantize(rewriter, value) if before is None else before
    if name in _MOVES:
        return _move(rewriter, value)
    if name == "relax.matmul" or name in _CONVOLUTIONS:
        return _contraction(rewriter, value)
    return None


def _quantize(rewriter: _Integers, call: Any) -> Any:
    scale, zero = scalar(rewriter, call.args[1]), scalar(rewriter, call.args[2])
    dtype = str(call.attrs.out_dtype)
    if scale is None or zero is None or dtype not in rewriter.types:
        return None
    known = rewriter.quantized.get(call.args[0])
    if known is not None and known.scale == scale and known.zero == zero and str(known.source.ty.dtype) == dtype:
        return known.source
    inverse = np.float32(1) / np.float32(scale)
    scaled, one = call.args[0], call.args[1]
    if np.isfinite(inverse):  # a multiplication, within one unit in the last place of the division, and several times as fast
        scaled, one = rewriter.emit(relax.op.multiply(scaled, rewriter.number(float(inverse), "float32"))), relax.const(np.float32(1))
    axis = int(call.attrs.axis)
    if rewriter.x in ("int16", dtype) or dtype == _SMALL_FLOAT:
        source = rewriter.emit(relax.op.quantize(scaled, one, call.args[2], axis, dtype))
        rewriter.codes_of(source, int(zero))
    else:  # the other type of 8 bits: the same numbers, moved
        offset = int(zero) + (128 if rewriter.x == "uint8" else -128)
        codes = rewriter.emit(relax.op.quantize(scaled, one, relax.const(offset, rewriter.x), axis, rewriter.x))
        moved = relax.op.add(rewriter.emit(relax.op.astype(codes, "int16")), rewriter.number(int(zero) - offset, "int16"))
        source = rewriter.emit(relax.op.astype(rewriter.emit(moved), dtype))
        rewriter.codes[source] = (codes, offset)
    rewriter.before[source] = call.args[0]
    return source


def _dequantize(rewriter: _Integers, call: Any) -> Any:
    source, scale, zero = call.args
    weight = rewriter.weight(source)
    if weight is not None:
        scales, zeros = rewriter.weight(scale), rewriter.weight(zero)
        result = rewriter.emit(call)
        if weight.dtype in rewriter.types and scales is not None and zeros is not None:
            rewriter.constants[result] = _QuantizedWeight(weight, scales, zeros, int(call.attrs.axis))
        return result
    factor, offset = scalar(rewriter, scale), scalar(rewriter, zero)
    if factor is None or offset is None or str(source.ty.dtype) not in rewriter.types:
        return None
    codes, moved = rewriter.codes_of(source, int(offset))
    result = rewriter.moved.get(source)
    if result is not None and rewriter.quantized[result].scale == factor and rewriter.quantized[result].zero == offset:
        return result
    narrow = "int8" if str(codes.ty.dtype) == _SMALL_FLOAT else codes.ty.dtype  # relax.dequantize has no zero of a small float
    result = rewriter.emit(relax.op.dequantize(codes, scale, relax.const(moved, narrow), out_dtype=str(call.attrs.out_dtype)))
    rewriter.quantized[result] = _Quantized(codes, moved, source, factor, int(offset))
    return result


def _move(rewriter: _Integers, call: Any) -> Any:
    operand = call.args[0]
    if operand in rewriter.constants and call.op.name == "relax.permute_dims":
        result = rewriter.emit(call)
        rank = len(operand.ty.shape.values)
        rewriter.constants[result] = rewriter.constants[operand].transposed(order_of(call, rank))
        return result
    if operand not in rewriter.quantized:
        return None
    known = rewriter.quantized[operand]
    result = rewriter.emit(call)
    codes, source = (rewriter.emit(relax.Call(call.op, [v, *list(call.args)[1:]], call.attrs, call.ty_args)) for v in (known.codes, known.source))
    rewriter.codes[source] = (codes, known.offset)
    rewriter.moved[source] = result
    rewriter.quantized[result] = _Quantized(codes, known.offset, source, known.scale, known.zero)
    return result


def _contraction(rewriter: _Integers, call: Any) -> Any:
    x, w = rewriter.quantized.get(call.args[0]), rewriter.constants.get(call.args[1])
    if x is None or w is None or str(call.ty.dtype if call.ty is not None else "float32") != "float32":
        return None
    small = str(x.codes.ty.dtype) == _SMALL_FLOAT
    if small != (w.integers.dtype == _SMALL_FLOAT):
        return None
    convolution = call.op.name in _CONVOLUTIONS
    channel = 0 if convolution else 1
    rank = len(w.integers.shape)
    if not convolution and rank != 2:
        return None
    columns = w.integers.shape[channel]
    per_column = _size(w.scale) != 1 or _size(w.zero) != 1
    if (per_column and w.axis % rank != channel) or _size(w.scale) not in (1, columns) or _size(w.zero) not in (1, columns):
        return None
    dtype, integers = (_SMALL_FLOAT, w.integers) if small else _without_zero(w, channel)
    if dtype == "int16" and rewriter.x != "int16":
        return None  # dot products of bytes take weights of 8 bits
    spread = (1, columns, *[1] * (rank - 2)) if convolution else (columns,)
    weights = rewriter.constant(integers)
    sums = _sums(rewriter, call, x, weights, "float32" if small else "int32")
    if x.offset:
        axes = tuple(a for a in range(rank) if a != channel)
        total = integers.map(lambda a: (a.astype(np.int32).sum(axis=axes) * x.offset).astype(np.int32).reshape(spread), spread, ":sums", "int32")
        sums = rewriter.emit(relax.op.subtract(sums, rewriter.constant(total)))
    factor = w.scale.map(lambda a: np.broadcast_to(np.float32(x.scale) * a.reshape(-1).astype(np.float32), columns).reshape(spread).copy(), spread,
                         f":times{x.scale!r}", "float32")
    if not small:
        sums = rewriter.emit(relax.op.astype(sums, "float32"))
    return rewriter.emit(relax.op.multiply(sums, rewriter.constant(factor)))


def _sums(rewriter: _Integers, call: Any, x: _Quantized, weights: Any, dtype: str) -> Any:
    """The sums of codes by weights; pads are codes of 0."""
    if call.op.name == "relax.matmul":
        return rewriter.emit(relax.op.matmul(x.codes, weights, out_dtype=dtype))
    operator = _CONVOLUTIONS[call.op.name]
    pads = [int(p) for p in call.attrs.padding]
    codes = x.codes
    if x.offset and any(pads):
        half = len(pads) // 2
        width = [0, 0, 0, 0, *(p for pair in zip(pads[:half], pads[half:], strict=True) for p in pair)]
        codes = rewriter.emit(relax.op.nn.pad(codes, width, "constant", x.offset))
        pads = [0] * len(pads)
    return rewriter.emit(operator(codes, weights, strides=list(call.attrs.strides), padding=pads, dilation=list(call.attrs.dilation),
                                  groups=int(call.attrs.groups), out_dtype=dtype))


def _size(weight: Weight) -> int:
    return int(np.prod(weight.shape))


def _without_zero(w: _QuantizedWeight, channel: int) -> tuple[str, Weight]:
    """Weights with the zero point taken off, in 8 bits if that is sure to hold them, else in 16."""
    zeros = w.zero.load().astype(np.int16).reshape(-1)
    rank = len(w.integers.shape)
    shape = [1] * rank
    shape[channel] = zeros.size
    if w.integers.dtype == "int8" and not zeros.any():
        return "int8", w.integers
    dtype = "int8" if w.integers.dtype == "uint8" and np.all(zeros == 128) else "int16"
    return dtype, w.integers.map(lambda a: (a.astype(np.int16) - zeros.reshape(shape)).astype(dtype), w.integers.shape, ":centered", dtype)


# ---- Attention -----------------------------------------------------------------------------------------------------


def _between_products_and_softmax(graph: Graph) -> set[Any]:
    """The dequantized variables on the way from a product of two activations to a softmax, and right behind the softmax."""
    bound = {b.var: b.value for b in bindings(graph.function)}
    constants = set(list(graph.function.params)[len(graph.function.params) - len(graph.weights):])
    found: set[Any] = set()

    def quantized_before(variable: Any) -> Any:
        """What a variable is dequantized from, before it was quantized; or None."""
        outer: Any = bound.get(variable)
        inner: Any = bound.get(outer.args[0]) if calls(outer, "relax.dequantize") else None
        return inner.args[0] if calls(inner, "relax.quantize") else None

    def depends_on_constants(variable: Any) -> bool:
        while calls(bound.get(variable), "relax.dequantize", "relax.permute_dims", "relax.reshape"):
            variable = bound[variable].args[0]
        return variable in constants or (variable not in bound and not isinstance(variable, relax.Var))

    def leads(variable: Any, steps: int) -> set[Any] | None:
        """The dequantized variables from here back to a product of two activations, or None if there is none."""
        before = quantized_before(variable)
        if before is not None and steps:
            rest = leads(before, steps - 1)
            return rest | {variable} if rest is not None else None
        value: Any = bound.get(variable)
        if calls(value, "relax.matmul"):
            return None if any(depends_on_constants(a) for a in value.args) else set()
        if calls(value, *_BETWEEN) and steps:
            for operand in value.args:
                rest = leads(operand, steps - 1) if isinstance(operand, relax.Var) else None
                if rest is not None:
                    return rest
        return None

    for value in bound.values():
        if calls(value, "relax.nn.softmax"):
            found |= leads(value.args[0], _MOST_STEPS) or set()
    for variable in bound:
        before = quantized_before(variable)
        softmax: Any = bound.get(before)
        if calls(softmax, "relax.nn.softmax") and leads(softmax.args[0], _MOST_STEPS) is not None:
            found.add(variable)
    return found
