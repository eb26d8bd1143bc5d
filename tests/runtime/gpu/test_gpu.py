"""libingot with libingot_cuda on a real GPU, through the C ABI.

On a machine that has Ingot and nvcc: ``make cuda cuda-models``; on one with a GPU, NumPy and PyTorch: ``tests/cuda/device.sh models``, or
``python3 -m pytest --confcutdir=tests/runtime/gpu tests/runtime/gpu``.
"""

from __future__ import annotations

import ctypes
import gc
from typing import Any

import numpy as np
import pytest

from tests.runtime.gpu.library import MADE, IngotError, Library, Model, Session, missing

torch = pytest.importorskip("torch")

FOLDER = MADE / "runtime"

if not torch.cuda.is_available():
    pytest.skip("there is no GPU", allow_module_level=True)
if lack := missing(FOLDER):
    pytest.skip(lack, allow_module_level=True)


@pytest.fixture(scope="module")
def library() -> Library:
    return Library()


@pytest.fixture(scope="module")
def chain(library: Library) -> Model:
    return library.load(FOLDER / "chain.ingot")


def ramp(rows: int) -> np.ndarray[Any, Any]:
    return np.arange(rows * 5, dtype=np.float32).reshape(rows, 5) + 1


def test_shapes_that_come_and_go_are_computed_and_replayed(chain: Model) -> None:
    session = chain.session()
    for i, rows in enumerate((1, 7, 0, 3, 100_000, 7, 7, 7, 100_000, 100_000, 3)):
        session.run((i + 1) * ramp(rows))
        np.testing.assert_array_equal(session.output(), 16 * (i + 1) * ramp(rows))
    captured, replayed, reason = session.graphs()
    assert captured >= 3 and replayed >= 4 and reason == "", (captured, replayed, reason)


def test_code_for_later_gpus_is_compiled_by_the_driver(library: Library) -> None:
    session = library.load(FOLDER / "ptx.ingot").session()
    session.run(ramp(9))
    np.testing.assert_array_equal(session.output(), 16 * ramp(9))


def test_code_for_other_gpus_is_refused_with_what_would_work(library: Library) -> None:
    major, minor = torch.cuda.get_device_capability(0)
    message = rf"has code for sm_75, and none for GPU 0 \(.*, sm_{major}{minor}\): compile the model with --target cuda:sm_"
    with pytest.raises(IngotError, match=message):
        library.load(FOLDER / "older.ingot")


@pytest.mark.parametrize("kind", ["own", "side", "default"])
def test_tensors_of_pytorch_go_in_and_out_in_the_order_of_a_stream(chain: Model, kind: str) -> None:
    session = chain.session()
    session.give_on_gpu(0, True)
    side = torch.cuda.Stream()
    if kind != "own":
        session.set_stream(side.cuda_stream if kind == "side" else 1)
    with torch.cuda.stream(side if kind == "side" else torch.cuda.default_stream()):
        for i in range(12):
            x = torch.full((1 << 20, 5), float(i), device="cuda")
            for _ in range(10):
                x = x + 1  # work in front of the run
            if kind == "own":
                torch.cuda.synchronize()
            session.run(x)
            if kind == "own":
                session.call("ingot_session_synchronize", session.handle)
            y = torch.from_dlpack(session.take())
            assert y.is_cuda and y.shape == x.shape
            z = (y * 0.5).sum().item()
            assert z == 8 * (i + 10) * y.numel()
            del y
    captured, replayed, _ = session.graphs()
    assert captured >= 1 and captured + replayed > 0


def test_an_output_outlives_its_session_and_model(library: Library) -> None:
    model = library.load(FOLDER / "chain.ingot")
    session = model.session()
    session.give_on_gpu(0, True)
    session.run(ramp(1000))
    y = torch.from_dlpack(session.take())
    del session, model
    gc.collect()
    torch.cuda.synchronize()
    np.testing.assert_array_equal(y.cpu().numpy(), 16 * ramp(1000))


def feed(session: Session, *rows: Any) -> float:
    new = np.repeat(np.array(rows, np.float32)[:, :, None], 2, axis=2)
    session.run(new, np.full(len(rows), new.shape[1]))
    return float(session.output()) / 2


