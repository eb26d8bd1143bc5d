"""Products with quantized weights: Y [M, N] = X [M, K] W [N, K]^T."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from ingot.bench.kernels.problem import Array, Kernel, Problem
from ingot.errors import InputError
from ingot.lower.cpu.quantized_weights import FORMATS, Format, dequantized, groups_of, is_group

#: How many k share a scale where the data type does not say: a whole row of int8, as dynamic quantization has it, and what checkpoints of 4 bits use.
_GROUPS = {"int8": 0, "int4": 128, "mxfp4": 32, "nf4": 64}


@dataclass(frozen=True)
class MatmulInputs:
    """What is multiplied.

    Attributes:
        x: [M, K] float32.
        codes: [N, K]: int8, or uint8 nibbles of 0 to 15, which for int4 stand for -8 to 7.
        scales: [N, groups] float32, numbers that bfloat16 and float16 can hold too, so that all contestants store the same weights.
        kind: The format of the codes.
        group: How many k share a scale; 0 is a whole row.
        own: Other weights [N, K] that the reference is to be computed with.
    """

    x: Array
    codes: Array
    scales: Array
    kind: Format
    group: int
    own: Array | None = None

    def weights(self, dtype: Any = np.float32) -> Array:
        """W [N, K]: the numbers that codes and scales stand for."""
        return self.own.astype(dtype) if self.own is not None else dequantized(self.kind, self.codes, self.scales.astype(dtype), None, self.group)

    @property
    def group_size(self) -> int:
        """How many k share a scale, a whole row being a group too."""
        return self.group or self.codes.shape[1]


class QuantizedMatmul(Problem):
    """M rows by K by N columns of weights of a format, with a scale for each group of k."""

    kernel = "quantized_matmul"

    def __init__(self, m: int, k: int, n: int, kind: Format, group: int) -> None:
        self.m, self.k, self.n, self.kind, self.group = m, k, n, kind, group
        self.shape, self.flags, self.depth = f"{m}x{k}x{n}", (), k
        self.dtype = kind.name + (f":g{group}" if group else "")
        self.flops = 2 * m * n * k
        scale = 1 if kind.name == "mxfp4" else 4
        self.rotating = n * k * kind.bits // 8 + n * groups_of(k, group) * scale
        self.bytes = self.rotating + 4 * m * (k + n)

    def inputs(self) -> MatmulInputs:
        """Normally distributed activations and weights: absolute maxima of a group of weights lie at about 2.5 standard deviations, of a row at 4."""
        rng = np.random.default_rng(0)
        x = rng.standard_normal((self.m, self.k), np.float32)
        codes = self._codes(rng)
        shape = (self.n, groups_of(self.k, self.group))
        if self.kind.name == "mxfp4":
            scales = np.exp2(rng.integers(-9, -5, shape)).astype(np.float32)
        else:
            # The upper half of a float32 is a bfloat16; its 8 bits fit a float16 as well at this size.
            scales = (rng.uniform(2.0**-8, 2.0**-7, shape).astype(np.float32).view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
        return MatmulInputs(x, codes, scales, self.kind, self.group)

    def _codes(self, rng: np.random.Generator) -> Array:
        if self.kind.values:
            return rng.integers(0, 16, (self.n, self.k), np.uint8)
        largest, deviations = (127, 4.0) if self.kind.bits == 8 else (7, 2.5)
        codes = np.clip(np.rint(rng.standard_normal((self.n, self.k), np.float32) * (largest / deviations)), -largest, largest).astype(np.int8)
        return codes if self.kind.bits == 8 else (codes + np.int8(self.kind.offset)).astype(np.uint8)

    def reference(self, inputs: MatmulInputs) -> Array:
        """X W^T in float64, [M, N]."""
        return inputs.x.astype(np.float64) @ inputs.weights(np.float64).T

    def tolerance(self, arithmetic: str, inputs: MatmulInputs) -> float:
        """Where X is rounded to integers, by steps as coarse as 7 bits for a row from its least to its largest number.

        That is the coarsest that runtimes use (PyTorch's reduce_range). A step s errs by s / sqrt(12) of a standard deviation; twice that, since the
        errors' sums vary from row to row where N is small.
        """
        if arithmetic != "int8":
            return super().tolerance(arithmetic, inputs)
        x = inputs.x.astype(np.float64)
        step = (x.max(axis=1).clip(0) - x.min(axis=1).clip(max=0)) / 127
        size = np.sqrt((x * x).mean(axis=1))
        return float((2 * step / 12**0.5 / np.where(size == 0, 1, size)).max(initial=0)) + super().tolerance("f32", inputs)


def parse(shape: str, dtype: str, flags: tuple[str, ...] = ()) -> QuantizedMatmul:
    """``1x4096x4096`` and ``int4:g32``.

    Raises:
        InputError: They are not of that form.
    """
    extents = re.fullmatch(r"(\d+)x(\d+)x(\d+)", shape.strip())
    if not extents or not all(map(int, extents.groups())):
        raise InputError(f"the shape '{shape}' of quantized_matmul is not of the form MxKxN, such as 1x4096x4096: rows of X, k, columns")
    found = re.fullmatch(r"(\w+?)(?::g(\d+))?", dtype.strip())
    if not found or found[1] not in FORMATS:
        raise InputError(f"the data type '{dtype}' of quantized_matmul is not one of {', '.join(FORMATS)}, with ':g' and the size of a group "
                         "behind it if need be, such as int4:g32")
    m, k, n = map(int, extents.groups())
    group = int(found[2]) if found[2] else _GROUPS[found[1]]
    if not is_group(group):
        raise InputError(f"'{dtype}': {group} k cannot share a scale; a group is a power of two of at least 16, or 0 for a whole row")
    return QuantizedMatmul(m, k, n, FORMATS[found[1]], 0 if group >= k else group)


KERNEL = Kernel(
    "quantized_matmul", "X [M, K] times weights [N, K] of 4 or 8 bits with a scale for each group of k",
    "MxKxN, such as 1x4096x4096", "int8, int4, mxfp4 or nf4, with the size of a group: int4:g32", parse,
    default_dtypes=("int4:g128", "int4:g32", "int8"),
    # A square product of a model of about 7 billion parameters: one token, a few requests, a short prompt, a long one.
    presets=tuple((f"{m}x4096x4096", dtype, ()) for dtype in ("int4:g128", "int4:g32", "int8") for m in (1, 16, 128, 512)))
