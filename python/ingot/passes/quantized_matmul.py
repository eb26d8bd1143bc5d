"""Products with quantized weights become calls of the kernel ``quantized_matmul``, whose weights stay quantized.

The weight of a product is one that the importer kept as it was quantized (importer/quantized.py); or a constant that ``relax.dequantize``
makes floats of, seen through transposes; or that of a dynamically quantized product (passes/dynamic_quantization.py). What follows a
product (a bias, an activation, a residual) moves into its kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from tvm import relax

from ingot.importer import dims
from ingot.importer.quantized import QuantizedWeight, from_integers, quantized_weight
from ingot.importer.weights import Weight
from ingot.lower.cpu.quantized_weights import ACTIVATIONS, FORMATS, Format, groups_of, is_group, pack_codes, pack_groups, packed_shape
from ingot.lower.cuda import packing as cuda_packing
from ingot.passes.attention_operands import calls, extents_of, order_of, same_shape, scalar, scaled
from ingot.passes.dynamic_quantization import DynamicProducts
from ingot.passes.graph import Graph, Rewriter
from ingot.passes.trace import bindings

_FLOATS = ("float32", "float16", "bfloat16")
_FORMATS: dict[tuple[int, tuple[float, ...]], Format] = {(f.bits, f.values): f for f in FORMATS.values()}
#: Operators of one tensor that are activations of the kernel.
UNARY = {"relax.nn.relu": "relu", "relax.nn.gelu": "gelu", "relax.nn.gelu_tanh": "gelu_tanh", "relax.nn.silu": "silu"}


@dataclass(frozen=True)
class Layout:
    """How a kernel reads codes.

    ``pack_codes`` and ``packed_shape`` are as in lower/cpu/quantized_weights.py; ``most_zero`` is the largest zero point of int8 for codes of 4 bits.
    ``gates``: so many columns of gates stand before those that are multiplied by their activations; 0 if the kernel has no gates.
    ``bytes_of_rows``: products of int8 with a scale for each row of X and each column of W are another kernel's, ``matmul_int8``.
    """

    name: str
    pack_codes: Callable[[Format, np.ndarray], np.ndarray]
    packed_shape: Callable[[Format, int, int], tuple[int, ...]]
    most_zero: int | None = None
    gates: int = 0
    bytes_of_rows: bool = False


CPU_LAYOUT = Layout("", pack_codes, packed_shape)
CUDA_LAYOUT = Layout(":cuda", cuda_packing.pack_codes, cuda_packing.packed_shape, cuda_packing.MOST_NIBBLE_ZERO, cuda_packing.GATES,
                     bytes_of_rows=True)
#: What is added to the number of an activation that is one of gates (kernels/cuda/quantized_matmul).
_GATES = 8
#: A scale for each row (kernels/cuda/matmul/scaled_matmul.h).
_OF_ROWS = 1


def quantized_matmuls(graph: Graph, layout: Layout = CPU_LAYOUT) -> Graph:
    """Rewrites products with constant quantized weights to calls of the kernel, whose weights have a ``layout``."""
    return _Products(graph, layout).run(_visit)


@dataclass(frozen=True)
class _Call:
    """A call of the kernel, over variables of the old function."""

    x: Any
    codes: Weight  # packed, as are scales and zeros
    scales: Weight
    zeros: Weight | None
    ints: tuple[int, int, int, int]  # format, group, compute, group of activations
    columns: int
    bias: Weight | None = None
    activation: str = ""
    gated: bool = False
    residual: Any = None
    integers: tuple[Weight, Weight] | None = None  # for ``matmul_int8``: codes [N, K] and scales [N]


class _Products(Rewriter):
    """What each variable of the old function would be as one call is found first; then those that no later call takes in are emitted."""

    def __init__(self, graph: Graph, layout: Layout) -> None:
        super().__init__(graph)
        self.layout = layout
        self.before: dict[Any, Any] = {}  # what variables are bound to
        self.calls: dict[Any, _Call] = {}
        self.taken: set[Any] = set()  # variables with a call that is part of a later one
        self.generates = False  # steps of few rows, whose time is that of reading weights
        self.dequantized: dict[Any, Weight | None] = {}
        self._rounded: dict[Any, list[Any]] = {}
        for binding in bindings(graph.function):
            if isinstance(binding, relax.MatchCast):
                continue
            self.before[binding.var] = binding.value
            self.generates |= calls(binding.value, "ingot.kernel.tensor_scatter")
        for binding in bindings(graph.function):
            if isinstance(binding, relax.MatchCast):
                continue
            found = _find(self, binding.var, binding.value)
            if found is not None:
                self.calls[binding.var] = found

    def kernel(self, call: _Call) -> Any:
        """Emits a call."""
        x = self.replaced(call.x)
        bias, residual = (None if call.bias is None else self.constant(call.bias), None if call.residual is None else self.replaced(call.residual))
        result = relax.TensorType([*x.ty.shape.values[:-1], dims.expr(call.columns)], str(x.ty.dtype))
        activation = ACTIVATIONS[call.activation]
        if call.integers is not None and not call.gated:
            (w, scales), (codes, x_scales) = (self.constant(i) for i in call.integers), self.rounded(x)
            return self.packed("matmul_int8", [codes, w, x_scales, scales, bias, residual], (_OF_ROWS, _OF_ROWS, activation, 0), [result])[0]
        weights = (None if w is None else self.constant(w) for w in (call.codes, call.scales, call.zeros))
        return self.packed("quantized_matmul", [x, *weights, bias, residual], (*call.ints, activation + _GATES * call.gated), [result])[0]

    def rounded(self, x: Any) -> list[Any]:
        """X in int8 and the scales of its rows; once for all products that read it."""
        if x not in self._rounded:
            shape = list(x.ty.shape.values)
            types = [relax.TensorType(shape, "int8"), relax.TensorType([*shape[:-1], dims.expr(1)], "float32")]
            self._rounded[x] = self.packed("quantize_rows", [x], (0,), types)
        return self._rounded[x]

    def packed(self, name: str, inputs: list[Any], ints: Sequence[int], types: list[Any]) -> list[Any]:
        """The results of a kernel's call, of these types; inputs that are left out are None."""
        bare = [relax.TensorType(dtype=str(t.dtype), ndim=t.ndim) for t in types]
        emitted = self.emit(relax.call_pure_packed(
            f"ingot.kernel.{name}",
            relax.Tuple([relax.Tuple([]) if i is None else i for i in inputs]),
            relax.ShapeExpr([]),
            relax.Tuple([relax.prim_value(i) for i in ints]),
            relax.Tuple([]),
            ty_args=bare[0] if len(bare) == 1 else relax.TupleType(bare),
        ))
        found = [emitted] if len(bare) == 1 else [self.emit(relax.TupleGetItem(emitted, i)) for i in range(len(bare))]
        return [self.bb.match_cast(f, t, self._hint) for f, t in zip(found, types, strict=True)]

    def take(self, variable: Any, readers: int = 1) -> _Call | None:
        """The call that a variable would be, if so many bindings read it, for a later call to take in."""
        call = self.calls.get(variable)
        return call if call is not None and self.uses[variable] == readers else None

    def quantized(self, expression: Any) -> QuantizedWeight | None:
        """The quantized weight that an expression is, or None."""
        if expression not in self.dequantized:
            self.dequantized[expression] = self._find(expression)
        found = self.dequantized[expression]
        return found if isinstance(found, QuantizedWeight) else None

    def _find(self, expression: Any) -> Weight | None:
        weight = self.weights.get(expression)
        if weight is not None:
            return weight
        value: Any = self.before.get(expression)
        if calls(value, "relax.permute_dims"):
            inner = self.quantized(value.args[0])
            return inner.transposed(order_of(value, 2)) if inner is not None else None
        if not calls(value, "relax.dequantize"):
            return None
        x, scale, zero = (self.weight(a) for a in value.args)
        if x is None or scale is None or zero is None:
            return None
        return from_integers(x, scale, zero, int(value.attrs.axis), 0, str(value.attrs.out_dtype))


