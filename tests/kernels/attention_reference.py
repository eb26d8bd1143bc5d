"""Calls of attention, what they give by the definition in float64, and how their keys lie in memory.

Tests of CUDA kernels load this file by its path where Ingot is not installed: it needs NumPy, ml_dtypes and hypothesis alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import ml_dtypes
import numpy as np
from hypothesis import strategies as st

SEQUENCE_FIRST, HEAD_FIRST, TRANSPOSED, BATCH_SECOND = 0, 1, 2, 3
AXES = {SEQUENCE_FIRST: (0, 1, 2, 3), HEAD_FIRST: (0, 2, 1, 3), TRANSPOSED: (0, 2, 3, 1), BATCH_SECOND: (1, 0, 2, 3)}  # of [B, S, H, D]
UNIT = 2.0**-24  # the rounding error of float32
OUTPUT_UNIT = {"float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}
PLAIN, RING, PAGES = "plain", "ring", "pages"


@dataclass(frozen=True)
class Case:
    """Sizes and options of one call."""

    batch: int = 1
    queries: int = 5
    keys: int = 7
    kv_heads: int = 1
    group: int = 1
    size: int = 8
    value_size: int = 8
    layouts: tuple[int, int, int, int] = (0, 0, 0, 0)
    left: int = -1
    right: int = -1
    at_end: bool = False
    sink_keys: int = 0
    scale: float = 0.25
    softcap: float = 0.0
    mask: str | None = None  # a dtype
    mask_axes: tuple[bool, bool, bool, bool] = (True, True, True, True)  # those that are not broadcast
    lengths: bool = False
    slopes: bool = False
    sinks: bool = False
    sink_queries: bool = False
    rounds: bool = False  # whether operands may be rounded to bfloat16
    dtype: str = "float32"
    cache: str | None = None  # the type of K and V, if it is not that of Q
    scaled: bool = True  # whether keys of float8_e4m3fn have scales, as those of int8 do
    storage: str = PLAIN
    page_size: int = 4
    seed: int = 0

    @property
    def heads(self) -> int:
        """Query heads."""
        return self.kv_heads * self.group

    @property
    def pinned(self) -> int:
        """Keys in slots that a ring does not reuse."""
        return min(self.sink_keys, self.keys)


@dataclass
class Data:
    """Tensors as [B, S, H, D], the keys of each batch from the oldest on."""

    q: np.ndarray
    k: np.ndarray
    v: np.ndarray
    mask: np.ndarray | None = None
    lengths: np.ndarray | None = None
    slopes: np.ndarray | None = None
    sinks: np.ndarray | None = None
    k_scales: np.ndarray | None = None
    v_scales: np.ndarray | None = None
    ring: np.ndarray | None = None
    pages: np.ndarray | None = None
    sink_q: np.ndarray | None = None


def numpy_type(name: str) -> Any:
    return getattr(ml_dtypes, name) if hasattr(ml_dtypes, name) else np.dtype(name)


def make(case: Case) -> Data:
    rng = np.random.default_rng(case.seed)

    def cached(size: int) -> np.ndarray:
        shape = (case.batch, case.keys, case.kv_heads, size)
        if case.cache == "int8":
            return rng.integers(-127, 128, shape).astype(np.int8)
        return rng.standard_normal(shape).astype(numpy_type(case.cache or case.dtype))

    q = rng.standard_normal((case.batch, case.queries, case.heads, case.size)).astype(numpy_type(case.dtype))
    data = Data(q, cached(case.size), cached(case.value_size))
    if case.cache == "int8" or (case.cache == "float8_e4m3fn" and case.scaled):
        data.k_scales, data.v_scales = (rng.uniform(0.2, 2.0, (case.batch, case.keys, case.kv_heads)).astype(np.float32) / 127 for _ in range(2))
    if case.mask is not None:
        extents = (case.batch, case.heads, case.queries, case.keys)
        shape = [extent if kept else 1 for extent, kept in zip(extents, case.mask_axes, strict=True)]
        seen = rng.random(shape) < 0.7
        data.mask = seen if case.mask == "bool" else np.where(seen, rng.standard_normal(shape), -np.inf).astype(numpy_type(case.mask))
    if case.slopes:
        data.slopes = (2.0 ** -rng.uniform(0, 8, case.heads)).astype(np.float32)
    if case.sinks:
        data.sinks = np.where(rng.random(case.heads) < 0.1, -np.inf, rng.standard_normal(case.heads) * 3).astype(np.float32)
    if case.sink_queries:
        data.sink_q = rng.standard_normal(q.shape).astype(q.dtype)
    if case.lengths:
        data.lengths = rng.integers(0, case.keys + 1, case.batch)
        for b, length in enumerate(data.lengths):
            poison(data, (b, slice(length, None)))
    if case.storage == RING:
        slots = rng.integers(case.pinned, case.keys, case.batch) if case.keys > case.pinned else np.zeros(case.batch, int)
        data.ring = np.stack([case.pinned + rng.integers(0, 1000, case.batch), slots], axis=1)
    return data


def poison(data: Data, where: Any) -> None:
    """Overwrites keys and values: what lies there must not matter."""
    for codes, scales in ((data.k, data.k_scales), (data.v, data.v_scales)):
        codes[where] = 127 if codes.dtype == np.int8 else np.nan
        if scales is not None:
            scales[where] = np.nan


def lengths_of(case: Case, data: Data) -> np.ndarray:
    return np.full(case.batch, case.keys) if data.lengths is None else data.lengths


def distances(case: Case, data: Data) -> np.ndarray:
    """How far each key is behind (negative) or ahead of each query, [B, S, T]."""
    lengths = lengths_of(case, data)
    number = np.arange(case.keys)
    shift = np.zeros(case.batch, int)
    if data.ring is not None:
        shift = np.where(lengths > case.pinned, data.ring[:, 0] - case.pinned, 0)
    position = number + np.where(number >= case.pinned, shift[:, None], 0)
    query = np.arange(case.queries) + (lengths + shift - case.queries if case.at_end else np.zeros(case.batch, int))[:, None]
    result: np.ndarray = position[:, None, :] - query[:, :, None]
    return result


def floats(codes: np.ndarray, scales: np.ndarray | None) -> np.ndarray:
    return codes.astype(np.float64) * (1 if scales is None else scales[..., None].astype(np.float64))


def reference(case: Case, data: Data, matrices: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """The output as [B, S, Hq, Dv] by the definition, and a bound of what float32 may add to it in rounding errors, or matrices of bfloat16."""
    q, k, v = data.q.astype(np.float64), floats(data.k, data.k_scales), floats(data.v, data.v_scales)
    beyond = np.arange(case.keys) >= lengths_of(case, data)[:, None]
    k[beyond] = 0
    v[beyond] = 0
    k, v = (np.repeat(x, case.group, axis=2) for x in (k, v))
    scores = np.einsum("bshd,bthd->bhst", q, k) * case.scale
    magnitude = np.einsum("bshd,bthd->bhst", np.abs(q), np.abs(k)) * abs(case.scale)
    if data.sink_q is not None:
        sink_q, pinned = data.sink_q.astype(np.float64), k[:, :case.pinned]
        scores[..., :case.pinned] = np.einsum("bshd,bthd->bhst", sink_q, pinned) * case.scale
        magnitude[..., :case.pinned] = np.einsum("bshd,bthd->bhst", np.abs(sink_q), np.abs(pinned)) * abs(case.scale)
    if case.softcap > 0:
        scores = case.softcap * np.tanh(scores / case.softcap)
    distance = distances(case, data)
    largest = 0.0  # of what is added to scores
    if data.slopes is not None:
        bias = data.slopes.astype(np.float64)[:, None, None] * distance[:, None]
        scores = scores + bias
        largest = np.abs(np.where(beyond[:, None, None], 0, bias)).max(initial=0)
    if data.mask is not None:
        scores = np.where(data.mask, scores, -np.inf) if data.mask.dtype == bool else scores + data.mask.astype(np.float64)
    old = (distance < -case.left) & (np.arange(case.keys) >= case.sink_keys) if case.left >= 0 else False
    hidden = beyond[:, None, :] | old | ((distance > case.right) if case.right >= 0 else False)
    scores = np.where(hidden[:, None], -np.inf, scores)
    sinks = np.full(case.heads, -np.inf) if data.sinks is None else data.sinks.astype(np.float64)
    with np.errstate(invalid="ignore"):
        top = np.maximum(scores.max(axis=-1, keepdims=True, initial=-np.inf), sinks[:, None, None])
        top = np.where(np.isneginf(top), 0, top)
        weights = np.exp(scores - top)
        total = weights.sum(axis=-1, keepdims=True) + np.exp(sinks[:, None, None] - top)
        weights = np.where(total == 0, 0, weights / np.where(total == 0, 1, total))
    output = np.einsum("bhst,bthd->bshd", weights, v)
    # A score of D products errs by D + 3 roundings of the sum of their magnitudes (6 for a softcap, one for a scale), adding slopes or the
    # mask and subtracting the maximum by one each of the result; e^x has that as a relative error, plus 2 units. A scale of V is one more.
    finite = np.where(np.isfinite(scores), np.abs(scores), 0).max(initial=0) + largest + np.where(np.isfinite(sinks), np.abs(sinks), 0).max(initial=0)
    error = ((case.size + 10) * magnitude.max(initial=0) + 4 * finite + 8) * UNIT
    bound = 2 * error + (case.keys + 17) * UNIT
    if matrices and data.q.dtype == data.k.dtype == numpy_type("bfloat16"):
        bound += 2.0**-9 + 2.0**-13  # where all tensors are bfloat16, matrices take weights rounded to it, which err by 2^-13 before
    if matrices and case.rounds:  # Q and K err by 2^-9 each, weights and V too
        bound += 2 * 2.0**-8 * magnitude.max(initial=0) + 2.0**-8
    return output, bound * np.abs(v).max(initial=0) + OUTPUT_UNIT[case.dtype] * np.abs(output) + 1e-30


def stored(case: Case, data: Data) -> Data:
    """The call's tensors as they lie in memory: keys in their slots or pages, and poison in those that have none."""
    if case.storage == PLAIN:
        return data
    rng = np.random.default_rng(case.seed + 1)
    lengths = lengths_of(case, data)
    count = case.keys // case.page_size
    pages = rng.permutation(case.batch * count + 3)[:case.batch * count].reshape(case.batch, count).astype(np.int32)
    pools = (case.batch * count + 3, case.page_size) if case.storage == PAGES else (case.batch, case.keys)

    def empty(array: np.ndarray) -> np.ndarray:
        return np.zeros((*pools, *array.shape[2:]), array.dtype)

    result = replace(data, k=empty(data.k), v=empty(data.v), lengths=lengths, k_scales=None if data.k_scales is None else empty(data.k_scales),
                     v_scales=None if data.v_scales is None else empty(data.v_scales))
    poison(result, ...)
    turning = case.keys - case.pinned  # slots that a ring reuses
    for b, length in enumerate(lengths):
        for i in range(length):
            slot = i if data.ring is None or i < case.pinned else case.pinned + (data.ring[b, 1] + i - 2 * case.pinned) % turning
            to = (pages[b, i // case.page_size], i % case.page_size) if case.storage == PAGES else (b, slot)
            for name in ("k", "v", "k_scales", "v_scales"):
                if getattr(data, name) is not None:
                    getattr(result, name)[to] = getattr(data, name)[b, i]
        pages[b, -(-length // case.page_size):] = rng.choice([-1, 2**31 - 1])
    result.pages = pages if case.storage == PAGES else None
    return result


LAYOUTS = st.sampled_from([SEQUENCE_FIRST, HEAD_FIRST, BATCH_SECOND])
CASES = st.builds(
    Case,
    batch=st.integers(0, 3), queries=st.one_of(st.integers(0, 9), st.integers(10, 150)), keys=st.one_of(st.integers(0, 40), st.integers(41, 400)),
    kv_heads=st.integers(1, 3), group=st.integers(1, 5), size=st.one_of(st.integers(0, 70), st.integers(71, 256)),
    value_size=st.one_of(st.integers(1, 70), st.integers(71, 256)),
    layouts=st.tuples(LAYOUTS, st.sampled_from([SEQUENCE_FIRST, HEAD_FIRST, TRANSPOSED, BATCH_SECOND]), LAYOUTS, LAYOUTS),
    left=st.one_of(st.just(-1), st.integers(0, 60)), right=st.one_of(st.just(-1), st.just(0), st.integers(1, 60)), at_end=st.booleans(),
    scale=st.sampled_from([0.125, -0.3, 0.0, 1.0]), softcap=st.sampled_from([0.0, 0.0, 0.5, 30.0]),
    mask=st.sampled_from([None, None, "bool", "float32", "float16", "bfloat16"]),
    mask_axes=st.tuples(*[st.booleans()] * 4), lengths=st.booleans(), dtype=st.sampled_from(["float32", "float32", "float16", "bfloat16"]),
    sink_keys=st.one_of(st.just(0), st.integers(1, 70)), slopes=st.booleans(), sinks=st.booleans(), sink_queries=st.booleans(), rounds=st.booleans(),
    cache=st.sampled_from([None, None, "float32", "float16", "bfloat16", "int8"]), storage=st.sampled_from([PLAIN, PLAIN, RING, PAGES]),
    page_size=st.one_of(st.integers(1, 9), st.sampled_from([16, 32, 100])), seed=st.integers(0, 2**32 - 1),
).map(lambda case: replace(case, keys=-(-case.keys // case.page_size) * case.page_size) if case.storage == PAGES else case)
