"""Products that the CUDA kernel matmul leaves to cuBLASLt, with a library that stands in for it on the emulator."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import harness
import numpy as np
import pytest
from products import CLAMP, FLOAT32, TF32, numbers
from test_matmul import ROWS_OF_K, ROWS_OF_N, Case, run

LIBRARY = 9  # the variant that forces it
pytestmark = pytest.mark.emulated


class Fake:
    """The library, as tests look into it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._library = ctypes.CDLL(str(path))
        self._library.fake_calls.restype = ctypes.c_int64

    def calls(self, name: str) -> int:
        """How often something was called; "alive": objects that were not destroyed."""
        return int(self._library.fake_calls(name.encode()))

    def refuse(self, status: int) -> None:
        """What the heuristic answers from now on."""
        self._library.fake_refuse(status)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Fake:
    compiler = shutil.which("c++")
    if compiler is None:
        pytest.skip("there is no C++ compiler")
    path = tmp_path_factory.mktemp("cublaslt") / "libfake_cublaslt.so"
    source = Path(__file__).with_name("fake_cublaslt.cpp")
    subprocess.run([compiler, "-std=c++20", "-O1", "-fPIC", "-shared", "-Wall", "-Wextra", "-Werror", "-fvisibility=hidden", str(source),
                    "-o", str(path)], check=True)
    return Fake(path)


@pytest.fixture
def fake(library: Fake, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fake]:
    monkeypatch.setenv("INGOT_CUBLASLT", str(library.path))
    yield library
    library.refuse(0)
    assert library.calls("alive") == 0


@pytest.mark.parametrize("layout", [ROWS_OF_K, ROWS_OF_N])
@pytest.mark.parametrize(("dtype", "result"), [("float32", ""), ("float16", ""), ("bfloat16", ""), ("bfloat16", "float32")])
@pytest.mark.parametrize("rows", [1, 37])
def test_a_product_is_the_librarys(fake: Fake, layout: int, dtype: str, result: str, rows: int) -> None:
    before = fake.calls("matmul")
    case = Case(rows=rows, columns=43, depth=70, dtype=dtype, result=result, layout=layout, path=LIBRARY)
    run(case)
    run(replace(case, bias=result or dtype))
    run(replace(case, residual=True))
    run(replace(case, bias=result or dtype, residual=True))
    assert fake.calls("matmul") == before + 4


@pytest.mark.parametrize("leading", [((2, 3), (2, 3)), ((2, 3), ()), ((), (3,)), ((1, 1), (2, 3))])
@pytest.mark.parametrize("layout", [ROWS_OF_K, ROWS_OF_N])
def test_batches_with_one_step_are_the_librarys(fake: Fake, leading: tuple[tuple[int, ...], tuple[int, ...]], layout: int) -> None:
    before = fake.calls("matmul")
    run(Case(rows=5, columns=9, depth=12, x_leading=leading[0], w_leading=leading[1], layout=layout, dtype="float32", path=LIBRARY, residual=True))
    assert fake.calls("matmul") == before + 1


def test_tf32_is_allowed_where_it_was_asked_for(fake: Fake) -> None:
    before = fake.calls("tf32"), fake.calls("matmul")
    run(Case(rows=9, dtype="float32", precision=TF32, path=LIBRARY))
    run(Case(rows=9, dtype="float32", precision=FLOAT32, path=LIBRARY))
    assert (fake.calls("tf32"), fake.calls("matmul")) == (before[0] + 1, before[1] + 1)


def test_the_librarys_choice_is_asked_for_once(fake: Fake) -> None:
    case = Case(rows=11, columns=13, depth=17, dtype="float32", path=LIBRARY)
    run(case)
    before, created = fake.calls("heuristic"), fake.calls("create")
    run(case)
    run(replace(case, seed=1))
    assert (fake.calls("heuristic"), fake.calls("create")) == (before, created)
    run(replace(case, rows=12))
    assert fake.calls("heuristic") == before + 1


@pytest.mark.parametrize("case", [
    Case(dtype="float32", activation="relu"),
    Case(dtype="float32", activation="gelu_tanh"),
    Case(dtype="bfloat16", bias="float32"),
    Case(dtype="float32", x_leading=(2, 1), w_leading=(1, 2)),
    Case(depth=0, dtype="float32"),
])  # fmt: skip
def test_what_the_library_does_not_take_is_said_where_it_is_forced_and_else_our_kernels(fake: Fake, case: Case) -> None:
    before = fake.calls("matmul")
    with pytest.raises(harness.KernelError, match="variant 9 is cuBLASLt, which does not compute this product"):
        run(replace(case, path=LIBRARY))
    run(case)
    assert fake.calls("matmul") == before


def test_only_large_products_are_left_to_it(fake: Fake) -> None:
    before = fake.calls("matmul")
    run(Case(rows=64, columns=128, depth=128, dtype="float32"))
    run(Case(rows=1, columns=512, depth=512))
    assert fake.calls("matmul") == before
    large = Case(rows=33, columns=2048, depth=2048, dtype="float32")
    x, w = numbers(np.random.default_rng(0), (large.rows, large.depth), "float32"), np.zeros((large.columns, large.depth), np.float32)
    w[:, 7] = 1
    for capability, calls in ((90, 1), (0, 2), (80, 2)):
        y, = harness.run("matmul", [x, w], [((large.rows, large.columns), np.float32)], ints=[ROWS_OF_K, 0, FLOAT32, 0], floats=CLAMP,
                         capability=capability)
        np.testing.assert_array_equal(y, np.broadcast_to(x[:, 7:8], y.shape))
        assert fake.calls("matmul") == before + calls


def test_a_product_without_a_kernel_of_the_library_is_ours(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    fake.refuse(15)
    with pytest.raises(harness.KernelError, match="cuBLASLt, which does not compute this product"):
        run(Case(rows=3, columns=21, depth=19, dtype="float32", path=LIBRARY))


@pytest.mark.parametrize(("value", "why"), [("0", "INGOT_CUBLASLT is 0"), ("/nowhere/lib.so", "/nowhere/lib.so: cannot open"),
                                            ("libm.so.6", "cuBLASLt has no cublasLtCreate")])
def test_without_the_library_it_is_said_why(fake: Fake, monkeypatch: pytest.MonkeyPatch, value: str, why: str) -> None:
    monkeypatch.setenv("INGOT_CUBLASLT", value)
    with pytest.raises(harness.KernelError, match=f"variant 9 is cuBLASLt, which is not there: {why}"):
        run(Case(dtype="float32", path=LIBRARY))
    run(Case(rows=40, dtype="float32"))
