"""The quantized_matmul kernel against the definition in float64, under every instruction set that this machine has."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import ingot
from ingot.errors import ExecutionError
from ingot.lower.cpu.quantized_weights import ACTIVATIONS, FORMATS, pack_codes, pack_groups
from tests.cuda.quantized_cases import Call, Data, beyond, finished, make, weights
from tests.runtime.assemble import Artifact

_AVX512 = ("avx512f", "avx512bw", "avx512dq", "avx512vl")
FEATURES = {"scalar": (), "avx2": ("avx2", "fma", "f16c"), "avx_vnni": ("avx2", "fma", "f16c", "avx_vnni"), "avx512": _AVX512,
            "avx512_vnni": (*_AVX512, "avx512_vnni"), "amx": (*_AVX512, "avx512_vnni", "avx512_bf16", "amx_int8"),
            "neon": ("asimd",), "neon_dotprod": ("asimd", "asimddp"), "neon_i8mm": ("asimd", "asimddp", "i8mm")}
INSTRUCTION_SETS = [name for name, needed in FEATURES.items() if set(needed) <= set(ingot.machine()["features"])]
UNIT = 2.0**-24  # the rounding error of float32
#: What codes of nf4 stand for where products are of integers.
NF4_IN_INTEGERS = tuple(float(v) for v in np.round(np.array(FORMATS["nf4"].values) * 127) / 127)


@dataclass(frozen=True)
class Case(Call):
    """``integers``: rows of X are rounded to int8, each group of ``x_group`` of them by a scale of its own."""

    integers: bool = True
    x_group: int = 0


def rounded(case: Case, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What X is rounded to, and by how much that may differ: numbers about halfway between integers may go either way in float32."""
    size = case.x_group or max(case.depth, 1)
    count = -(-case.depth // size)
    flat = np.zeros((x.shape[0], count * size))
    flat[:, : case.depth] = x
    padded = flat.reshape(x.shape[0], count, size)
    scale = np.abs(padded).max(axis=-1, keepdims=True, initial=0) / 127
    ratio = padded / np.where(scale == 0, 1, scale)
    doubt = np.abs(np.abs(ratio - np.floor(ratio)) - 0.5) < 127 * 4 * UNIT  # four roundings of a number of up to 127
    values, doubts = (a.reshape(flat.shape)[:, : case.depth] for a in (np.round(ratio) * scale, doubt * scale))
    return values, doubts


def reference(case: Case, data: Data) -> tuple[np.ndarray, np.ndarray]:
    """Y by the definition, and a bound of what float32 may add to it in rounding errors."""
    in_integers = NF4_IN_INTEGERS if case.integers and case.format == "nf4" else ()
    w, magnitude = weights(case, data, in_integers, apart=True)
    x = data.x.astype(np.float64)
    x, doubt = rounded(case, x) if case.integers else (x, np.zeros_like(x))
    # A sum of K products errs by K + 6 roundings of the sum of magnitudes: of the product, its scales, zeros and the bias.
    sums = x @ w.T
    bound = doubt @ np.abs(w).T + (case.depth + 6) * UNIT * (np.abs(x) @ magnitude.T)
    return finished(case, data, sums, bound, UNIT)


def run(case: Case, data: Data, folder: Path, threads: int = 2) -> np.ndarray:
    """The kernel's output. It ran before on NaN, which then lie in its output's and its scratch memory."""
    kind = FORMATS[case.format]
    artifact = Artifact()
    main = artifact.main
    x = main.input(case.dtype, data.x.shape)
    inputs = [x, artifact.weight(main, pack_codes(kind, data.codes), "codes"), artifact.weight(main, pack_groups(data.scales), "scales"),
              artifact.weight(main, pack_groups(data.zeros), "zeros") if data.zeros is not None else -1,
              artifact.weight(main, data.bias, "bias") if data.bias is not None else -1]
    arrays = [data.x]
    if data.residual is not None:
        inputs.append(main.input(case.dtype, data.residual.shape))
        arrays.append(data.residual)
    ints = [kind.code, case.group, int(case.integers), case.x_group, ACTIVATIONS[case.activation]]
    main.outputs = [main.kernel("quantized_matmul", inputs, (case.dtype, (case.rows, case.columns)), ints=ints)]
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


GROUPS = st.sampled_from([0, 16, 32, 64, 128, 256, 2048])
CASES = st.builds(
    Case,
    rows=st.one_of(st.integers(0, 14), st.integers(15, 160)), columns=st.one_of(st.integers(0, 40), st.integers(41, 300)),
    depth=st.one_of(st.integers(0, 70), st.integers(71, 1200)), format=st.sampled_from(["int8", "int4"]), group=GROUPS, integers=st.booleans(),
    x_group=GROUPS, activation=st.sampled_from(["", "", *ACTIVATIONS]), scales=st.sampled_from(["float32", "float16", "bfloat16", "uint8"]),
    zeros=st.sampled_from([None, "int8", "float32"]), bias=st.booleans(), residual=st.booleans(),
    dtype=st.sampled_from(["float32", "float32", "float16", "bfloat16"]), seed=st.integers(0, 2**32 - 1),
)
TABLES = st.builds(replace, CASES, format=st.sampled_from(["mxfp4", "nf4"]), zeros=st.none())
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
