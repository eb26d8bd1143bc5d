"""Reads the reference samples of an artifact: inputs, and what the framework made of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Sample:
    """One case: inputs and the framework's outputs, by name."""

    inputs: dict[str, npt.NDArray[Any]]
    outputs: dict[str, npt.NDArray[Any]]


def read_samples(manifest: Mapping[str, Any], segment: Any) -> list[Sample]:
    """The cases of a manifest's ``samples``, whose bytes are ``segment``'s (docs/format.md). Arrays share its memory."""
    data = memoryview(segment).cast("B")
    cases = []
    for case in manifest["samples"]["cases"]:
        named = [{spec["name"]: _array(tensor, data) for spec, tensor in zip(manifest[side], case[side], strict=True)}
                 for side in ("inputs", "outputs")]
        cases.append(Sample(*named))
    return cases


def numpy_dtype(name: str) -> np.dtype[Any]:
    """The dtype of a name in a manifest; NumPy's, or ml_dtypes' for the others."""
    try:
        return np.dtype(name)
    except TypeError:
        import ml_dtypes

        extended: np.dtype[Any] = np.dtype(getattr(ml_dtypes, name))
        return extended


def _array(tensor: Mapping[str, Any], data: memoryview) -> npt.NDArray[Any]:
    piece = data[tensor["offset"] : tensor["offset"] + tensor["nbytes"]]
    shape: Sequence[int] = tensor["shape"]
    array: npt.NDArray[Any] = np.frombuffer(piece, numpy_dtype(tensor["dtype"])).reshape(shape)
    return array
