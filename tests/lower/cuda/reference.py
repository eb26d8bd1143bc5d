"""Kernels in NumPy, by the contracts of kernels/cuda, in float64 and rounded once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

Arrays = Sequence["np.ndarray | None"]
Kernel = Callable[[Arrays, Sequence[Any], Sequence[Any], Sequence[int], Sequence[int], Sequence[float]], list[np.ndarray]]


def _erf(x: np.ndarray) -> np.ndarray:
    import torch

    return np.asarray(torch.erf(torch.from_numpy(np.ascontiguousarray(x))))


_ACTIVATIONS: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    0: lambda x: x,
    1: lambda x: np.maximum(x, 0),
    2: lambda x: x / 2 * (1 + _erf(x / np.sqrt(2))),
    3: lambda x: x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
    4: lambda x: x / (1 + np.exp(-x)),
}


def _wide(array: np.ndarray | None) -> Any:
    return 0.0 if array is None else array.astype(np.float64)


def matmul(inputs: Arrays, shapes: Sequence[Any], dtypes: Sequence[Any], dims: Sequence[int], ints: Sequence[int], floats: Sequence[float]
           ) -> list[np.ndarray]:
    """kernels/cuda/matmul/matmul.h."""
    x, w, bias, residual = (*inputs, None, None)[:4]
    assert x is not None and w is not None and x.dtype == w.dtype and len(ints) == 4
    layout, activation, _, variant = ints
    assert variant == 0 and (bias is None or (bias.ndim == 1 and bias.dtype in (x.dtype, np.dtype(np.float32))))
    matrix = _wide(w) if layout == 1 else np.swapaxes(_wide(w), -1, -2)
    y = _ACTIVATIONS[activation](_wide(x) @ matrix + _wide(bias)) + _wide(residual)
    assert residual is None or residual.shape == y.shape
    return [y.astype(dtypes[0])]


def convolution(inputs: Arrays, shapes: Sequence[Any], dtypes: Sequence[Any], dims: Sequence[int], ints: Sequence[int], floats: Sequence[float]
                ) -> list[np.ndarray]:
    """kernels/cuda/convolution/convolution.h."""
    import torch

    x, w, bias, residual = (*inputs, None, None)[:4]
    assert x is not None and w is not None and x.dtype == w.dtype and len(ints) == 13
    down, right_, top, left, bottom, right, dilation_h, dilation_w, groups, activation, residual_last, _, variant = ints
    assert variant == 0 and x.ndim == 4 and w.ndim == 4
    padded = np.pad(_wide(x), ((0, 0), (top, bottom), (left, right), (0, 0)))
    y = np.asarray(torch.nn.functional.conv2d(
        torch.from_numpy(np.ascontiguousarray(padded.transpose(0, 3, 1, 2))), torch.from_numpy(np.ascontiguousarray(_wide(w).transpose(0, 3, 1, 2))),
        None, (down, right_), 0, (dilation_h, dilation_w), groups)).transpose(0, 2, 3, 1) + _wide(bias)
    y = _ACTIVATIONS[activation](y) + _wide(residual) if residual_last else _ACTIVATIONS[activation](y + _wide(residual))
    return [y.astype(dtypes[0])]


KERNELS: dict[str, Kernel] = {"matmul": matmul, "convolution": convolution}
