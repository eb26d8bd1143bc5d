"""Attention: softmax(Q K^T / sqrt(D)) V."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from ingot.bench.kernels.problem import ROUNDING, Array, Kernel, Problem
from ingot.errors import InputError

_BYTES = {"f32": 4, "bf16": 2, "f16": 2}


@dataclass(frozen=True)
class AttentionInputs:
    """Queries, keys and values, as [batch, sequence, heads, D] and contiguous.

    Attributes:
        q: [B, S, Hq, D] of float32, float16, or bfloat16 as uint16 (its bits).
        k: [B, T, Hkv, D] likewise.
        v: [B, T, Hkv, D] likewise.
    """

    q: Array
    k: Array
    v: Array

    def floats(self) -> tuple[Array, Array, Array]:
        """The three in float64."""
        return _float64(self.q), _float64(self.k), _float64(self.v)


class Attention(Problem):
    """B batches of S queries by T keys, Hq query heads that share Hkv key heads, of D elements. With ``causal`` the last query sees the last key."""

    kernel = "attention"

    def __init__(self, extents: tuple[int, int, int, int, int, int], dtype: str, causal: bool) -> None:
        self.batch, self.queries, self.keys, self.heads, self.kv_heads, self.size = extents
        self.shape, self.dtype, self.causal = ",".join(map(str, extents)), dtype, causal
        self.flags = ("causal",) if causal else ()
        self.depth = max(self.size, self.keys)
        self.scale = self.size**-0.5
        visible = self.queries * self.keys
        if causal:  # query i of S sees T - S + i + 1 keys, if that is any
            visible = int(np.clip(np.arange(self.queries) + self.keys - self.queries + 1, 0, None).sum())
        self.flops = 4 * self.batch * self.heads * visible * self.size
        caches = 2 * self.batch * self.keys * self.kv_heads * self.size * _BYTES[dtype]
        # More keys than queries are a cache, which other layers' caches have driven out; else they have just been computed.
        self.rotating = caches if self.keys > self.queries else 0
        self.bytes = caches + 2 * self.batch * self.queries * self.heads * self.size * _BYTES[dtype]

    def inputs(self) -> AttentionInputs:
        """Normally distributed numbers."""
        rng = np.random.default_rng(0)

        def normal(sequence: int, heads: int) -> Array:
            return _stored(rng.standard_normal((self.batch, sequence, heads, self.size), np.float32), self.dtype)

        return AttentionInputs(normal(self.queries, self.heads), normal(self.keys, self.kv_heads), normal(self.keys, self.kv_heads))

    def reference(self, inputs: AttentionInputs) -> Array:
        """The definition in float64, one head at a time: [B S Hq, D]."""
        q, k, v = inputs.floats()
        group = self.heads // self.kv_heads
        result = np.empty(q.shape)
        hidden = np.arange(self.keys) > (np.arange(self.queries) + self.keys - self.queries)[:, None] if self.causal else None
        for b in range(self.batch):
            for h in range(self.heads):
                scores = q[b, :, h] @ k[b, :, h // group].T * self.scale
                if hidden is not None:
                    scores[hidden] = -np.inf
                weights = np.exp(scores - scores.max(axis=1, keepdims=True))
                result[b, :, h] = weights @ v[b, :, h // group] / weights.sum(axis=1, keepdims=True)
        return result.reshape(-1, self.size)

    def tolerance(self, arithmetic: str, inputs: AttentionInputs) -> float:
        """As any; the result is rounded to the data type of the queries."""
        return super().tolerance(arithmetic, inputs) + (ROUNDING[self.dtype] if self.dtype != "f32" else 0)


def parse(shape: str, dtype: str, flags: tuple[str, ...] = ()) -> Attention:
    """``1,128,128,12,12,64`` and ``f32``, ``bf16`` or ``f16``.

    Raises:
        InputError: They are not of that form, or do not fit together.
    """
    extents = re.fullmatch(r"(\d+),(\d+),(\d+),(\d+),(\d+),(\d+)", shape.replace(" ", ""))
    if not extents or not all(map(int, extents.groups())):
        raise InputError(f"the shape '{shape}' of attention is not of the form B,S,T,Hq,Hkv,D, such as 1,128,128,12,12,64: batch, queries, keys, "
                         "heads, heads of keys, size of a head")
    if dtype not in _BYTES:
        raise InputError(f"the data type '{dtype}' of attention is not one of {', '.join(_BYTES)}")
    b, s, t, heads, kv_heads, size = map(int, extents.groups())
    if heads % kv_heads:
        raise InputError(f"the shape '{shape}' has {heads} heads, which cannot share {kv_heads} heads of keys: "
                         f"{heads} must be a multiple of {kv_heads}")
    if "causal" in flags and s > t:
        raise InputError(f"the shape '{shape}' has {s} queries but {t} keys: with causal attention the first queries would see no key")
    return Attention((b, s, t, heads, kv_heads, size), dtype, "causal" in flags)


def _stored(values: Array, dtype: str) -> Array:
    if dtype == "f16":
        return values.astype(np.float16)
    if dtype == "bf16":  # rounded to nearest, ties to even, on the bits
        bits = values.view(np.uint32).astype(np.uint64)
        return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)
    return values


def _float64(values: Array) -> Array:
    if values.dtype == np.uint16:
        return (values.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return values.astype(np.float64)


KERNEL = Kernel(
    "attention", "softmax(Q K^T / sqrt(D)) V",
    "B,S,T,Hq,Hkv,D, such as 1,128,128,12,12,64: batch, queries, keys, heads, heads of keys, size of a head", "f32, bf16 or f16", parse,
    flags=("causal",), default_dtypes=("f32",),
    presets=(*((f"1,{s},{s},12,12,{d}", "f32", ("causal",)) for s in (1024, 4096) for d in (64, 128)),  # prompts
             ("1,128,128,12,12,64", "f32", ()),  # BERT-base
             ("1,1,4096,32,8,128", "f32", ())))  # a token, with the cache of a model of about 8 billion parameters
