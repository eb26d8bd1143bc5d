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


def _activation(number: int, floats: Sequence[float]) -> Callable[[np.ndarray], np.ndarray]:
    least, most = floats
    return _ACTIVATIONS[number] if number in _ACTIVATIONS else lambda x: np.clip(x, least, most)


def _wide(array: np.ndarray | None) -> Any:
    return 0.0 if array is None else array.astype(np.float64)


def matmul(inputs: Arrays, shapes: Sequence[Any], dtypes: Sequence[Any], dims: Sequence[int], ints: Sequence[int], floats: Sequence[float]
           ) -> list[np.ndarray]:
    """kernels/cuda/matmul/matmul.h."""
    x, w, bias, residual = (*inputs, None, None)[:4]
    assert x is not None and w is not None and x.dtype == w.dtype and len(ints) == 4
    layout, activation, _, variant = ints
    activate = _activation(activation, floats)
    assert variant == 0 and (bias is None or (bias.ndim == 1 and bias.dtype in (x.dtype, np.dtype(np.float32))))
    matrix = _wide(w) if layout == 1 else np.swapaxes(_wide(w), -1, -2)
    y = activate(_wide(x) @ matrix + _wide(bias)) + _wide(residual)
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
    activate = _activation(activation, floats)
    y = activate(y) + _wide(residual) if residual_last else activate(y + _wide(residual))
    return [y.astype(dtypes[0])]


def normalize(inputs: Arrays, shapes: Sequence[Any], dtypes: Sequence[Any], dims: Sequence[int], ints: Sequence[int], floats: Sequence[float]
              ) -> list[np.ndarray]:
    """kernels/cuda/normalization/normalization.h."""
    x, weight, bias, residual = (*inputs, None, None, None)[:4]
    (kind,), (epsilon, offset) = ints, floats
    total = _wide(x) + _wide(residual)
    centered = total - total.mean(-1, keepdims=True) if kind == 0 else total
    y = centered / np.sqrt((centered**2).mean(-1, keepdims=True) + epsilon) * ((1.0 if weight is None else _wide(weight)) + offset) + _wide(bias)
    return [r.astype(d) for r, d in zip((y, total), dtypes, strict=False)]


_LAYOUTS = ((0, 1, 2, 3), (0, 2, 1, 3), (0, 3, 1, 2), (1, 0, 2, 3))  # axes of each layout that are batch, sequence, head, size


def _seen(positions: np.ndarray, keys: np.ndarray, length: int, left: int, right: int, sinks: int) -> np.ndarray:
    """Which queries at ``positions`` see which keys, that stand at ``keys`` in order of age."""
    p, j = positions[:, None], keys[None]
    oldest_first = np.arange(len(keys))[None]
    seen = (j >= p - left) | (oldest_first < sinks) if left >= 0 else np.ones((len(positions), len(keys)), bool)
    return seen & (oldest_first < length) & ((j <= p + right) if right >= 0 else True)


