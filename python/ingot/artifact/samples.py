"""Reads the reference samples of an artifact: inputs, and what the framework made of them."""

from __future__ import annotations

import itertools
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


def decode_strings(data: memoryview, shape: Sequence[int]) -> npt.NDArray[Any]:
    """Strings as files hold them (docs/format.md), as an array of str objects."""
    count = int(np.prod(shape, dtype=np.int64))
    offsets = np.frombuffer(data[: 8 * (count + 1)], np.uint64).tolist()
    text = bytes(data[8 * (count + 1) :])
    result = np.empty(count, object)
    result[:] = [text[a:b].decode() for a, b in itertools.pairwise(offsets)]
    return result.reshape(shape)


def numpy_dtype(name: str) -> np.dtype[Any]:
    """The dtype of a name in a manifest; NumPy's, or ml_dtypes' for the others. Strings are objects."""
    if name == "string":
        return np.dtype(object)
    try:
        return np.dtype(name)
    except TypeError:
        import ml_dtypes

        extended: np.dtype[Any] = np.dtype(getattr(ml_dtypes, name))
        return extended


def _array(tensor: Mapping[str, Any], data: memoryview) -> npt.NDArray[Any]:
    piece = data[tensor["offset"] : tensor["offset"] + tensor["nbytes"]]
    shape: Sequence[int] = tensor["shape"]
    if tensor["dtype"] == "string":
        return decode_strings(piece, shape)
    array: npt.NDArray[Any] = np.frombuffer(piece, numpy_dtype(tensor["dtype"])).reshape(shape)
    return array
