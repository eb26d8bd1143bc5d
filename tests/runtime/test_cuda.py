"""Sessions on a GPU, with a library that stands in for one (fake_cuda): device memory that the host cannot touch, and work that is done late."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import ingot
from ingot.errors import ExecutionError, IngotError, InputError, OutOfMemoryError
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


def chain(steps: int = 3, **options: Any) -> CudaArtifact:
    """y0 = 2^steps x0 + w, with a weight of 5 elements and n rows."""
    artifact = CudaArtifact(["n"], **options)
    main = artifact.main
    x = main.input("float32", ["n", 5])
    count = main.expr("mul", main.dim("n"), main.dim(5))
    for _ in range(steps):
        x = call(main, "scale", [x], ("float32", ["n", 5]), dims=[count])
    main.outputs.append(call(main, "add", [x, x], ("float32", ["n", 5]), dims=[count]))
    return artifact


def ramp(rows: int) -> np.ndarray[Any, Any]:
    return np.arange(rows * 5, dtype=np.float32).reshape(rows, 5) + 1


def test_a_model_runs_on_the_gpu_and_gives_arrays(fake: Fake, load: Load) -> None:
    model = load(chain())
    assert (model.target, model.device) == ("cuda:test", "cuda:0")
    for rows in (1, 7, 0, 3):
        np.testing.assert_array_equal(model.run(x0=ramp(rows))["y0"], 16 * ramp(rows))


def checked() -> CudaArtifact:
    """y0 is x0, integers from 0 to 99, as numbers."""
    artifact = CudaArtifact(["n"])
    main = artifact.main
    x = main.input("int64", ["n"])
    main.outputs.append(call(main, "checked", [x], ("float32", ["n"]), dims=[main.dim("n")]))
    return artifact


def test_data_that_code_does_not_take_are_an_error_of_the_run_that_waits_or_of_the_next(fake: Fake, load: Load) -> None:
    good, bad = np.array([1, 2, 99]), np.array([3, 100, -5])
    message = "index 100 is out of range for an axis of 100"
    with load(checked()).session() as session:
        for _ in range(4):  # step by step, captured and replayed
            assert session.run(x0=good)["y0"].tolist() == good.tolist()
            with pytest.raises(ExecutionError, match=message):
                session.run(x0=bad)
        assert session.graphs.replayed > 0
        session.run(x0=bad, device="cuda")
        with pytest.raises(ExecutionError, match=message):
            session.synchronize()
        result = session.run(x0=bad, device="cuda")["y0"]
        assert result.numpy().tolist() == bad.tolist()  # who waits for it may be anybody
        with pytest.raises(ExecutionError, match=message):
            session.run(x0=good)
        assert session.run(x0=good)["y0"].tolist() == good.tolist()


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(0, 40), min_size=1, max_size=12), st.booleans())
def test_any_order_of_shapes_gives_what_the_steps_say(fake: Fake, load: Load, rows: list[int], bounded: bool) -> None:
    model = load(chain(bounds={"n": 40} if bounded else None))
    with model.session() as session:
        for n in rows:
            np.testing.assert_array_equal(session.run(x0=ramp(n))["y0"], 16 * ramp(n))


def test_weights_are_uploaded_once_for_all_sessions(fake: Fake, load: Load) -> None:
    artifact = CudaArtifact()
    main = artifact.main
    x = main.input("float32", [6])
    w = artifact.weight(main, np.arange(6, dtype=np.float32))
    artifact.weight(artifact.add("unused")[1], np.zeros(1 << 20, np.float32), "unused")
    main.outputs.append(call(main, "add", [x, w], ("float32", [6]), dims=[main.dim(6)]))
    before = fake.calls("copy_to_device")
    model = load(artifact)
    uploaded = fake.calls("copy_to_device") - before
    assert uploaded == 2  # one for each function that has a weight
    for _ in range(2):
        with model.session() as session:
            np.testing.assert_array_equal(session.run(x0=np.ones(6, np.float32))["y0"], 1 + np.arange(6))
    assert fake.calls("copy_to_device") - before == uploaded


def test_several_launches_of_a_function_run_in_order(fake: Fake, load: Load) -> None:
    artifact = CudaArtifact(["n"])
    main = artifact.main
    x = main.input("float32", ["n"])
    _, total = call(main, "sum_of_squares", [x], ("float32", ["n"]), ("float32", []), dims=[main.dim("n")])
    main.outputs.append(total)
    model = load(artifact)
    x_value = np.arange(23, dtype=np.float32)
    assert model.run(x0=x_value)["y0"] == (x_value.astype(np.float64) ** 2).sum()


def test_an_output_stays_on_the_gpu_and_is_an_input_there(fake: Fake, load: Load) -> None:
    model = load(chain())
    with model.session() as session:
        copies = fake.calls("copy_to_host")
        first = session.run(x0=ramp(2), device="cuda")["y0"]
        assert (first.shape, first.dtype, first.__dlpack_device__()) == ((2, 5), "float32", (2, 0))
        second = session.run(x0=first, device="cuda:0")["y0"]
        assert fake.calls("copy_to_host") == copies  # nothing came back yet
        np.testing.assert_array_equal(second.numpy(), 256 * ramp(2))
        np.testing.assert_array_equal(first.numpy(), 16 * ramp(2))
        np.testing.assert_array_equal(session.run(x0=second)["y0"], 4096 * ramp(2))
    np.testing.assert_array_equal(second.numpy(), 256 * ramp(2))  # it outlives its session
    of_model = model.run(x0=first, device="cuda")["y0"]
    np.testing.assert_array_equal(of_model.numpy(), 256 * ramp(2))


def test_each_output_is_given_where_it_is_asked_for(fake: Fake, load: Load) -> None:
    artifact = chain()
    main = artifact.main
    main.outputs.append(call(main, "scale", [main.outputs[0]], ("float32", ["n", 5]), dims=[main.expr("mul", main.dim("n"), main.dim(5))]))
    with load(artifact).session() as session:
        for device in ({"y0": "cuda"}, {"y0": "cuda"}, {"y0": "cuda"}, {"y0": "cpu", "y1": "cuda:0"}, {}):
            copies = fake.calls("copy_to_host")
            found = session.run(x0=ramp(2), device=device)
            assert fake.calls("copy_to_host") == copies + 2 - sum(place != "cpu" for place in device.values())
            for name, expected in (("y0", 16 * ramp(2)), ("y1", 32 * ramp(2))):
                on_gpu = device.get(name, "cpu") != "cpu"
                assert isinstance(found[name], np.ndarray) is not on_gpu
                np.testing.assert_array_equal(found[name].numpy() if on_gpu else found[name], expected)
        with pytest.raises(InputError, match="there is no output 'y2'"):
            session.run(x0=ramp(2), device={"y2": "cuda"})


def test_an_output_can_be_taken_by_any_consumer_of_dlpack(fake: Fake, load: Load) -> None:
    model = load(chain())
    stream = fake.stream()
    tensor = model.run(x0=ramp(2), device="cuda")["y0"]
    before = fake.calls("wait")
    capsule = tensor.__dlpack__(stream=stream, max_version=(1, 0))
    assert "dltensor_versioned" in repr(capsule) and fake.calls("wait") == before + 1
    assert '"dltensor"' in repr(tensor.__dlpack__(stream=-1)) and fake.calls("wait") == before + 1
    with pytest.raises(BufferError, match="numpy"):
        tensor.__dlpack__(stream=-1, dl_device=(1, 0))
    with pytest.raises(BufferError, match="not copied"):
        tensor.__dlpack__(stream=-1, copy=True)


def test_memory_that_a_consumer_has_seen_is_used_again_only_behind_its_stream(fake: Fake, load: Load) -> None:
    model = load(chain())
    stream = fake.stream()
    tensor = model.run(x0=ramp(2), device="cuda")["y0"]
    tensor.__dlpack__(stream=stream)
    records, waits = fake.calls("record"), fake.calls("wait")
    del tensor
    assert fake.calls("record") == records + 1  # what the consumer's stream holds now
    again = model.run(x0=ramp(2), device="cuda")["y0"]
    assert fake.calls("wait") == waits + 1
    np.testing.assert_array_equal(again.numpy(), 16 * ramp(2))


def test_outputs_are_bound_to_memory_of_either_kind(fake: Fake, load: Load) -> None:
    model = load(chain())
    with model.session() as session:
        memory = np.zeros((2, 5), np.float32)
        session.bind_output("y0", memory)
        assert session.run(x0=ramp(2))["y0"] is memory
        np.testing.assert_array_equal(memory, 16 * ramp(2))
        on_gpu = model.run(x0=0 * ramp(2), device="cuda")["y0"]
        session.bind_output("y0", on_gpu)
        session.run()
        session.synchronize()
        np.testing.assert_array_equal(on_gpu.numpy(), 16 * ramp(2))
        session.run(x0=on_gpu)  # which is input and output at once
        session.synchronize()
        np.testing.assert_array_equal(on_gpu.numpy(), 256 * ramp(2))
        session.bind_output("y0", None)
        np.testing.assert_array_equal(session.run(x0=ramp(2))["y0"], 16 * ramp(2))


def test_work_goes_to_the_callers_stream_and_does_not_wait_there(fake: Fake, load: Load) -> None:
    model = load(chain())
    stream = fake.stream()
    with model.session() as session:
        np.testing.assert_array_equal(session.run(x0=ramp(1))["y0"], 16 * ramp(1))
        session.set_stream(stream)
        x = ramp(2)
        result = session.run(x0=x, device="cuda")["y0"]
        assert fake.pending(stream) > 0
        x[:] = 0  # it has been read
        session.synchronize()
        assert fake.pending(stream) == 0
        np.testing.assert_array_equal(result.numpy(), 16 * ramp(2))
        np.testing.assert_array_equal(session.run(x0=ramp(2), device="cpu")["y0"], 16 * ramp(2))
        session.set_stream(None)
        np.testing.assert_array_equal(session.run(x0=ramp(2))["y0"], 16 * ramp(2))


def test_repeated_runs_are_replayed_as_a_graph(fake: Fake, load: Load) -> None:
    model = load(chain())
    with model.session() as session:
        assert session.graphs.reason == "the session has not run"
        session.run(x0=ramp(3))
        assert (session.graphs.captured, session.graphs.reason) == (0, "shapes are run for the first time")
        launches = 0
        for i in range(2, 6):
            np.testing.assert_array_equal(session.run(x0=i * ramp(3))["y0"], 16 * i * ramp(3))
            assert (session.graphs.captured, session.graphs.replayed, session.graphs.reason) == (1, i - 1, "")
            launches = launches or fake.calls("launch")
        assert fake.calls("launch") == launches  # those of the capture were the last
        np.testing.assert_array_equal(session.run(x0=ramp(9))["y0"], 16 * ramp(9))  # another shape, the arena moves
        np.testing.assert_array_equal(session.run(x0=ramp(3))["y0"], 16 * ramp(3))
        np.testing.assert_array_equal(session.run(x0=ramp(3))["y0"], 16 * ramp(3))


def test_graphs_follow_addresses_until_these_never_repeat(fake: Fake, load: Load) -> None:
    model = load(chain())
    with model.session() as session:
        kept = [session.run(x0=i * ramp(3), device="cuda")["y0"] for i in range(16)]
        for i, tensor in enumerate(kept):
            np.testing.assert_array_equal(tensor.numpy(), 16 * i * ramp(3))
        assert session.graphs.captured == 8
        assert session.graphs.reason == "addresses of inputs or outputs change from run to run"
    with model.session() as session:
        for i in range(10):  # freed before the next run: its memory is used again
            np.testing.assert_array_equal(session.run(x0=i * ramp(3), device="cuda")["y0"].numpy(), 16 * i * ramp(3))
        assert session.graphs.captured <= 2 and session.graphs.reason == ""


def test_steps_are_timed_by_events_and_without_graphs(fake: Fake, load: Load) -> None:
    model = load(chain(2))
    with model.session() as session:
        session.profiling = True
        for _ in range(3):
            session.run(x0=ramp(3))
        nanoseconds, runs = session.profile()
        assert (runs, nanoseconds) == (3, [3000, 3000, 3000])
        assert session.graphs.reason == "steps are timed"
        session.profiling = False
        session.run()
        session.run()
        assert session.graphs.reason == ""


def test_kernels_use_scratch_memory_that_stays_for_graphs(fake: Fake, load: Load) -> None:
    artifact = CudaArtifact(["n"])
    main = artifact.main
    x = main.input("float32", ["n"])
    main.outputs.append(main.kernel("reverse", [main.kernel("reverse", [main.kernel("reverse", [x], ("float32", ["n"]))], ("float32", ["n"]))],
                                    ("float32", ["n"])))
    model = load(artifact)
    with model.session() as session:
        for n in (5, 5, 5, 400_000, 5, 5, 400_000, 400_000, 5):
            x_value = np.arange(n, dtype=np.float32)
            np.testing.assert_array_equal(session.run(x0=x_value)["y0"], x_value[::-1])
        assert session.graphs.replayed > 4


def test_a_host_step_runs_on_the_cpu_between_steps_of_the_gpu(fake: Fake, load: Load) -> None:
    artifact = CudaArtifact(["n"])
    main = artifact.main
    x = main.input("float32", ["n"])
    doubled = call(main, "scale", [x], ("float32", ["n"]), dims=[main.dim("n")])
    main.symbols.append("found")
    indices = main.value("int64", [1, "found"])
    main.step("kernel", name="nonzero", inputs=[doubled], outputs=[indices], host=True)
    main.outputs.append(call(main, "to_float", [indices], ("float32", [1, "found"]), dims=[main.dim("found")]))
    model = load(artifact)
    with model.session() as session:
        for values in ([0, 1, 0, 2], [0, 0, 0, 0], [1, 1, 1, 1], [0, 0, 0, 3]):
            x_value = np.array(values, np.float32)
            np.testing.assert_array_equal(session.run(x0=x_value)["y0"], [np.flatnonzero(x_value)])
        assert session.graphs.reason == "kernel 'nonzero' runs on the CPU"
        taken = session.run(x0=x_value, device="cuda")["y0"]
        np.testing.assert_array_equal(taken.numpy(), [[3]])


def test_shapes_are_written_without_waiting_and_read_with(fake: Fake, load: Load) -> None:
    artifact = CudaArtifact(["n"])
    main = artifact.main
    x = main.input("float32", ["n"])
    shape = main.builtin("shape", [], ("int64", [40]), dims=[main.dim("n")] * 40)  # more than one store takes
    main.outputs.append(call(main, "to_float", [shape], ("float32", [40]), dims=[main.dim(40)]))
    main.outputs.append(call(main, "scale", [x], ("float32", ["n"]), dims=[main.dim("n")]))
    model = load(artifact)
    with model.session() as session:
        for n in (4, 4, 4, 6, 6, 6):
            waits = fake.calls("synchronize")
            np.testing.assert_array_equal(session.run(x0=np.zeros(n, np.float32))["y0"], np.full(40, n))
            assert fake.calls("synchronize") == waits + 1  # for the outputs
        assert session.graphs.replayed == 4


def test_dimensions_are_read_from_the_gpu(fake: Fake, load: Load) -> None:
    artifact = CudaArtifact()
    main = artifact.main
    extents = main.input("int64", [1])
    main.symbols.append("m")
    main.step("builtin", name="to_dims", inputs=[extents], outputs=[], ints=[0])
    shape = main.builtin("shape", [], ("int64", [1]), dims=[main.expr("mul", main.dim("m"), main.dim(3))])
    main.outputs.append(main.copy(shape))
    model = load(artifact)
    for m in (5, 0, 7):
        assert model.run(x0=np.array([m]))["y0"].tolist() == [3 * m]


def branch() -> CudaArtifact:
    """y0 = 2 x0 while it is below 10, as a loop; then x0 or 2 x0, as its condition says."""
    artifact = CudaArtifact()
    main = artifact.main
    x, trips = main.input("float32", [1]), main.input("int64", [])
    body_index, body = artifact.add("body")
    body.input("int64", [])
    body.input("bool", [])
    carried = body.input("float32", [1])
    doubled = call(body, "scale", [carried], ("float32", [1]), dims=[body.dim(1)])
    flat = body.view(doubled, "float32", [])
    body.outputs = [call(body, "less", [flat], ("bool", [])), doubled, doubled]
    condition = call(main, "less", [main.view(x, "float32", [])], ("bool", []))
    total = main.value("float32", [1])
    main.symbols.append("trips")
    scan = main.value("float32", ["trips", 1])
    main.step("loop", trip_count=trips, condition=condition, body=body_index, carried=[x], inputs=[], outputs=[total, scan])
    main.outputs += [total, scan]
    return artifact


@pytest.mark.parametrize(("x", "trips", "expected"), [(1, 100, 16), (1, 2, 4), (11, 5, 11), (3, 0, 3), (0, 40, 0)])
def test_a_loop_reads_its_conditions_from_the_gpu(fake: Fake, load: Load, x: float, trips: int, expected: float) -> None:
    model = load(branch())
    for device in ("cpu", "cuda"):
        outputs = model.run(x0=np.array([x], np.float32), x1=np.array(trips), device=device)
        values = {name: value if device == "cpu" else value.numpy() for name, value in outputs.items()}
        assert values["y0"].tolist() == [expected]
        steps: list[float] = []
        while len(steps) < trips and (steps[-1] if steps else x) < 10:
            steps.append((steps[-1] if steps else x) * 2)
        assert values["y1"].ravel().tolist() == steps


def test_a_branch_is_chosen_by_what_the_gpu_computed(fake: Fake, load: Load) -> None:
    artifact = CudaArtifact()
    main = artifact.main
    x = main.input("float32", [1])
    condition = call(main, "less", [main.view(x, "float32", [])], ("bool", []))
    bodies = []
    for name, factor in (("then", 1), ("else", 2)):
        index, body = artifact.add(name)
        value = body.input("float32", [1])
        for _ in range(factor):
            value = call(body, "scale", [value], ("float32", [1]), dims=[body.dim(1)])
        body.outputs = [value]
        bodies.append(index)
    result = main.value("float32", [1])
    main.step("if", condition=condition, **{"then": bodies[0], "else": bodies[1]}, then_inputs=[x], else_inputs=[x], outputs=[result])
    main.outputs = [result]
    model = load(artifact)
    assert [model.run(x0=np.array([v], np.float32))["y0"][0] for v in (3, 30)] == [6, 120]


def test_an_error_of_a_kernel_names_its_node_and_the_session_goes_on(fake: Fake, load: Load) -> None:
    artifact = CudaArtifact()
    main = artifact.main
    x = main.input("float32", [2])
    main.kernel("refuse", [x], ("float32", [2]))
    main.outputs.append(call(main, "scale", [x], ("float32", [2]), dims=[main.dim(2)]))
    with load(artifact).session() as session:
        for _ in range(3):
            with pytest.raises(ExecutionError, match=r"node refuse_0: .*GPU 0 \(Fake, sm_90\): heads of 7 are not supported"):
                session.run(x0=np.ones(2, np.float32))


def test_memory_that_runs_out_is_an_error_and_the_session_goes_on_with_less(fake: Fake, load: Load) -> None:
    model = load(chain())
    with model.session() as session:
        np.testing.assert_array_equal(session.run(x0=ramp(2))["y0"], 16 * ramp(2))
        fake.limit(1 << 20)
        for _ in range(2):
            with pytest.raises(OutOfMemoryError, match=r"GPU 0 .*: cannot allocate \d+ bytes; \d+ of its \d+ are free"):
                session.run(x0=np.zeros((1 << 20, 5), np.float32))
            np.testing.assert_array_equal(session.run(x0=ramp(3))["y0"], 16 * ramp(3))
        fake.limit(None)
        large = np.ones((1 << 18, 5), np.float32)
        np.testing.assert_array_equal(session.run(x0=large)["y0"], 16 * large)


def test_all_memory_is_given_back(fake: Fake, load: Load) -> None:
    load(chain()).run(x0=ramp(1))  # what the GPU itself keeps
    before = fake.used()
    model = load(chain())
    session = model.session()
    output = session.run(x0=ramp(50), device="cuda")["y0"]
    session.run()
    assert fake.used() > before
    session.close()
    del model
    np.testing.assert_array_equal(output.numpy(), 16 * ramp(50))
    del output, session
    assert fake.used() == before


def test_inputs_on_another_gpu_or_of_a_cpu_model_are_refused(fake: Fake, load: Load, tmp_path: Path) -> None:
    first = load(chain(architectures=(80, 90)))
    second = ingot.load(tmp_path / "test.ingot", gpu=1)
    assert (first.device, second.device) == ("cuda:0", "cuda:1")
    there = second.run(x0=ramp(2), device="cuda:1")["y0"]
    assert there.__dlpack_device__() == (2, 1)
    with pytest.raises(InputError, match=r"input 'x0' is on GPU 1, the model is on GPU 0 \(Fake, sm_90\); copy it to that GPU or to the CPU first"):
        first.run(x0=there)
    with pytest.raises(InputError, match="outputs cannot be given on device 'cuda:1': the model runs on 'cuda:0'"):
        first.run(x0=ramp(2), device="cuda:1")
    np.testing.assert_array_equal(first.run(x0=there.numpy())["y0"], 256 * ramp(2))


def test_a_session_of_the_cpu_has_no_streams(fake: Fake, tmp_path: Path) -> None:
    from tests.runtime.assemble import Artifact

    artifact = Artifact()
    artifact.main.outputs.append(artifact.main.copy(artifact.main.input("float32", [2])))
    model = artifact.load(tmp_path)
    assert model.device == "cpu"
    with model.session() as session:
        session.set_stream(None)
        session.synchronize()
        assert session.graphs == type(session.graphs)(0, 0, "the model runs on the CPU")
        with pytest.raises(IngotError, match="runs on the CPU, which has no streams"):
            session.set_stream(7)
    with pytest.raises(InputError, match="the model runs on 'cpu'"):
        model.run(x0=np.zeros(2, np.float32), device="cuda")
