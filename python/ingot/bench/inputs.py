"""Inputs to measure with: an artifact's own samples where they fit, else arrays of their kind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from ingot.artifact.samples import Sample, numpy_dtype, read_samples
from ingot.errors import InputError


def bench_inputs(artifact: Any, dims: Mapping[str, int]) -> dict[str, npt.NDArray[Any]]:
    """Inputs for a run with these extents; symbolic dimensions that are not given take the sample's, or 1.

    Integers are repeated from the sample, as they may be indices that must stay in range; without a sample they are 1.
    Floats are normally distributed.
    """
    manifest = artifact.manifest
    stored = manifest.get("samples") or {}
    sample = read_samples(manifest, artifact.segment(stored["segment"]))[0] if stored.get("cases") else None
    extents = {**dict.fromkeys((d["name"] for d in manifest["dims"]), 1), **sample_dims(manifest, sample), **dims}
    shapes = {spec["name"]: tuple(_extent(e, extents, spec["name"]) for e in spec["shape"]) for spec in manifest["inputs"]}
    if sample and all(sample.inputs[name].shape == shape for name, shape in shapes.items()):
        return sample.inputs
    rng = np.random.default_rng(0)
    return {spec["name"]: _array(shapes[spec["name"]], numpy_dtype(spec["dtype"]), sample.inputs[spec["name"]] if sample else None, rng)
            for spec in manifest["inputs"]}


def sample_dims(manifest: Mapping[str, Any], sample: Sample | None) -> dict[str, int]:
    """The extents that the symbolic dimensions have in a sample."""
    found: dict[str, int] = {}
    for spec in manifest["inputs"] if sample else ():
        for name, extent in zip(spec["shape"], sample.inputs[spec["name"]].shape, strict=True):  # type: ignore[union-attr]
            if isinstance(name, str):
                found.setdefault(name, extent)
    return found


def _extent(extent: int | str, dims: Mapping[str, int], name: str) -> int:
    if isinstance(extent, int):
        return extent
    if extent not in dims:
        raise InputError(f"input '{name}' has the extent '{extent}', which is an expression; give it a name with --shape when compiling")
    return dims[extent]


def _array(shape: tuple[int, ...], dtype: np.dtype[Any], sample: npt.NDArray[Any] | None, rng: np.random.Generator) -> npt.NDArray[Any]:
    if dtype.kind == "O":
        return np.resize(sample if sample is not None and sample.size else np.array(["text"], object), shape)
    if dtype.kind in "biu":
        return np.ascontiguousarray(np.resize(sample, shape) if sample is not None and sample.size else np.ones(shape, dtype))
    values = rng.standard_normal(shape, np.float32)
    if dtype.kind == "c":
        return values.astype(dtype) + 1j * rng.standard_normal(shape).astype(dtype)
    return values.astype(dtype)