def _visit(rewriter: Rewriter, variable: Any, value: Any) -> Any:
    assert isinstance(rewriter, _Products)
    call = rewriter.calls.get(variable)
    # What a later call takes in stays as it was: nothing reads it then.
    return rewriter.kernel(call) if call is not None and variable not in rewriter.taken else None


def _find(products: _Products, variable: Any, value: Any) -> _Call | None:
    """The call that a binding would be, or None."""
    if calls(value, "relax.matmul"):
        return _product(products, value)
    if calls(value, "relax.add"):
        return _sum(products, variable, value)
    if calls(value, *UNARY):
        return _activated(products, value.args[0], UNARY[value.op.name])
    if calls(value, "relax.multiply"):
        return gated(products, value) or _with_gates(products, value) or _dynamic(products, value)
    return None


def _dynamic(products: _Products, value: Any) -> _Call | None:
    """A product in integers of what is quantized while running: x is rounded to int8 too, by a scale for each row."""
    found = DynamicProducts(products.before.get, products.weight).find(value)
    return _with(products, found[0], replace(found[1], integers=True)) if found is not None else None


def _product(products: _Products, call: Any) -> _Call | None:
    x, w = call.args
    weight = products.quantized(w)
    dtype = str(x.ty.dtype)
    if weight is None or dtype not in _FLOATS or weight.dtype != dtype or len(extents_of(x)) < 1 or not is_group(weight.group):
        return None
    if calls(products.before.get(x), "relax.dequantize"):
        return None  # both are quantized: passes/integers.py has left it for a reason
    return _with(products, x, weight)


