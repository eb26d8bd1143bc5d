"""The attention kernel against the definition in float64, under every instruction set that this machine has."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import ingot
from ingot.errors import ExecutionError
from tests.runtime.assemble import Artifact

FEATURES = {"scalar": (), "avx2": ("avx2", "fma", "f16c"), "avx512": ("avx512f", "avx512bw", "avx512dq", "avx512vl"), "neon": ("asimd",)}
INSTRUCTION_SETS = [name for name, needed in FEATURES.items() if set(needed) <= set(ingot.machine()["features"])]
SEQUENCE_FIRST, HEAD_FIRST, TRANSPOSED, BATCH_SECOND = 0, 1, 2, 3
AXES = {SEQUENCE_FIRST: (0, 1, 2, 3), HEAD_FIRST: (0, 2, 1, 3), TRANSPOSED: (0, 2, 3, 1), BATCH_SECOND: (1, 0, 2, 3)}  # of [B, S, H, D]
UNIT = 2.0**-24  # the rounding error of float32
OUTPUT_UNIT = {"float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}


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
    scale: float = 0.25
    softcap: float = 0.0
    mask: str | None = None  # a dtype
    mask_axes: tuple[bool, bool, bool, bool] = (True, True, True, True)  # those that are not broadcast
    lengths: bool = False
    dtype: str = "float32"
    seed: int = 0

    @property
    def heads(self) -> int:
        """Query heads."""
        return self.kv_heads * self.group


@dataclass
class Data:
    """Tensors as [B, S, H, D]."""

    q: np.ndarray
    k: np.ndarray
    v: np.ndarray
    mask: np.ndarray | None = None
    lengths: np.ndarray | None = None
    extra: dict[str, Any] = field(default_factory=dict)


def numpy_type(name: str) -> Any:
    return getattr(ml_dtypes, name) if name == "bfloat16" else np.dtype(name)


def make(case: Case) -> Data:
    rng = np.random.default_rng(case.seed)

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(numpy_type(case.dtype))

    data = Data(normal(case.batch, case.queries, case.heads, case.size), normal(case.batch, case.keys, case.kv_heads, case.size),
                normal(case.batch, case.keys, case.kv_heads, case.value_size))
    if case.mask is not None:
        extents = (case.batch, case.heads, case.queries, case.keys)
        shape = [extent if kept else 1 for extent, kept in zip(extents, case.mask_axes, strict=True)]
        seen = rng.random(shape) < 0.7
        data.mask = seen if case.mask == "bool" else np.where(seen, rng.standard_normal(shape), -np.inf).astype(numpy_type(case.mask))
    if case.lengths:
        data.lengths = rng.integers(0, case.keys + 1, case.batch)
        for b, length in enumerate(data.lengths):  # what lies there must not matter
            data.k[b, length:] = np.nan
            data.v[b, length:] = np.nan
    return data


def reference(case: Case, data: Data) -> tuple[np.ndarray, np.ndarray]:
    """The output as [B, S, Hq, Dv] by the definition, and a bound of what float32 may add to it in rounding errors."""
    q, k, v = (x.astype(np.float64) for x in (data.q, data.k, data.v))
    lengths = np.full(case.batch, case.keys) if data.lengths is None else data.lengths
    beyond = np.arange(case.keys) >= lengths[:, None]
    k[beyond] = 0
    v[beyond] = 0
    k, v = (np.repeat(x, case.group, axis=2) for x in (k, v))
    scores = np.einsum("bshd,bthd->bhst", q, k) * case.scale
    magnitude = np.einsum("bshd,bthd->bhst", np.abs(q), np.abs(k)) * abs(case.scale)
    if case.softcap > 0:
        scores = case.softcap * np.tanh(scores / case.softcap)
    if data.mask is not None:
        scores = np.where(data.mask, scores, -np.inf) if data.mask.dtype == bool else scores + data.mask.astype(np.float64)
    position = np.arange(case.queries) + (lengths[:, None] - case.queries if case.at_end else np.zeros((case.batch, 1), int))
    distance = np.arange(case.keys) - position[:, :, None]
    hidden = beyond[:, None, :] | ((distance < -case.left) if case.left >= 0 else False) | ((distance > case.right) if case.right >= 0 else False)
    scores = np.where(hidden[:, None], -np.inf, scores)
    with np.errstate(invalid="ignore"):
        top = scores.max(axis=-1, keepdims=True, initial=-np.inf)
        weights = np.exp(scores - np.where(np.isneginf(top), 0, top))
        total = weights.sum(axis=-1, keepdims=True)
        weights = np.where(total == 0, 0, weights / np.where(total == 0, 1, total))
    output = np.einsum("bhst,bthd->bshd", weights, v)
    # A score of D products errs by D + 3 roundings of the sum of their magnitudes (6 for a softcap), adding to the mask and
    # subtracting the maximum by one each of the result; e^x has that as a relative error, plus 2 units.
    finite = np.where(np.isfinite(scores), np.abs(scores), 0).max(initial=0)
    error = ((case.size + 9) * magnitude.max(initial=0) + 4 * finite + 8) * UNIT
    bound = 2 * error + (case.keys + 16) * UNIT
    return output, bound * np.abs(v).max(initial=0) + OUTPUT_UNIT[case.dtype] * np.abs(output) + 1e-30


def build(case: Case, data: Data) -> tuple[Artifact, list[np.ndarray]]:
    artifact = Artifact()
    main = artifact.main
    arrays: list[np.ndarray] = []

    def add(array: np.ndarray) -> int:
        arrays.append(np.ascontiguousarray(array))
        return main.input(str(array.dtype), array.shape)

    inputs = [add(x.transpose(AXES[layout])) for x, layout in zip((data.q, data.k, data.v), case.layouts, strict=False)]
    inputs.append(-1 if data.mask is None else add(data.mask))
    inputs.append(-1 if data.lengths is None else add(data.lengths))
    shape = (case.batch, case.queries, case.heads, case.value_size)
    output = main.kernel("attention", inputs, (case.dtype, [shape[axis] for axis in AXES[case.layouts[3]]]),
                         ints=[*case.layouts, case.left, case.right, int(case.at_end)], floats=[case.scale, case.softcap])
    main.outputs = [output]
    return artifact, arrays


def run(case: Case, data: Data, folder: Path, threads: int = 2) -> np.ndarray:
    """The kernel's output as [B, S, Hq, Dv]. It ran before on NaN, which then lie in its output's and its scratch memory."""
    artifact, arrays = build(case, data)
    model = artifact.load(folder, threads=threads)
    model.run([np.full_like(a, np.nan) if a.dtype.kind not in "bi" else a for a in arrays])
    output = np.asarray(model.run(arrays)["y0"])
    return output.transpose(np.argsort(AXES[case.layouts[3]]))


def check(case: Case, data: Data, folder: Path, threads: int = 2) -> None:
    expected, bound = reference(case, data)
    found = run(case, data, folder, threads).astype(np.float64)
    assert np.isfinite(found).all()
    assert (np.abs(found - expected) <= bound).all(), f"{np.abs(found - expected).max()} where {bound.max()} may be: {case}"


@pytest.fixture(params=INSTRUCTION_SETS, autouse=True)
def instructions(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Forces one instruction set: kernels are picked when a model is loaded."""
    monkeypatch.setenv("INGOT_ISA", request.param)
    name: str = request.param
    return name


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
    seed=st.integers(0, 2**32 - 1),
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(case=CASES)
def test_attention_is_its_definition(case: Case, tmp_path: Path) -> None:
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
