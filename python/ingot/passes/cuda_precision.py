"""Products, and what lies between them, in 16 bits: with ``--precision bf16`` or ``f16`` a GPU reads and writes half as much.

A value in 16 bits has a stand-in of float32, which becomes a value of its own, by a cast, only where something asks for float32: inputs and
outputs of the model, reductions, everything whose result would be far off. Kernels and generated code compute in float32 whatever they read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import tvm
import tvm_ffi
from tvm import relax

from ingot.importer.weights import Weight, numpy_dtype
from ingot.lower.cpu.fused import read
from ingot.passes.attention_operands import calls
from ingot.passes.cuda_casts import retyped
from ingot.passes.graph import Graph, Rewriter
from ingot.passes.settings import Settings

#: What --precision names, as the type of activations and weights between products.
NARROW = {"bf16": "bfloat16", "f16": "float16"}
_PRODUCTS = ("relax.matmul", "relax.nn.conv1d", "relax.nn.conv2d")
#: Operators that compute in 16 bits if an operand has them. Each element of a result is computed in float32 and rounded once.
_FOLLOWING = frozenset(f"relax.{name}" for name in (
    "add", "subtract", "multiply", "divide", "maximum", "minimum", "negative", "abs", "tanh", "sigmoid", "erf", "nn.relu", "nn.gelu", "nn.gelu_tanh",
    "nn.silu", "nn.leakyrelu", "nn.relu6", "clip", "reshape", "permute_dims", "concat", "strided_slice", "broadcast_to", "expand_dims", "squeeze",
    "nn.pad", "where", "flatten"))


def cuda_precision(graph: Graph, settings: Settings) -> Graph:
    """Rewrites a graph of float32 to 16 bits where that is asked for."""
    narrow = NARROW.get(settings.precision)
    return _Narrowed(graph, narrow).run(_visit) if narrow is not None else graph


class _Narrowed(Rewriter):
    def __init__(self, graph: Graph, dtype: str) -> None:
        super().__init__(graph)
        self.dtype = dtype
        self.behind: dict[Any, Any] = {}  # a stand-in of float32 → the value in 16 bits
        self.plain: dict[Any, Any] = {}  # a stand-in → it as a value of its own, once something has asked for it
        self.tuples: dict[Any, frozenset[int]] = {}  # results of several values, and which are in 16 bits
        self.functions: dict[tuple[Any, ...], Any] = {}  # functions of 16 bits
        self.narrowed: dict[Any, Any] = {}  # a value of float32 → it in 16 bits

    def stand_in(self, value: Any) -> Any:
        """A variable of float32 for a value in 16 bits."""
        shape = getattr(value.ty, "shape", None)
        ty = relax.TensorType(shape.values, "float32") if shape is not None else relax.TensorType(dtype="float32", ndim=value.ty.ndim)
        variable = relax.Var("wide", ty)
        self.behind[variable] = value
        return variable

    def has(self, value: Any) -> bool:
        """Whether there is a value in 16 bits."""
        return value in self.behind

    def narrow(self, value: Any) -> Any:
        """A value of float32 in 16 bits; others as they are."""
        if value in self.behind:
            return self.behind[value]
        if not isinstance(value.ty, relax.TensorType) or str(value.ty.dtype) != "float32":
            return value
        if value not in self.narrowed:
            weight = self.weight(value)
            self.narrowed[value] = self.constant(_cast(weight, self.dtype)) if weight is not None else self.emit(relax.op.astype(value, self.dtype))
        return self.narrowed[value]

    def resolved(self, value: Any) -> Any:
        return tvm_ffi.structural_map(value, (relax.Var, self._real))

    def _real(self, value: Any) -> Any:
        if value not in self.behind:
            return value
        if value not in self.plain:
            self.plain[value] = self.emit(relax.op.astype(self.behind[value], "float32"))
        return self.plain[value]

    def match(self, value: Any, ty: Any) -> Any:
        if value not in self.behind or not isinstance(ty, relax.TensorType):
            return super().match(value, ty)
        shape = ty.shape
        narrow = relax.TensorType(shape.values, self.dtype) if shape is not None else relax.TensorType(dtype=self.dtype, ndim=ty.ndim)
        return self.stand_in(self.bb.match_cast(self.behind[value], narrow, self._hint))


def _cast(weight: Weight, dtype: str) -> Weight:
    return weight.map(lambda a: a.astype(numpy_dtype(dtype)), weight.shape, f":{dtype}", dtype)


def _visit(rewriter: Rewriter, variable: Any, value: Any) -> Any:
    assert isinstance(rewriter, _Narrowed)
    if isinstance(value, relax.Var):
        return value
    if isinstance(value, relax.TupleGetItem) and value.index in rewriter.tuples.get(value.tuple_value, ()):
        return rewriter.stand_in(rewriter.emit(relax.TupleGetItem(value.tuple_value, value.index)))
    if isinstance(value, relax.Call):
        for rule in (_cast_of, _product, _following, _kernel, _function):
            result = rule(rewriter, value)
            if result is not None:
                return result
    return rewriter.emit(rewriter.resolved(value))


def _is_wide(value: Any) -> bool:
    return isinstance(value.ty, relax.TensorType) and str(value.ty.dtype) == "float32"


def _cast_of(narrowed: _Narrowed, call: Any) -> Any:
    """A cast of what is in 16 bits is one of these, or nothing."""
    if not calls(call, "relax.astype") or not narrowed.has(call.args[0]):
        return None
    inner = narrowed.narrow(call.args[0])
    return inner if str(call.ty.dtype) == narrowed.dtype else narrowed.emit(relax.op.astype(inner, str(call.ty.dtype)))


def _product(narrowed: _Narrowed, call: Any) -> Any:
    if not calls(call, *_PRODUCTS) or not all(_is_wide(a) for a in call.args):
        return None
    operands = [narrowed.narrow(a) for a in call.args]
    if call.op.name == "relax.matmul":
        made = relax.op.matmul(*operands)
    else:
        convolve = {"relax.nn.conv1d": relax.op.nn.conv1d, "relax.nn.conv2d": relax.op.nn.conv2d}[call.op.name]
        made = convolve(*operands, strides=list(call.attrs.strides), padding=list(call.attrs.padding), dilation=list(call.attrs.dilation),
                        groups=int(call.attrs.groups), data_layout=str(call.attrs.data_layout), kernel_layout=str(call.attrs.kernel_layout))
    return narrowed.stand_in(narrowed.emit(made))


def _following(narrowed: _Narrowed, call: Any) -> Any:
    """An operator that computes in the type of its operands, if one is in 16 bits and the others are constants or float32 of the same."""
    if not calls(call, *_FOLLOWING):
        return None
    leaves = [leaf for a in call.args for leaf in (a.fields if isinstance(a, relax.Tuple) else [a])]
    operands = [leaf for leaf in leaves if isinstance(leaf.ty, (relax.TensorType, relax.TupleType))]
    if not any(narrowed.has(a) for a in operands) or not all(isinstance(a, relax.Var) or narrowed.weight(a) is not None for a in operands):
        return None
    if any(isinstance(a.ty, relax.TensorType) and str(a.ty.dtype) != "float32" for a in operands[1 if call.op.name == "relax.where" else 0 :]):
        return None

    def narrow(argument: Any) -> Any:
        if isinstance(argument, relax.Tuple):
            return relax.Tuple([narrow(f) for f in argument.fields])
        if not isinstance(argument.ty, relax.TensorType):
            return argument
        if isinstance(argument, tvm.ir.GenericConst) and str(argument.ty.dtype) == "float32" and not argument.ty.shape.values:
            return relax.const(argument.value.numpy().astype(numpy_dtype(narrowed.dtype)), narrowed.dtype)
        return narrowed.narrow(argument)

    return narrowed.stand_in(narrowed.emit(relax.Call(call.op, [narrow(a) for a in call.args], call.attrs, call.ty_args)))


def _kernel(narrowed: _Narrowed, call: Any) -> Any:
    """Kernels that take and give 16 bits: attention, whose output has Q's type, products with quantized weights, and the like."""
    if not calls(call, "relax.call_pure_packed"):
        return None
    taken = _TAKEN.get(str(call.args[0].global_symbol))
    if taken is None:
        return None
    operands = list(call.args[1].fields)
    given = [o for o in operands if not isinstance(o, relax.Tuple)]
    first = operands[taken.groups[0][0]]
    if isinstance(first, relax.Tuple):
        first = call  # it is left out: the result decides
    if not _is_wide(first) or not (taken.always or any(narrowed.has(o) for o in ([first] if taken.first_decides else given))):
        return None
    for number, group in enumerate(taken.groups):
        present = [i for i in group if i < len(operands) and not isinstance(operands[i], relax.Tuple)]
        if number == 0 or any(narrowed.has(operands[i]) for i in present):
            for i in present:
                operands[i] = narrowed.narrow(operands[i])
    rest = [narrowed.resolved(a) for a in operands]
    several = isinstance(call.ty_args[0], relax.TupleType)
    fields = list(call.ty_args[0].fields) if several else list(call.ty_args)
    results = frozenset(range(len(fields)) if taken.results is None else taken.results[len(fields)])
    types = [relax.TensorType(dtype=narrowed.dtype, ndim=t.ndim) if i in results else t for i, t in enumerate(fields)]
    made = narrowed.emit(relax.Call(call.op, [call.args[0], relax.Tuple(rest), *call.args[2:]], call.attrs,
                                    [relax.TupleType(types) if several else types[0]]))
    if several:
        narrowed.tuples[made] = results
        return made
    return narrowed.stand_in(made)