def _with(products: _Products, x: Any, weight: QuantizedWeight) -> _Call | None:
    """The call for x times a weight, if the kernel can read it."""
    found = _along_depth(weight)
    if found is None:
        return None
    codes, scales, zeros = found
    depth, columns = weight.shape
    kind = _FORMATS[weight.bits, weight.values]
    groups = (groups_of(depth, weight.group), columns)
    if depth == 0 or scales.shape != groups:
        return None
    layout = products.layout
    if layout.name not in weight.packed:
        weight.packed[layout.name] = (_packed(layout, kind, codes), _packed_groups(scales),
                                      None if zeros is None else _packed_groups(_near(layout, kind, zeros)))
    group = weight.group if weight.group < depth else 0
    whole = layout.bytes_of_rows and not products.generates and weight.integers and kind.name == "int8" and not group and zeros is None
    integers = (codes.map(np.transpose, (columns, depth), ":rows"),
                scales.map(lambda s: s.reshape(-1).astype(np.float32), (columns,), ":row", "float32")) if whole else None
    ints = (kind.code, group, int(weight.integers), group if weight.integers else 0)
    return _Call(x, *weight.packed[layout.name], ints, columns, integers=integers)


def _along_depth(weight: QuantizedWeight) -> tuple[Weight, Weight, Weight | None] | None:
    """Codes, scales and zeros of a matrix [K, N], if groups run along K."""
    if weight.axis == 0:
        return weight.codes, weight.scales, weight.zeros
    if weight.group:
        return None
    columns = weight.shape[1]
    moved: list[Weight] = []
    for parameters in (weight.scales, weight.zeros):
        if parameters is None:
            continue
        numbers = parameters.load()
        if (numbers != numbers.flat[0]).any():
            return None  # a scale for each k
        moved.append(parameters.map(lambda p: np.broadcast_to(p.ravel()[:1], (1, columns)), (1, columns), ":one"))
    return weight.codes, moved[0], moved[1] if len(moved) > 1 else None


