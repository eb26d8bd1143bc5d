"""What a kernel benchmark measures: problems of a kernel, what they compute on, and what a contestant gives back."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]

#: What a contestant multiplies in, and the peak that ``ingot.runtime.machine`` measures for it.
ARITHMETICS: Mapping[str, str] = {"f32": "fma_gflop_s", "f16": "fma_gflop_s", "bf16": "bf16_gflop_s", "int8": "int8_gop_s"}
#: Half the distance of neighbouring numbers, relative to them.
ROUNDING: Mapping[str, float] = {"f32": 2.0**-24, "f16": 2.0**-11, "bf16": 2.0**-8}


class Unsupported(Exception):
    """A contestant cannot compute a problem; the message says why, and is shown."""


class Problem(ABC):
    """One shape of a kernel with a data type. The same problem has the same inputs in every process.

    Attributes:
        kernel: The kernel's name.
        shape: The shape as it is typed.
        dtype: The data type as it is typed.
        flags: Options such as ``causal``.
        flops: Operations, two for a multiplication and an addition.
        bytes: Bytes that must be read and written at the least.
        rotating: Bytes of what lies in memory when a model runs it: weights, caches. 0 if the operands are what has just been computed.
        depth: How many products the longest sum has.
    """

    kernel: str
    shape: str
    dtype: str
    flags: tuple[str, ...]
    flops: int
    bytes: int
    rotating: int
    depth: int

    def __str__(self) -> str:
        return " ".join((self.kernel, self.shape, self.dtype, *self.flags))

    @abstractmethod
    def inputs(self) -> Any:
        """The inputs that all contestants are given."""

    @abstractmethod
    def reference(self, inputs: Any) -> Array:
        """The result in float64, as [rows, elements]."""

    def tolerance(self, arithmetic: str, inputs: Any) -> float:
        """How large the relative norm error of a row may be.

        Sums of ``depth`` products in any order err like a random walk, by the root of their number; 16 times that leaves room for chance and
        for e^x, none for a wrong element. 16-bit operands are rounded up to three times on the way.
        """
        del inputs
        unit = ROUNDING[arithmetic]
        return 16 * math.sqrt(max(self.depth, 1)) * ROUNDING["f32"] + (0 if arithmetic == "f32" else 3 * unit)


@dataclass(frozen=True)
class Kernel:
    """A kernel that can be benchmarked.

    Attributes:
        name: What it is called on the command line.
        about: One line.
        shapes: How a shape is typed.
        dtypes: How a data type is typed.
        parse: Makes a problem of a shape, a data type and flags; raises :class:`ingot.errors.InputError` for what does not fit.
        flags: The flags that it takes.
        default_dtypes: What is measured where no data type is given.
        presets: What is measured where no shape is given: shapes, data types and flags.
    """

    name: str
    about: str
    shapes: str
    dtypes: str
    parse: Callable[[str, str, tuple[str, ...]], Problem]
    flags: tuple[str, ...] = ()
    default_dtypes: tuple[str, ...] = ("f32",)
    presets: tuple[tuple[str, str, tuple[str, ...]], ...] = ()


@dataclass(frozen=True)
class Loaded:
    """A contestant that is ready to run.

    Attributes:
        run: Computes the problem with one of the sets of rotating operands, by number, and returns the result, of as many elements as the
            reference has and in their order.
        arithmetic: What it multiplies in, a key of ``ARITHMETICS``: it decides how exact the result must be, and which peak it is compared with.
        operands: Inputs that the reference is to be computed with, where the contestant stores other numbers than those that it was given: its own
            weights, after its own rounding.
        note: What a reader should know, in a few words.
    """

    run: Callable[[int], Any]
    arithmetic: str = "f32"
    operands: Any = None
    note: str = ""


@dataclass(frozen=True)
class Setting:
    """How a contestant is to run.

    Attributes:
        threads: With how many threads.
        sets: How many copies of the rotating operands to make, so that none is in the caches when its turn comes.
    """

    threads: int = 1
    sets: int = 1


#: Makes a contestant ready for a problem and its inputs. A plain function from the number of a set to the result stands for ``Loaded(function)``.
Prepare: TypeAlias = "Callable[[Any, Any, Setting], Loaded | Callable[[int], Any]]"


@dataclass(frozen=True)
class Contestant:
    """A program that computes a kernel.

    Attributes:
        name: What it is called in the results.
        kernel: What it computes.
        prepare: Makes it ready to run.
        module: The Python module that must be installed.
        environment: Variables of its process.
    """

    name: str
    kernel: str
    prepare: Prepare
    module: str = "numpy"
    environment: Mapping[str, str] = field(default_factory=dict)


def copies(array: Array, sets: int) -> list[Array]:
    """``array`` again and again in memory of its own, aligned to cache lines as runtimes align their weights."""
    return [aligned(array) for _ in range(sets)]


def aligned(array: Array, line: int = 64) -> Array:
    """A C-contiguous copy that starts at a cache line."""
    memory = np.empty(array.nbytes + line, np.uint8)
    start = -memory.ctypes.data % line
    result = memory[start:start + array.nbytes].view(array.dtype).reshape(array.shape)
    result[...] = array
    return result
