"""Inputs are borrowed, never copied; one that does not fit gets an error that names it, what was found and what is expected."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import ingot
from ingot.errors import InputError
from tests.runtime.assemble import Artifact

Load = Callable[..., ingot.Model]


@pytest.fixture
def model(load: Load) -> ingot.Model:
    """x0 float32 [batch, 3, seq], x1 int64 [seq], x2 float32 [batch]; all of them are given back."""
    artifact = Artifact(dims=["batch", "seq"])
    main = artifact.main
    inputs = [main.input("float32", ["batch", 3, "seq"]), main.input("int64", ["seq"]), main.input("float32", ["batch"])]
    main.outputs = [main.copy(v) for v in inputs]
    return load(artifact)


def arrays(batch: int = 2, seq: int = 5) -> dict[str, Any]:
    generator = np.random.default_rng(0)
    return {"x0": generator.standard_normal((batch, 3, seq), np.float32), "x1": np.arange(seq), "x2": np.ones(batch, np.float32)}


def error(model: ingot.Model, *args: Any, **inputs: Any) -> str:
    with pytest.raises(InputError) as caught:
        model.run(*args, **inputs)
    assert isinstance(caught.value, ValueError)
    return str(caught.value)


def test_inputs_come_by_name_in_order_or_as_keywords(model: ingot.Model) -> None:
    given = arrays()
    for outputs in (model.run(given), model.run(list(given.values())), model.run(tuple(given.values())), model.run(**given),
                    model.run({"x0": given["x0"]}, x1=given["x1"], x2=given["x2"]), model.run([given["x0"]], x1=given["x1"], x2=given["x2"])):
        assert list(outputs) == ["y0", "y1", "y2"]
        for output, value in zip(outputs.values(), given.values(), strict=True):
            np.testing.assert_array_equal(output, value)


def test_wrong_names_are_explained(model: ingot.Model) -> None:
    given = arrays()
    assert "input 'x2' is missing" in error(model, {k: given[k] for k in ("x0", "x1")})
    assert "inputs 'x0', 'x1', 'x2' are missing" in error(model, {}).replace("input '", "inputs '", 1)
    message = error(model, {"x0": given["x0"], "x1": given["x1"], "x22": given["x2"]})
    assert "there is no input 'x22'; did you mean 'x2'?" in message and "x0, x1, x2" in message
    assert "there is no input 'extra'" in error(model, given, extra=1)
    assert "2 inputs were given, the model takes 3: x0, x1, x2" in error(model, [given["x0"], given["x1"]])
    assert "not ndarray; pass {'x0': array} or [array]" in error(model, given["x0"])


@pytest.mark.parametrize(("name", "value", "message"), [
    ("x0", np.zeros((2, 4, 5), np.float32), "input 'x0' has shape [2, 4, 5], expected [batch, 3, seq]"),
    ("x0", np.zeros((2, 3), np.float32), "input 'x0' has shape [2, 3], expected [batch, 3, seq]"),
    ("x0", np.float32(1).reshape(()), "input 'x0' has shape [], expected [batch, 3, seq]"),
    ("x0", np.zeros((2, 3, 5), np.float64), "input 'x0' has type float64, expected float32"),
    ("x0", np.zeros((2, 3, 5), ">f4"), "input 'x0' has elements of format '>f'"),
    ("x0", np.zeros((2, 3, 10), np.float32)[:, :, ::2], "input 'x0' is not C-contiguous"),
    ("x0", np.asfortranarray(np.zeros((2, 3, 5), np.float32)), "input 'x0' is not C-contiguous"),
    ("x0", np.zeros(30 * 4 + 1, np.uint8)[1:].view(np.float32).reshape(2, 3, 5), "input 'x0' is not aligned to 4 bytes"),
    ("x0", np.zeros((2, 3, 5), "O"), "input 'x0' "),
    ("x0", [[1.0]], "input 'x0' is of type list"),
    ("x0", None, "input 'x0' is of type NoneType"),
    ("x1", np.zeros(7, np.int64), "input 'x1' has extent 7 where 'seq' is 5 (set by input 'x0')"),
    ("x2", np.zeros(7, np.float32), "input 'x2' has extent 7 where 'batch' is 2 (set by input 'x0')"),
    ("x1", np.zeros(5, np.uint64), "input 'x1' has type uint64, expected int64"),
    ("x1", np.zeros(5, np.int32), "input 'x1' has type int32, expected int64"),
])
def test_what_does_not_fit_is_named(model: ingot.Model, name: str, value: Any, message: str) -> None:
    assert message in error(model, {**arrays(), name: value})
    model.run(arrays())  # the model is as good as before


def test_the_bound_of_a_dimension_holds(load: Load) -> None:
    artifact = Artifact(dims=["n"], bounds={"n": 4})
    artifact.main.outputs = [artifact.main.copy(artifact.main.input("float32", ["n"]))]
    model = load(artifact)
    assert model.run([np.zeros(4, np.float32)])["y0"].shape == (4,)
    assert "input 'x0' has extent 5 where 'n' was compiled for at most 4" in error(model, [np.zeros(5, np.float32)])


def test_an_extent_that_is_an_expression_is_compared(load: Load) -> None:
    artifact = Artifact(dims=["n"])
    main = artifact.main
    main.values.append({"dtype": "float32", "shape": [main.expr("mul", main.dim(2), main.dim("n"))]})
    main.inputs.append(0)
    x = main.input("float32", ["n"])
    main.outputs = [main.copy(x)]
    model = load(artifact)
    assert model.inputs[0].shape == ("mul(2, n)",)
    assert model.run([np.zeros(6, np.float32), np.zeros(3, np.float32)])["y0"].shape == (3,)
    assert "input 'x0' has extent 5 on axis 0 where 'mul(2, n)' is 6" in error(model, [np.zeros(5, np.float32), np.zeros(3, np.float32)])


def test_memory_is_borrowed(model: ingot.Model) -> None:
    """The library reads the caller's own bytes: what changes there changes for it."""
    given = arrays()
    with model.session() as session:
        session.run(given)
        given["x1"][:] = 42
        assert (session.run()["y1"] == 42).all()


