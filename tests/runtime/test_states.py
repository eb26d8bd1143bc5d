"""States: caches in place, hidden states, growing ones; rows, forks, cuts, files."""

from __future__ import annotations

import contextlib
import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ingot
from ingot.cli.main import main
from ingot.errors import CompileError, FileError, IngotError, InputError

#: Keys go into a cache, and what it holds is added up: the sum tells what is in it.
CACHE = """
<ir_version: 10, opset_import: ["" : 24]>
g (float[batch, n, 3] new, int64[batch] count, int64[batch] length, float[batch, steps, 3] past_0)
  => (float[batch, 3] total, int64[batch] next_length, float[batch, steps, 3] present_0)
{
  present_0 = TensorScatter<axis=1 MODE>(past_0, new, length)
  axes = Constant<value = int64[1] {1}>()
  total = ReduceSum<keepdims=0>(present_0, axes)
  next_length = Add(length, count)
}
"""
HIDDEN = """
<ir_version: 10, opset_import: ["" : 18]>
g (float[batch, 3] x, float[batch, 3] h) => (float[batch, 3] y, float[batch, 3] h_out)
{
  h_out = Add(h, x)
  y = Mul(h_out, x)
}
"""
GROWING = """
<ir_version: 10, opset_import: ["" : 18]>
g (float[batch, n, 3] x, float[batch, past, 3] past_0) => (float[batch, 3] total, float[batch, all, 3] present_0)
{
  present_0 = Concat<axis=1>(past_0, x)
  axes = Constant<value = int64[1] {1}>()
  total = ReduceSum<keepdims=0>(present_0, axes)
}
"""


def build(text: str, folder: Path, **options: Any) -> ingot.Model:
    ingot.compile(onnx.parser.parse_model(text), folder / "m.ingot", samples=0, **options)
    return ingot.load(folder / "m.ingot", threads=2)


@pytest.fixture(scope="module")
def cached(tmp_path_factory: pytest.TempPathFactory) -> ingot.Model:
    return build(CACHE.replace("MODE", ""), tmp_path_factory.mktemp("cache"), states={"past_0": "present_0", "length": "next_length"},
                 bounds={"steps": 8})


@pytest.fixture(scope="module")
def ring(tmp_path_factory: pytest.TempPathFactory) -> ingot.Model:
    return build(CACHE.replace("MODE", ', mode="circular"'), tmp_path_factory.mktemp("ring"),
                 states={"past_0": "present_0", "length": "next_length"}, bounds={"steps": 4})


@pytest.fixture(scope="module")
def hidden(tmp_path_factory: pytest.TempPathFactory) -> ingot.Model:
    return build(HIDDEN, tmp_path_factory.mktemp("hidden"), states={"h": "h_out"})


def feed(session: Any, *steps: Any) -> np.ndarray:
    """Runs with steps [n] of each row; all three elements are the same."""
    array = np.repeat(np.array(steps, np.float32)[:, :, None], 3, axis=2)
    result: np.ndarray = session.run(new=array, count=np.full(len(steps), array.shape[1]))["total"][:, 0]
    return result


def test_states_are_neither_inputs_nor_outputs(cached: ingot.Model, hidden: ingot.Model) -> None:
    assert [i.name for i in cached.inputs] == ["new", "count"]
    assert [o.name for o in cached.outputs] == ["total"]
    assert {s.name: s.kind for s in cached.states} == {"past_0": "cache", "length": "carry"}
    assert [(s.name, s.kind) for s in hidden.states] == [("h", "carry")]


def test_a_cache_is_changed_in_place(cached: ingot.Model) -> None:
    steps = cached.manifest["targets"][0]["program"]["functions"][0]["steps"]
    assert [s.get("in_place") for s in steps if s.get("name") == "tensor_scatter"] == [[0]]
    with cached.session() as session:
        assert feed(session, [1, 2], [3, 4]).tolist() == [3, 7]
        assert feed(session, [5], [6]).tolist() == [8, 13]
        assert session.state("length").tolist() == [3, 3]
        assert session.state("past_0")[:, :, 0].tolist() == [[1, 2, 5, 0, 0, 0, 0, 0], [3, 4, 6, 0, 0, 0, 0, 0]]


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 3), min_size=1, max_size=4), st.integers(1, 3))
def test_a_hidden_state_is_the_sum_of_all_runs(hidden: ingot.Model, runs: list[int], batch: int) -> None:
    total = np.zeros((batch, 3), np.float32)
    with hidden.session() as session:
        for value in runs:
            total += value
            x = np.full((batch, 3), value, np.float32)
            np.testing.assert_array_equal(session.run(x=x)["y"], total * x)


