"""Attention of many queries on a GPU, Hopper's path and Ampere's, against its definition in float64."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import harness
import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest

Array = npt.NDArray[Any]
DTYPES: dict[str, Any] = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
ROUNDING = {"float16": 2.0**-11, "bfloat16": 2.0**-8}  # relative, of a number in the type
HOPPER, AMPERE = 90, 80


@dataclass(frozen=True)
class Case:
    """A call: shapes, attributes, and which inputs there are."""

    dtype: str = "bfloat16"
    batch: int = 1
    queries: int = 70
    keys: int = 150
    heads: int = 2
    kv_heads: int = 1
    size: int = 64
    value_size: int = 0  # 0: size
    layouts: tuple[int, int, int, int] = (0, 0, 0, 0)
    left: int = -1
    right: int = -1
    at_end: bool = True
    softcap: float = 0
    scale: float = 0  # 0: one over the root of the size
    lengths: tuple[int, ...] | None = None
    wide_lengths: bool = True
    mask: tuple[int, ...] | None = None  # its shape
    mask_type: str = "float32"
    slopes: bool = False
    sinks: bool = False
    variant: int = 0
    spread: float = 1  # of Q
    seed: int = field(default=0, compare=False)

    @property
    def values(self) -> int:
        return self.value_size or self.size

    @property
    def used_scale(self) -> float:
        return self.scale or 1 / math.sqrt(self.size)


def _lay_out(array: Array, layout: int) -> Array:
    """[B, S, H, D] as a layout has it in memory."""
    axes = {0: (0, 1, 2, 3), 1: (0, 2, 1, 3), 3: (1, 0, 2, 3)}[layout]
    return np.ascontiguousarray(array.transpose(axes))


def _inputs(case: Case) -> list[Array | None]:
    """The kernel's inputs with tensors as [B, S, H, D]; keys and values past the lengths are NaN."""
    random = np.random.default_rng(case.seed)
    dtype = DTYPES[case.dtype]
    q = (random.standard_normal((case.batch, case.queries, case.heads, case.size)) * case.spread).astype(dtype)
    k = random.standard_normal((case.batch, case.keys, case.kv_heads, case.size)).astype(dtype)
    v = random.standard_normal((case.batch, case.keys, case.kv_heads, case.values)).astype(dtype)
    lengths = None
    if case.lengths is not None:
        lengths = np.array(case.lengths, np.int64 if case.wide_lengths else np.int32)
        for b, length in enumerate(case.lengths):
            k[b, length:] = np.nan
            v[b, length:] = np.nan
    mask = None
    if case.mask is not None and case.mask_type == "bool":
        mask = random.random(case.mask) < 0.6
    elif case.mask is not None:
        mask = np.where(random.random(case.mask) < 0.2, -np.inf, random.standard_normal(case.mask))
        mask = mask.astype(DTYPES.get(case.mask_type, np.float32))
    slopes = random.random(case.heads).astype(np.float32) * 0.1 if case.slopes else None
    sinks = random.standard_normal(case.heads).astype(np.float32) if case.sinks else None
    return [q, k, v, mask, lengths, slopes, sinks]