class OnlyDLPack:
    """An array that speaks nothing but DLPack, and an old version of it."""

    def __init__(self, array: np.ndarray[Any, Any], device: tuple[int, int] = (1, 0)) -> None:
        self.array, self.device = array, device

    def __dlpack__(self) -> Any:
        return self.array.__dlpack__()

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.device


def test_anything_with_dlpack_is_an_input(model: ingot.Model) -> None:
    given = arrays()
    outputs = model.run({name: OnlyDLPack(array) for name, array in given.items()})
    for output, array in zip(outputs.values(), given.values(), strict=True):
        np.testing.assert_array_equal(output, array)


def test_dlpack_memory_is_borrowed(model: ingot.Model) -> None:
    torch = pytest.importorskip("torch")
    given = {name: torch.from_numpy(array) for name, array in arrays().items()}
    with model.session() as session:
        session.run(given)
        given["x1"][:] = 42
        assert (session.run()["y1"] == 42).all()


def test_another_device_is_refused(model: ingot.Model) -> None:
    given = arrays()
    on_gpu = {**given, "x0": OnlyDLPack(given["x0"], (2, 0))}
    assert "input 'x0' is on GPU 0, the model is on the CPU; copy it to the CPU first" in error(model, on_gpu)


def test_a_tensor_that_needs_gradients_says_so(model: ingot.Model) -> None:
    torch = pytest.importorskip("torch")
    given = {**arrays(), "x0": torch.zeros((2, 3, 5), requires_grad=True)}
    assert "input 'x0' cannot be used" in error(model, given)


def test_read_only_arrays_are_fine(model: ingot.Model) -> None:
    given = arrays()
    for array in given.values():
        array.setflags(write=False)
    np.testing.assert_array_equal(model.run(given)["y0"], given["x0"])


def test_inputs_are_let_go_of_after_a_run(model: ingot.Model) -> None:
    import sys

    given = arrays()
    before = sys.getrefcount(given["x0"])
    for _ in range(3):
        model.run(given)
    after = sys.getrefcount(given["x0"])  # outside of the assertion, whose rewriting holds a reference
    assert after == before


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_found_on_request(model: ingot.Model, value: float) -> None:
    given = arrays()
    given["x0"][1, 2, 3] = value
    with pytest.raises(InputError, match=r"input 'x0' has a NaN or an infinity, first at index \[1, 2, 3\]"):
        model.run(given, check_finite=True)
    np.testing.assert_array_equal(model.run(given)["y0"], given["x0"])
    with model.session() as session, pytest.raises(InputError, match="x0"):
        session.run(given, check_finite=True)


DTYPES = ["bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64", "complex64",
          "complex128",
          "bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu", "float4_e2m1fn", "int4", "uint4",
          "int2", "uint2"]


@pytest.mark.parametrize("name", DTYPES)
def test_every_type_passes_through(load: Load, name: str) -> None:
    artifact = Artifact(dims=["n"])
    artifact.main.outputs = [artifact.main.copy(artifact.main.input(name, ["n"]))]
    model = load(artifact)
    dtype = np.dtype(getattr(ml_dtypes, name, name))
    value = np.array([0, 1, 1, 0, 1]).astype(dtype)
    output = model.run([value])["y0"]
    assert model.inputs[0].dtype == name and output.dtype == dtype
    assert output.tobytes() == value.tobytes()
    with pytest.raises(InputError, match=f"expected {name}"):
        model.run([np.zeros(5, np.uint8 if name != "uint8" else np.int8)])


def test_torch_bfloat16_is_taken_as_it_is(load: Load) -> None:
    torch = pytest.importorskip("torch")
    artifact = Artifact(dims=["n"])
    artifact.main.outputs = [artifact.main.copy(artifact.main.input("bfloat16", ["n"]))]
    output = load(artifact).run([torch.arange(4, dtype=torch.bfloat16)])["y0"]
    assert output.astype(np.float32).tolist() == [0, 1, 2, 3]


def test_zero_extents_are_extents(model: ingot.Model) -> None:
    outputs = model.run(arrays(batch=0))
    assert outputs["y0"].shape == (0, 3, 5) and outputs["y2"].shape == (0,)


def test_the_description_of_inputs(model: ingot.Model) -> None:
    assert [(i.name, i.dtype, i.shape) for i in model.inputs] == [("x0", "float32", ("batch", 3, "seq")), ("x1", "int64", ("seq",)),
                                                                    ("x2", "float32", ("batch",))]
    assert repr(model).startswith("<Model test.ingot (x0: float32[batch, 3, seq]")


@pytest.mark.parametrize("threads", [-1, 5000])
def test_an_impossible_number_of_threads_is_refused(load: Load, threads: int) -> None:
    with pytest.raises(InputError, match=f"threads is {threads}"):
        load(Artifact(), threads=threads)
