"""Moves the factor by which numbers are quantized into the constants before it: ``(sums * c + b) * k`` is ``sums * (c * k) + b * k``.

Quantized products and convolutions end in such factors: their sums are scaled, shifted by a bias, added to a dequantized residual,
cut off at 0 or at 6 too and divided by the next scale. Where all of these constants are known, the division costs nothing, and no number is cut off
that ends where codes end.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from tvm import relax

from ingot.passes.attention_operands import calls, scalar
from ingot.passes.fold import fold
from ingot.passes.graph import Graph, Rewriter

Make = Callable[[], Any]


def merge_factors(graph: Graph) -> Graph:
    """Rewrites the multiplications before ``quantize`` whose operand takes the factor at no cost."""
    return Rewriter(graph).run(_visit)


def _visit(rewriter: Rewriter, variable: Any, value: Any) -> Any:
    if not calls(value, "relax.quantize"):
        return None
    x = _merged(rewriter, value.args[0])
    uncut = _uncut(rewriter, value, x)
    return None if uncut is value.args[0] else rewriter.emit(relax.Call(value.op, [uncut, *list(value.args)[1:]], value.attrs))


def _merged(rewriter: Rewriter, variable: Any) -> Any:
    """What equals a variable and has no factor as its last step, if that is possible."""
    product: Any = rewriter.values.get(variable)
    if not calls(product, "relax.multiply") or not rewriter.made_for_one(variable):
        return variable
    factor = scalar(rewriter, product.args[1])
    if factor is None or factor <= 0 or str(product.args[1].ty.dtype) != "float32":
        return variable
    make = _scaled(rewriter, product.args[0], product.args[1])
    return variable if make is None else make()


def _uncut(rewriter: Rewriter, call: Any, x: Any) -> Any:
    """The operand of a quantize without bounds that its codes have by themselves."""
    dtype = str(call.attrs.out_dtype)
    scale, zero = scalar(rewriter, call.args[1]), scalar(rewriter, call.args[2])
    if dtype not in ("int8", "uint8") or not scale or zero is None:
        return x
    codes = np.iinfo(dtype)
    while True:
        value: Any = rewriter.values.get(x)
        found = (value.args[0], relax.const(0.0)) if calls(value, "relax.nn.relu") else _bounded(rewriter, value)
        if found is None:
            return x
        inner, bound = found
        code = np.rint((scalar(rewriter, bound) or 0.0) / scale) + zero
        if code < codes.max if calls(value, "relax.minimum") else code > codes.min:
            return x
        x = inner


def _bounded(rewriter: Rewriter, value: Any) -> tuple[Any, Any] | None:
    """What a maximum or minimum with a number cuts off, and the number's constant."""
    if not calls(value, "relax.maximum", "relax.minimum"):
        return None
    one, other = value.args
    if scalar(rewriter, one) is not None:
        one, other = other, one
    return (one, other) if scalar(rewriter, other) is not None else None


def _scaled(rewriter: Rewriter, variable: Any, factor: Any, stored: bool = False) -> Make | None:
    """What emits a variable times a positive factor without another multiplication while running; None if there is no such way.

    Of a ``stored`` sum's operand the codes are in memory, and not what they are dequantized to.
    """
    if rewriter.weight(variable) is not None:
        return lambda: _times(rewriter, variable, factor)
    value: Any = rewriter.values.get(variable)
    if not rewriter.made_for_one(variable) and not calls(value, "relax.dequantize"):
        return None
    if calls(value, "relax.add", "relax.subtract"):
        # Only one of two products can be in one function with their sum.
        both = all(_requantized(rewriter, operand) for operand in value.args)
        left, right = _scaled(rewriter, value.args[0], factor), _scaled(rewriter, value.args[1], factor, stored=both)
        return (lambda: rewriter.emit(relax.Call(value.op, [left(), right()], value.attrs))) if left is not None and right is not None else None
    if calls(value, "relax.nn.relu"):
        make = _scaled(rewriter, value.args[0], factor)
        return (lambda: rewriter.emit(relax.op.nn.relu(make()))) if make is not None else None
    bounded = _bounded(rewriter, value)
    if bounded is not None:
        x, bound = bounded
        inner = _scaled(rewriter, x, factor)
        return None if inner is None else lambda: rewriter.emit(relax.Call(value.op, [_times(rewriter, bound, factor), inner()], value.attrs))
    if calls(value, "relax.multiply") and rewriter.weight(value.args[1]) is not None:
        return lambda: rewriter.emit(relax.op.multiply(value.args[0], _times(rewriter, value.args[1], factor)))
    if calls(value, "relax.dequantize") and rewriter.weight(value.args[1]) is not None and str(value.attrs.out_dtype) == "float32":
        codes, scale, zero = value.args

        def dequantized() -> Any:
            read = rewriter.emit(relax.op.reshape(codes, codes.ty.shape)) if stored else codes  # nothing is fused across a view
            return rewriter.emit(relax.Call(value.op, [read, _times(rewriter, scale, factor), zero], value.attrs))

        return dequantized
    return None


def _requantized(rewriter: Rewriter, variable: Any) -> bool:
    """Whether a variable is quantized only to be dequantized for one other."""
    value: Any = rewriter.values.get(variable)
    return (calls(value, "relax.dequantize") and rewriter.made_for_one(variable) and rewriter.made_for_one(value.args[0])
            and calls(rewriter.values.get(value.args[0]), "relax.quantize"))


def _times(rewriter: Rewriter, constant: Any, factor: Any) -> Any:
    """A constant times a factor, computed now."""
    folded = fold(rewriter, None, rewriter.bb.normalize(relax.op.multiply(constant, factor)))
    assert folded is not None  # both are constants
    return folded
