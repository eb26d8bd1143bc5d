"""States in the memory of a GPU (see test_cuda): what a session remembers there, and what can be done to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ingot
from ingot.errors import ArtifactError, IngotError, InputError, OutOfMemoryError
from tests.runtime.assemble_cuda import CudaArtifact, Fake, build_fake, call

Load = Callable[..., ingot.Model]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Fake:
    return Fake(build_fake(tmp_path_factory.mktemp("fake")))


@pytest.fixture
def fake(library: Fake, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fake]:
    monkeypatch.setenv("INGOT_CUDA_LIBRARY", str(library.path))
    yield library
    library.limit(None)


def cached(steps: int = 8) -> CudaArtifact:
    """A cache [batch, steps, 2] that new steps go into, and the sum of the squares of all that it holds."""
    artifact = CudaArtifact(["batch", "n", "steps"], {"steps": steps})
    main = artifact.main
    new = main.input("float32", ["batch", "n", 2])
    count = main.input("int64", ["batch"])
    length = artifact.state("length", "int64", ["batch"])
    cache = artifact.state("cache", "float32", ["batch", "steps", 2], kind="cache", axis=1, length=0, ring=False)
    present = main.value("float32", ["batch", "steps", 2])
    main.step("kernel", name="tensor_scatter", inputs=[cache, new, length], outputs=[present], ints=[1, 0, 0], in_place=[0])
    elements = main.expr("mul", main.expr("mul", main.dim("batch"), main.dim("steps")), main.dim(2))
    _, total = call(main, "sum_of_squares", [present], ("float32", ["batch", "steps", 2]), ("float32", []), dims=[elements])
    after = call(main, "count", [length, count], ("int64", ["batch"]), dims=[main.dim("batch")])
    main.outputs = [total, after, present]
    return artifact


def paired(in_place: Any, **caches: Any) -> CudaArtifact:
    """Two caches [batch, 8, 2] that one step writes the same new steps into, and the sum of the squares of what the second holds."""
    artifact = CudaArtifact(["batch", "n"])
    main = artifact.main
    new = main.input("float32", ["batch", "n", 2])
    count = main.input("int64", ["batch"])
    length = artifact.state("length", "int64", ["batch"])
    fields = {"kind": "cache", "axis": 1, "length": 0, "ring": False}
    pair = [artifact.state(name, "float32", ["batch", 8, 2], **fields) for name in ("keys", "values")]
    present = [main.value("float32", ["batch", 8, 2]) for _ in pair]
    main.step("kernel", name="scatter_pair", inputs=[caches.get("first", pair[0]), caches.get("second", pair[1]), new, length], outputs=present,
              in_place=in_place)
    elements = main.expr("mul", main.dim("batch"), main.dim(16))
    _, total = call(main, "sum_of_squares", [present[1]], ("float32", ["batch", 8, 2]), ("float32", []), dims=[elements])
    after = call(main, "count", [length, count], ("int64", ["batch"]), dims=[main.dim("batch")])
    main.outputs = [total, after, *present]
    return artifact


def feed(session: Any, *rows: Any) -> float:
    """Runs with new steps of each row, both of whose elements are the same; half of the sum that it gives."""
    new = np.repeat(np.array(rows, np.float32)[:, :, None], 2, axis=2)
    return float(session.run(x0=new, x1=np.full(len(rows), new.shape[1]))["y0"]) / 2


def test_a_cache_on_the_gpu_is_changed_in_place_and_read_back(fake: Fake, load: Load) -> None:
    with load(cached()).session() as session:
        copies = fake.calls("copy_to_host")
        assert feed(session, [1, 2], [3, 4]) == 1 + 4 + 9 + 16
        assert feed(session, [5], [6]) == 30 + 25 + 36
        assert feed(session, [0], [1]) == 91 + 1
        assert feed(session, [0], [1]) == 91 + 2
        assert fake.calls("copy_to_host") == copies + 4  # the sums alone
        assert session.state("length").tolist() == [5, 5]
        assert session.state("cache")[:, :, 0].tolist() == [[1, 2, 5, 0, 0, 0, 0, 0], [3, 4, 6, 1, 1, 0, 0, 0]]
        assert session.graphs.replayed == 2  # single steps are the same work each time


def test_one_step_changes_several_caches(fake: Fake, load: Load) -> None:
    with load(paired([0, 1])).session() as session:
        assert [feed(session, [1, 2], [3, 4]), feed(session, [5], [6]), feed(session, [0], [1]), feed(session, [0], [1])] == [30, 91, 92, 93]
        for name in ("keys", "values"):
            assert session.state(name)[:, :, 0].tolist() == [[1, 2, 5, 0, 0, 0, 0, 0], [3, 4, 6, 1, 1, 0, 0, 0]]
        assert session.graphs.replayed == 2


@pytest.mark.parametrize(("in_place", "caches", "message"), [
    ([0, 4], {}, "expected an integer from -1 to 3"),
    ([0, 0], {}, "two outputs cannot both be input 0"),
    ([0, 1, -1], {}, "kernel 'scatter_pair' gives 2 outputs, not 3"),
    ([0], {}, "state 'values' is a cache, but the main function does not change it in place"),
    ([0, 2], {}, "kernel 'scatter_pair' changes a cache in place, and gives another type or shape"),
    ([0, 1], {"second": 3}, "kernel 'scatter_pair' changes one cache in place as two of its outputs"),
])
def test_what_is_no_change_of_caches_is_refused(fake: Fake, load: Load, in_place: Any, caches: Any, message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        load(paired(in_place, **caches))


def test_a_step_past_the_end_of_a_cache_is_the_error_of_the_cpu_and_leaves_the_states(fake: Fake, load: Load) -> None:
    with load(cached()).session() as session:
        for _ in range(3):
            feed(session, [1, 2], [3, 4])
        for _ in range(4):  # step by step, captured and replayed
            with pytest.raises(IngotError, match=r"the cache is full: it has room for 8 steps, holds 6 in batch 0 and is given 3 more"):
                feed(session, [5, 5, 5], [6, 6, 6])
            assert session.state("length").tolist() == [6, 6]
        assert session.state("cache")[0, :6, 0].tolist() == [1, 2] * 3
        assert feed(session, [0], [1]) == 3 * 30 + 1
        assert session.graphs.replayed > 0


def test_a_run_of_the_model_starts_from_zeros_in_memory_that_stays(fake: Fake, load: Load) -> None:
    model = load(cached())
    inputs = {"x0": np.ones((1, 1, 2), np.float32), "x1": np.array([1])}
    assert [float(model.run(inputs)["y0"]) for _ in range(4)] == [2, 2, 2, 2]
    allocated = fake.calls("allocate")
    assert float(model.run(inputs)["y0"]) == 2
    assert fake.calls("allocate") == allocated


def test_rows_are_selected_copied_forgotten_and_cut(fake: Fake, load: Load) -> None:
    with load(cached()).session() as session:
        session.set_dimension("batch", 3)
        session.select_rows(1, 2)
        assert feed(session, [1], [2]) == 5
        session.select_rows(0, 1)
        assert feed(session, [7, 8]) == 49 + 64
        session.select_rows()
        session.copy_row(0, 2)
        assert session.state("length").tolist() == [2, 1, 2]
        assert session.state("cache")[:, :3, 0].tolist() == [[7, 8, 0], [1, 0, 0], [7, 8, 0]]
        session.truncate(1, row=0)
        session.reset(1)
        assert session.state("length").tolist() == [1, 0, 2]
        feed(session, [3], [4], [5])
        assert session.state("cache")[:, :3, 0].tolist() == [[7, 3, 0], [4, 0, 0], [7, 8, 5]]
        with pytest.raises(IngotError, match="row 1 holds 1 steps; it cannot be cut to 2"):
            session.truncate(2, row=1)
        session.truncate(1)
        assert session.state("length").tolist() == [1, 1, 1]
        session.reset()
        assert feed(session, [1], [1], [1]) == 3


def test_a_fork_remembers_the_same_and_goes_its_own_way(fake: Fake, load: Load) -> None:
    with load(cached()).session() as session:
        feed(session, [1, 2])
        fork = session.fork()
        assert feed(session, [3]) == 14
        assert feed(fork, [10]) == 105
        assert session.state("cache")[0, :3, 0].tolist() == [1, 2, 3]
        assert fork.state("cache")[0, :3, 0].tolist() == [1, 2, 10]


def test_states_are_saved_to_a_file_and_loaded(fake: Fake, load: Load, tmp_path: Path) -> None:
    model = load(cached())
    with model.session() as session:
        feed(session, [1, 2], [3, 4])
        session.save(tmp_path / "states")
        feed(session, [9], [9])
    with model.session() as session:
        session.load(tmp_path / "states")
        assert session.state("length").tolist() == [2, 2]
        assert feed(session, [5], [6]) == 91


def test_a_state_is_overwritten(fake: Fake, load: Load) -> None:
    with load(cached()).session() as session:
        feed(session, [1, 2])
        session.set_state("length", np.array([0]))
        assert feed(session, [4]) == 20
        assert session.state("cache")[0, :2, 0].tolist() == [4, 2]
        with pytest.raises(InputError, match=r"state 'length' is int64\[1\], not float64\[1\]"):
            session.set_state("length", np.array([0.0]))


def growing() -> CudaArtifact:
    """A hidden state that is twice itself plus x."""
    artifact = CudaArtifact(["n"])
    main = artifact.main
    x = main.input("float32", ["n"])
    h = artifact.state("h", "float32", ["n"])
    doubled = call(main, "scale", [h], ("float32", ["n"]), dims=[main.dim("n")])
    total = call(main, "add", [doubled, x], ("float32", ["n"]), dims=[main.dim("n")])
    main.outputs = [main.copy(total), total]
    return artifact


def test_a_hidden_state_stays_on_the_gpu_and_survives_a_failed_run(fake: Fake, load: Load) -> None:
    with load(growing()).session() as session:
        x = np.array([1, 2, 3], np.float32)
        for factor in (1, 3, 7):
            np.testing.assert_array_equal(session.run(x0=x)["y0"], factor * x)
        with pytest.raises(InputError):
            session.run(x0=np.zeros(4, np.float32))
        np.testing.assert_array_equal(session.run(x0=x)["y0"], 15 * x)
        taken = session.run(x0=x, device="cuda")["y0"]
        np.testing.assert_array_equal(session.run(x0=x)["y0"], 63 * x)
        np.testing.assert_array_equal(taken.numpy(), 31 * x)


def test_a_state_beyond_the_memory_is_an_error_that_a_smaller_one_recovers_from(fake: Fake, load: Load) -> None:
    model = load(cached(1 << 20))
    with model.session() as session:
        fake.limit(1 << 21)
        for _ in range(2):
            with pytest.raises(OutOfMemoryError, match=r"state 'cache': GPU 0 .* cannot allocate \d+ bytes"):
                feed(session, [1])
        session.set_dimension("steps", 16)
        assert feed(session, [3]) == 9
