"""GPTQ (Frantar et al., 2022): columns are rounded one after another, and those that are left make up for the error on the data so far."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ingot.importer.weights import numpy_dtype
from ingot.lower.cpu.quantized_weights import groups_of
from ingot.quantize.rounding import Rounded, decode, encode, round_rows
from ingot.quantize.scheme import Scheme

#: The share of the mean diagonal that is added to it, and the columns whose corrections are applied at a time: as in the paper.
_DAMPING, _BLOCK = 0.01, 128


def factor(moments: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The upper Cholesky factor, float32 [K, K], of the inverse of damped moments X^T X."""
    damped = moments.astype(np.float64)
    diagonal = np.diagonal(damped)
    damping = _DAMPING * diagonal.mean() or 1.0
    damped[np.diag_indices_from(damped)] = diagonal + damping
    return np.ascontiguousarray(np.linalg.cholesky(np.linalg.inv(damped)).T.astype(np.float32))


def gptq_rows(scheme: Scheme, weights: npt.NDArray[Any], upper: npt.NDArray[Any]) -> Rounded:
    """Quantizes rows of a weight so that their products with the data change least.

    Scales are searched when a group's turn comes, for the weights as they were corrected by then.

    Args:
        scheme: The scheme.
        weights: [N, K], finite float32.
        upper: What :func:`factor` made, [K, K].
    """
    w = weights.astype(np.float32)
    rows, depth = w.shape
    groups = groups_of(depth, scheme.group)
    group = scheme.group if 0 < scheme.group < depth else depth
    codes = np.zeros(w.shape, np.int8)
    scales = np.ones((rows, groups), numpy_dtype(scheme.scale_dtype))
    zeros = np.zeros((rows, groups), np.int8) if scheme.asymmetric else None
    block = max(_BLOCK, scheme.group)
    for start in range(0, depth, block):
        end = min(start + block, depth)
        errors = np.zeros((rows, end - start), np.float32)
        for k in range(start, end):
            g = k // group
            if k % group == 0:  # a group lies within a block, or is the whole row
                found = round_rows(scheme, w[:, k : k + group])
                scales[:, g] = found.scales[:, 0]
                if zeros is not None and found.zeros is not None:
                    zeros[:, g] = found.zeros[:, 0]
            scale, zero = scales[:, g : g + 1], None if zeros is None else zeros[:, g : g + 1]
            code = encode(scheme, w[:, k : k + 1, None], scale, zero)
            codes[:, k] = code[:, 0, 0]
            error = (w[:, k] - decode(scheme, code, scale, zero)[:, 0, 0]) / upper[k, k]
            w[:, k:end] -= error[:, None] * upper[k, k:end]
            errors[:, k - start] = error
        w[:, end:] -= errors @ upper[start:end, end:]
    return Rounded(codes, scales, zeros)
