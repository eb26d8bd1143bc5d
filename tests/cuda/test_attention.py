"""The CUDA kernel `attention` (kernels/cuda/attention, kernels/cuda/attention_decode) against the definition in float64."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import harness
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st


def _load() -> Any:
    """tests/kernels/attention_reference.py, by its path: on a GPU machine there is no package of tests."""
    path = Path(__file__).parents[1] / "kernels" / "attention_reference.py"
    spec = importlib.util.spec_from_file_location("attention_reference", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["attention_reference"] = module
    spec.loader.exec_module(module)
    return module


ref = _load()
UNIT = 2.0**-23  # tensor cores cut sums of float32 off
FEW = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
WIDE = {"float16": 2.0**-11, "bfloat16": 2.0**-8}  # how far a number may be from what it is rounded to, with what the sum of many may add


def call(case: Any, data: Any, *, capability: int = 0, variant: int | None = None, kernel: str = "attention") -> np.ndarray:
    """The kernel's output as [B, S, Hq, Dv]."""
    lying = ref.stored(case, data)
    arrays = [x.transpose(ref.AXES[layout]) for x, layout in zip((lying.q, lying.k, lying.v), case.layouts, strict=False)]
    optional = [lying.mask, lying.lengths, lying.slopes, lying.sinks, lying.k_scales, lying.v_scales, lying.pages, lying.ring,
                None if lying.sink_q is None else lying.sink_q.transpose(ref.AXES[case.layouts[0]])]
    shape = (case.batch, case.queries, case.heads, case.value_size)
    ints = [*case.layouts, case.left, case.right, int(case.at_end), case.sink_keys] + ([] if variant is None else [variant])
    output, = harness.run(kernel, [*arrays, *optional], [([shape[axis] for axis in ref.AXES[case.layouts[3]]], ref.numpy_type(case.dtype))],
                          ints=ints, floats=[case.scale, case.softcap], capability=capability)
    return output.transpose(np.argsort(ref.AXES[case.layouts[3]]))


def bound_of(case: Any, data: Any) -> np.ndarray:
    """What rounding may change: the definition's bound for float32, and what products of 16 bits add."""
    _, exact = ref.reference(case, data)
    multiplied = "bfloat16" if (case.cache or case.dtype) == "bfloat16" else "float16"
    if (case.cache or case.dtype) == "float32":
        return 4 * exact
    q, k, v = data.q.astype(np.float64), ref.floats(data.k, data.k_scales), ref.floats(data.v, data.v_scales)
    if data.sink_q is not None:
        q = np.maximum(np.abs(q), np.abs(data.sink_q.astype(np.float64)))
    for x in (k, v):
        x[np.arange(case.keys) >= ref.lengths_of(case, data)[:, None]] = 0
    largest = np.abs(v).max(initial=0)
    # Q of more bits is multiplied in two parts, which leave WIDE^2 of it; f16 has steps of 2^-24 of the row's greatest element.
    twice = case.dtype == "float32" or (multiplied == "bfloat16" and case.dtype == "float16")
    rounding = WIDE[multiplied] ** 2 if twice else WIDE[multiplied]
    of_q = (rounding if twice else 0) + (case.size + 10) * UNIT
    k = np.repeat(k, case.group, axis=2)
    magnitude = np.einsum("bshd,bthd->bhst", np.abs(q), np.abs(k)).max(initial=0) * of_q
    magnitude += np.abs(q).max(initial=0) * np.abs(k).sum(axis=-1).max(initial=0) * 2.0**-24
    scores = 2 * magnitude * abs(case.scale)
    return 4 * exact + (scores + rounding + (case.keys + 17) * UNIT + case.keys * 2.0**-24) * largest


def check(case: Any, data: Any = None, **options: Any) -> None:
    data = ref.make(case) if data is None else data
    expected, _ = ref.reference(case, data)
    found = call(case, data, **options).astype(np.float64)
    bound = bound_of(case, data)
    assert np.isfinite(found).all()
    assert (np.abs(found - expected) <= bound).all(), f"{np.abs(found - expected).max()} where {bound.max()} may be: {case}"