def test_past_and_present_are_found_and_grow(tmp_path: Path) -> None:
    model = build(GROWING, tmp_path)
    assert [s.name for s in model.states] == ["past_0"]
    with model.session() as session:
        for n in (2, 1, 5, 1):
            total = session.run(x=np.ones((2, n, 3), np.float32))["total"]
        assert total[:, 0].tolist() == [9, 9]
        assert session.state("past_0").shape == (2, 9, 3)
    plain = build(GROWING, tmp_path, states={})
    assert len(plain.inputs) == len(plain.outputs) == 2


def test_a_run_of_the_model_remembers_nothing(hidden: ingot.Model) -> None:
    x = np.full((1, 3), 2, np.float32)
    assert [hidden.run(x=x)["y"][0, 0] for _ in range(3)] == [4, 4, 4]


def test_reset_forgets_all_or_one_row(cached: ingot.Model) -> None:
    with cached.session() as session:
        feed(session, [1], [1])
        session.reset(0)
        assert session.state("length").tolist() == [0, 1]
        session.reset()
        assert feed(session, [2, 2], [3, 3], [4, 4]).tolist() == [4, 6, 8]


def test_rows_run_by_themselves(cached: ingot.Model) -> None:
    with cached.session() as session:
        session.set_dimension("batch", 3)
        session.select_rows(1, 2)
        assert feed(session, [1], [2]).tolist() == [1, 2]
        session.select_rows(0, 1)
        assert feed(session, [7, 7]).tolist() == [14]
        session.select_rows()
        assert feed(session, [0], [0], [0]).tolist() == [14, 1, 2]
        assert session.state("length").tolist() == [3, 2, 2]
        session.copy_row(0, 2)
        assert session.state("past_0")[2, :3, 0].tolist() == [7, 7, 0]
        with pytest.raises(IngotError, match="rows 2 to 3 are selected, but the states have 3"):
            session.select_rows(2, 2)


def test_rows_that_are_selected_must_still_be_there(cached: ingot.Model) -> None:
    with cached.session() as session:
        feed(session, [1], [2], [3])
        session.select_rows(2, 1)
        session.reset()
        with pytest.raises(InputError, match="rows 2 to 2 are selected, but the session's states have 1; select others"):
            feed(session, [1])
        session.select_rows()
        assert feed(session, [4], [5]).tolist() == [4, 5]