def _reference(case: Case, inputs: list[Array | None]) -> tuple[Array, Array]:
    """O and softmax |V|, a measure of what rounding weights does, both [B, S, H, D] in float64."""
    q, k, v, mask, _, slopes, sinks = inputs
    assert q is not None
    assert k is not None
    assert v is not None
    group = case.heads // case.kv_heads
    o = np.zeros((case.batch, case.queries, case.heads, case.values))
    weighed = np.zeros_like(o)
    wide_mask = None
    if mask is not None:
        added = np.where(mask, 0.0, -np.inf) if mask.dtype == bool else mask.astype(np.float64)
        wide_mask = np.broadcast_to(added, (case.batch, case.heads, case.queries, case.keys))
    for b in range(case.batch):
        length = case.keys if case.lengths is None else case.lengths[b]
        offset = length - case.queries if case.at_end else 0
        position = np.arange(case.queries)[:, None] + offset
        key = np.arange(length)[None, :]
        seen = np.ones((case.queries, length), bool)
        if case.left >= 0:
            seen &= key >= position - case.left
        if case.right >= 0:
            seen &= key <= position + case.right
        for h in range(case.heads):
            keys, values = (t[b, :length, h // group].astype(np.float64) for t in (k, v))
            s = q[b, :, h].astype(np.float64) @ keys.T * case.used_scale
            if case.softcap:
                s = case.softcap * np.tanh(s / case.softcap)
            if slopes is not None:
                s = s + float(slopes[h]) * (key - position)
            if wide_mask is not None:
                s = s + wide_mask[b, h, :, :length]
            s = np.where(seen, s, -np.inf)
            most = np.max(s, axis=1, initial=-np.inf)
            if sinks is not None:
                most = np.maximum(most, float(sinks[h]))
            most = np.where(np.isinf(most), 0, most)
            p = np.exp(s - most[:, None])
            total = p.sum(1) + (np.exp(float(sinks[h]) - most) if sinks is not None else 0)
            p = p / np.where(total == 0, 1, total)[:, None]
            o[b, :, h], weighed[b, :, h] = p @ values, p @ np.abs(values)
    return o, weighed


def _run(case: Case, inputs: list[Array | None], capability: int) -> Array:
    laid = [t if t is None or i > 2 else _lay_out(t, case.layouts[i]) for i, t in enumerate(inputs)]
    shape = (case.batch, case.queries, case.heads, case.values)
    axes = {0: (0, 1, 2, 3), 1: (0, 2, 1, 3), 3: (1, 0, 2, 3)}[case.layouts[3]]
    (o,) = harness.run(
        "attention_prefill",
        laid,
        [(tuple(shape[a] for a in axes), DTYPES[case.dtype])],
        ints=[*case.layouts, case.left, case.right, int(case.at_end), 0, case.variant],
        floats=[case.used_scale, case.softcap],
        capability=capability,
    )
    return o.transpose(np.argsort(axes))


def _check(case: Case, capability: int) -> None:
    """Each element is off by no more than: a rounding of each weight and of the result, and what float32 loses in scores."""
    inputs = _inputs(case)
    expected, weighed = _reference(case, inputs)
    o = _run(case, inputs, capability).astype(np.float64)
    unit = ROUNDING[case.dtype]
    # A score of the size n is off by about n 2^-23 (sums in tensor cores are cut off), a weight by as much, relatively; capped ones by 2^-22 softcap.
    scores = 2.0**-21 * (case.spread * case.size * case.used_scale * 4 + case.softcap) + 2.0**-20
    bound = weighed * (unit + 2 * scores) + np.abs(expected) * unit + 2.0**-24
    error = np.abs(o - expected)
    assert np.isfinite(o).all()
    worst = np.unravel_index(np.argmax(error - bound), error.shape)
    assert (error <= bound).all(), f"{case} at {worst}: {o[worst]} instead of {expected[worst]}, {error[worst] / bound[worst]:.2f} times the bound"


PATHS = pytest.mark.parametrize("capability", [HOPPER, AMPERE])


@PATHS
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("size", [64, 96, 128, 256])
def test_each_head_size_in_both_types(capability: int, dtype: str, size: int) -> None:
    _check(Case(dtype=dtype, size=size, queries=70, keys=150, right=0), capability)


@PATHS
@pytest.mark.parametrize("sizes", [(8, 8), (40, 72), (104, 80), (200, 136)])
def test_sizes_between_are_padded(capability: int, sizes: tuple[int, int]) -> None:
    _check(Case(size=sizes[0], value_size=sizes[1], queries=33, keys=70), capability)


@PATHS
@pytest.mark.parametrize("layout", [0, 1, 3])
def test_layouts(capability: int, layout: int) -> None:
    _check(Case(batch=2, queries=20, keys=40, heads=2, kv_heads=2, layouts=(layout,) * 4), capability)
    _check(Case(batch=2, queries=20, keys=40, heads=2, kv_heads=2, layouts=(0, 1, layout, 1)), capability)


@PATHS
@pytest.mark.parametrize("at_end", [True, False])
@pytest.mark.parametrize(("left", "right"), [(-1, 0), (-1, 5), (30, 0), (100, 7), (0, 0), (3, -1), (200, -1)])
def test_windows(capability: int, left: int, right: int, at_end: bool) -> None:
    _check(Case(queries=150, keys=290, heads=1, left=left, right=right, at_end=at_end), capability)


@PATHS
def test_more_queries_than_keys_leave_the_first_without_any(capability: int) -> None:
    case = Case(queries=200, keys=40, right=0)
    inputs = _inputs(case)
    o = _run(case, inputs, capability)
    assert not o[:, :160].any()
    _check(case, capability)


@PATHS
@pytest.mark.parametrize("wide", [True, False])
def test_keys_past_a_row_s_length_are_not_looked_at(capability: int, wide: bool) -> None:
    case = Case(batch=4, queries=40, keys=150, lengths=(150, 1, 0, 131), wide_lengths=wide)
    _check(case, capability)
    _check(replace(case, right=0, left=20), capability)
    _check(replace(case, right=0, at_end=False), capability)


@PATHS
@pytest.mark.parametrize("softcap", [50.0, 2.0])
def test_softcap(capability: int, softcap: float) -> None:
    _check(Case(queries=40, keys=150, softcap=softcap, spread=4, right=0), capability)


@PATHS
def test_groups_of_heads_read_their_own_keys(capability: int) -> None:
    _check(Case(batch=2, queries=40, keys=70, heads=6, kv_heads=2), capability)


@PATHS
def test_scores_that_grow_and_shrink_along_the_keys(capability: int) -> None:
    """The running maximum has to follow, by much and by little."""
    case = Case(queries=40, keys=400, heads=1, dtype="float16")
    for direction in (1, -1):
        inputs = _inputs(case)
        assert inputs[0] is not None
        assert inputs[1] is not None
        inputs[0][..., 0] = 8
        inputs[1][..., 0] = (np.linspace(-30, 30, case.keys)[::direction])[None, :, None]
        expected, weighed = _reference(case, inputs)
        o = _run(case, inputs, capability).astype(np.float64)
        assert np.isfinite(o).all()
        assert (np.abs(o - expected) <= weighed * 2.0**-9 + 2.0**-20).all()


@PATHS
def test_a_nan_or_an_infinite_score_gives_nan_to_its_query_alone(capability: int) -> None:
    case = Case(queries=40, keys=70, heads=1)
    for bad in (np.nan, np.inf):
        inputs = _inputs(case)
        assert inputs[0] is not None
        assert inputs[1] is not None
        inputs[1][..., 3] = 1
        inputs[0][0, 7, 0, 3] = bad
        o = _run(case, inputs, capability)
        assert np.isnan(o[0, 7].astype(np.float32)).all()
        assert np.isfinite(np.delete(o, 7, axis=1).astype(np.float32)).all()


@pytest.mark.parametrize("size", [64, 96, 128, 256])
def test_masks_slopes_and_sinks(size: int) -> None:
    """Ampere's path takes masks and slopes, also on Hopper."""
    case = Case(batch=2, queries=40, keys=70, size=size, mask=(2, 2, 40, 70), slopes=True, sinks=True, right=0)
    for capability in (HOPPER, AMPERE):
        _check(case, capability)


@pytest.mark.parametrize("mask_type", ["bool", "float32", "float16", "bfloat16"])
@pytest.mark.parametrize("shape", [(70,), (40, 1), (2, 1, 1, 70), (1, 4, 40, 70)])
def test_a_mask_is_broadcast(mask_type: str, shape: tuple[int, ...]) -> None:
    _check(Case(batch=2, queries=40, keys=70, heads=4, mask=shape, mask_type=mask_type), HOPPER)


def test_slopes_and_sinks_by_themselves() -> None:
    case = Case(queries=40, keys=150, heads=4, kv_heads=2)
    _check(replace(case, slopes=True, lengths=(131,)), HOPPER)
    for capability in (HOPPER, AMPERE):
        _check(replace(case, sinks=True, softcap=5.0), capability)
        _check(replace(case, sinks=True, right=0, queries=200), capability)
        _check(replace(case, sinks=True, lengths=(0,)), capability)


def test_a_row_that_is_masked_by_the_least_float_weighs_its_keys_evenly() -> None:
    case = Case(queries=4, keys=70, heads=1, mask=(1, 1, 4, 70))
    inputs = _inputs(case)
    inputs[3] = np.full((1, 1, 4, 70), np.finfo(np.float32).min, np.float32)
    o = _run(case, inputs, HOPPER).astype(np.float64)
    assert inputs[2] is not None
    mean = inputs[2].astype(np.float64).mean(1)[:, None]
    assert (np.abs(o - mean) <= 2.0**-7).all()


@PATHS
@pytest.mark.parametrize("scale", [0.5, -0.25])
def test_a_scale_of_its_own(capability: int, scale: float) -> None:
    _check(Case(queries=40, keys=70, scale=scale), capability)


@pytest.mark.parametrize("size", [64, 128, 256])
@pytest.mark.parametrize("variant", [1, 2, 3, 4, 5, 6])
def test_other_tiles_give_the_same(size: int, variant: int) -> None:
    _check(Case(size=size, queries=70, keys=230, heads=1, right=0, variant=variant), HOPPER)


@pytest.mark.parametrize(("size", "variant"), [(128, variant) for variant in range(7)] + [(64, 0), (96, 0), (256, 0)])
def test_blocks_take_several_tiles(size: int, variant: int) -> None:
    """With and without a counter; the emulator has four multiprocessors, and here are 24 tiles or more."""
    _check(Case(batch=3, queries=195, keys=230, heads=4, kv_heads=2, size=size, right=0, lengths=(230, 0, 90), variant=variant), HOPPER)


@PATHS
def test_extents_of_zero(capability: int) -> None:
    assert not _run(Case(queries=3, keys=0), _inputs(Case(queries=3, keys=0)), capability).any()
    for case in (Case(queries=0), Case(batch=0)):
        assert _run(case, _inputs(case), capability).size == 0


@pytest.mark.parametrize(
    "case", [Case(size=60), Case(size=264), Case(size=64, value_size=4)], ids=["60 columns", "264 columns", "4 columns of values"]
)
def test_what_it_does_not_take_is_refused_in_a_sentence(case: Case) -> None:
    with pytest.raises(harness.KernelError, match=r"attention takes everything else|at most 256"):
        _run(case, _inputs(case), HOPPER)


@pytest.mark.gpu
@PATHS
@pytest.mark.parametrize("size", [64, 80, 128, 256])
@pytest.mark.parametrize("right", [0, -1])
def test_real_sizes(capability: int, size: int, right: int) -> None:
    """Many tiles for each block, more keys than the cache holds, rows of all lengths."""
    _check(Case(batch=2, queries=1000, keys=2100, heads=4, kv_heads=2, size=size, right=right), capability)
    _check(Case(dtype="float16", batch=3, queries=777, keys=1111, heads=4, kv_heads=4, size=size, right=right, lengths=(1111, 5, 640)), capability)
    _check(Case(batch=40, queries=130, keys=300, heads=8, kv_heads=1, size=size, left=90, right=right), capability)
    _check(Case(batch=2, queries=300, keys=8192, heads=16, kv_heads=8, size=size, right=right), capability)
