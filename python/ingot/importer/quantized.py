"""Weights that are quantized in the model: they stay so for passes that know what to do with it, and are floats for all others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from ingot.errors import CompileError
from ingot.importer.weights import Weight, from_array, numpy_dtype

#: The bits of integer types that weights are quantized to, and what is taken off their numbers to make them signed.
INTEGERS: dict[str, tuple[int, int]] = {"int8": (8, 0), "uint8": (8, 128), "int4": (4, 0), "uint4": (4, 8)}


@dataclass(eq=False)
class QuantizedWeight(Weight):
    """A matrix ``scale * (code - zero)``, whose ``load`` computes it.

    ``codes`` is int8 of the matrix's shape, of ``bits`` bits: -8 to 7 or -128 to 127. Along ``axis`` ``group`` of them share a scale (0: all
    of them): ``scales``, of a float type or uint8 s for 2^(s - 127), and ``zeros``, int8 or float32 or None where all are 0, have as many entries
    there as there are groups, and one for each position of the other axis. ``integers`` says that products may round the other operand to
    int8. With ``values`` codes are 0 to 15 and stand for these numbers.
    """

    codes: Weight
    scales: Weight
    zeros: Weight | None
    bits: int
    axis: int
    group: int
    integers: bool
    values: tuple[float, ...] = ()
    #: What a pass made of it, by layout: what one target has, others share.
    packed: dict[str, tuple[Weight, Weight, Weight | None]] = field(default_factory=dict, repr=False)

    def transposed(self, axes: Sequence[int]) -> Weight:
        """The matrix with its axes permuted, quantized as before."""
        if list(axes) != [1, 0]:
            return self
        codes, scales = self.codes.transposed(axes), self.scales.transposed(axes)
        zeros = self.zeros.transposed(axes) if self.zeros is not None else None
        return self.once(("transposed", self.integers), lambda: quantized_weight(
            self.name, self.dtype, codes, scales, zeros, self.bits, 1 - self.axis, self.group, self.integers, self.values))


def quantized_weight(name: str, dtype: str, codes: Weight, scales: Weight, zeros: Weight | None, bits: int, axis: int, group: int,
                     integers: bool = False, values: tuple[float, ...] = ()) -> QuantizedWeight:
    """A quantized weight of a float type ``dtype``; the other arguments are those of :class:`QuantizedWeight`."""

    def load() -> np.ndarray:
        wide = np.float64 if dtype == "float64" else np.float32
        numbers = np.array(values, wide)[codes.load()] if values else codes.load().astype(wide)

        def spread(parameters: np.ndarray) -> np.ndarray:
            if parameters.dtype == np.uint8:
                parameters = np.ldexp(wide(1), parameters.astype(np.int32) - 127)
            return np.repeat(parameters.astype(wide), group or numbers.shape[axis], axis)[: numbers.shape[0], : numbers.shape[1]]

        if zeros is not None:
            numbers -= spread(zeros.load())
        numbers *= spread(scales.load())
        return numbers.astype(numpy_dtype(dtype))

    return QuantizedWeight(name, codes.shape, dtype, load, codes, scales, zeros, bits, axis, group, integers, values)


def with_arithmetic(weights: Sequence[Weight], integers: bool) -> None:
    """Has products of all quantized weights round the other operand to int8, or not.

    A CompileError says if there is none.
    """
    quantized = [weight for weight in weights if isinstance(weight, QuantizedWeight)]
    if not quantized:
        raise CompileError("the model has no quantized weights whose arithmetic 'kept' could give; quantize it with int8, int4, …")
    for weight in quantized:
        weight.integers = integers


def from_integers(x: Weight, scale: Weight, zero: Weight | None, axis: int, block: int, dtype: str) -> QuantizedWeight | None:
    """What DequantizeLinear makes of a constant matrix: one scale, one for each position of ``axis``, or one for each ``block`` of it.

    Returns None if it is not a matrix of 4- or 8-bit integers, or if scales are not shaped so.
    """
    if len(x.shape) != 2 or x.dtype not in INTEGERS or 0 in x.shape or not -2 <= axis < 2:
        return None
    bits, offset = INTEGERS[x.dtype]
    axis %= 2
    if block:
        depth = axis
        shape = tuple(-(-d // block) if i == axis else d for i, d in enumerate(x.shape))
        if scale.shape != shape:
            return None
    else:
        depth = 1 - axis
        shape = tuple(d if i == axis else 1 for i, d in enumerate(x.shape))
        if int(np.prod(scale.shape)) not in (1, x.shape[axis]):
            return None

    def per_group(parameters: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(np.broadcast_to(parameters if block else parameters.reshape([d if d > 1 and parameters.size > 1 else 1
                                                                                               for d in shape]), shape))

    scales = scale.map(per_group, shape, ":scales")
    codes = x.map(lambda a: (a.astype(np.int16) - offset).astype(np.int8), x.shape, ":codes", "int8")
    return quantized_weight(x.name, dtype, codes, scales, _zeros(zero, shape, per_group, offset), bits, depth, block)


def _zeros(zero: Weight | None, shape: tuple[int, ...], per_group: Callable[[np.ndarray], np.ndarray], offset: int) -> Weight | None:
    """Zero points of integers from which ``offset`` is taken off; None if all are 0 then."""
    if zero is None:
        return from_array("zeros", np.full(shape, -offset, np.int8)) if offset else None
    numbers = per_group(zero.load().astype(np.int16)) - offset
    return from_array(f"{zero.name}:zeros", numbers.astype(np.int8)) if numbers.any() else None
