"""GPTQ (Frantar et al., 2022): columns are rounded one after another, and those that are left make up for the error on the data so far."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ingot.importer.weights import numpy_dtype
from ingot.lower.cpu.quantized_weights import groups_of
from ingot.quantize.rounding import Rounded, decode, encode, round_rows
from ingot.quantize.scheme import Scheme

#: The share of the mean diagonal that is added to it, and the columns whose corrections are applied at a time: as in the paper.
_DAMPING, _BLOCK = 0.01, 128


@dataclass(frozen=True)
class Columns:
    """The order in which columns are rounded, and how the others make up for them.

    Attributes:
        upper: The upper Cholesky factor of the inverse of damped moments X^T X, its rows and columns in that order; float32 [K, K].
        order: int64 [K]; None if it is the weight's own.
        moments: X^T X as it was.
    """

    upper: npt.NDArray[Any]
    order: npt.NDArray[Any] | None
    moments: npt.NDArray[Any]

    @classmethod
    def of(cls, moments: npt.NDArray[Any], ordered: bool = False) -> Columns:
        """Those for moments [K, K]; ``ordered`` takes the columns first that the data uses most."""
        order = np.argsort(-np.diagonal(moments), kind="stable") if ordered else None
        damped = (moments if order is None else moments[np.ix_(order, order)]).astype(np.float64)
        diagonal = np.diagonal(damped)
        damping = _DAMPING * diagonal.mean() or 1.0
        damped[np.diag_indices_from(damped)] = diagonal + damping
        upper = np.linalg.cholesky(np.linalg.inv(damped)).T
        return cls(np.ascontiguousarray(upper.astype(np.float32)), order, moments)


def gptq_rows(scheme: Scheme, weights: npt.NDArray[Any], columns: Columns) -> Rounded:
    """Quantizes rows of a weight so that their products with the data change least.

    In the weight's own order, scales are searched when a group's turn comes, for the weights as they were corrected by then. In another order
    the columns of a group come one here, one there: all scales are then searched before, for the least error of the group's products.

    Args:
        scheme: The scheme.
        weights: [N, K], finite float32.
        columns: What is known of the data.
    """
    upper, order = columns.upper, columns.order
    rows, depth = weights.shape
    group = scheme.group if 0 < scheme.group < depth else depth
    before = round_rows(scheme, weights, columns.moments) if order is not None else None
    places = order if order is not None else np.arange(depth)
    w = np.ascontiguousarray(weights[:, places], np.float32)
    codes = np.zeros(w.shape, np.int8)
    scales = np.ones((rows, groups_of(depth, scheme.group)), numpy_dtype(scheme.scale_dtype)) if before is None else before.scales
    zeros = before.zeros if before is not None else np.zeros(scales.shape, np.int8) if scheme.asymmetric else None
    block = max(_BLOCK, scheme.group) if before is None else _BLOCK
    for start in range(0, depth, block):
        end = min(start + block, depth)
        errors = np.zeros((rows, end - start), np.float32)
        for k in range(start, end):
            g = places[k] // group
            if before is None and k % group == 0:  # a group lies within a block, or is the whole row
                found = round_rows(scheme, w[:, k : k + group])
                scales[:, g] = found.scales[:, 0]
                if zeros is not None and found.zeros is not None:
                    zeros[:, g] = found.zeros[:, 0]
            scale, zero = scales[:, g : g + 1], None if zeros is None else zeros[:, g : g + 1]
            code = encode(scheme, w[:, k : k + 1, None], scale, zero)
            codes[:, places[k]] = code[:, 0, 0]
            error = (w[:, k] - decode(scheme, code, scale, zero)[:, 0, 0]) / upper[k, k]
            w[:, k:end] -= error[:, None] * upper[k, k:end]
            errors[:, k - start] = error
        w[:, end:] -= errors @ upper[start:end, end:]
    return Rounded(codes, scales, zeros)
