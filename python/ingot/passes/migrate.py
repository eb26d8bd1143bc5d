"""Divides what products read by factors, channel by channel, and has their weights multiplied by them before they are quantized: X W stays as it was.

The factors (quantize/migration.py) are those of all products that read one value. They move into the weights of what made the value where nothing
else reads it (passes/push.py); elsewhere the value is multiplied, which fuses with what made it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import relax

from ingot.importer.weights import Weight, from_array, numpy_dtype
from ingot.passes.graph import Graph, Rewriter
from ingot.passes.products import Layers, Migrated, Product, Selection
from ingot.passes.push import Edits, Pusher
from ingot.passes.trace import bindings
from ingot.quantize.calibration import Moments
from ingot.quantize.method import Method
from ingot.quantize.migration import MIGRATIONS, Factors
from ingot.quantize.scheme import Scheme


@dataclass(frozen=True)
class _Group:
    """All products to quantize that read ``x``, their factors, and the constants that take the factors in (None: x is multiplied)."""

    x: Any
    factors: Factors
    edits: Edits | None


def migrate(graph: Graph, nodes: Sequence[str], scheme: Scheme, method: Method, selection: Selection, moments: Moments,
            advance: Callable[[str], None] = lambda name: None) -> tuple[Graph, dict[str, dict[str, Any]]]:
    """Applies a method's factors.

    Args:
        graph: The model.
        nodes: The names of its ONNX nodes (Imported.nodes).
        scheme: How weights will be quantized.
        method: What decides factors.
        selection: The layers to quantize; others keep their weights and what they read.
        moments: What is known of the data.
        advance: Called with the name of each layer before its factors are searched.

    Returns:
        The model, in which weights to quantize are :class:`Migrated`, and for layers by their node ``strength`` and ``folded`` of the report.
    """
    rewriter = _Migration(graph, nodes)
    rewriter.find(scheme, method, selection, moments, advance)
    return rewriter.run(_visit), rewriter.report


class _Migration(Rewriter):
    def __init__(self, graph: Graph, nodes: Sequence[str]) -> None:
        super().__init__(graph)
        self.nodes = nodes
        self.before = {b.var: b.value for b in bindings(graph.function) if not isinstance(b, relax.MatchCast)}
        self.edits: dict[Any, list[tuple[int, np.ndarray]]] = {}  # by the variable of a binding
        self.groups: dict[Any, _Group] = {}  # by the variable of a product
        self.scaled: dict[Any, Any] = {}  # what is multiplied, once for all its products
        self.report: dict[str, dict[str, Any]] = {}

    def find(self, scheme: Scheme, method: Method, selection: Selection, moments: Moments, advance: Callable[[str], None]) -> None:
        """Decides all factors, before anything is rewritten."""
        layers = Layers(self.weight, self.before, self.nodes)
        readers: dict[Any, list[tuple[Any, Product]]] = {}
        for variable, value in self.before.items():
            product = layers.product(variable, value)
            if product is not None and not selection.reason(product):
                readers.setdefault(product.x, []).append((variable, product))
        pusher = Pusher(self.before, self.uses, self.weight)
        for x, found in readers.items():
            products = tuple(product for _, product in found)
            advance(products[0].node)
            factors = _factors(scheme, method, products, moments)
            if factors is None:
                continue
            shape = [1] * (len(x.ty.shape.values) - 1) + [-1]
            edits = pusher.push(x, (1 / factors.values).reshape(shape)) if self.uses[x] == len(found) else None
            group = _Group(x, factors, edits)
            for (variable, index), inverse in (edits or {}).items():
                self.edits.setdefault(variable, []).append((index, inverse))
            for variable, product in found:
                self.groups[variable] = group
                self.report[product.node] = {"strength": factors.strength, "folded": edits is not None}

    def edited(self, variable: Any, value: Any) -> Any:
        """A binding with its constants multiplied."""
        arguments = list(value.args)
        for index, factors in self.edits.get(variable, ()):
            weight = self.weight(arguments[index])
            assert weight is not None
            arguments[index] = self.constant(_multiplied(weight, factors))
        return relax.Call(value.op, arguments, value.attrs)

    def divided(self, group: _Group) -> Any:
        """What the products of a group read."""
        x = self.replaced(group.x)
        if group.edits is not None:
            return x
        if group.x not in self.scaled:
            inverse = (1 / group.factors.values).astype(numpy_dtype(str(x.ty.dtype)))
            self.scaled[group.x] = self.emit(relax.op.multiply(x, self.constant(from_array("factors", inverse))))
        return self.scaled[group.x]


def _visit(rewriter: Rewriter, variable: Any, value: Any) -> Any:
    assert isinstance(rewriter, _Migration)
    edited = variable in rewriter.edits
    if edited:
        value = rewriter.edited(variable, value)
    group = rewriter.groups.get(variable)
    if group is None:
        return rewriter.emit(value) if edited else None
    # Looked up again, since the weight may have taken in factors of what reads this product.
    product = Layers(rewriter.weight, rewriter.values, rewriter.nodes).product(variable, value)
    assert product is not None
    return rewriter.emit(relax.op.matmul(rewriter.divided(group), rewriter.constant(Migrated(product.weight, group.factors.values))))


def _factors(scheme: Scheme, method: Method, products: Sequence[Product], moments: Moments) -> Factors | None:
    """The factors of products that read one value; None if its data or weights are not all known and finite."""
    found = [moments.of(product.node, product.weight.shape[0]) for product in products]
    data = next((f for f in found if f is not None), None)
    weights = [np.ascontiguousarray(product.weight.load().astype(np.float32).T) for product in products]
    if data is None or not all(np.isfinite(w).all() for w in weights):
        return None
    return MIGRATIONS[method.migration](scheme, weights, data, method)


def _multiplied(weight: Weight, factors: np.ndarray) -> Weight:
    shape = np.broadcast_shapes(weight.shape, factors.shape)
    return weight.map(lambda a: (a.astype(np.float32) * factors).astype(a.dtype), shape, "")
