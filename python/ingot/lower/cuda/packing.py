"""The layout of quantized weights that the CUDA kernel ``quantized_matmul`` reads (kernels/cuda/quantized_matmul/quantized_matmul.h).

Scales and zeros are packed as for CPUs (``pack_groups`` of lower/cpu/quantized_weights.py). Nothing but NumPy is imported here: tests on machines
without the package load this file by its path.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from ingot.lower.cpu.quantized_weights import Format

PANEL, STEP = 16, 64  # rows of W in a panel, and k in a step
#: Columns of gates in a panel, in front of those that they are for.
GATES = 8
#: The largest zero of int4 that products in 16 bits subtract exactly (136 + 120 is what bfloat16 counts up to).
MOST_NIBBLE_ZERO = 120

# A step of a panel as the tensor cores' fragments have it: axes of [upper rows, row, fragment, upper k, pair, element].
_UPPER_ROWS, _ROW, _FRAGMENT, _UPPER_K, _PAIR, _ELEMENT = 1, 2, 4, 5, 6, 7


def packed_shape(kind: Format, rows: int, depth: int) -> tuple[int, int]:
    """The shape of packed codes of W [rows, depth]: [panels, bytes]."""
    return -(-rows // PANEL), -(-depth // STEP) * STEP * PANEL * kind.bits // 8


def pack_codes(kind: Format, codes: np.ndarray) -> np.ndarray:
    """Packs codes.

    Args:
        kind: Their format.
        codes: [N, K]: int8, or uint8 nibbles of 0 to 15.

    Returns:
        uint8 of :func:`packed_shape`. Padding is the number 0, or the first code where there is none.
    """
    rows, depth = codes.shape
    panels, steps = -(-rows // PANEL), -(-depth // STEP)
    padded = np.full((panels * PANEL, steps * STEP), kind.offset, np.uint8)
    padded[:rows, :depth] = codes.view(np.uint8)
    tiles = padded.reshape(panels, 2, 8, steps, 4, 2, 4, 2)
    if kind.bits == 8:
        halves = (tiles ^ 128).reshape(panels, 2, 8, steps, 2, 2, 2, 4, 2)  # fragments in two halves
        return np.ascontiguousarray(halves.transpose(0, 3, 4, 2, 7, 5, 6, 8, 1)).reshape(packed_shape(kind, rows, depth))
    inner = (_UPPER_K, _UPPER_ROWS, _ELEMENT) if kind.values else (_ELEMENT, _UPPER_K, _UPPER_ROWS)
    nibbles = np.ascontiguousarray(tiles.transpose(0, 3, _ROW, _PAIR, _FRAGMENT, *inner)).reshape(panels, steps * STEP * PANEL // 2, 2)
    return np.ascontiguousarray(nibbles[..., 0] | nibbles[..., 1] << 4).reshape(packed_shape(kind, rows, depth))


def check_zeros(kind: Format, zeros: np.ndarray) -> None:
    """Refuses zeros that the kernel cannot subtract exactly.

    Raises:
        ValueError: An int8 zero of a nibble is above :data:`MOST_NIBBLE_ZERO`.
    """
    if kind.bits == 4 and zeros.dtype == np.int8 and zeros.size and int(zeros.max()) > MOST_NIBBLE_ZERO:
        raise ValueError(f"a zero point of {int(zeros.max())} is too far from the codes 0 to 15 of {kind.name} for the CUDA kernel "
                         f"quantized_matmul: it can be at most {MOST_NIBBLE_ZERO}; zero points of float32 can be any")
