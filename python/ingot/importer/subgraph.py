"""Subgraphs: imported in place where it is known which of them runs, else as functions of their own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import onnx
import tvm_ffi
from tvm import relax, tirx

from ingot.importer import dims
from ingot.importer.context import Context
from ingot.importer.dims import Dim
from ingot.importer.graph import import_nodes
from ingot.importer.values import AnyValue, Value, tensors_of


@dataclass(frozen=True)
class Parameter:
    """A parameter of a function; an extent of None is a symbol of its own, others are extents of the outer function."""

    dtype: str
    shape: tuple[Dim | None, ...]


@dataclass
class Subgraph:
    """A subgraph that was imported as a function ``name`` of its own.

    ``captured`` are the outer values that follow its other parameters, before its weights; ``results`` are values in its context ``cx``.
    """

    name: str
    cx: Context
    parameters: list[Value]
    captured: list[Value]
    results: list[AnyValue]

    def tensors(self) -> list[Value]:
        """The tensors that the function returns."""
        return [t for r in self.results for t in tensors_of(r)]

    def outer_extent(self, extent: Dim) -> Dim | None:
        """An extent as the outer function knows it, or None if it does not."""
        if isinstance(extent, int):
            return extent
        known = {mine: dims.expr(outer) for outer, mine in self.cx.inner_symbols}
        if any(variable not in known for variable in dims.variables(extent)):
            return None
        return dims.dim(tvm_ffi.structural_map(extent, (tirx.Var, lambda v: known.get(v, v))))


#: Gives the values of a graph's inputs, and may emit code, given the function's parameters.
Bind = Callable[[Context, list[Value]], Sequence[AnyValue]]


def import_subgraph(outer: Context, graph: onnx.GraphProto, parameters: Sequence[Parameter] = (),
                    bind: Bind = lambda cx, values: values) -> Subgraph:
    """Imports a subgraph as a Relax function, which is not in the module before :func:`add`."""
    module = outer.module
    name = module.unique("".join(c if c.isalnum() else "_" for c in graph.name or "subgraph"))
    cx = Context(module, outer, name)
    cx.node, cx.opset = outer.node, outer.opset
    given = []
    for parameter in parameters:
        shape = tuple(cx.fresh("p") if d is None else d if isinstance(d, int) else cx.inner_symbol(d) for d in parameter.shape)
        var = relax.Var(module.unique("p"), relax.TensorType([dims.expr(d) for d in shape], parameter.dtype))
        given.append(Value(cx, parameter.dtype, shape, _expr=var))
    with cx.bb.function(name):
        with cx.bb.dataflow():
            for declared, value in zip(graph.input, bind(cx, given), strict=True):
                cx.values[declared.name] = value  # type: ignore[assignment]
            import_nodes(cx, graph, module.opsets, module.base_dir)
            found = Subgraph(name, cx, given, [], [cx.lookup(o.name) for o in graph.output])
            output = cx.bb.emit_output(relax.Tuple([t.expr for t in found.tensors()]))
        found.captured = [value for value, _ in cx.captures.values()]
        cx.bb.emit_func_output(output, params=[*(p.expr for p in given), *(inner.expr for _, inner in cx.captures.values()),
                                               *(variable for _, variable in cx.weights.values())])
    return found


def add(subgraph: Subgraph) -> None:
    """Puts the function of a subgraph into the module."""
    module, cx = subgraph.cx.module, subgraph.cx
    built = cx.bb.get()
    module.bb.add_func(built[subgraph.name], subgraph.name)
    module.function_checks[subgraph.name] = cx.checks
    module.subgraph_weights[subgraph.name] = [weight for weight, _ in cx.weights.values()]


def import_in_place(cx: Context, graph: onnx.GraphProto, inputs: Sequence[AnyValue] = ()) -> list[AnyValue]:
    """Imports a subgraph's nodes into the function being built; its names do not outlive it."""
    outer = cx.values
    cx.values = dict(outer)
    try:
        for declared, value in zip(graph.input, inputs, strict=True):
            cx.values[declared.name] = value  # type: ignore[assignment]
        import_nodes(cx, graph, cx.module.opsets, cx.module.base_dir)
        return [cx.lookup(o.name) for o in graph.output]
    finally:
        cx.values = outer


def call(cx: Context, symbol: str, arguments: Sequence[relax.Expr], outputs: Sequence[tuple[Sequence[Dim | None], str]]) -> list[Value]:
    """Emits an ``if`` or a ``loop`` (docs/format.md); an extent of None is found while running."""
    shapes = [[cx.fresh("r") if d is None else d for d in shape] for shape, _ in outputs]
    loose = [relax.TensorType(dtype=dtype, ndim=len(shape)) for shape, dtype in outputs]
    emitted = cx.bb.emit(relax.call_pure_packed(symbol, *arguments, ty_args=relax.TupleType(loose)), cx.module.node_hint(cx))
    results = []
    for i, (shape, (_, dtype)) in enumerate(zip(shapes, outputs, strict=True)):
        item = cx.bb.emit(relax.TupleGetItem(emitted, i))
        var = cx.bb.match_cast(item, relax.TensorType([dims.expr(d) for d in shape], dtype))
        results.append(Value(cx, dtype, dims.dims(shape), _expr=var))
    return results
