"""Whether a result is right, before anybody looks at how long it took."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ingot.bench.kernels.problem import Array

#: A single element may be this many times the row's tolerance off, in units of the row's root mean square. Errors of sums are normally distributed,
#: 16 standard deviations never happen, and an element that was not computed is off by 1.
_ELEMENT = 16.0


@dataclass(frozen=True)
class Difference:
    """How far a result is from the reference.

    Attributes:
        error: The relative norm error of all elements.
        row: The largest one of a row.
        element: The largest error of an element, relative to the root mean square of its row.
        tolerance: What ``row`` may be.
        problem: What is wrong with the result, in words; empty if nothing is.
    """

    error: float
    row: float
    element: float
    tolerance: float
    problem: str = ""

    def as_dict(self) -> dict[str, Any]:
        """JSON values, which have no infinity: None stands for it."""
        return {name: None if value == float("inf") else value for name, value in asdict(self).items()}


def difference(found: Any, reference: Array, tolerance: float) -> Difference:
    """Compares a result with a float64 reference [rows, elements]."""
    result = np.asarray(found, np.float64)
    if result.size != reference.size:
        return _wrong(tolerance, f"the result has {result.size} elements, not {reference.size}")
    result = result.reshape(reference.shape)
    if not np.isfinite(result).all():
        return _wrong(tolerance, f"{np.count_nonzero(~np.isfinite(result))} elements of the result are not finite")
    off = result - reference
    norms = np.linalg.norm(reference, axis=1)
    norms[norms == 0] = 1
    row = float((np.linalg.norm(off, axis=1) / norms).max(initial=0))
    element = float((np.abs(off).max(axis=1, initial=0) / norms).max(initial=0)) * max(reference.shape[1], 1) ** 0.5
    error = float(np.linalg.norm(off) / (np.linalg.norm(reference) or 1.0))
    said = ""
    if row > tolerance:
        said = f"a row is {row:.2g} off in relative norm, where {tolerance:.2g} is what rounding explains"
    elif element > _ELEMENT * tolerance:
        said = f"an element is off by {element:.2g} of its row's root mean square, where {_ELEMENT * tolerance:.2g} is what rounding explains"
    return Difference(error, row, element, tolerance, said)


def _wrong(tolerance: float, said: str) -> Difference:
    return Difference(float("inf"), float("inf"), float("inf"), tolerance, said)