def attention(inputs: Arrays, shapes: Sequence[Any], dtypes: Sequence[Any], dims: Sequence[int], ints: Sequence[int], floats: Sequence[float]
              ) -> list[np.ndarray]:
    """kernels/cpu/attention/attention.h, without pages."""
    layouts, (left, right, at_end, sink_keys) = ints[:4], ints[4:8]
    parts = [*inputs, *[None] * (12 - len(inputs))]
    q, k, v = (_wide(a).transpose(_LAYOUTS[layout]) for a, layout in zip(parts[:3], layouts, strict=False))
    mask, lengths, slopes, sinks, k_scales, v_scales, pages, ring, sink_q = parts[3:]
    assert pages is None and slopes is None and sinks is None
    assert all((scale is not None) == (a is not None and a.dtype == np.int8) for scale, a in zip((k_scales, v_scales), parts[1:3], strict=True))
    k = k if k_scales is None else k * _wide(k_scales)[..., None]
    v = v if v_scales is None else v * _wide(v_scales)[..., None]
    group, (batches, slots) = q.shape[2] // k.shape[2], k.shape[:2]
    k, v = np.repeat(k, group, 2), np.repeat(v, group, 2)
    place = np.tile(np.arange(slots), (batches, 1))  # the position of each key, by age
    if ring is not None:
        # By age: those that stay, and then the ring from its oldest key on.
        turning = np.arange(slots - sink_keys)
        for b, (position, slot) in enumerate(ring.tolist()):
            place[b, sink_keys:] = position + turning
            order = np.concatenate([np.arange(sink_keys), sink_keys + (slot - sink_keys + turning) % len(turning)])
            k[b], v[b] = k[b, order], v[b, order]
    scores = np.einsum("bshd,bthd->bhst", q, k)
    if sink_q is not None:
        turned = _wide(sink_q).transpose(_LAYOUTS[layouts[0]])
        scores[..., :sink_keys] = np.einsum("bshd,bthd->bhst", turned, k[:, :sink_keys])
    scores = scores * floats[0]
    if floats[1]:
        scores = floats[1] * np.tanh(scores / floats[1])
    for b in range(batches):
        length = slots if lengths is None else int(lengths[b])
        end = place[b, length - 1] + 1 if length else 0
        positions = np.arange(q.shape[1]) + (end - q.shape[1] if at_end else 0)
        scores[b][:, ~_seen(positions, place[b], length, left, right, sink_keys)] = -np.inf
    if mask is not None:
        scores = np.where(mask, scores, -np.inf) if mask.dtype == bool else scores + _wide(mask)
    most = scores.max(-1, keepdims=True, initial=-1e300)
    weights = np.exp(scores - most)
    total = weights.sum(-1, keepdims=True)
    out = np.einsum("bhst,bthd->bshd", np.divide(weights, total, out=np.zeros_like(weights), where=total > 0), np.where(np.isfinite(v), v, 0))
    return [np.ascontiguousarray(out.transpose(np.argsort(_LAYOUTS[layouts[3]]))).astype(dtypes[0])]


def _written(cache: np.ndarray, update: np.ndarray, first: np.ndarray | None, circular: int, sinks: int) -> np.ndarray:
    """A cache [B, C, ...] with steps [B, S, ...], where tensor_scatter puts them."""
    result = cache.copy()
    for b, s in np.ndindex(*update.shape[:2]):
        slot = (0 if first is None else int(first[b])) + s
        if circular and slot >= sinks:
            slot = sinks + (slot - sinks) % (cache.shape[1] - sinks)
        result[b, slot] = update[b, s].reshape(result.shape[2:])
    return result


def tensor_scatter(inputs: Arrays, shapes: Sequence[Any], dtypes: Sequence[Any], dims: Sequence[int], ints: Sequence[int], floats: Sequence[float]
                   ) -> list[np.ndarray]:
    """kernels/cpu/tensor_scatter/tensor_scatter.h."""
    cache, update, first = (*inputs, None)[:3]
    axis, circular, sinks = ints
    assert cache is not None and update is not None
    result = _written(np.moveaxis(cache, axis, 1), np.moveaxis(update, axis, 1), first, circular, sinks)
    return [np.ascontiguousarray(np.moveaxis(result, 1, axis))]


