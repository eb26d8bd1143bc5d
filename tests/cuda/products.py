"""What tests of CUDA products and convolutions share: references in float64 and how far from them results may be."""

from __future__ import annotations

import math
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
ACTIVATIONS = ("", "relu", "gelu", "gelu_tanh", "silu", "clamp")
CLAMP = (-0.5, 3.0)
UNIT = 2.0**-23  # tensor cores cut sums of float32 off
ROUNDING = {"float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}
#: Half the smallest number of each type: numbers below the smallest normal one are rounded to a multiple of it.
STEP = {"float32": 2.0**-150, "float16": 2.0**-25, "bfloat16": 2.0**-134}
MATVEC, MMA_128x128, MMA_128x64, MMA_64x64, WGMMA_128x256, WGMMA_128x128, WGMMA_64x128, FMA_32x128 = range(1, 9)
MMA = (MMA_128x128, MMA_128x64, MMA_64x64)
WGMMA = (WGMMA_128x256, WGMMA_128x128, WGMMA_64x128)
FMA = (*MMA, FMA_32x128)  # of float32
TF32, FLOAT32 = 0, 1
_SLOPE = 1.13  # the steepest of all activations


def numbers(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> Array:
    """Normal numbers, as a type has them."""
    return rng.standard_normal(shape).astype(DTYPES[dtype])


def activated(x: Array, activation: str) -> Array:
    """An activation in float64."""
    if activation == "relu":
        return np.where(x < 0, 0.0, x)
    if activation == "clamp":
        return np.clip(x, *CLAMP)
    if activation == "gelu":
        return x * 0.5 * (1.0 + np.vectorize(math.erf, otypes=[np.float64])(x / math.sqrt(2.0)))
    if activation == "gelu_tanh":
        return 0.5 * x * (1.0 + np.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)))
    if activation == "silu":
        return x / (1.0 + np.exp(-np.clip(x, -700, 700)))
    return x


def sum_error(magnitude: Array, depth: int, operands: str, precision: int = FLOAT32) -> Array:
    """The error of sums of `depth` products whose absolute values add up to `magnitude`."""
    each = {"float8_e4m3fn": 2.0**-13, "int8": UNIT}.get(operands, UNIT)  # Hopper's sums of fp8 have 14 bits
    error = magnitude * each * (depth / 8 + 8)
    if operands == "float32" and precision == TF32:
        error = error + magnitude * 2.0**-10
    return error


def check(
    got: Array,
    sums: Array,
    error: Array,
    *,
    bias: Array | None = None,
    residual: Array | None = None,
    activation: str = "",
    residual_last: bool = True,
) -> None:
    """Compares a result with what follows from sums in float64, each known up to `error`."""
    dtype = str(got.dtype)
    z = sums.astype(np.float64)
    magnitude = np.abs(z)
    for extra in (bias, residual if not residual_last else None):
        if extra is not None:
            z = z + extra.astype(np.float64)
            magnitude = magnitude + np.abs(extra.astype(np.float64))
    wanted = activated(z, activation)
    allowed = _SLOPE * (error + 4 * UNIT * magnitude) + (2.0**-17 * np.abs(z) if activation else 0.0)
    if residual is not None and residual_last:
        wanted = wanted + residual.astype(np.float64)
        allowed = allowed + UNIT * np.abs(wanted)
    allowed = allowed + ROUNDING[dtype] * (np.abs(wanted) + allowed) + STEP[dtype]
    difference = np.abs(got.astype(np.float64) - wanted)
    bad = ~(difference <= allowed)
    if bad.any():
        at = tuple(int(i) for i in np.argwhere(bad)[0])
        raise AssertionError(f"{int(bad.sum())} of {bad.size} are wrong, first {at}: {got[at]}, not {wanted[at]} +- {allowed[at]}")
