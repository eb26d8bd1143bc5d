"""The attention kernel against the definition in float64, under every instruction set that this machine has."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ingot.errors import ExecutionError
from tests.kernels.attention_cases import CASES, INSTRUCTION_SETS, UNIT, Case, Data, check, make, numpy_type, reference, run


@pytest.fixture(params=INSTRUCTION_SETS, autouse=True)
def instructions(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Forces one instruction set: kernels are picked when a model is loaded."""
    monkeypatch.setenv("INGOT_ISA", request.param)
    name: str = request.param
    return name


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(case=CASES)
def test_attention_is_its_definition(case: Case, tmp_path: Path) -> None:
    check(case, make(case), tmp_path)


def _few_rows(case: Case) -> Case:
    """A case like a step of generation in bfloat16, with heads that are whole registers of matrices."""
    sizes = {name: max(32, getattr(case, name) // 32 * 32) for name in ("size", "value_size")}
    return replace(case, queries=1 + case.queries % (8 // case.group), dtype="bfloat16", cache=None, **sizes)


def _whole_blocks(case: Case) -> Case:
    """A case of bfloat16 whose queries are whole blocks of rows of one head, and whose keys are one block."""
    sizes = {name: max(32, getattr(case, name) // 32 * 32) for name in ("size", "value_size")}
    return replace(case, queries=32 * (1 + case.queries % 5), keys=min(case.keys, 256 // case.page_size * case.page_size), group=1, sink_keys=0,
                   sink_queries=False, dtype="bfloat16", cache=None, **sizes)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(case=st.one_of(CASES.map(_few_rows), CASES.map(_whole_blocks)))
def test_bfloat16_in_whole_registers_is_its_definition(case: Case, tmp_path: Path) -> None:
    check(case, make(case), tmp_path)


@pytest.mark.parametrize("case", [
    Case(batch=2, queries=128, keys=128, kv_heads=3, size=64, value_size=64, scale=0.125, mask="float32", mask_axes=(True, False, False, True)),
    Case(queries=300, keys=300, kv_heads=2, size=64, value_size=64, scale=0.125, layouts=(0, 1, 0, 1)),
    Case(queries=257, keys=1000, kv_heads=1, group=4, size=128, value_size=128, scale=0.0884, right=0, at_end=True),
    Case(queries=515, keys=515, kv_heads=1, size=80, value_size=96, scale=0.11, right=0, left=99, layouts=(1, 1, 1, 1)),
    Case(queries=64, keys=64, kv_heads=1, size=256, value_size=256, scale=0.0625, softcap=50.0),
    Case(queries=50, keys=3000, kv_heads=1, size=40, value_size=40, layouts=(1, 2, 1, 1), lengths=True, batch=2),
], ids=["bert", "whisper", "llama", "window", "gemma", "lengths"])
def test_shapes_of_models(case: Case, tmp_path: Path) -> None:
    check(case, make(case), tmp_path)


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
@pytest.mark.parametrize("case", [
    Case(queries=1, keys=5000, group=4, size=128, value_size=128, scale=0.0884, right=0, at_end=True),
    Case(queries=1, keys=5001, kv_heads=3, size=64, value_size=64, layouts=(1, 1, 1, 1), dtype="bfloat16"),
    Case(queries=2, keys=4096, group=3, size=72, value_size=72, batch=2, lengths=True, right=0, at_end=True),
    Case(queries=20, keys=4096, size=64, value_size=64, right=0, left=700, at_end=True),
    Case(queries=3, keys=3000, size=32, value_size=32, mask="bool", lengths=True, batch=3, at_end=True, left=1200),
], ids=["group", "bfloat16", "lengths", "block", "mask"])
def test_keys_are_divided_among_threads(case: Case, threads: int, tmp_path: Path) -> None:
    check(case, make(case), tmp_path, threads)


def test_a_row_without_keys_gives_zeros(tmp_path: Path) -> None:
    for case in (Case(queries=20, keys=20, mask="float32"), Case(queries=2, keys=20, mask="bool"), Case(queries=20, keys=1500, mask="float32")):
        data = make(case)
        assert data.mask is not None
        data.mask[:, :, 1::2] = -np.inf if case.mask == "float32" else False
        found = run(case, data, tmp_path)
        assert (found[:, 1::2] == 0).all()
        assert (found[:, ::2] != 0).any()
        check(case, data, tmp_path)
    early = Case(queries=30, keys=7, right=0, at_end=True)  # the first 23 queries stand before the first key
    assert (run(early, make(early), tmp_path)[:, :23] == 0).all()
    check(early, make(early), tmp_path)


def test_heads_of_no_features_weigh_all_keys_alike(tmp_path: Path) -> None:
    for layouts in ((0, 0, 0, 0), (0, 1, 1, 0), (0, 2, 0, 0)):
        for queries, keys, heads in ((1, 1, 3), (1, 5, 2), (40, 70, 2), (100, 70, 1)):
            case = Case(queries=queries, keys=keys, kv_heads=heads, size=0, value_size=3, layouts=layouts)
            check(case, make(case), tmp_path)


def test_an_infinite_value_is_infinite_for_all_who_see_it(tmp_path: Path) -> None:
    case = Case(queries=100, keys=100, size=64, value_size=64, scale=0.125, right=0)
    data = make(case)
    data.v[:, 40, :, 7] = np.inf
    found = run(case, data, tmp_path)
    assert np.isfinite(np.delete(found, 7, axis=-1)).all()
    assert (found[:, 40:, :, 7] == np.inf).all() and not np.isinf(found[:, :8, :, 7]).any()


@pytest.mark.parametrize("case", [Case(queries=3, keys=300), Case(queries=40, keys=300)], ids=["direct", "packed"])
def test_infinities_and_nan_are_those_of_the_definition(case: Case, tmp_path: Path) -> None:
    data = make(Case(**{**case.__dict__, "mask": "float32"}))
    assert data.mask is not None
    data.mask[:] = 0
    data.mask[0, 0, 0, 200] = np.inf
    data.mask[0, 0, 1, 7] = np.nan
    data.mask[0, 0, 1, 100:] = -1e30
    data.mask[0, 0, 2, :299] = -np.inf
    found = run(case, data, tmp_path)
    assert np.isnan(found[0, :2]).all()
    np.testing.assert_allclose(found[0, 2], data.v[0, 299], rtol=2**-22)
    assert np.isfinite(found[0, 2:]).all()
    hidden_nan = make(Case(**{**case.__dict__, "mask": "bool"}))
    assert hidden_nan.mask is not None
    hidden_nan.mask[:, :, :, 150:] = False
    hidden_nan.k[:, 150:] = np.nan
    assert np.isfinite(run(case, hidden_nan, tmp_path)).all()


@pytest.mark.parametrize("queries", [2, 30])
def test_the_lowest_finite_mask_keeps_softmax_as_it_is_written_out(queries: int, tmp_path: Path) -> None:
    case = Case(queries=queries, keys=300, mask="float32", mask_axes=(True, True, True, True))
    data = make(case)
    lowest = np.finfo(np.float32).min
    data.mask = np.zeros((1, 1, queries, 300), np.float32)
    data.mask[:, :, 0] = lowest  # all scores round to the same number
    data.mask[:, :, 1, 10:] = lowest
    data.mask[:, :, 1, :5] = lowest
    found = run(case, data, tmp_path)
    np.testing.assert_allclose(found[0, 0, 0], data.v[0, :, 0].astype(np.float64).mean(axis=0), atol=300 * UNIT)
    alone = Case(queries=queries, keys=5)
    rest = Data(data.q, data.k[:, 5:10], data.v[:, 5:10])
    expected, bound = reference(alone, rest)
    assert (np.abs(found[:, 1] - expected[:, 1]) <= bound[:, 1]).all()


@pytest.mark.parametrize("hidden", ["false", "-inf", "lowest", "lowest bfloat16"])
def test_masks_may_hide_blocks_of_keys_from_all_queries(hidden: str, tmp_path: Path) -> None:
    """A causal mask, a window and padding on the left, whose queries see nothing, or all alike if numbers are finite."""
    kind = "bool" if hidden == "false" else "bfloat16" if hidden == "lowest bfloat16" else "float32"
    case = Case(queries=530, keys=1100, size=64, value_size=64, scale=0.125, mask=kind, mask_axes=(False, False, True, True))
    data = make(case)
    query, key = np.arange(530)[:, None] + 570, np.arange(1100)
    seen = (key <= query) & (key > query - 300) & (key >= 600)
    number = {"false": 0, "-inf": -np.inf}.get(hidden, np.finfo(np.float32).min * 0.99)
    data.mask = (seen if kind == "bool" else np.where(seen, np.float32(0), np.float32(number)).astype(numpy_type(kind)))[None, None]
    check(case, data, tmp_path)
    data.k[:, :512] = 0
    data.k[:, :512, :, 0] = 1e4  # great scores, which the mask hides
    check(case, data, tmp_path)


def test_scores_may_be_large(tmp_path: Path) -> None:
    for queries in (2, 40):
        case = Case(queries=queries, keys=200, scale=1.0)
        data = make(case)
        data.q *= 100
        data.k *= 1000
        found = run(case, data, tmp_path)
        scores = np.einsum("bshd,bthd->bhst", data.q.astype(np.float64), data.k)
        np.testing.assert_array_equal(found[0, :, 0], data.v[0, scores[0, 0].argmax(axis=-1), 0])


def test_what_does_not_fit_is_an_error(tmp_path: Path) -> None:
    def message(case: Case, change: Any = None) -> str:
        data = make(case)
        if change is not None:
            change(data)
        with pytest.raises(ExecutionError) as caught:
            run(case, data, tmp_path)
        return str(caught.value)

    assert "at most 256 elements" in message(Case(size=257))
    assert "cannot be broadcast" in message(Case(), lambda data: setattr(data, "mask", np.zeros((2, 7), np.float32)))
    assert "key length of 8" in message(Case(), lambda data: setattr(data, "lengths", np.array([8])))
    assert "does not fit together" in message(Case(), lambda data: setattr(data, "v", data.v[:, :6]))
    assert "left is -2" in message(Case(left=-2))
    assert "int64" in message(Case(), lambda data: setattr(data, "q", data.q.astype(np.int64)))
