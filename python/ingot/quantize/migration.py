"""Factors s that make products easier to quantize: X / s times s W is X W, but X / s has fewer outliers, or the rows of W that matter are finer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ingot.lower.cpu.quantized_weights import groups_of
from ingot.quantize.calibration import Statistics
from ingot.quantize.method import Method
from ingot.quantize.rounding import Rounded, decode, round_rows
from ingot.quantize.scheme import Scheme

Array = npt.NDArray[Any]
#: The exponents that AWQ tries: as in its paper (Lin et al., 2024), and those of its code.
_AWQ_STEPS = 20
#: Elements of W that are rounded at a time.
_CHUNK = 1 << 22
#: Factors stay within so many times the middle: float32 has room for far more, float16 not for much.
_WIDEST = 1e3
_SMALLEST = 1e-5


@dataclass(frozen=True)
class Factors:
    """s, float32 [K], and what it was made with."""

    values: Array
    strength: float


def smoothquant(scheme: Scheme, weights: Sequence[Array], data: Statistics, method: Method) -> Factors | None:
    """max|X_k|^a / max|W_k|^(1 - a), for the weights [N, K] of all products that read X; None if there is nothing to move."""
    largest = np.max([np.abs(w).max(axis=0) for w in weights], axis=0)
    used = (data.largest > 0) & (largest > 0)
    if not used.any():
        return None
    a = method.strength
    values = np.maximum(data.largest, _SMALLEST) ** a / np.maximum(largest, _SMALLEST) ** (1 - a)
    return Factors(_centred(np.where(used, values, 1), used), a)


def awq(scheme: Scheme, weights: Sequence[Array], data: Statistics, method: Method) -> Factors | None:
    """mean|X_k|^a for the a with the least error of the products; None if none is better than no factors."""
    used = data.magnitude > 0
    if not used.any():
        return None
    tried = [Factors(_centred(np.where(used, np.maximum(data.magnitude, 1e-30) ** a, 1), used), a) for a in np.arange(1, _AWQ_STEPS) / _AWQ_STEPS]
    best = min(tried, key=lambda factors: _lost(scheme, weights, data.moments, factors.values, clip=False))
    # The search is as in the paper without clipping, which comes after it; but clipping alone may be as good.
    with_factors, without = (_lost(scheme, weights, data.moments, values, clip=True) for values in (best.values, np.ones_like(best.values)))
    return best if with_factors < without else None


#: What decides factors, by the name of a method's migration.
MIGRATIONS: dict[str, Callable[[Scheme, Sequence[Array], Statistics, Method], Factors | None]] = {"smoothquant": smoothquant, "awq": awq}


def energy(w: Array, moments: Array) -> float:
    """The squared norm of X w^T, for w [N, K] and moments X^T X."""
    return max(0.0, float(((w @ moments) * w).sum(dtype=np.float64)))


def numbers_of(scheme: Scheme, rounded: Rounded) -> Array:
    """The numbers [N, K] that codes of the same shape stand for."""
    rows, depth = rounded.codes.shape
    group, groups = scheme.group if 0 < scheme.group < depth else depth, groups_of(depth, scheme.group)
    padded = np.zeros((rows, groups * group), np.int8)
    padded[:, :depth] = rounded.codes
    return decode(scheme, padded.reshape(rows, groups, group), rounded.scales, rounded.zeros).reshape(rows, -1)[:, :depth]


def _lost(scheme: Scheme, weights: Sequence[Array], moments: Array, factors: Array, clip: bool) -> float:
    """The squared error of all products with the data, if weights are multiplied by factors and rounded; ``clip`` searches for the clipping."""
    divided = moments / np.outer(factors, factors) if clip else None
    lost = 0.0
    for weight in weights:
        rows = max(1, _CHUNK // weight.shape[1])
        for start in range(0, len(weight), rows):
            chunk = weight[start : start + rows]
            lost += energy(numbers_of(scheme, round_rows(scheme, chunk * factors, divided, clip)) / factors - chunk, moments)
    return lost


def _centred(values: Array, used: Array) -> Array:
    """Factors around 1: the geometric middle of the least and the greatest is 1."""
    inner = values[used]
    middle = np.sqrt(inner.min() * inner.max())
    return np.clip(np.where(used, values / middle, 1), 1 / _WIDEST, _WIDEST).astype(np.float32)
