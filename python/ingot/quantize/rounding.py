"""Rounding to the nearest code, with scales that are searched: clipping a few outliers often lets all others be rounded more finely."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from ingot.importer.weights import numpy_dtype
from ingot.lower.cpu.quantized_weights import groups_of
from ingot.quantize.scheme import Scheme

Array: TypeAlias = npt.NDArray[Any]
#: For weights [N, groups, group], scales to try, as float32 [N, groups], and zero points or None.
Candidates: TypeAlias = Callable[[Array], Iterator[tuple[Array, "Array | None"]]]

#: Shares of the largest magnitude that scales are made for. The least squared error of 15 levels on normal numbers clips at 0.8 to 1 of the
#: largest of 32 to 256 of them; 255 levels lose more by clipping than they gain, but for long tails.
_RATIOS_4 = (1.0, 0.95, 0.9, 0.85, 0.8, 0.7)
_RATIOS_8 = (1.0, 0.97, 0.94, 0.9, 0.8)
_SMALLEST = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True)
class Rounded:
    """Codes int8 [N, K], as importer/quantized.py counts them; scales [N, groups] of the scheme's type; zeros int8 [N, groups] or None."""

    codes: Array
    scales: Array
    zeros: Array | None


def round_rows(scheme: Scheme, weights: Array, moments: Array | None = None, clip: bool = True) -> Rounded:
    """Quantizes rows of a weight.

    For each group the scale is the one with the least squared error among a few that clip more or less.

    Args:
        scheme: The scheme.
        weights: [N, K], finite floats; K are added up by the product.
        moments: X^T X [K, K] of data: the error is then that of the group's products with it.
        clip: Search; else the first scale is taken.
    """
    rows, depth = weights.shape
    group, groups = scheme.group if 0 < scheme.group < depth else depth, groups_of(depth, scheme.group)
    padded = np.zeros((rows, groups * group), np.float32)  # 0 has a code in every scheme: padding changes no error
    padded[:, :depth] = weights
    w = padded.reshape(rows, groups, group)
    best = np.full((rows, groups), np.inf, np.float32)
    scales = np.ones((rows, groups), numpy_dtype(scheme.scale_dtype))
    zeros = np.zeros((rows, groups), np.int8) if scheme.asymmetric else None
    unit = _usable(np.abs(w).max(axis=-1))[..., None]  # errors are squared as shares of the largest, which neither overflow nor vanish
    blocks = _blocks(moments, group, groups) if moments is not None else None
    for scale, zero in islice(_CANDIDATES[scheme.name](w), None if clip else 1):
        stored = _stored(scale, scheme)
        found = decode(scheme, encode(scheme, w, stored, zero), stored, zero)
        found -= w
        found /= unit
        weighted = found if blocks is None else np.matmul(found.transpose(1, 0, 2), blocks).transpose(1, 0, 2)
        error = np.einsum("ngk,ngk->ng", weighted, found)
        better = error < best
        best = np.where(better, error, best)
        scales = np.where(better, stored, scales)
        zeros = None if zeros is None or zero is None else np.where(better, zero, zeros)
    codes = encode(scheme, w, scales, zeros).reshape(rows, groups * group)[:, :depth]
    return Rounded(np.ascontiguousarray(codes), scales, zeros)


def _blocks(moments: Array, group: int, groups: int) -> Array:
    """The blocks of X^T X along its diagonal, [groups, group, group]: how errors within a group add up. A group without data counts each alike."""
    blocks = np.zeros((groups, group, group), np.float32)
    for g in range(groups):
        own = moments[g * group : (g + 1) * group, g * group : (g + 1) * group]
        blocks[g, : len(own), : len(own)] = own if own.any() else np.eye(len(own), dtype=np.float32)
    return blocks


def encode(scheme: Scheme, w: Array, scales: Array, zeros: Array | None) -> Array:
    """The nearest codes, int8, of weights [N, groups, group] for given scales and zeros [N, groups]."""
    scaled = w / floats(scales)[..., None]
    if scheme.kind.values:
        order = np.argsort(scheme.kind.values, kind="stable")
        values = np.array(scheme.kind.values, np.float32)[order]
        middles = (values[1:] + values[:-1]) / 2
        return order.astype(np.int8)[np.searchsorted(middles, scaled)]
    np.rint(scaled, out=scaled)
    if zeros is not None:
        scaled += zeros[..., None]
    top = 2 ** (scheme.kind.bits - 1)
    return np.clip(scaled, -top, top - 1, out=scaled).astype(np.int8)


def decode(scheme: Scheme, codes: Array, scales: Array, zeros: Array | None) -> Array:
    """The numbers, float32, that codes [N, groups, group] stand for."""
    numbers: Array = np.array(scheme.kind.values, np.float32)[codes] if scheme.kind.values else codes.astype(np.float32)
    if zeros is not None:
        numbers -= zeros[..., None]
    numbers *= floats(scales)[..., None]
    return numbers


def floats(scales: Array) -> Array:
    """Scales as float32; uint8 are powers of two."""
    return np.ldexp(np.float32(1), scales.astype(np.int32) - 127) if scales.dtype == np.uint8 else scales.astype(np.float32)


def _stored(scale: Array, scheme: Scheme) -> Array:
    """Scales as they are stored. A group of zeros, or of what is too small for a scale, has scale 1."""
    if scheme.powers:
        return scale.astype(np.uint8)
    return _usable(scale).astype(numpy_dtype(scheme.scale_dtype))


def _usable(scale: Array) -> Array:
    """Scales with 1 for those that are too small to divide by."""
    return np.where(np.abs(scale) >= _SMALLEST, scale, np.float32(1))


def _int8(w: Array) -> Iterator[tuple[Array, None]]:
    largest = np.abs(w).max(axis=-1)
    for ratio in _RATIOS_8:
        yield largest * np.float32(ratio / 127), None


def _int4(w: Array) -> Iterator[tuple[Array, None]]:
    """Symmetric, and with the largest number at code -8, which symmetric scales do not use: the scale then has that number's sign turned."""
    extreme = np.take_along_axis(w, np.abs(w).argmax(axis=-1)[..., None], axis=-1)[..., 0]
    for ratio in _RATIOS_4:
        yield np.abs(extreme) * np.float32(ratio / 7), None
        yield extreme * np.float32(ratio / -8), None


def _uint4(w: Array) -> Iterator[tuple[Array, Array]]:
    low, high = np.minimum(w.min(axis=-1), 0), np.maximum(w.max(axis=-1), 0)
    for ratio in _RATIOS_4:
        scale = (high - low) * np.float32(ratio / 15)
        yield scale, (np.clip(np.rint(-low * np.float32(ratio) / _usable(scale)), 0, 15) - 8).astype(np.int8)


def _nf4(w: Array) -> Iterator[tuple[Array, None]]:
    largest = np.abs(w).max(axis=-1)
    for ratio in _RATIOS_4:
        yield largest * np.float32(ratio), None


def _mxfp4(w: Array) -> Iterator[tuple[Array, None]]:
    """The standard's power of two, at which the largest number is 4 to 8 and what is above 6 is clipped, and the next, which clips nothing."""
    largest = np.abs(w).max(axis=-1)
    exponent = np.frexp(largest)[1] - 1 - 2
    for more in (0, 1):
        yield np.where(largest > 0, np.clip(exponent + more + 127, 0, 254), 127), None


_CANDIDATES: dict[str, Candidates] = {"int8": _int8, "int4": _int4, "uint4": _uint4, "nf4": _nf4, "mxfp4": _mxfp4}
