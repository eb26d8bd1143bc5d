"""What the attention kernel reads of a cache: types, slots of rings, pages, sinks, positions; against the definition in float64."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ingot.errors import ExecutionError
from tests.kernels.attention_cases import INSTRUCTION_SETS, PAGES, PLAIN, RING, UNIT, Case, Data, check, distances, make, reference, run

DIRECT, PACKED = 2, 40  # queries of the two ways through the kernel


@pytest.fixture(params=INSTRUCTION_SETS, autouse=True)
def instructions(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Forces one instruction set: kernels are picked when a model is loaded."""
    monkeypatch.setenv("INGOT_ISA", request.param)
    name: str = request.param
    return name


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("cache", ["float32", "float16", "bfloat16", "int8"])
@pytest.mark.parametrize("storage", [PLAIN, RING, PAGES])
def test_a_step_of_generation_reads_a_cache_of_any_type_and_place(storage: str, cache: str, threads: int, tmp_path: Path) -> None:
    step = Case(batch=2, queries=1, keys=1600, kv_heads=2, group=4, size=128, value_size=128, scale=0.0884, right=0, at_end=True, lengths=True,
                cache=cache, storage=storage, page_size=16, sink_keys=4 if storage == RING else 0)
    check(step, make(step), tmp_path, threads)
    half = replace(step, dtype="bfloat16", keys=128, group=3, size=40, value_size=24)
    check(half, make(half), tmp_path, threads)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("cache", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("storage", [PLAIN, RING, PAGES])
def test_a_step_of_generation_reads_heads_that_lie_side_by_side(storage: str, cache: str, threads: int, tmp_path: Path) -> None:
    # Of 37 heads some units have 32 and some 5, or fewer where there are more threads; sizes are none of whole vectors.
    step = Case(batch=2, queries=1, keys=530, kv_heads=37, group=1, size=28, value_size=52, right=0, at_end=True, lengths=True, cache=cache,
                storage=storage, page_size=10, sinks=True, sink_keys=4 if storage == RING else 0)
    check(step, make(step), tmp_path, threads)
    paired = replace(step, kv_heads=5, group=5, size=72, value_size=104, queries=1)
    check(paired, make(paired), tmp_path, threads)


@pytest.mark.parametrize("queries", [DIRECT, PACKED])
@pytest.mark.parametrize("storage", [PLAIN, RING, PAGES])
def test_slopes_and_windows_count_positions(storage: str, queries: int, tmp_path: Path) -> None:
    case = Case(batch=2, queries=queries, keys=300, kv_heads=2, group=2, size=20, value_size=12, left=50, right=0, at_end=True, slopes=True,
                sink_keys=3, storage=storage, page_size=12)
    data = make(case)
    check(case, data, tmp_path)
    if storage == RING:
        assert data.ring is not None
        data.ring[:, 0] = (3, 2**40)  # far behind the sinks, whose slopes then leave them no weight
        assert distances(case, data).min() < -(2**39)
        check(case, data, tmp_path)


@pytest.mark.parametrize("queries", [DIRECT, PACKED])
def test_the_first_keys_stay_visible_behind_a_window(queries: int, tmp_path: Path) -> None:
    case = Case(queries=queries, keys=1000, left=9, right=0, at_end=True, sink_keys=4)
    data = make(case)
    data.k[:] = 0  # all keys that are seen weigh the same
    data.v[:] = 0
    data.v[0, :4] = 14
    np.testing.assert_allclose(run(case, data, tmp_path), 4, rtol=8 * UNIT)  # 4 of the 14 that are seen
    check(case, data, tmp_path)
    early = replace(case, keys=queries)  # positions before the sinks end: a query does not see sinks behind it
    check(early, make(early), tmp_path)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("cache", ["float32", "float16", "bfloat16", "int8"])
@pytest.mark.parametrize("queries", [DIRECT, PACKED])
def test_the_first_keys_may_have_queries_of_their_own(queries: int, cache: str, threads: int, tmp_path: Path) -> None:
    case = Case(batch=2, queries=queries, keys=1700, kv_heads=2, group=3, size=24, value_size=40, left=1200, right=0, at_end=True, sink_keys=5,
                sink_queries=True, lengths=True, storage=RING, cache=cache)
    for storage in (RING, PLAIN):
        stored = replace(case, storage=storage)
        data = make(stored)
        check(stored, data, tmp_path, threads)
    both = run(case, make(case), tmp_path, threads)
    assert np.abs(both - run(replace(case, sink_queries=False), replace(make(case), sink_q=None), tmp_path, threads)).max() > 0.01
    whole = replace(case, left=-1, lengths=False, storage=PLAIN, sink_keys=130, dtype="bfloat16", cache=cache)  # more than a block of them
    check(whole, make(whole), tmp_path, threads)


@pytest.mark.parametrize("queries", [DIRECT, PACKED])
def test_a_ring_is_the_same_attention_wherever_it_starts(queries: int, tmp_path: Path) -> None:
    case = Case(queries=queries, keys=140, size=16, left=120, right=0, at_end=True, sink_keys=5, storage=RING, cache="int8")
    data = make(case)
    found = []
    for position, slot in ((5, 5), (5, 6), (5, 139), (777, 70)):
        data.ring = np.array([[position, slot]])
        check(case, data, tmp_path)
        found.append(run(case, data, tmp_path))
    for other in found[1:3]:
        np.testing.assert_array_equal(found[0], other)  # only where they lie differs, so not even the rounding does


@pytest.mark.parametrize("queries", [DIRECT, PACKED])
def test_a_sink_takes_weight_and_gives_no_value(queries: int, tmp_path: Path) -> None:
    case = Case(queries=queries, keys=700, kv_heads=1, group=3, sinks=True, scale=1.0)
    data = make(case)
    data.sinks = np.array([-np.inf, 1e4, -1e4], np.float32)
    check(case, data, tmp_path)
    found = run(case, data, tmp_path)
    plain = run(replace(case, sinks=False), Data(data.q, data.k, data.v), tmp_path)
    np.testing.assert_array_equal(found[:, :, [0]], plain[:, :, [0]])
    assert (found[:, :, 1] == 0).all()
    data.sinks = np.array([np.inf, np.nan, 0], np.float32)
    found = run(case, data, tmp_path)
    assert np.isnan(found[:, :, :2]).all()
    assert np.isfinite(found[:, :, 2]).all()


@pytest.mark.parametrize("queries", [DIRECT, PACKED])
@pytest.mark.parametrize("storage", [PLAIN, RING, PAGES])
def test_without_visible_keys_there_are_zeros(storage: str, queries: int, tmp_path: Path) -> None:
    for sinks in (False, True):
        case = Case(batch=3, queries=queries, keys=24, sinks=sinks, sink_keys=2, slopes=True, storage=storage, cache="int8", right=0, at_end=True)
        data = make(case)
        assert data.k_scales is not None
        assert data.v_scales is not None
        data.lengths = np.array([0, 1, 24], np.int32)
        for b, length in enumerate(data.lengths):
            data.k_scales[b, length:] = data.v_scales[b, length:] = np.nan
        found = run(case, data, tmp_path)
        assert (found[0] == 0).all()
        assert (found[1, :-1] == 0).all()
        assert (found[1:, -1] != 0).any()
        check(case, data, tmp_path)


def test_large_scales_and_codes_stay_exact(tmp_path: Path) -> None:
    for queries in (DIRECT, PACKED):
        case = Case(queries=queries, keys=200, cache="int8", scale=1.0)
        data = make(case)
        assert data.k_scales is not None
        assert data.v_scales is not None
        data.k[:, ::7] = -128
        data.k_scales *= 1e5
        data.v_scales[:] = 2.0**100
        scores = np.einsum("bshd,bthd->bhst", data.q.astype(np.float64), data.k * data.k_scales[..., None].astype(np.float64))
        best = scores[0, 0].argmax(axis=-1)
        np.testing.assert_array_equal(run(case, data, tmp_path)[0, :, 0], data.v[0, best, 0] * np.float32(2.0**100))


def test_infinite_scores_and_nan_in_a_cache_give_nan_to_who_sees_them(tmp_path: Path) -> None:
    for queries in (DIRECT, PACKED):
        case = Case(queries=queries, keys=200, right=0, at_end=True, cache="int8", storage=PAGES, page_size=8)
        data = make(case)
        assert data.k_scales is not None
        data.k_scales[:, 199] = np.nan
        found = run(case, data, tmp_path)
        assert np.isnan(found[:, -1]).all()
        assert np.isfinite(found[:, :-1]).all()


def test_what_does_not_fit_a_cache_is_an_error(tmp_path: Path) -> None:
    def message(case: Case, **change: Any) -> str:
        data = make(case)
        for name, value in change.items():
            setattr(data, name, value)
        with pytest.raises(ExecutionError) as caught:
            run(case, data, tmp_path)
        return str(caught.value)

    integers, ring = Case(cache="int8"), Case(storage=RING, sink_keys=2)
    assert "K of int8 needs scales" in message(integers, k_scales=None)
    assert "scales of V are float32 [1, 7, 1]" in message(integers, v_scales=np.ones((1, 6, 1), np.float32))
    assert "go with int8 alone" in message(Case(), k_scales=np.ones((1, 7, 1), np.float32))
    assert "slopes are float32 [1]" in message(Case(), slopes=np.ones(2, np.float32))
    assert "sinks are float32 [1]" in message(Case(), sinks=np.ones(1, np.float16))
    assert "sink_keys is -1" in message(Case(sink_keys=-1))
    assert "sink queries are float32 [1, 5, 1, 8] like Q, not float32 [1, 5, 1, 4]" in message(Case(), sink_q=np.ones((1, 5, 1, 4), np.float32))
    assert "like Q, not float16" in message(Case(), sink_q=np.ones((1, 5, 1, 8), np.float16))
    assert "stands at 1, which is not of 2" in message(ring, ring=np.array([[1, 2]]))
    assert "slot 7, which is not of 2 to 6" in message(Case(sink_keys=2), ring=np.array([[2, 7]]))
    assert "a ring is int64 or int32 [1, 2]" in message(Case(), ring=np.zeros((2, 1), np.int64))
    for page in (-1, 1):
        assert f"page 0 of batch 0 is {page}, which is not of 0 to 0" in message(Case(), pages=np.array([[page]], np.int32))
    assert "in pages or in a ring" in message(Case(), pages=np.array([[0]], np.int32), ring=np.zeros((1, 2), np.int64))
    assert "pages are int32 [1, most pages of a batch]" in message(Case(), pages=np.array([[0]]))
    assert "key length of 15" in message(Case(), pages=np.array([[0, 0]], np.int32), lengths=np.array([15]))


def test_pages_may_be_shared_and_lie_in_any_layout(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for queries in (DIRECT, PACKED):
        for layout in (0, 1, 2, 3):
            case = Case(batch=2, queries=queries, keys=12, kv_heads=2, group=2, layouts=(0, layout, min(layout, 1), 0))
            data = make(case)
            pools = [rng.standard_normal((5, 4, 2, 8)).astype(np.float32) for _ in range(2)]
            pages = np.array([[3, 1, 3], [1, 0, 4]], np.int32)
            keys, values = (pool[pages].reshape(2, 12, 2, 8) for pool in pools)
            expected, bound = reference(case, Data(data.q, keys, values))
            found = run(case, Data(data.q, pools[0], pools[1], pages=pages), tmp_path)
            assert (np.abs(found - expected) <= bound).all()