def _function(narrowed: _Narrowed, call: Any) -> Any:
    """A TIR function that computes each element by itself reads 16 bits where it can, computes as before, and gives 16 bits."""
    if not calls(call, "relax.call_tir") or not isinstance(call.ty_args[0], relax.TensorType) or str(call.ty_args[0].dtype) != "float32":
        return None
    operands = list(call.args[1].fields)
    taken = [i for i, a in enumerate(operands) if not tvm.ir.is_prim_expr(a) and narrowed.has(a)]
    if not taken:
        return None
    function = narrowed.bb.get()[call.args[0]]
    fused = read(function)
    if fused is None or not all(s.is_map for s in fused.stages):
        return None
    key = (call.args[0].name_hint, *taken)
    if key not in narrowed.functions:
        # Parameters are operands, integers among them, and the result.
        other = retyped(function, dict.fromkeys([*taken, len(function.params) - 1], narrowed.dtype))
        narrowed.functions[key] = narrowed.function(other, call.args[0].name_hint)
    arguments = [narrowed.narrow(a) if i in taken else a if tvm.ir.is_prim_expr(a) else narrowed.resolved(a) for i, a in enumerate(operands)]
    shape = call.ty_args[0].shape.values
    made = relax.call_tir(narrowed.functions[key], relax.Tuple(arguments), relax.TensorType(shape, narrowed.dtype))
    return narrowed.stand_in(narrowed.emit(made))


@dataclass(frozen=True)
class _Taken:
    """How a kernel takes 16 bits: ``groups`` of operands that have one type, the first of them that of ``results``.

    These are given by how many results there are in all (None: all of them). It does if one of its operands has them; with ``first_decides`` if the
    first of the first group has, with ``always`` in any case.
    """

    groups: tuple[tuple[int, ...], ...]
    first_decides: bool = False
    always: bool = False
    results: Mapping[int, tuple[int, ...]] | None = None


_TAKEN: dict[str, _Taken] = {
    "ingot.kernel.attention": _Taken(((0, 11), (1, 2)), first_decides=True),
    "ingot.kernel.matmul_int8": _Taken(((5,),), always=True),
    "ingot.kernel.quantize_rows": _Taken(((0,),), results={2: ()}),
    "ingot.kernel.quantized_matmul": _Taken(((0, 5),), always=True),
    "ingot.kernel.normalization": _Taken(((0, 3),)),
    "ingot.kernel.rotary_cache": _Taken(((2,), (3, 4)), first_decides=True, results={3: (2,), 4: (2, 3), 5: (2,), 6: (2, 5)}),
}