def test_inspect_shows_states(cached: ingot.Model, ring: ingot.Model, capsys: pytest.CaptureFixture[str]) -> None:
    for model, kind in ((cached, "cache"), (ring, "ring")):
        assert main(["inspect", str(model.path)]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert any(line.split()[:1] == ["past_0"] and line.split()[-1] == kind for line in lines)


def test_a_step_beyond_any_text_is_refused(ring: ingot.Model) -> None:
    with ring.session() as session:
        feed(session, [1])
        session.set_state("length", np.array([(1 << 63) - 2]))
        with pytest.raises(IngotError, match="which is beyond any text"):
            feed(session, [1, 1])


def test_forks_go_their_own_ways(cached: ingot.Model) -> None:
    with cached.session() as session:
        feed(session, [1, 2])
        fork = session.fork()
        assert feed(fork, [10]).tolist() == [13]
        assert feed(session, [5]).tolist() == [8]
        session.close()
        assert feed(fork, [1]).tolist() == [14]


def test_a_cache_is_cut_back(cached: ingot.Model, hidden: ingot.Model) -> None:
    with cached.session() as session:
        feed(session, [1, 2, 3], [4, 5, 6])
        session.truncate(1, row=0)
        assert session.state("length").tolist() == [1, 3]
        with pytest.raises(IngotError, match="row 0 holds 1 steps; it cannot be cut to 2"):
            session.truncate(2)
    with hidden.session() as session:
        session.run(x=np.ones((1, 3), np.float32))
        with pytest.raises(IngotError, match="'h' is a hidden state, which cannot go back"):
            session.truncate(0)


def test_a_ring_keeps_the_last_steps(ring: ingot.Model) -> None:
    assert {s.kind for s in ring.states} == {"ring", "carry"}
    with ring.session() as session:
        for step in range(1, 11):
            total = feed(session, [step])
            assert total[0] == sum(range(max(1, step - 3), step + 1))
        with pytest.raises(IngotError, match="earlier steps are gone"):
            session.truncate(5)


def test_saved_states_come_back(cached: ingot.Model, ring: ingot.Model, tmp_path: Path) -> None:
    file = tmp_path / "states"
    with cached.session() as session:
        feed(session, [1, 2], [3, 4])
        session.save(file)
    with cached.session() as session:
        session.load(file)
        assert feed(session, [1], [1]).tolist() == [4, 8]
    with ring.session() as session, pytest.raises(FileError, match="of another model"):
        session.load(file)
    whole = file.read_bytes()
    for damaged, message in ((whole[:-9], "truncated"), (b"hello" * 9, "no.* saved states"), (whole + b"x", "longer than"),
                             (whole[:-5] + bytes([whole[-5] ^ 1]) + whole[-4:], "checksum")):
        file.write_bytes(damaged)
        with cached.session() as session:
            with pytest.raises(FileError, match=message):
                session.load(file)
            assert feed(session, [2]).tolist() == [2]
    with cached.session() as session, pytest.raises(FileError, match="cannot open"):
        session.load(tmp_path / "nothing")


def test_a_full_cache_is_an_error_and_keeps_what_it_holds(cached: ingot.Model) -> None:
    with cached.session() as session:
        feed(session, [1] * 7)
        with pytest.raises(IngotError, match="the cache is full: it has room for 8 steps, holds 7 in batch 0 and is given 2 more"):
            feed(session, [1, 1])
        assert feed(session, [1]).tolist() == [8]


def test_wrong_uses_are_explained(cached: ingot.Model, hidden: ingot.Model, tmp_path: Path) -> None:
    with cached.session() as session:
        with pytest.raises(IngotError, match="the model has no dimension 'width'"):
            session.set_dimension("width", 3)
        with pytest.raises(IngotError, match="compiled for at most 8"):
            session.set_dimension("steps", 9)
        feed(session, [1], [1])
        with pytest.raises(InputError, match=r"'batch' = 3, but the session's states have 2 rows; reset the session"):
            feed(session, [1], [1], [1])
        with pytest.raises(IngotError, match="cannot change while the session's states hold something"):
            session.set_dimension("steps", 4)
        with pytest.raises(IngotError, match="there is no row 5; the states have 2"):
            session.reset(5)
        with pytest.raises(InputError, match="state 'length' is int64"):
            session.set_state("length", np.zeros(2, np.float32))
        session.set_state("length", np.array([0, 1]))
        assert session.state("length").tolist() == [0, 1]
    with pytest.raises(CompileError, match="there is no output 'z'; they are 'y', 'h_out'"):
        build(HIDDEN, tmp_path, states={"h": "z"})
    with hidden.session() as session, pytest.raises(IngotError, match="the session has not run yet"):
        session.state("h")


def test_the_memory_of_caches_is_taken_as_they_fill(tmp_path: Path) -> None:
    model = build(CACHE.replace("MODE", ""), tmp_path, states={"past_0": "present_0", "length": "next_length"}, bounds={"steps": 1 << 31})
    assert model.states[1].kind == "cache" or model.states[0].kind == "cache"
    with model.session() as session:
        session.set_dimension("steps", 1 << 20)
        session.set_dimension("batch", 64)  # 64 * 2^20 * 12 bytes = 805 MB, of which a run touches a page or two
        session.select_rows(63, 1)
        before = resident()
        session.run(new=np.ones((1, 1, 3), np.float32), count=np.array([1]))
        assert resident() - before < 100_000_000


def resident() -> int:
    with Path("/proc/self/statm").open() as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_two_threads_in_one_session_get_errors_and_leave_it_usable(cached: ingot.Model) -> None:
    with cached.session() as session:
        session.set_dimension("batch", 1)
        others: list[BaseException] = []

        def work() -> None:
            try:
                for _ in range(200):
                    with contextlib.suppress(IngotError):  # busy, or what the other thread has taken or not set yet
                        session.reset()
                        feed(session, [1])
            except BaseException as error:
                others.append(error)

        threads = [threading.Thread(target=work) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not others
        session.reset()
        assert feed(session, [3]).tolist() == [3]