def _packed(layout: Layout, kind: Format, codes: Weight) -> Weight:
    """Codes [K, N] as the kernel reads them."""
    depth, columns = codes.shape
    return codes.map(lambda a: layout.pack_codes(kind, (a + kind.offset).astype(np.uint8 if kind.offset else np.int8).T),
                     layout.packed_shape(kind, columns, depth), f":{kind.name}{layout.name}", "uint8")


def _near(layout: Layout, kind: Format, zeros: Weight) -> Weight:
    """Zero points in a type that the kernel can subtract exactly."""
    if layout.most_zero is None or kind.bits != 4 or zeros.dtype != "int8" or int(zeros.load().max(initial=0)) <= layout.most_zero:
        return zeros
    return zeros.map(lambda a: a.astype(np.float32), zeros.shape, ":float", "float32")


def _packed_groups(parameters: Weight) -> Weight:
    groups, columns = parameters.shape
    shape = (-(-columns // 16), groups, 16)
    dtype = "float32" if parameters.dtype == "float64" else parameters.dtype

    def pack(values: np.ndarray) -> np.ndarray:
        packed = pack_groups(values.T)
        return packed.astype(np.float32) if dtype != parameters.dtype else packed

    return parameters.map(pack, shape, ":panels", dtype)


# ---- What follows a product ----------------------------------------------------------------------------------------


def _sum(products: _Products, variable: Any, value: Any) -> _Call | None:
    """A bias or a residual that is added."""
    for result, other in (value.args, reversed(value.args)):
        call = products.take(result)
        if call is None or call.residual is not None:
            continue
        weight = products.weight(other)
        found = None
        if weight is None and same_shape(extents_of(other), extents_of(result)):
            found = replace(call, residual=other)
        elif weight is not None and weight.shape == (call.columns,) and call.bias is None and not call.activation:
            found = replace(call, bias=weight.map(lambda b: b.astype(np.float32), weight.shape, ":bias", "float32"))
        if found is not None:
            products.taken.add(result)
            return found
    return None


def _activated(products: _Products, variable: Any, name: str) -> _Call | None:
    call = products.take(variable)
    if call is None or call.activation or call.residual is not None:
        return None
    products.taken.add(variable)
    return replace(call, activation=name)


def _with_gates(products: _Products, value: Any) -> _Call | None:
    """The halves of a product of which one, activated, is multiplied by the other: one call, whose result has half of the columns."""
    for activated, other in (value.args, reversed(value.args)) if products.layout.gates else ():
        gate, activation = _activation_of(products, activated)
        first, second = _half(products, gate), _half(products, other)
        if first is None or second is None or not first[0].same_as(second[0]) or first[1] == second[1] or not products.used_once(other):
            continue
        product, count = first[0], products.layout.gates
        call = products.take(product, readers=2)
        made: Any = products.before.get(product)
        weight = products.quantized(made.args[1]) if made is not None and calls(made, "relax.matmul") else None
        if call is None or call.activation or call.residual is not None or call.bias is not None or weight is None or weight.axis != 0:
            continue
        interleaved = _with(products, call.x, _interleaved(weight, first[1], count)) if call.columns % (2 * count) == 0 else None
        if interleaved is not None:
            products.taken.add(product)
            return replace(interleaved, columns=call.columns // 2, activation=activation, gated=True)
    return None


def _activation_of(products: _Products, variable: Any) -> tuple[Any, str]:
    """What a variable that is read once is the activation of, if nothing else reads that, and which."""
    value: Any = products.before.get(variable)
    if not products.used_once(variable):
        return None, ""
    if calls(value, *UNARY):
        return (value.args[0], UNARY[value.op.name]) if products.used_once(value.args[0]) else (None, "")
    for x, sigmoid in (value.args, reversed(value.args)) if calls(value, "relax.multiply") else ():
        inner: Any = products.before.get(sigmoid)
        if calls(inner, "relax.sigmoid") and inner.args[0].same_as(x) and products.uses[x] == 2 and products.used_once(sigmoid):
            return x, "silu"
    return None, ""


def _half(products: _Products, variable: Any) -> tuple[Any, int] | None:
    """The tensor of whose last axis a variable is the first half (0) or the second (1)."""
    value: Any = products.before.get(variable)
    if not calls(value, "relax.strided_slice"):
        return None
    shape = extents_of(value.args[0])
    axes, begin, end = (_numbers(a) for a in value.args[1:4])
    if axes is None or begin is None or end is None or len(value.args) > 4 or axes not in ([len(shape) - 1], [-1]) or not isinstance(shape[-1], int):
        return None
    half = shape[-1] // 2
    return next(((value.args[0], i) for i in range(2) if (begin[0], end[0]) == (i * half, (i + 1) * half) and 2 * half == shape[-1]), None)


def _numbers(value: Any) -> list[int] | None:
    """A tuple of integers."""
    fields = list(value.fields) if isinstance(value, relax.Tuple) else []
    numbers = [dims.dim(f) for f in fields]
    return [n for n in numbers if isinstance(n, int)] if numbers and all(isinstance(n, int) for n in numbers) else None


def _interleaved(weight: QuantizedWeight, first: int, count: int) -> QuantizedWeight:
    """A matrix [K, 2 N] with ``count`` columns of one half, the first (0) or the second (1), and as many of the other in turn."""
    columns = weight.shape[1]
    halves = np.arange(columns).reshape(2, columns // (2 * count), count)
    order = halves[[first, 1 - first]].transpose(1, 0, 2).reshape(-1)

    def moved(parameters: Weight) -> Weight:
        return parameters.map(lambda a: a[:, order], parameters.shape, ":interleaved")

    made = weight.once(("interleaved", first, count), lambda: quantized_weight(
        weight.name, weight.dtype, moved(weight.codes), moved(weight.scales), None if weight.zeros is None else moved(weight.zeros), weight.bits,
        weight.axis, weight.group, weight.integers, weight.values))
    assert isinstance(made, QuantizedWeight)
    return made


def gated(products: Any, value: Any) -> Any:
    """silu, x · sigmoid(x), and gelu, x · (1 + erf(x / √2)) / 2, as they are written out: a product of x with what is computed from it."""
    factors, scale = _factors(products, value)
    if len(factors) != 2:
        return None
    for x, gate in (factors, reversed(factors)):
        call = products.take(x, readers=2)
        if call is None or call.activation or call.residual is not None or not products.used_once(gate):
            continue
        gated: Any = products.before.get(gate)
        silu = scale == 1 and calls(gated, "relax.sigmoid") and gated.args[0].same_as(x)
        if silu or (scale == 0.5 and _is_erf_gate(products, gated, x)):
            products.taken.add(x)
            return replace(call, activation="silu" if silu else "gelu")
    return None


def _factors(products: _Products, value: Any) -> tuple[list[Any], float]:
    """The tensors that a product multiplies, two at most, and the number beside them."""
    scale = 1.0
    while (peeled := scaled(products, value)) is not None:
        scale *= peeled[1]
        value = products.before.get(peeled[0])
    if not calls(value, "relax.multiply"):
        return [], scale
    tensors = []
    for tensor in value.args:
        inner = scaled(products, products.before.get(tensor))
        tensors.append(inner[0] if inner is not None else tensor)
        scale *= inner[1] if inner is not None else 1
    return tensors, scale


def _is_erf_gate(products: _Products, value: Any, x: Any) -> bool:
    """Whether an expression is 1 + erf(x / √2)."""
    if not calls(value, "relax.add"):
        return False
    for one, erf in (value.args, reversed(value.args)):
        call: Any = products.before.get(erf)
        if scalar(products, one) != 1 or not calls(call, "relax.erf"):
            continue
        inner = scaled(products, products.before.get(call.args[0]))
        if inner is not None and inner[0].same_as(x) and abs(inner[1] - 0.5**0.5) < 1e-6:
            return True
    return False
