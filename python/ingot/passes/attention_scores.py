"""From a softmax backwards to the product of queries and keys: scales, masks and a soft cap."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from tvm import relax

from ingot.importer.dims import Dim
from ingot.passes.attention_operands import calls, extents_of, same_shape, scalar, scaled
from ingot.passes.graph import Rewriter

FLOATS = ("float32", "float16", "bfloat16")
_MOST_STEPS = 16


@dataclass
class Scores:
    """softcap(scale · product) + masks. ``split`` is (batch, heads) where a product of three axes is reshaped to four or back."""

    product: Any = None
    scale: float = 1.0
    softcap: float = 0.0
    masks: list[Any] = field(default_factory=list)
    split: tuple[Dim, Dim] | None = None
    replaced: bool = False  # a mask stands for scores that are replaced by a finite number


def find_softmax(rewriter: Rewriter, weights: Any) -> Any:
    """The call of softmax along the last axis that weights come from, if nothing else reads them; or None."""
    while True:
        value: Any = rewriter.values.get(weights)
        if calls(value, "relax.where"):  # where(isnan(weights), 0, weights): a row without a key gives zeros
            condition, zero, inner = value.args
            test: Any = rewriter.values.get(condition)
            if not calls(test, "relax.isnan") or not test.args[0].same_as(inner) or scalar(rewriter, zero) != 0:
                return None
            value, weights = rewriter.values.get(inner), inner
            break
        if not rewriter.made_for_one(weights):
            return None
        if calls(value, "relax.astype") or (calls(value, "relax.reshape") and same_shape(extents_of(value.args[0])[-2:], extents_of(weights)[-2:])):
            weights = value.args[0]
            continue
        break
    last = len(extents_of(weights)) - 1
    return value if calls(value, "relax.nn.softmax") and int(value.attrs.axis) % (last + 1) == last else None


def find_scores(rewriter: Rewriter, variable: Any) -> Scores | None:
    """What a softmax is taken of, or None if it is not attention."""
    found = Scores()
    for _ in range(_MOST_STEPS):
        value: Any = rewriter.values.get(variable)
        if calls(value, "relax.matmul"):
            found.product = value
            return found
        earlier = None
        if calls(value, "relax.reshape"):
            earlier = _through_reshape(found, variable, value.args[0])
        elif calls(value, "relax.astype"):
            earlier = value.args[0] if str(value.args[0].ty.dtype) in FLOATS else None
        elif calls(value, "relax.where"):
            earlier = _through_where(rewriter, found, variable, value)
        elif calls(value, "relax.add"):
            earlier = _through_add(rewriter, found, variable, value)
        elif calls(value, "relax.tanh"):
            # c tanh(x / c): what was taken for a scale is the cap, and scales from here on are divided by it.
            if found.softcap == 0 and found.scale > 0:
                found.softcap = found.scale
                earlier = value.args[0]
        else:
            peeled = scaled(rewriter, value)
            if peeled is not None:
                earlier = peeled[0]
                found.scale *= peeled[1]
        if earlier is None:
            return None
        variable = earlier
    return None


def _through_reshape(found: Scores, variable: Any, source: Any) -> Any:
    """Between [B · H, S, T] and [B, H, S, T]."""
    after, before = extents_of(variable), extents_of(source)
    four = after if len(after) == 4 else before
    if sorted((len(after), len(before))) != [3, 4] or not same_shape(after[-2:], before[-2:]):
        return source if same_shape(after, before) else None
    if found.split is not None and not same_shape(found.split, four[:2]):
        return None
    found.split = (four[0], four[1])
    return source


def _through_where(rewriter: Rewriter, found: Scores, variable: Any, value: Any) -> Any:
    """Scores that are replaced by a low number where a condition says so. The number is added instead, and absorbs the score."""
    condition, first, second = value.args
    if found.scale != 1 or found.softcap:
        return None  # the number would have to be scaled, too
    hidden_first = _low(rewriter, first) is not None
    scores, low = (second, _low(rewriter, first)) if hidden_first else (first, _low(rewriter, second))
    if low is None or not same_shape(extents_of(scores), extents_of(variable)):
        return None
    zero, fill = (relax.const(np.array(number, str(scores.ty.dtype))) for number in (0.0, low))
    found.masks.append(rewriter.emit(relax.op.where(condition, fill, zero) if hidden_first else relax.op.where(condition, zero, fill)))
    found.replaced = found.replaced or not np.isneginf(low)
    return scores


def _through_add(rewriter: Rewriter, found: Scores, variable: Any, value: Any) -> Any:
    # A mask that is added before scores are replaced does not reach those, and one that is added before a scale is scaled.
    if found.scale != 1 or found.softcap or found.replaced:
        return None
    for scores, mask in (tuple(value.args), tuple(reversed(value.args))):
        if same_shape(extents_of(scores), extents_of(variable)) and _leads_to_product(rewriter, scores):
            found.masks.append(mask)
            return scores
    return None


def _low(rewriter: Rewriter, expression: Any) -> float | None:
    """A number that hides a score as if it were -inf, or None: so low that float32 loses the score in their sum."""
    number = scalar(rewriter, expression)
    return number if number is not None and number <= -1e9 else None


def _leads_to_product(rewriter: Rewriter, variable: Any) -> bool:
    """Whether a tensor comes from a matrix product through element-wise operators: which side of an addition are the scores."""
    for _ in range(_MOST_STEPS):
        value: Any = rewriter.values.get(variable)
        if calls(value, "relax.matmul"):
            return True
        if calls(value, "relax.add"):
            sides = [a for a in value.args if same_shape(extents_of(a), extents_of(variable))]
            return any(_leads_to_product(rewriter, a) for a in sides)
        if calls(value, "relax.where"):
            variable = value.args[2] if _low(rewriter, value.args[1]) is not None else value.args[1]
        elif calls(value, "relax.reshape", "relax.astype", "relax.tanh"):
            variable = value.args[0]
        else:
            peeled = scaled(rewriter, value)
            if peeled is None:
                return False
            variable = peeled[0]
    return False
