"""Dynamically quantized products: DynamicQuantizeLinear(x), MatMulInteger with constant weights, Cast and the product with both scales.

Together they are x times a quantized weight, but for how x is rounded: here to uint8 by one scale and zero point for the whole tensor. Every
part is checked, back to x, since each could be written differently by hand.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ingot.importer.quantized import QuantizedWeight, from_integers
from ingot.importer.weights import Weight
from ingot.passes.attention_operands import calls

Get = Callable[[Any], Any]


class DynamicProducts:
    """Finds them. ``bound`` gives what a variable is bound to, ``weight`` the constant that an expression is; both None otherwise."""

    def __init__(self, bound: Get, weight: Callable[[Any], Weight | None]) -> None:
        self.bound = bound
        self.weight = weight

    def find(self, value: Any) -> tuple[Any, QuantizedWeight] | None:
        """The x and the weight that a product of a cast, a scale and a constant is the product of; or None."""
        leaves = self._leaves(value)
        sums = [v for v in leaves if calls(self.bound(v), "relax.astype") and str(v.ty.dtype) == "float32"]
        constants = [w for w in (self.weight(v) for v in leaves) if w is not None]
        scales = [v for v in leaves if self.weight(v) is None and not any(v.same_as(s) for s in sums)]
        if len(sums) != 1 or len(constants) != 1 or len(scales) != 1:
            return None
        found = self._product(self.bound(self.bound(sums[0]).args[0]), scales[0])
        if found is None:
            return None
        x, integers, zero = found
        weight = from_integers(integers, constants[0], zero, 1, 0, "float32")
        return (x, weight) if weight is not None else None

    def _leaves(self, value: Any, depth: int = 2) -> list[Any]:
        """The factors of a product of products, of which no more than ``depth`` are one inside the other."""
        found: list[Any] = []
        for factor in value.args:
            inner = self.bound(factor)
            found += self._leaves(inner, depth - 1) if depth and calls(inner, "relax.multiply") else [factor]
        return found

    def _product(self, value: Any, scale: Any) -> tuple[Any, Weight, Weight | None] | None:
        """The x, the integers and their zero points of (q - z) @ (w - zero) as the importer writes it (importer/ops/integer.py)."""
        taken_off: list[Any] = []
        while calls(value, "relax.subtract"):
            taken_off.insert(0, self.bound(value.args[1]))
            value = self.bound(value.args[0])
        if not calls(value, "relax.matmul") or str(value.attrs.out_dtype) != "int32" or not 1 <= len(taken_off) <= 2:
            return None
        q, integers = value.args[0], self.weight(value.args[1])
        rounded = self._rounded(q, scale)
        if rounded is None or integers is None or len(integers.shape) != 2:
            return None
        x, point = rounded
        if not self._is_sum_of_weights(taken_off[0], integers, point):
            return None
        if len(taken_off) == 1:
            return x, integers, None
        zero = self._zero_of(taken_off[1], q, point)
        return (x, integers, zero) if zero is not None else None

    def _rounded(self, q: Any, scale: Any) -> tuple[Any, Any] | None:
        """The x and the zero point of DynamicQuantizeLinear, if q is its result by ``scale``."""
        call = self.bound(q)
        if not calls(call, "relax.call_tir") or len(call.args[1].fields) != 2 or str(q.ty.dtype) != "uint8":
            return None
        quotient, moved = (self.bound(a) for a in call.args[1].fields)
        if not calls(quotient, "relax.divide") or not quotient.args[1].same_as(scale) or not calls(moved, "relax.astype"):
            return None
        x = quotient.args[0]
        step = self.bound(scale)
        if not calls(step, "relax.call_tir") or not step.args[0].name_hint.startswith("scale") or not call.args[0].name_hint.startswith("round"):
            return None
        limits = [self.bound(a) for a in step.args[1].fields]
        if [self._limit_of(v, x) for v in limits] != ["relax.max", "relax.min"]:
            return None
        return x, moved.args[0]

    def _limit_of(self, value: Any, x: Any) -> str:
        """The reduction of x that is compared with 0."""
        if not calls(value, "relax.maximum", "relax.minimum"):
            return ""
        inner = self.bound(value.args[1])
        return str(inner.op.name) if calls(inner, "relax.max", "relax.min") and inner.args[0].same_as(x) else ""

    def _is_point(self, expression: Any, point: Any) -> bool:
        """Whether an expression is the zero point in another type or shape."""
        while not expression.same_as(point):
            value = self.bound(expression)
            if not calls(value, "relax.astype", "relax.reshape"):
                return False
            expression = value.args[0]
        return True

    def _is_sum_of_weights(self, value: Any, integers: Weight, point: Any) -> bool:
        """Whether an expression is the sums of the columns of the weights, times the zero point of x."""
        if not calls(value, "relax.multiply") or not self._is_point(value.args[1], point):
            return False
        sums = self.weight(value.args[0])
        return sums is not None and np.array_equal(sums.load().ravel(), integers.load().sum(axis=0, dtype=np.int32))

    def _zero_of(self, value: Any, q: Any, point: Any) -> Weight | None:
        """The zero points of the weights, if an expression is them times the sums of the rows of q less its zero point."""
        if not calls(value, "relax.multiply"):
            return None
        sums, zero = self.bound(value.args[0]), self._uncast(value.args[1])
        if zero is None or not calls(sums, "relax.subtract"):
            return None
        rows, shift = self.bound(sums.args[0]), self.bound(sums.args[1])
        if not calls(rows, "relax.sum") or not calls(shift, "relax.multiply") or not self._is_point(shift.args[1], point):
            return None
        wide = self.bound(rows.args[0])
        return zero if calls(wide, "relax.astype") and wide.args[0].same_as(q) else None

    def _uncast(self, expression: Any) -> Weight | None:
        """The constant of 8-bit integers behind casts and reshapes."""
        while self.weight(expression) is None:
            value = self.bound(expression)
            if not calls(value, "relax.astype", "relax.reshape"):
                return None
            expression = value.args[0]
        return self.weight(expression)