def rotary_cache(inputs: Arrays, shapes: Sequence[Any], dtypes: Sequence[Any], dims: Sequence[int], ints: Sequence[int], floats: Sequence[float]
                 ) -> list[np.ndarray]:
    """kernels/cuda/rotary/rotary_cache.h; of 8 bits, caches of int8 and of float8_e4m3fn without scales."""
    key_cache, value_cache, q, k, v, cosines, sines, first, *rest = inputs
    key_scales, value_scales, sink_cosines, sink_sines = [*rest, *[None] * (4 - len(rest))]
    circular, interleaved, _, sinks = ints
    assert key_cache is not None and value_cache is not None and q is not None and not interleaved
    assert (key_scales is not None) == (value_scales is not None) == (key_cache.dtype == np.int8)
    if k is None or v is None:
        heads = key_cache.shape[2] if key_cache.ndim == 4 else key_cache.shape[2] // q.shape[3]
        q, k, v = np.split(q, [q.shape[2] - 2 * heads, q.shape[2] - heads], 2)

    def turned(x: np.ndarray, cosines: np.ndarray | None, sines: np.ndarray | None) -> np.ndarray:
        y = _wide(x)
        if cosines is None:
            return np.asarray(y)
        half = cosines.shape[-1]
        a, b, c, s = y[..., :half], y[..., half : 2 * half], _wide(cosines)[:, :, None], _wide(sines)[:, :, None]
        return np.concatenate([a * c - b * s, b * c + a * s, y[..., 2 * half :]], -1)

    caches, scales = [], []
    for cache, scale, update in ((key_cache, key_scales, turned(k, cosines, sines)), (value_cache, value_scales, _wide(v))):
        if scale is not None:
            factors = (np.maximum(np.abs(update).max(-1), 1e-30) / 127).astype(np.float32)
            scales.append(_written(scale, factors, first, circular, sinks))
            update = np.rint(update / _wide(factors)[..., None])
        elif cache.dtype.itemsize == 1:
            update = np.clip(update, -448, 448)
        caches.append(_written(cache, update, first, circular, sinks))
    sink_queries = [turned(q, sink_cosines, sink_sines).astype(dtypes[-1])] if sink_cosines is not None else []
    return [*caches, turned(q, cosines, sines).astype(dtypes[2]), *scales, *sink_queries]


def _codes(x: np.ndarray, inverse: float, zero: float, dtype: Any) -> np.ndarray:
    """QuantizeLinear in float32."""
    scaled = x * np.float32(inverse)
    if np.dtype(dtype).itemsize == 1 and np.dtype(dtype).kind != "i":
        return np.clip(scaled, -448, 448).astype(dtype)
    return np.clip(np.rint(scaled) + np.float32(zero), -128, 127).astype(dtype)


def _requantized(sums: np.ndarray, inputs: Arrays, dtype: Any, activation: int, floats: Sequence[float]) -> list[np.ndarray]:
    """What kernels/cuda/matmul/qlinear.h says of sums, which are exact: in float32, as the kernel has it."""
    x, _, factors, offsets, bias, residual = (*inputs, None, None, None)[:6]
    assert x is not None and factors is not None and len(floats) == 12
    assert factors.shape == (sums.shape[-1],) and factors.dtype == np.float32
    v = (sums - (0 if offsets is None else offsets)).astype(np.float32) * factors

    def rounded(v: np.ndarray, inverse: float, zero: float, scale: float) -> np.ndarray:
        return v if inverse == 0 else (_codes(v, inverse, zero, x.dtype).astype(np.float32) - np.float32(zero)) * np.float32(scale)

    v = rounded(v, *floats[2:5])
    v = rounded(v if bias is None else v + bias, *floats[5:8])
    if residual is not None:
        assert residual.shape == v.shape
        wide = residual.astype(np.float32)
        v = v + (wide if residual.dtype != x.dtype else (wide - np.float32(floats[9])) * np.float32(floats[8]))
    v = np.asarray(_activation(activation, floats[:2])(v), np.float32)
    return [_codes(v, floats[10], floats[11], dtype) if np.dtype(dtype) == x.dtype else v.astype(dtype)]


def qlinear_matmul(inputs: Arrays, shapes: Sequence[Any], dtypes: Sequence[Any], dims: Sequence[int], ints: Sequence[int], floats: Sequence[float]
                   ) -> list[np.ndarray]:
    """kernels/cuda/matmul/qlinear.h."""
    x, w = inputs[:2]
    assert x is not None and w is not None and x.dtype == w.dtype and len(ints) == 2
    return _requantized(_wide(x) @ _wide(w).T, inputs, dtypes[0], ints[0], floats)


