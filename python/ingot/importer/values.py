"""The values of an ONNX graph while it is imported."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from ingot.importer import dims
from ingot.importer.dims import Dim
from ingot.importer.weights import Weight, from_array

if TYPE_CHECKING:
    from tvm import relax

    from ingot.importer.context import Context

#: Constants up to this many elements are kept in memory and may be folded; larger ones stay in their file.
SMALL = 4096


@dataclass(eq=False)
class Value:
    """One tensor: an expression in the graph, a constant, or integers known as symbolic expressions.

    A shape computation never becomes a tensor unless something asks for its ``expr``: ``elements`` follows it through
    Gather, Concat, Mul and the like as expressions over the model's symbolic dimensions.
    """

    context: Context
    dtype: str
    shape: tuple[Dim, ...]
    name: str = ""
    weight: Weight | None = None
    elements: np.ndarray | None = None  # of Dim, dtype object, with this value's shape
    _expr: relax.Expr | None = None

    @property
    def ndim(self) -> int:
        """The rank."""
        return len(self.shape)

    @property
    def expr(self) -> Any:
        """The Relax variable that holds this value, emitted when first asked for."""
        if self._expr is None:
            self._expr = self.context.materialize(self)
        return self._expr

    @property
    def array(self) -> np.ndarray | None:
        """The constant's elements, or None if this value is not a constant. Reads a large weight from its file."""
        if self.weight is not None:
            return self.weight.load()
        if self.elements is not None and dims.is_static(self.elements.ravel()):
            from ingot.importer.weights import numpy_dtype

            return self.elements.astype(numpy_dtype(self.dtype))
        return None

    @property
    def is_constant(self) -> bool:
        """Whether the elements are known while compiling."""
        return self.weight is not None or (self.elements is not None and dims.is_static(self.elements.ravel()))

    @property
    def is_small_constant(self) -> bool:
        """Whether this is a constant that is cheap to compute with while compiling."""
        return self.is_constant and int(np.prod(self.shape, dtype=np.int64)) <= SMALL

    def known_elements(self) -> np.ndarray | None:
        """The elements as an object array of ints or symbolic expressions, for small integer values; else None."""
        if self.elements is not None:
            return self.elements
        if self.weight is not None and self.is_small_constant and np.dtype(self.weight.load().dtype).kind in "iub":
            return self.weight.load().astype(object)
        return None


@dataclass(eq=False)
class SequenceValue:
    """A sequence of tensors. Which ones is known while compiling: at run time there are only tensors.

    Operators take sequences and missing optionals only if they are registered with ``sequences=True``.
    """

    items: tuple[Value, ...]
    dtype: str
    name: str = ""


@dataclass(eq=False)
class MissingValue:
    """An optional that has no element. One that has an element is the element."""

    name: str = ""


@dataclass(eq=False)
class MapValue:
    """A map: keys [n] and their values [n]. Of equal keys the last one counts."""

    keys: Value
    values: Value
    name: str = ""


#: What a name in a graph stands for.
AnyValue: TypeAlias = Value | SequenceValue | MissingValue | MapValue


def tensors_of(value: AnyValue) -> tuple[Value, ...]:
    """The tensors that make up a value."""
    if isinstance(value, Value):
        return (value,)
    if isinstance(value, MapValue):
        return value.keys, value.values
    return value.items if isinstance(value, SequenceValue) else ()


def like(value: AnyValue, tensors: Iterator[Value]) -> AnyValue:
    """A value of the structure of ``value`` made of the next of ``tensors``."""
    if isinstance(value, SequenceValue):
        return SequenceValue(tuple(next(tensors) for _ in value.items), value.dtype)
    if isinstance(value, MapValue):
        return MapValue(next(tensors), next(tensors))
    return MissingValue() if isinstance(value, MissingValue) else next(tensors)


def constant(context: Context, array: np.ndarray, name: str = "") -> Value:
    """A value of known elements."""
    array = np.asarray(array)
    weight = from_array(name or "constant", array)
    return Value(context, weight.dtype, weight.shape, name, weight=weight)


def symbolic(context: Context, elements: np.ndarray, dtype: str = "int64", name: str = "") -> Value:
    """A value whose integer elements are expressions over symbolic dimensions."""
    elements = np.asarray(elements, dtype=object)
    return Value(context, dtype, tuple(elements.shape), name, elements=elements)
