"""The quantized_matmul kernel against the definition in float64, under every instruction set that this machine has."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ingot.errors import ExecutionError
from ingot.lower.cpu.quantized_weights import FORMATS, pack_codes, pack_groups
from tests.cuda.quantized_cases import Data, beyond, make
from tests.kernels.quantized_matmul_cases import CASES, INSTRUCTION_SETS, TABLES, Case, build, reference
from tests.runtime.assemble import Artifact


def run(case: Case, data: Data, folder: Path, threads: int = 2) -> np.ndarray:
    """The kernel's output. It ran before on NaN, which then lie in its output's and its scratch memory."""
    artifact, arrays = build(case, data)
    model = artifact.load(folder, threads=threads)
    model.run([np.full_like(a, np.nan) for a in arrays])
    return np.asarray(model.run(arrays)["y0"])


def check(case: Case, data: Data, folder: Path, threads: int = 2) -> None:
    expected, bound = reference(case, data)
    excess = beyond(run(case, data, folder, threads), expected, bound)
    assert (excess <= 0).all(), f"{excess.max()} more than the {bound.flat[excess.argmax()]} there may be: {case}"


@pytest.fixture(params=INSTRUCTION_SETS, autouse=True)
def instructions(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Forces one instruction set: kernels are picked when a model is loaded."""
    monkeypatch.setenv("INGOT_ISA", request.param)
    name: str = request.param
    return name


SLOW = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]


@settings(max_examples=150, deadline=None, suppress_health_check=SLOW)
@given(case=st.one_of(CASES, CASES, TABLES))
def test_a_product_is_its_definition(case: Case, tmp_path: Path) -> None:
    if case.dtype == "float16":  # few numbers near its largest
        case = replace(case, scales="float16" if case.scales == "uint8" else case.scales)
    check(case, make(case), tmp_path)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("case", [
    Case(1, 4096, 1024, group=128, x_group=128), Case(1, 1000, 4096, "int8", 0), Case(4, 777, 2056, "mxfp4", 32, scales="uint8", x_group=32),
    Case(130, 520, 1100, group=32, x_group=32, zeros="int8"), Case(200, 130, 2500, "int8", 0, bias=True, activation="gelu"),
    Case(450, 40, 600, "nf4", 64, integers=False), Case(650, 40, 600, "nf4", 64, x_group=64),
    Case(530, 600, 1100, group=32, x_group=64),
    Case(97, 300, 700, group=64, integers=False, dtype="bfloat16", residual=True),
], ids=lambda value: f"{value.format}-{value.rows}" if isinstance(value, Case) else None)
def test_rows_and_columns_are_divided_among_threads(case: Case, threads: int, tmp_path: Path) -> None:
    check(case, make(case), tmp_path, threads)


@pytest.mark.parametrize("scales", ["float32", "float16", "bfloat16", "uint8"])
@pytest.mark.parametrize(("format", "group", "depth"), [
    ("int8", 0, 2056), ("int8", 128, 1100), ("int4", 32, 1300), ("int4", 2048, 2100), ("nf4", 64, 330), ("mxfp4", 32, 1061),
], ids=str)
def test_a_single_row_by_panels_that_are_read_together(format: str, group: int, depth: int, scales: str, tmp_path: Path) -> None:
    """Whole sets of panels, some that are left over, and a last one in part."""
    for zeros in (None,) if FORMATS[format].values else (None, "int8", "float32"):
        for columns in (203, 40):
            case = Case(1, columns, depth, format, group, scales=scales, zeros=zeros, bias=True, activation="silu")
            check(case, make(case), tmp_path)


@pytest.mark.parametrize("format", ["int8", "int4", "mxfp4"])
@pytest.mark.parametrize("rows", [1, 7, 30, 100])
def test_sums_of_the_largest_numbers_do_not_overflow(format: str, rows: int, tmp_path: Path) -> None:
    case = Case(rows, 33, 2048, format, 0)
    codes = {"int8": (-128, 127), "int4": (0, 15), "mxfp4": (15, 7)}[format]  # of the least and the largest number
    for code, x in ((codes[0], 1.0), (codes[1], 1.0), (codes[0], -1.0)):
        data = make(case)
        data.x[:] = x
        data.codes[:] = code
        check(case, data, tmp_path)