def reduced(case: Any) -> Any:
    """A case of the CPU's tests that the emulator does in a moment."""
    keys = min(case.keys, 70)
    if case.storage == ref.PAGES:
        keys = min(case.keys // case.page_size, max(1, 64 // case.page_size)) * case.page_size
    return replace(case, queries=min(case.queries, 9), keys=keys)


FP8 = st.sampled_from([None, None, None, True, False])


@FEW
@given(ref.CASES, FP8)
def test_attention_follows_the_definition(case: Any, fp8: bool | None) -> None:
    case = reduced(case)
    check(case if fp8 is None else replace(case, cache="float8_e4m3fn", scaled=fp8))


DECODES = st.builds(
    ref.Case,
    batch=st.integers(1, 2), queries=st.sampled_from([1, 1, 1, 2, 3, 8]), keys=st.one_of(st.integers(0, 40), st.integers(41, 200)),
    kv_heads=st.integers(1, 2), group=st.sampled_from([1, 2, 4, 5, 8]), size=st.sampled_from([64, 96, 128, 256]),
    left=st.one_of(st.just(-1), st.integers(0, 60)), right=st.sampled_from([0, 0, -1, 3]), at_end=st.just(True), scale=st.sampled_from([0.125, -0.2]),
    softcap=st.sampled_from([0.0, 0.0, 5.0]), lengths=st.booleans(), dtype=st.sampled_from(["float32", "float16", "bfloat16"]),
    sink_keys=st.one_of(st.just(0), st.integers(1, 40)), slopes=st.booleans(), sinks=st.booleans(), sink_queries=st.booleans(),
    cache=st.sampled_from(["float16", "bfloat16", "int8", "float8_e4m3fn"]), scaled=st.booleans(),
    storage=st.sampled_from([ref.PLAIN, ref.RING, ref.PAGES]), layouts=st.sampled_from([(0, 0, 0, 0), (1, 1, 1, 1), (0, 1, 1, 0), (3, 3, 3, 3)]),
    page_size=st.sampled_from([1, 5, 16, 32]), seed=st.integers(0, 2**32 - 1),
).map(lambda case: replace(case, value_size=case.size, keys=-(-case.keys // case.page_size) * case.page_size))


@FEW
@given(DECODES, st.sampled_from([0, 0, 1, 2, 3, 7]), st.sampled_from([80, 89, 90]))
def test_few_queries_of_all_caches_follow_the_definition(case: Any, parts: int, capability: int) -> None:
    check(case, variant=parts, capability=capability)


PREFILLS = st.builds(
    ref.Case,
    batch=st.integers(1, 2), queries=st.sampled_from([1, 17, 66, 130, 140]), keys=st.sampled_from([1, 40, 131, 190, 270]), kv_heads=st.integers(1, 2),
    group=st.integers(1, 2), size=st.sampled_from([16, 64, 96, 120]), left=st.sampled_from([-1, 0, 5, 30, 64, 100]),
    right=st.sampled_from([0, 0, -1, 3]), at_end=st.sampled_from([True, True, False]), scale=st.sampled_from([0.125, 0.2, -0.2]),
    softcap=st.sampled_from([0.0, 0.0, 5.0]), lengths=st.booleans(), dtype=st.sampled_from(["float16", "bfloat16"]),
    sink_keys=st.sampled_from([0, 1, 4, 64, 70, 129]), mask=st.sampled_from([None, None, None, "bool"]), slopes=st.sampled_from([False, False, True]),
    sinks=st.booleans(), sink_queries=st.booleans(), storage=st.sampled_from([ref.PLAIN, ref.RING]),
    layouts=st.sampled_from([(0, 0, 0, 0), (1, 1, 1, 1)]), seed=st.integers(0, 2**32 - 1),
).map(lambda case: replace(case, value_size=case.size))


@FEW
@given(PREFILLS, st.sampled_from([80, 90]))
def test_many_queries_of_windows_with_pinned_keys_follow_the_definition(case: Any, capability: int) -> None:
    check(case, capability=capability, kernel="attention_prefill")


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("size", [64, 96, 128, 256])
def test_pinned_keys_of_each_head_size_lie_in_blocks_of_their_own(size: int, dtype: str, capability: int) -> None:
    """The window of most queries begins many blocks behind the pinned keys; those of the first ones begin in their block."""
    plain = ref.Case(batch=1, queries=150, keys=500, kv_heads=1, group=2, size=size, value_size=size, left=99, right=0, at_end=True, scale=0.1,
                     sink_keys=5, sinks=True, dtype=dtype)
    check(plain, capability=capability, kernel="attention_prefill")
    check(replace(plain, keys=200, lengths=True), capability=capability, kernel="attention_prefill")
    check(replace(plain, storage=ref.RING, sink_queries=True), capability=capability, kernel="attention_prefill")


@pytest.mark.parametrize("capability", [80, 89, 90])
@pytest.mark.parametrize("cache", ["float16", "bfloat16", "int8"])
def test_sink_queries_of_the_largest_heads_fit_or_are_left_to_the_general_kernel(cache: str, capability: int) -> None:
    """On 8.9 two rows of float32 for each of 16 queries, Q's and sinks', and two stages are more than a block can have."""
    case = ref.Case(batch=1, queries=2, keys=150, kv_heads=1, group=4, size=256, value_size=256, left=60, right=0, at_end=True, scale=0.06,
                    sink_keys=4, sink_queries=True, cache=cache, storage=ref.RING, dtype="float32")
    check(case, capability=capability)


@pytest.mark.parametrize("cache", ["float32", "float16", "bfloat16", "int8", "float8_e4m3fn"])
def test_parts_without_keys_and_whole_rows_without_keys_are_nothing(cache: str) -> None:
    case = ref.Case(batch=3, queries=1, keys=150, kv_heads=2, group=4, size=64, value_size=64, at_end=True, right=0, cache=cache, sinks=True)
    data = ref.make(case)
    data.lengths = np.array([0, 1, 150])
    for b, length in enumerate(data.lengths):
        ref.poison(data, (b, slice(length, None)))
    for parts in (1, 2, 40):
        check(case, data, variant=parts)
    assert not call(case, data)[0].any()


@pytest.mark.parametrize("cache", ["float32", "float16", "bfloat16"])
def test_a_score_that_is_no_number_makes_its_row_nan(cache: str) -> None:
    case = ref.Case(batch=1, queries=1, keys=40, kv_heads=1, group=2, size=64, value_size=64, cache=cache, dtype="float32")
    data = ref.make(case)
    data.q[0, 0, 1, 3] = np.nan
    for parts in (1, 3):
        found = call(case, data, variant=parts)
        assert np.isnan(found[0, 0, 1]).all()
        assert np.isfinite(found[0, 0, 0]).all()


def test_scales_of_values_from_tiny_to_huge_keep_their_accuracy() -> None:
    case = ref.Case(batch=1, queries=2, keys=100, kv_heads=1, group=4, size=64, value_size=64, at_end=True, cache="int8")
    data = ref.make(case)
    data.v_scales[0, :, 0] = np.where(np.arange(100) % 3 == 0, 1e-30, 10.0 ** np.linspace(-20, 4, 100))
    check(case, data)


def test_lengths_rings_and_pages_that_do_not_exist_stay_in_bounds() -> None:
    case = ref.Case(batch=2, queries=1, keys=32, kv_heads=1, group=2, size=64, value_size=64, at_end=True, cache="float16")
    data = ref.make(case)
    data.lengths = np.array([-5, 1 << 40])
    output = call(case, data)
    assert not output[0].any()
    for cache in ("float16", "float32"):
        paged = replace(case, storage=ref.PAGES, page_size=16, cache=cache)
        lying = ref.stored(paged, ref.make(paged))
        lying.pages = np.array([[-1, 1 << 30], [0, 1]], np.int32)
        inputs = [lying.q, lying.k, lying.v, None, None, None, None, None, None, lying.pages]
        harness.run("attention", inputs, [((2, 1, 2, 64), np.float32)], ints=[0, 0, 0, 0, -1, 0, 1, 0], floats=[0.1, 0])
        ring = np.array([[-7, 99], [1 << 62, -1]])
        dense = ref.make(replace(case, cache=cache))
        inputs = [dense.q, dense.k, dense.v, *[None] * 7, ring]
        harness.run("attention", inputs, [((2, 1, 2, 64), np.float32)], ints=[0, 0, 0, 0, -1, 0, 1, 3], floats=[0.1, 0])


def test_what_does_not_fit_is_refused_with_a_sentence() -> None:
    q = np.zeros((1, 1, 4, 64), np.float32)
    k = np.zeros((1, 8, 2, 64), np.int8)
    with pytest.raises(harness.KernelError, match="K of int8 needs scales"):
        harness.run("attention", [q, k, k], [(q.shape, np.float32)], ints=[0, 0, 0, 0, -1, 0, 1, 0], floats=[0.1, 0])
    wrong = np.zeros((1, 8, 3, 64), np.float32)
    with pytest.raises(harness.KernelError, match="does not fit together"):
        harness.run("attention", [q, wrong, wrong], [(q.shape, np.float32)], ints=[0, 0, 0, 0, -1, 0, 1, 0], floats=[0.1, 0])


@pytest.mark.gpu
@pytest.mark.parametrize("cache", ["float32", "float16", "bfloat16", "int8", "float8_e4m3fn"])
@pytest.mark.parametrize("storage", ["plain", "ring", "pages"])
@pytest.mark.parametrize("batch", [1, 5])
def test_long_caches(cache: str, storage: str, batch: int) -> None:
    dtype = "bfloat16" if cache in ("bfloat16", "int8") else "float16" if cache == "float16" else "float32"
    case = ref.Case(batch=batch, queries=1, keys=4096, kv_heads=4, group=8, size=128, value_size=128, at_end=True, right=0, scale=0.088, cache=cache,
                    dtype=dtype, storage=storage, page_size=64, lengths=True, sink_keys=4 if storage == "ring" else 0,
                    left=3000 if storage == "ring" else -1)
    check(case)
    check(replace(case, queries=4))
