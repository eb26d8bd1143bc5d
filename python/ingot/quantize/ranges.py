"""Where the numbers of activations fall, and the scale and zero point of 8 bits that round them with the least error."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

#: Bins for numbers of one sign: eight or more for each of the 256 codes, so that where a number lies in its bin says little.
_BINS = 4096
#: Shares of the least and of the largest number at which codes may end. Long tails are cut off where the others gain more from finer steps.
_RATIOS = (1.0, 0.95, 0.9, 0.85, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)
_LEVELS = 255


@dataclass(frozen=True)
class Rounding:
    """Numbers as ``scale * (code - zero)`` with codes of 0 to 255; ``error`` is what rounding does to those seen, relative to their norm."""

    scale: float
    zero: int
    error: float


class Histogram:
    """How many of the numbers that were seen lie in each of 2 · 4,096 bins around 0, whose width doubles when one lies beyond them.

    Zeros and numbers that are not finite are left out: zero always has a code.
    """

    def __init__(self) -> None:
        self.low = self.high = 0.0  # the least and the largest number, and 0
        self._width = 0.0  # a power of two
        self._counts: npt.NDArray[np.float64] = np.zeros(2 * _BINS)

    @property
    def seen(self) -> bool:
        """Whether there was a number other than zero."""
        return self._width > 0

    def add(self, numbers: npt.NDArray[Any]) -> None:
        """Counts numbers, of any shape."""
        x = np.asarray(numbers, np.float32).ravel()
        x = x[np.isfinite(x) & (x != 0)]
        if not x.size:
            return
        self.low, self.high = min(self.low, float(x.min())), max(self.high, float(x.max()))
        self._widen(max(-self.low, self.high))
        bins = np.floor(np.divide(x, self._width, dtype=np.float64)).astype(np.int64)  # float32 has no width for the smallest numbers
        self._counts += np.bincount(bins.clip(-_BINS, _BINS - 1) + _BINS, minlength=2 * _BINS)

    def merge(self, other: Histogram) -> None:
        """Counts what another has counted."""
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)
        if other._width:
            self._widen(max(-self.low, self.high))
            self._counts += _coarser(other._counts, round(math.log2(self._width / other._width)))

    def rounding(self) -> Rounding:
        """The scale and zero point with the least squared error among some that cut off more or less at either end."""
        found = self._rounding(1.0, 1.0)
        below = min((self._rounding(ratio, 1.0) for ratio in _RATIOS), key=lambda r: r.error) if self.low else found
        share = below.scale * below.zero / -self.low if self.low else 1.0
        return min([found, below, *(self._rounding(min(share, 1.0), ratio) for ratio in _RATIOS)], key=lambda r: r.error)

    def _rounding(self, below: float, above: float) -> Rounding:
        low, high = self.low * below, self.high * above
        scale = float(np.float32((high - low) / _LEVELS))
        if not scale:  # nothing was seen, or what is too small for float32 to have a 255th of it
            return Rounding(1.0, 0, float(self.seen))
        zero = int(np.clip(np.rint(-low / scale), 0, _LEVELS))
        centers = (np.arange(-_BINS, _BINS) + 0.5) * self._width
        codes = np.clip(np.rint(centers / scale) + zero, 0, _LEVELS)
        error = float(self._counts @ np.square((codes - zero) * scale - centers))
        return Rounding(scale, zero, math.sqrt(error / float(self._counts @ np.square(centers))))

    def _widen(self, largest: float) -> None:
        """Doubles the width until the bins hold a number."""
        needed = 2.0 ** math.ceil(math.log2(largest / _BINS))
        if needed > self._width:
            if self._width:
                self._counts = _coarser(self._counts, round(math.log2(needed / self._width)))
            self._width = needed


def _coarser(counts: npt.NDArray[np.float64], doublings: int) -> npt.NDArray[np.float64]:
    """Counts in bins that are so many times twice as wide."""
    for _ in range(min(doublings, _BINS.bit_length())):  # then all of a sign are in one bin
        halved = counts.reshape(-1, 2).sum(axis=1)
        counts = np.pad(halved, _BINS // 2)
    return counts


def merged(histograms: Iterable[Histogram]) -> Histogram:
    """One that has counted what several have."""
    whole = Histogram()
    for histogram in histograms:
        whole.merge(histogram)
    return whole