def qlinear_conv(inputs: Arrays, shapes: Sequence[Any], dtypes: Sequence[Any], dims: Sequence[int], ints: Sequence[int], floats: Sequence[float]
                 ) -> list[np.ndarray]:
    """kernels/cuda/convolution/qlinear_conv.h."""
    x, w = inputs[:2]
    assert x is not None and w is not None and x.dtype == w.dtype and len(ints) == 12
    *window, activation, outside, variant = ints
    assert variant == 0
    pads = [(0, 0), (window[2], window[4]), (window[3], window[5]), (0, 0)]
    padded = np.pad(x, pads, constant_values=x.dtype.type(outside))
    (sums,) = convolution([padded.astype(np.float64), w.astype(np.float64)], shapes, [np.float64], dims,
                          [*window[:2], 0, 0, 0, 0, *window[6:], 0, 0, 0, 0], [0.0, 0.0])
    return _requantized(sums, inputs, dtypes[0], activation, floats)


def quantize_rows(inputs: Arrays, shapes: Sequence[Any], dtypes: Sequence[Any], dims: Sequence[int], ints: Sequence[int], floats: Sequence[float]
                  ) -> list[np.ndarray]:
    """kernels/cuda/matmul/scaled_matmul.h, of int8 with a scale for each row."""
    (x,) = inputs
    assert x is not None and list(ints) == [0]
    scales = np.abs(x.astype(np.float32)).max(axis=-1, keepdims=True) / np.float32(127)
    scales[scales == 0] = 1
    return [np.rint(x.astype(np.float32) / scales).astype(np.int8), scales]


def matmul_int8(inputs: Arrays, shapes: Sequence[Any], dtypes: Sequence[Any], dims: Sequence[int], ints: Sequence[int], floats: Sequence[float]
                ) -> list[np.ndarray]:
    """kernels/cuda/matmul/scaled_matmul.h, with a scale for each row of X and of W."""
    x, w, x_scales, w_scales, bias, residual = inputs
    assert x is not None and w is not None and x.dtype == w.dtype == np.int8 and list(ints[:2]) == [1, 1] and ints[3] == 0
    y = _activation(ints[2], (0.0, 0.0))(_wide(x) @ _wide(w).T * _wide(x_scales) * _wide(w_scales) + (0 if bias is None else _wide(bias)))
    return [(y + (0 if residual is None else _wide(residual))).astype(dtypes[0])]


def sample(inputs: Arrays, shapes: Sequence[Any], dtypes: Sequence[Any], dims: Sequence[int], ints: Sequence[int], floats: Sequence[float]
           ) -> list[np.ndarray]:
    """kernels/cuda/sampling/sampling.h, of logits that are numbers, and with settings of each row."""
    logits, numbers, settings = inputs
    assert logits is not None and numbers is not None and settings is not None and settings.shape == (*numbers.shape, 4)
    found = np.empty(numbers.shape, np.int64)
    for row in np.ndindex(*numbers.shape):
        temperature, top_k, top_p, min_p = map(float, settings[row])
        tokens = np.argsort(-logits[row], kind="stable")[: int(top_k) or None]
        if temperature:
            weights = np.exp((_wide(logits[row][tokens]) - logits[row].max()) / temperature)
            shares = weights / weights.sum()
            ends = (shares * ((np.cumsum(shares) - shares < top_p) & (shares >= min_p * shares[0]))).cumsum()
            tokens = tokens[np.searchsorted(ends / ends[-1], numbers[row], side="right") :]
        found[row] = tokens[0]
    return [found]


KERNELS: dict[str, Kernel] = {"attention": attention, "convolution": convolution, "matmul": matmul, "matmul_int8": matmul_int8,
                              "normalization": normalize, "qlinear_conv": qlinear_conv, "qlinear_matmul": qlinear_matmul,
                              "quantize_rows": quantize_rows,
                              "rotary_cache": rotary_cache, "sample": sample, "tensor_scatter": tensor_scatter}
