"""The layout of quantized weights that the kernel ``quantized_matmul`` reads (kernels/cpu/quantized_matmul/quantized_matmul.h)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

PANEL, STEP = 16, 8  # rows of W in a panel, and k in a step
LEAST_GROUP = 16


@dataclass(frozen=True)
class Format:
    """How a number of W is coded.

    ``code`` is the kernel's number of it (QuantizedFormat); codes are int8, or nibbles of uint8 counted from ``offset``. ``values`` are the
    numbers of codes that are looked up.
    """

    name: str
    code: int
    bits: int
    offset: int = 0
    values: tuple[float, ...] = ()


#: QLoRA (Dettmers et al., 2023), appendix E; OCP Microscaling Formats 1.0, table 4.
_NF4 = (-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
        0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941,
        0.7229568362236023, 1.0)
_E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)

INT8 = Format("int8", 0, 8)
INT4 = Format("int4", 1, 4, offset=8)
MXFP4 = Format("mxfp4", 2, 4, values=(*_E2M1, *(-v for v in _E2M1)))
NF4 = Format("nf4", 3, 4, values=_NF4)
FORMATS: dict[str, Format] = {f.name: f for f in (INT8, INT4, MXFP4, NF4)}

#: QuantizedActivation.
ACTIVATIONS: dict[str, int] = {"": 0, "relu": 1, "gelu": 2, "gelu_tanh": 3, "silu": 4}


def is_group(group: int) -> bool:
    """Whether so many k can share a scale: a power of two of at least 16, or 0 for the whole row."""
    return group == 0 or (group >= LEAST_GROUP and group & (group - 1) == 0)


def groups_of(depth: int, group: int) -> int:
    """How many scales a row of W has."""
    return -(-depth // group) if group else min(depth, 1)


def packed_shape(kind: Format, rows: int, depth: int) -> tuple[int, int]:
    """The shape of packed codes: [panels, bytes]."""
    return -(-rows // PANEL), -(-depth // STEP) * STEP * PANEL * kind.bits // 8


def pack_codes(kind: Format, codes: np.ndarray) -> np.ndarray:
    """Packs codes.

    Args:
        kind: Their format.
        codes: [N, K]: int8, or uint8 nibbles of 0 to 15.

    Returns:
        uint8 of :func:`packed_shape`. Padding in k is the number 0, or the first code where there is none.
    """
    rows, depth = codes.shape
    panels, steps = -(-rows // PANEL), -(-depth // STEP)
    padded = np.full((panels * PANEL, steps * STEP), kind.offset, np.uint8)
    padded[:rows, :depth] = codes.view(np.uint8)
    halves = padded.reshape(panels, PANEL, steps, 2, STEP // 2)
    if kind.bits == 8:
        return np.ascontiguousarray(halves.transpose(0, 2, 3, 1, 4)).reshape(packed_shape(kind, rows, depth))
    nibbles = halves[:, :, :, 0] | halves[:, :, :, 1] << 4
    return np.ascontiguousarray(nibbles.transpose(0, 2, 1, 3)).reshape(packed_shape(kind, rows, depth))


def pack_groups(values: np.ndarray) -> np.ndarray:
    """Packs scales or zeros [N, groups] of any type as [panels, groups, 16]; rows past N are 0."""
    rows, groups = values.shape
    panels = -(-rows // PANEL)
    padded = np.zeros((panels * PANEL, groups), values.dtype)
    padded[:rows] = values
    return np.ascontiguousarray(padded.reshape(panels, PANEL, groups).transpose(0, 2, 1))


def dequantized(kind: Format, codes: np.ndarray, scales: np.ndarray, zeros: np.ndarray | None, group: int) -> np.ndarray:
    """The numbers that codes [N, K] stand for, in the type of ``scales`` [N, groups], but at least float32.

    ``zeros`` [N, groups] are counted as the kernel counts them: from ``kind.offset``.
    """
    dtype = np.promote_types(scales.dtype, np.float32) if scales.dtype in (np.float16, np.float32, np.float64) else np.dtype(np.float32)
    depth = codes.shape[1]

    def spread(values: np.ndarray) -> np.ndarray:
        return np.repeat(values.astype(dtype), group or max(depth, 1), axis=1)[:, :depth]

    numbers = np.array(kind.values, dtype)[codes] if kind.values else codes.astype(dtype) - kind.offset
    if zeros is not None:
        numbers = numbers - spread(zeros)
    return numbers * spread(scales)
