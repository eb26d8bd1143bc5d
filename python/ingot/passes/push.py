"""Moves factors for channels of a value back to what made it: the weights of a normalization or a product, where that changes nothing else.

Factors of a value have its rank; an extent is 1 along axes on which they do not depend.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm import relax

from ingot.importer import dims
from ingot.importer.weights import Weight
from ingot.passes.attention_operands import calls

Array = npt.NDArray[Any]
#: Operands that become products with factors, by the variable of a binding and the number of its argument.
Edits = dict[tuple[Any, int], Array]


@dataclass(frozen=True)
class Pusher:
    """``values`` are what variables are bound to, ``uses`` how many bindings read each, ``weight`` the constant that an expression is."""

    values: Mapping[Any, Any]
    uses: Mapping[Any, int]
    weight: Callable[[Any], Weight | None]

    def push(self, variable: Any, factors: Array) -> Edits | None:
        """The constants to change so that a value is multiplied by factors, which all its readers expect; None if there is no such place."""
        value: Any = self.values.get(variable)
        if isinstance(value, relax.Var):
            return self._alone(value, factors)
        rule = _RULES.get(value.op.name) if isinstance(value, relax.Call) and hasattr(value.op, "name") else None
        return rule(self, variable, value, factors) if rule is not None else None

    def operand(self, variable: Any, value: Any, index: int, factors: Array) -> Edits | None:
        """The same for an operand of a binding: a constant, or a value that nothing else reads. ``factors`` are broadcast to it."""
        expression = value.args[index]
        weight = self.weight(expression)
        if weight is not None:
            fitted = _of_constant(factors, weight.shape, len(dims.dims(value.ty.shape.values)))
            return None if fitted is None else {(variable, index): fitted}
        own = _restricted(factors, _extents(expression))
        return None if own is None else self._alone(expression, own)

    def _alone(self, expression: Any, factors: Array) -> Edits | None:
        return self.push(expression, factors) if self.uses.get(expression) == 1 else None


def _first(pusher: Pusher, variable: Any, value: Any, factors: Array) -> Edits | None:
    return pusher.operand(variable, value, 0, factors)


def _one_of(pusher: Pusher, variable: Any, value: Any, factors: Array) -> Edits | None:
    """A product: constants first, which cost nothing to reach."""
    order = sorted(range(2), key=lambda i: pusher.weight(value.args[i]) is None)
    for index in order:
        found = pusher.operand(variable, value, index, factors)
        if found is not None:
            return found
    return None


def _both(pusher: Pusher, variable: Any, value: Any, factors: Array) -> Edits | None:
    """A sum."""
    found = [pusher.operand(variable, value, index, factors) for index in range(2)]
    if found[0] is None or found[1] is None or found[0].keys() & found[1].keys():
        return None
    return {**found[0], **found[1]}


def _normalization(pusher: Pusher, variable: Any, value: Any, factors: Array) -> Edits | None:
    axes = [int(a) % factors.ndim for a in value.attrs.axes]
    if any(d != 1 for a, d in enumerate(factors.shape) if a not in axes):
        return None
    found: Edits = {}
    for index in (1, 2):
        weight = pusher.weight(value.args[index])
        if weight is not None:
            found[variable, index] = np.broadcast_to(factors.reshape([factors.shape[a] for a in axes]), weight.shape)
        elif index == 1 or not calls(pusher.values.get(value.args[index]), "relax.zeros"):
            return None
    return found


def _matmul(pusher: Pusher, variable: Any, value: Any, factors: Array) -> Edits | None:
    """Columns of the right operand; rows of the result come from the left one, which stays."""
    if factors.ndim < 2 or factors.shape[-2] != 1:
        return None
    return pusher.operand(variable, value, 1, factors)


def _transposed(pusher: Pusher, variable: Any, value: Any, factors: Array) -> Edits | None:
    axes = [int(a) for a in value.attrs.axes] if value.attrs.axes is not None else list(reversed(range(factors.ndim)))
    return pusher.operand(variable, value, 0, factors.transpose(np.argsort(axes)))


def _reshaped(pusher: Pusher, variable: Any, value: Any, factors: Array) -> Edits | None:
    """Factors along the last axes, whose extents are known and have the same product before and after."""
    before, after = _extents(value.args[0]), _extents(variable)
    first = next((a for a, d in enumerate(factors.shape) if d != 1), len(after))
    for count in range(len(after) - first, len(after) + 1):
        tail = after[len(after) - count :]
        if not all(isinstance(d, int) for d in tail):
            return None
        wanted = int(np.prod(tail))
        for own in range(len(before) + 1):
            ends = before[len(before) - own :]
            if all(isinstance(d, int) for d in ends) and int(np.prod(ends)) == wanted:
                spread = np.broadcast_to(factors.reshape(factors.shape[len(after) - count :]), tail).reshape(ends)
                return pusher.operand(variable, value, 0, _collapsed(spread.reshape([1] * (len(before) - own) + list(ends))))
    return None


_RULES: dict[str, Callable[[Pusher, Any, Any, Array], Edits | None]] = {
    "relax.nn.layer_norm": _normalization,
    "relax.multiply": _one_of,
    "relax.divide": _first,
    "relax.add": _both,
    "relax.subtract": _both,
    "relax.matmul": _matmul,
    "relax.permute_dims": _transposed,
    "relax.reshape": _reshaped,
    "relax.broadcast_to": _first,
    "relax.nn.relu": _first,  # factors are positive
}


def _extents(expression: Any) -> list[Any]:
    return list(dims.dims(expression.ty.shape.values))


def _restricted(factors: Array, extents: list[Any]) -> Array | None:
    """Factors of a result as those of an operand that is broadcast to it; None if they vary where it does not."""
    lead = factors.ndim - len(extents)
    if lead < 0 or any(d != 1 for d in factors.shape[:lead]):
        return None
    own = factors.reshape(factors.shape[lead:])
    sizes: list[int] = list(own.shape)
    return own if all(f == 1 or (isinstance(d, int) and f == d) for f, d in zip(sizes, extents, strict=True)) else None


def _of_constant(factors: Array, shape: tuple[int, ...], rank: int) -> Array | None:
    """Factors by which a constant may be multiplied, though it grows; not its rank."""
    lead = max(0, factors.ndim - max(len(shape), 1))
    if any(d != 1 for d in factors.shape[:lead]):
        return None
    own = factors.reshape(factors.shape[lead:])
    return own if len(np.broadcast_shapes(own.shape, shape)) <= rank else None


def _collapsed(factors: Array) -> Array:
    """Factors with 1 along axes on which they do not depend."""
    for axis in range(factors.ndim):
        first = factors.take([0], axis)
        if (factors == first).all():
            factors = first
    return factors
