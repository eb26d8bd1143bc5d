"""What an operator's function works with: it reads values and emits Relax into the function being built."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import tvm_ffi
from tvm import relax, te, tirx

from ingot.errors import NeedsConstantError, UnsupportedError
from ingot.importer import dims
from ingot.importer.dims import Dim
from ingot.importer.values import SMALL, MapValue, MissingValue, SequenceValue, Value, constant, symbolic
from ingot.importer.weights import STRING, Weight, numpy_dtype

if TYPE_CHECKING:
    import onnx

    from ingot.importer.module import ModuleBuilder


class Context:
    """The function being built, and the node being imported.

    An operator's function gets it first. It emits computations by, in order of preference: :meth:`op` (a Relax
    operator, which passes can recognize), :meth:`elementwise`, :meth:`te` (a tensor expression), :meth:`kernel` (a C++
    kernel of the runtime, for what tensor expressions cannot say). Shapes are tuples of :data:`~ingot.importer.dims.Dim`.
    """

    def __init__(self, module: ModuleBuilder, parent: Context | None, name: str) -> None:
        self.module = module
        self.parent = parent
        self.name = name
        self.bb: relax.BlockBuilder = module.bb if parent is None else relax.BlockBuilder()
        self.values: dict[str, Value] = {}
        self.weights: dict[int, tuple[Weight, relax.Var]] = {}  # large constants, and the parameters that stand for them
        self.captures: dict[Any, tuple[Value, Value]] = {}  # an outer value, and what stands for it here, by what tells it from others
        self.inner_symbols: list[tuple[Dim, Any]] = []  # an outer extent, and this function's symbol for it
        self.checks: list[tuple[Any, str]] = []
        self.node: onnx.NodeProto | None = None
        self.opset = 0

    # ---- Emitting -------------------------------------------------------------------------------------------

    def op(self, call: relax.Expr) -> Value:
        """Emits a call of a Relax operator that gives one tensor of known shape."""
        return self._wrap(self.bb.emit(call, self._hint()))

    def te(self, function: Callable[..., Any], *args: Any, name: str | None = None, pattern: int | None = None, **kwargs: Any) -> Any:
        """Emits a tensor expression: ``function`` gets a ``te.Tensor`` for each Value and returns one tensor or several.

        Other arguments pass through, as do values inside lists. ``pattern`` is what fusion takes it for, if not for what it looks like (TVM's
        ``OpPatternKind``). Returns a Value, or a tuple of them.
        """
        hint = str(name or getattr(function, "__name__", "compute"))
        if not hint.isidentifier():
            hint = self.node.op_type.lower() if self.node is not None else "compute"

        inputs: list[tuple[te.Tensor, Value]] = []

        def convert(arg: Any) -> Any:
            if isinstance(arg, Value):
                tensor = te.placeholder([dims.expr(d) for d in arg.shape], arg.dtype, name=f"x{len(inputs)}")
                inputs.append((tensor, arg))
                return tensor
            if isinstance(arg, (list, tuple)) and any(isinstance(a, Value) for a in arg):
                return [convert(a) for a in arg]
            return arg

        result = function(*[convert(a) for a in args], **kwargs)
        outputs = list(result) if isinstance(result, (list, tuple, tvm_ffi.Array)) else [result]
        primitive = te.create_prim_func([tensor for tensor, _ in inputs] + outputs)
        primitive, scalars = with_scalars(primitive, len(outputs))
        if pattern is not None:
            primitive = primitive.with_attr("op_pattern", pattern)
        called = self.tir(primitive, [value for _, value in inputs], [(t.shape, str(t.dtype)) for t in outputs], hint, scalars)
        return (called,) if isinstance(result, (list, tuple, tvm_ffi.Array)) and len(outputs) == 1 else called

    def elementwise(self, function: Callable[..., Any], *args: Value, dtype: str | None = None, name: str | None = None) -> Value:
        """Emits ``function`` over the scalars of ``args``, broadcast as NumPy does (extents may be symbolic)."""
        shape = self.broadcast_shape(*[a.shape for a in args])

        def compute(*tensors: te.Tensor) -> te.Tensor:
            def body(*indices: Any) -> Any:
                result = function(*[t(*_broadcast_index(t.shape, shape, indices)) for t in tensors])
                return result.astype(dtype) if dtype and str(result.ty.dtype if hasattr(result.ty, "dtype") else "") != dtype else result

            return te.compute([dims.expr(d) for d in shape], body, name=name or "compute")

        return self.te(compute, *args, name=name or (self.node.op_type.lower() if self.node is not None else "elementwise"))

    def tir(self, function: tirx.PrimFunc, args: Sequence[Value], outputs: Sequence[tuple[Sequence[Dim], str]], name: str,
            scalars: Sequence[Dim] = ()) -> Any:
        """Emits a call of a TIR function (inputs, ``scalars``, then outputs): one Value, or a tuple for several outputs."""
        variable = self.module.bb.add_func(function.without_attr("global_symbol") if "global_symbol" in function.attrs else function, name)
        types = [relax.TensorType([dims.expr(d) for d in shape], dtype) for shape, dtype in outputs]
        arguments = relax.Tuple([a.expr for a in args] + [dims.expr(s) for s in scalars])
        call = relax.call_tir(variable, arguments, types[0] if len(types) == 1 else types)
        return self._results(self.bb.emit(call, self._hint()))

    def kernel(self, name: str, inputs: Sequence[Value | None], outputs: Sequence[tuple[Sequence[Dim | None], str]],
               *, dims_: Sequence[Dim] = (), ints: Sequence[int] = (), floats: Sequence[float] = ()) -> Any:
        """Emits a call of a runtime kernel (``kernels/registry.cpp``): one Value, or a tuple for several outputs.

        ``outputs`` gives each result's shape and dtype; an extent of None is found while running, and becomes a fresh symbol.
        """
        return self._external(f"ingot.kernel.{name}", inputs, outputs, dims_, ints, floats)

    def builtin(self, name: str, inputs: Sequence[Value | None], outputs: Sequence[tuple[Sequence[Dim | None], str]],
                *, dims_: Sequence[Dim] = (), ints: Sequence[int] = ()) -> Any:
        """Emits a call of a builtin of the runtime (docs/format.md), as :meth:`kernel`."""
        return self._external(f"ingot.builtin.{name}", inputs, outputs, dims_, ints, ())

    def _external(self, symbol: str, inputs: Sequence[Value | None], outputs: Sequence[tuple[Sequence[Dim | None], str]],
                  dims_: Sequence[Dim], ints: Sequence[int], floats: Sequence[float]) -> Any:
        shapes = [[self.fresh("k") if d is None else d for d in shape] for shape, _ in outputs]
        loose = [relax.TensorType(dtype=dtype, ndim=len(shape)) for shape, dtype in outputs]
        exact = [relax.TensorType([dims.expr(d) for d in s], t) for s, (_, t) in zip(shapes, outputs, strict=True)]
        call = relax.call_pure_packed(
            symbol,
            relax.Tuple([relax.Tuple([]) if v is None else v.expr for v in inputs]),
            relax.ShapeExpr([dims.expr(d) for d in dims_]),
            relax.Tuple([relax.prim_value(int(i)) for i in ints]),
            relax.Tuple([relax.const(float(f), "float64") for f in floats]),
            ty_args=loose[0] if len(outputs) == 1 else relax.TupleType(loose),
        )
        emitted = self.bb.emit(call, self._hint())
        if len(outputs) == 1:
            return self._wrap(self.bb.match_cast(emitted, exact[0], self._hint()))
        items = [self.bb.emit(relax.TupleGetItem(emitted, i)) for i in range(len(outputs))]
        return tuple(self._wrap(self.bb.match_cast(item, t)) for item, t in zip(items, exact, strict=True))

    def check(self, condition: Any, message: str) -> None:
        """Has the program fail with ``message`` when a condition over symbolic dimensions does not hold."""
        if isinstance(condition, (bool, np.bool_)):
            if not condition:
                raise self.error(message)
            return
        self.checks.append((condition, f"{self.where()}: {message}"))

    # ---- Values ---------------------------------------------------------------------------------------------

    def constant(self, array: Any, dtype: str | None = None) -> Value:
        """A constant value."""
        return constant(self, np.asarray(array, dtype=numpy_dtype(dtype) if dtype else None))

    def symbolic(self, elements: Any, dtype: str = "int64") -> Value:
        """A value of integers that are known as expressions (a shape, say). ``elements`` nests as the value's shape."""
        return symbolic(self, np.asarray(elements, dtype=object), dtype)

    def fresh(self, name: str) -> Any:
        """A new symbolic extent."""
        return dims.symbol(self.module.unique(name))

    def extents(self, shape: Iterable[Any]) -> tuple[Dim, ...]:
        """A tensor's shape, simplified: the program checks that no symbol is so small that an extent of it would be negative."""
        found = dims.dims(shape)
        for extent in found:
            assumed = dims.assume_extent(extent)
            if assumed is not None:
                symbol, lowest = assumed
                self.check(symbol >= lowest, f"{symbol.name} is too small: it must be at least {lowest}")
                found = dims.dims(found)
        return found

    def broadcast_shape(self, *shapes: Sequence[Dim]) -> tuple[Dim, ...]:
        """The shape that NumPy's rules give. Two symbols that are not known to be equal may still differ by a 1 at run time."""
        rank = max(len(s) for s in shapes)
        result: list[Dim] = [1] * rank
        for shape in shapes:
            for axis, extent in enumerate(shape, rank - len(shape)):
                current = result[axis]
                if dims.equal(extent, 1) or dims.equal(extent, current):
                    continue
                if dims.equal(current, 1):
                    result[axis] = extent
                elif isinstance(current, int) and isinstance(extent, int):
                    raise self.error(f"shapes {' and '.join(dims.text(s) for s in shapes)} cannot be broadcast")
                else:
                    a, b = dims.expr(current), dims.expr(extent)
                    self.check(tirx.any(a.equal(b), a.equal(1), b.equal(1)),
                               f"extents {dims.show(current)} and {dims.show(extent)} cannot be broadcast")
                    fixed = current if isinstance(current, int) else extent if isinstance(extent, int) else None
                    result[axis] = dims.maximum(current, extent) if fixed is None else fixed
        return tuple(result)

    def broadcasts_plainly(self, *shapes: Sequence[Dim]) -> bool:
        """Whether the shapes broadcast by extents that are provably equal or 1, as Relax's own operators ask."""
        rank = max(len(s) for s in shapes)
        for axis in range(1, rank + 1):
            extents = [s[-axis] for s in shapes if len(s) >= axis]
            wide = [e for e in extents if not dims.equal(e, 1)]
            if any(not dims.equal(e, wide[0]) for e in wide):
                return False
        return True

    def cast(self, value: Value, dtype: str) -> Value:
        """The value in another dtype, by C's rules; the same value if it has it already."""
        if value.dtype == dtype:
            return value
        if value.elements is not None and dtype in ("int64", "int32"):
            return symbolic(self, value.elements, dtype)
        return self.op(relax.op.astype(value.expr, dtype))

    def reshape(self, value: Value, shape: Sequence[Dim]) -> Value:
        """The same elements in row-major order in another shape; costs nothing at run time."""
        shape = self.extents(shape)
        if value.elements is not None and dims.is_static(shape):
            return symbolic(self, value.elements.reshape(shape), value.dtype)
        if value.weight is not None and dims.is_static(shape):
            static = tuple(int(d) for d in shape)
            return Value(self, value.dtype, static, weight=value.weight.map(lambda a: a.reshape(static), static, ""))
        return self.op(relax.op.reshape(value.expr, [dims.expr(d) for d in shape]))

    def transpose(self, value: Value, axes: Sequence[int]) -> Value:
        """Permuted axes; a weight is permuted while compiling."""
        axes = [int(a) for a in axes]
        if axes == list(range(value.ndim)):
            return value
        if value.weight is not None:
            transposed = value.weight.transposed(axes)
            return Value(self, value.dtype, transposed.shape, weight=transposed)
        return self.op(relax.op.permute_dims(value.expr, axes))

    def view(self, value: Value, dtype: str) -> Value:
        """The same bytes as elements of another type of the same size; costs nothing at run time."""
        result: Value = self.builtin("view", [value], [(value.shape, dtype)])
        return result

    def array(self, value: Value | None, what: str) -> np.ndarray | None:
        """The elements of a constant, or None for an omitted input; raises if they are not known while compiling."""
        if value is None:
            return None
        array = value.array
        if array is None:
            raise self.needs_constant(value, what)
        return array

    def ints(self, value: Value | None, what: str) -> list[int] | None:
        """The integers of a constant, flat, or None for an omitted input; raises if they are not known while compiling."""
        array = self.array(value, what)
        return None if array is None else [int(v) for v in array.ravel()]

    def dims(self, value: Value, what: str) -> list[Dim]:
        """The integers of a 0-D or 1-D tensor as dimensions. Where they are not known, they are read at run time."""
        known = value.known_elements()
        if known is not None:
            return [dims.dim(v) for v in known.ravel()]
        if value.ndim > 1 or not dims.is_static(value.shape):
            raise self.needs_constant(value, what)
        count = int(np.prod(value.shape, dtype=np.int64))
        symbols = [dims.integer(self.module.unique("d")) for _ in range(count)]
        if count:
            call = relax.call_pure_packed("ingot.builtin.to_dims", relax.Tuple([value.expr]), ty_args=relax.ShapeType(ndim=count))
            self.bb.match_cast(self.bb.emit(call), relax.ShapeType(symbols))
        return symbols

    def let(self, values: Sequence[Dim]) -> list[Dim]:
        """Names extents: each expression that is not provably an extent becomes a symbol of its own.

        Integers that :meth:`dims` read may be 0 or -1 and mean something else; what they mean as extents is never negative,
        and a lone symbol keeps generated code simple.
        """
        values = dims.dims(values)
        symbols = [v if dims.is_extent(v) else self.fresh("e") for v in values]
        if all(s is v for s, v in zip(symbols, values, strict=True)):
            return list(values)
        call = relax.call_pure_packed("ingot.builtin.let", relax.ShapeExpr([dims.expr(v) for v in values]), ty_args=relax.ShapeType(ndim=len(values)))
        self.bb.match_cast(self.bb.emit(call), relax.ShapeType([dims.expr(s) for s in symbols]))
        return symbols

    def indices(self, value: Value, extent: Dim, *, negative: bool = True) -> Value:
        """Indices into an axis of ``extent``, made non-negative; one that is out of range is an error, now or at run time.

        Negative indices count from the end, unless ``negative`` is False: they are out of range then.
        """
        if value.is_small_constant and isinstance(extent, int):
            array = np.asarray(value.array, np.int64)
            if array.size and (array.min() < (-extent if negative else 0) or array.max() >= extent):
                raise self.error(f"an index is out of range for an axis of {extent}: {array.min()} to {array.max()}")
            return self.constant(np.where(array < 0, array + extent, array))
        return self.kernel("wrap_indices" if negative else "check_indices", [value], [(value.shape, "int64")], dims_=[extent])

    def materialize(self, value: Value) -> Any:
        """The Relax expression of a constant or of symbolic integers."""
        if value.weight is not None:
            if value.dtype != STRING and value.weight.nbytes <= SMALL * 8 and value.is_small_constant and not _is_packed(value.dtype):
                return relax.const(value.weight.load(), value.dtype)
            return self.weight_expr(value.weight)
        assert value.elements is not None
        if value.is_constant:
            return relax.const(value.elements.astype(numpy_dtype(value.dtype)), value.dtype)
        flat = [dims.expr(e).astype("int64") for e in value.elements.ravel()]  # comparisons of extents are booleans
        shape = (len(flat),) if value.ndim != 0 else ()
        tensor = self.builtin("shape", [], [(shape, "int64")], dims_=flat)
        if value.ndim > 1:
            tensor = self.reshape(tensor, value.shape)
        return self.cast(tensor, value.dtype).expr

    def weight_expr(self, weight: Weight) -> Any:
        """The variable of a large constant: a parameter of the function, behind all others."""
        if id(weight) not in self.weights:
            ty = relax.TensorType([dims.expr(d) for d in weight.shape], weight.dtype)
            self.weights[id(weight)] = (weight, relax.Var(self.module.unique("weight"), ty))
        return self.weights[id(weight)][1]

    @property
    def root(self) -> Context:
        """The context of the model's main graph."""
        return self if self.parent is None else self.parent.root

    def lookup(self, name: str) -> Value:
        """The value of a name in this graph, or captured from an outer one."""
        if name in self.values:
            return self.values[name]
        if self.parent is None:
            raise self.error(f"input '{name}' is not defined: no node before this one, initializer or graph input gives it")
        self.values[name] = self.adopt(self.parent.lookup(name))
        return self.values[name]

    def adopt(self, outer: Any) -> Any:
        """An outer value in this function: the same constant, or a parameter for what is computed."""
        if isinstance(outer, SequenceValue):
            return SequenceValue(tuple(self.adopt(item) for item in outer.items), outer.dtype, outer.name)
        if isinstance(outer, MapValue):
            return MapValue(self.adopt(outer.keys), self.adopt(outer.values), outer.name)
        if isinstance(outer, MissingValue):
            return outer
        if outer.is_constant:
            return Value(self, outer.dtype, outer.shape, outer.name, outer.weight, outer.elements)
        return self.capture(outer, outer)

    def capture(self, outer: Value, key: Any) -> Value:
        """An outer value as a parameter of this function: one for each ``key``."""
        if key not in self.captures:
            shape = tuple(d if isinstance(d, int) else self.inner_symbol(d) for d in outer.shape)
            var = relax.Var(self.module.unique("captured"), relax.TensorType([dims.expr(d) for d in shape], outer.dtype))
            self.captures[key] = (outer, Value(self, outer.dtype, shape, outer.name, _expr=var))
        return self.captures[key][1]

    def inner_symbol(self, outer: Dim) -> Any:
        """This function's own symbol for an outer extent: the same one for the same extent."""
        for known, mine in self.inner_symbols:
            if dims.equal(known, outer):
                return mine
        mine = self.fresh("c")
        self.inner_symbols.append((outer, mine))
        return mine

    # ---- Errors ---------------------------------------------------------------------------------------------

    def where(self) -> str:
        """Names the model file and the node being imported, for messages."""
        if self.node is None:
            return self.module.source
        from ingot.importer.graph import node_label

        domain = f"{self.node.domain}." if self.node.domain not in ("", "ai.onnx") else ""
        return f"{self.module.source}: node '{node_label(self.node)}' ({domain}{self.node.op_type}, opset {self.opset})"

    def error(self, message: str) -> UnsupportedError:
        """An error about the node being imported, to be raised."""
        return UnsupportedError(f"{self.where()}: {message}")

    def needs_constant(self, value: Value, what: str) -> NeedsConstantError:
        """An error about an input that must be known while compiling."""
        name = value.name
        return NeedsConstantError(
            f"{self.where()}: {what} must be known while compiling, but '{name or 'it'}' is computed at run time", name or None)

    # ---- Helpers --------------------------------------------------------------------------------------------

    def wrap(self, result: Any) -> Value:
        """A Value from what an operator's function returned: a Value, a Relax expression or a NumPy array."""
        if isinstance(result, (Value, SequenceValue, MissingValue, MapValue)):
            return result  # type: ignore[return-value]  # only operators that ask for sequences see one
        if isinstance(result, (np.ndarray, np.generic)):
            return self.constant(result)
        return self.op(result)

    def _hint(self) -> str:
        """The name hint of emitted variables: the node's number, by which `ingot inspect` finds the node again."""
        return self.module.node_hint(self)

    def _results(self, var: relax.Var) -> Any:
        if isinstance(var.ty, relax.TupleType):
            return tuple(self._wrap(self.bb.emit(relax.TupleGetItem(var, i), self._hint())) for i in range(len(var.ty.fields)))
        return self._wrap(var)

    def _wrap(self, var: relax.Var) -> Value:
        ty = var.ty
        if not isinstance(ty, relax.TensorType) or ty.shape is None or not hasattr(ty.shape, "values"):
            raise self.error(f"the shape of a result could not be found (it is {ty})")
        return Value(self, str(ty.dtype), self.extents(ty.shape.values), _expr=var)