@pytest.mark.parametrize("integers", [False, True])
@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_rows_may_be_small_or_large(size: float, integers: bool, tmp_path: Path) -> None:
    for format in ("int8", "int4"):
        case = Case(9, 40, 300, format, 64, integers=integers, x_group=32)
        data = make(case)
        data.x[::2] *= np.float32(size)
        check(case, data, tmp_path)


def test_rows_of_zeros_give_the_bias(tmp_path: Path) -> None:
    for format in FORMATS:
        case = Case(9, 40, 300, format, 64, bias=True)
        data = make(case)
        data.x[:] = 0
        assert data.bias is not None
        np.testing.assert_array_equal(run(case, data, tmp_path), np.broadcast_to(data.bias, (9, 40)))


@pytest.mark.parametrize("integers", [False, True])
@pytest.mark.parametrize("format", FORMATS)
def test_a_row_with_nan_or_infinities_is_the_only_one_that_they_touch(format: str, integers: bool, tmp_path: Path) -> None:
    case = Case(14, 40, 300, format, 32, integers=integers, x_group=32)
    for value in (np.nan, np.inf, -np.inf):
        data = make(case)
        data.x[2, 299] = value
        data.x[11, 0] = value
        found = run(case, data, tmp_path)
        assert not np.isfinite(found[[2, 11]]).any()
        data.x[[2, 11]] = 0
        expected, bound = reference(case, data)
        others = [r for r in range(14) if r not in (2, 11)]
        assert (np.abs(found - expected)[others] <= bound[others]).all()


def test_leading_axes_are_rows(tmp_path: Path) -> None:
    case = Case(12, 20, 64)
    data = make(case)
    artifact = Artifact()
    main = artifact.main
    x = main.input("float32", (3, 1, 4, 64))
    packed = [artifact.weight(main, pack_codes(FORMATS["int4"], data.codes)), artifact.weight(main, pack_groups(data.scales))]
    main.outputs = [main.kernel("quantized_matmul", [x, *packed], ("float32", (3, 1, 4, 20)), ints=[1, 32, 1, 0, 0])]
    found = np.asarray(artifact.load(tmp_path).run([data.x.reshape(3, 1, 4, 64)])["y0"])
    np.testing.assert_array_equal(found.reshape(12, 20), run(case, data, tmp_path))


def test_what_does_not_fit_is_an_error(tmp_path: Path) -> None:
    def message(ints: list[int], *, codes: tuple[int, ...] = (2, 320), scales: tuple[int, ...] = (2, 2, 16), dtype: str = "float32",
                columns: int = 20) -> str:
        artifact = Artifact()
        main = artifact.main
        x = main.input(dtype, (3, 40))
        inputs = [x, artifact.weight(main, np.zeros(codes, np.uint8)), artifact.weight(main, np.ones(scales, np.float32))]
        main.outputs = [main.kernel("quantized_matmul", inputs, (dtype, (3, columns)), ints=ints)]
        with pytest.raises(ExecutionError) as caught:
            artifact.load(tmp_path).run([np.zeros((3, 40), dtype)])
        return str(caught.value)

    assert "no format 9" in message([9, 32, 1, 0, 0])
    assert "group is 24; it is a power of two" in message([1, 24, 1, 0, 0])
    assert "group of activations is 8" in message([1, 32, 1, 8, 0])
    assert "no activation 5" in message([1, 32, 1, 0, 5])
    assert "packed W is [2, 320], not [2, 640]" in message([0, 32, 1, 0, 0])
    assert "packed W is [2, 320], not [3, 320]" in message([1, 32, 1, 0, 0], columns=40)
    assert "scales is [2, 2, 16], not [2, 3, 16]" in message([1, 16, 1, 0, 0])
    assert "float64" in message([1, 32, 1, 0, 0], dtype="float64")
