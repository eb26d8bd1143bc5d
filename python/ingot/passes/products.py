"""Matrix products with constant weights of floats: which layers there are to quantize, by the names of their ONNX nodes and weights."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
from tvm import relax

from ingot.importer.quantized import QuantizedWeight
from ingot.importer.weights import Weight, numpy_dtype
from ingot.passes.attention_operands import calls, order_of

_FLOATS = ("float32", "float16", "bfloat16")
#: Both extents of a weight are at least this: below, a product is so small that scales and rounding of activations cost what is saved.
LEAST_EXTENT = 64
_NODE = re.compile(r"n(\d+)_")


@dataclass(frozen=True)
class Selection:
    """The layers to quantize: patterns (``*``, ``?``, ``[…]``) of names of ONNX nodes or weights. Without ``include`` all are; ``exclude`` wins."""

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def unselected(self, node: str, weight: str) -> str:
        """Why a layer of these names is not quantized; empty if nothing speaks against it."""
        if matches(self.exclude, node, weight):
            return "excluded"
        return "not included" if self.include and not matches(self.include, node, weight) else ""

    def reason(self, layer: Product) -> str:
        """Why a product is not quantized; empty if it is."""
        if unselected := self.unselected(layer.node, layer.name):
            return unselected
        if min(layer.weight.shape) < LEAST_EXTENT:
            return f"smaller than {LEAST_EXTENT} in one extent"
        return ""


@dataclass(frozen=True)
class Product:
    """x times a weight [K, N]. Products with an equal ``key`` have the same weight."""

    x: Any
    weight: Weight
    key: tuple[Any, ...]
    node: str
    name: str


class Migrated(Weight):
    """A weight [K, N] whose rows are multiplied by ``factors`` [K] before it is quantized, since x is divided by them; it loads as the product."""

    def __init__(self, weight: Weight, factors: np.ndarray) -> None:
        dtype = numpy_dtype(weight.dtype)
        super().__init__(weight.name, weight.shape, weight.dtype, lambda: (weight.load().astype(np.float32) * factors[:, None]).astype(dtype))
        self.original = weight
        self.factors = factors


def matches(patterns: Sequence[str], node: str, weight: str) -> bool:
    """Whether a pattern fits the name of a layer's node or weight."""
    return any(fnmatchcase(node, p) or fnmatchcase(weight, p) for p in patterns)


class Layers:
    """Finds products. ``weight`` gives the constant that an expression is, or None; ``values`` what variables are bound to."""

    def __init__(self, weight: Callable[[Any], Weight | None], values: Mapping[Any, Any], nodes: Sequence[str]) -> None:
        self._weight = weight
        self._values = values
        self._nodes = nodes

    def product(self, variable: Any, value: Any) -> Product | None:
        """The product that a binding is, if its weight is a constant of floats and nothing of it is quantized already."""
        if not calls(value, "relax.matmul"):
            return None
        x, w = value.args
        found = self._source(w)
        if found is None:
            return None
        key, weight = found
        if isinstance(weight, QuantizedWeight) or len(weight.shape) != 2 or weight.dtype not in _FLOATS or str(x.ty.dtype) != weight.dtype:
            return None
        if calls(self._values.get(x), "relax.dequantize"):
            return None  # the model has quantized the other operand itself
        return Product(x, weight, key, self.label(variable), re.sub(r"(:t\d+)+$", "", weight.name))

    def label(self, variable: Any) -> str:
        """The name of the ONNX node that a variable came from."""
        match = _NODE.match(variable.name)
        return re.sub(r" \(\w+\)$", "", self._nodes[int(match[1])]) if match else str(variable.name)

    def _source(self, expression: Any) -> tuple[tuple[Any, ...], Weight] | None:
        """The weight that a product reads, and a key that products with the same one share."""
        weight = self._weight(expression)
        if weight is not None:
            return (weight,), weight
        value: Any = self._values.get(expression)
        if isinstance(value, relax.Var):
            return self._source(value)
        if not calls(value, "relax.permute_dims", "relax.astype"):
            return None
        inner = self._source(value.args[0])
        if inner is None or isinstance(inner[1], QuantizedWeight) or len(inner[1].shape) != 2:
            return None
        key, weight = inner
        if value.op.name == "relax.astype":
            dtype = str(value.ty.dtype)
            return (*key, dtype), weight.map(lambda a: a.astype(numpy_dtype(dtype)), weight.shape, "", dtype)
        order = order_of(value, 2)
        return (*key, *order), weight.transposed(order)