def _is_packed(dtype: str) -> bool:
    """Whether TVM's own arrays hold several elements of a type in a byte, unlike tensors here."""
    return dtype.endswith(("int4", "int2")) or dtype.startswith(("float4", "float6"))


def with_scalars(function: tirx.PrimFunc, outputs: int = 1) -> tuple[tirx.PrimFunc, list[Any]]:
    """Makes the symbols that no input's shape gives parameters of the function, between inputs and outputs; returns them too.

    That is where, and for which symbols, Relax has them when it fuses functions.
    """
    inputs, results = list(function.params)[:-outputs], list(function.params)[-outputs:]
    given = [extent for p in inputs for extent in p.ty.shape if isinstance(extent, tirx.Var)]
    used = [v for p in function.params for extent in p.ty.shape for v in tirx.analysis.undefined_vars(extent)]
    used += [v for v in tirx.analysis.undefined_vars(function.body, list(function.params)) if dims.is_symbol(v)]
    scalars: list[Any] = []
    for variable in used:
        if not any(variable.same_as(known) for known in (*given, *scalars)):
            scalars.append(variable)
    if not scalars:
        return function, []
    return tirx.PrimFunc([*inputs, *scalars, *results], function.body, function.ret_type, function.attrs), scalars


def _broadcast_index(shape: Sequence[Any], result: Sequence[Dim], indices: Sequence[Any]) -> list[Any]:
    """The indices into a tensor of ``shape`` for position ``indices`` of the broadcast ``result``."""
    offset = len(result) - len(shape)
    picked = []
    for axis, extent in enumerate(shape):
        index, wide = indices[offset + axis], result[offset + axis]
        extent = dims.dim(extent)
        if dims.equal(extent, wide):
            picked.append(index)
        elif isinstance(extent, int):
            picked.append(tirx.IntImm("int64", 0))
        else:
            picked.append(tirx.Select(extent.equal(1), tirx.IntImm("int64", 0), index))
    return picked