def test_a_cache_is_changed_in_place_by_the_kernel_and_replayed(library: Library) -> None:
    model = library.load(FOLDER / "cached.ingot")
    session = model.session()
    total, expected = 0.0, np.zeros((2, 64), np.float32)
    assert feed(session, [1, 2], [3, 4]) == 30
    expected[:, :2] = [[1, 2], [3, 4]]
    total = 30
    for i in range(2, 40):
        total += i * i + 1
        expected[:, i] = [i, 1]
        assert feed(session, [i], [1]) == total
    np.testing.assert_array_equal(session.state(1, (2, 64, 2), "float32")[:, :, 0], expected)
    np.testing.assert_array_equal(session.state(0, (2,), "int64"), [40, 40])
    assert session.graphs()[1] >= 36
    session.call("ingot_session_truncate", session.handle, ctypes.c_int64(-1), ctypes.c_int64(2))
    session.call("ingot_session_reset", session.handle, ctypes.c_int64(-1))
    assert feed(session, [2], [1]) == 5


def test_data_that_kernels_do_not_take_are_errors_of_the_run(library: Library) -> None:
    """Of generated code and of a kernel of the library, step by step and in a graph; the session goes on."""
    session = library.load(FOLDER / "checked.ingot").session()
    good, bad = np.array([1, 2, 99]), np.array([3, 100, 5])
    for _ in range(5):
        session.run(good)
        assert session.output().tolist() == good.tolist()
        with pytest.raises(IngotError, match="index 100 is out of range for an axis of 100"):
            session.run(bad)
    assert session.graphs()[1] > 0
    session = library.load(FOLDER / "cached.ingot").session()
    feed(session, [1] * 62, [2] * 62)
    for _ in range(5):
        with pytest.raises(IngotError, match=r"the cache is full: it has room for 64 steps, holds 62 in batch . and is given 3 more"):
            feed(session, [5] * 3, [6] * 3)
        np.testing.assert_array_equal(session.state(0, (2,), "int64"), [62, 62])
    assert feed(session, [0, 0], [0, 0]) == 62 * 5


def test_a_hidden_state_is_carried_from_replay_to_replay(library: Library) -> None:
    session = library.load(FOLDER / "growing.ingot").session()
    x = np.array([1, 2, 3], np.float32)
    for run in range(1, 20):
        session.run(x)
        np.testing.assert_array_equal(session.output(), (2.0**run - 1) * x)
    assert session.graphs()[0] == 1


@pytest.mark.parametrize(("x", "trips", "expected"), [(1, 100, 16), (1, 2, 4), (11, 5, 11), (3, 0, 3)])
def test_a_loop_is_steered_by_the_gpu(library: Library, x: float, trips: int, expected: float) -> None:
    session = library.load(FOLDER / "branch.ingot").session()
    for _ in range(3):
        session.run(np.array([x], np.float32), np.array(trips, np.int64))
        assert session.output(0).tolist() == [expected]
    assert "reads what was computed" in session.graphs()[2]


def test_a_step_of_the_cpu_stands_between_steps_of_the_gpu(library: Library) -> None:
    session = library.load(FOLDER / "between.ingot").session()
    for seed in range(5):
        x = (np.random.default_rng(seed).random(1000) > 0.7).astype(np.float32)
        session.run(x)
        np.testing.assert_array_equal(session.output(), [np.flatnonzero(x)])


def test_steps_are_timed_on_the_gpu(chain: Model) -> None:
    session = chain.session()
    session.call("ingot_session_set_profiling", session.handle, ctypes.c_int32(1))
    for _ in range(3):
        session.run(ramp(1_000_000))
    assert len(session.profile()) == 4 and all(n > 0 for n in session.profile())


def test_memory_that_runs_out_is_an_error_and_the_session_goes_on(chain: Model) -> None:
    session = chain.session()
    session.run(ramp(3))
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info()
    hog = torch.empty(free - (700 << 20), dtype=torch.uint8, device="cuda")
    large = np.ones((20 << 20, 5), np.float32)  # 400 MiB, and as much for each of two results
    try:
        for _ in range(2):
            with pytest.raises(IngotError, match=r"cannot allocate \d+ bytes; \d+ of its \d+ are free") as error:
                session.run(large)
            assert error.value.status == 7
            session.run(ramp(3))
            np.testing.assert_array_equal(session.output(), 16 * ramp(3))
    finally:
        del hog
        torch.cuda.empty_cache()
    session.run(large)
    assert (session.output() == 16).all()
