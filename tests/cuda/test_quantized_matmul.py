"""The CUDA kernel quantized_matmul against the definition in float64, on every path."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import harness
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from products import ROUNDING, STEP, activated
from quantized_cases import ACTIVATIONS, FORMATS, Call, Data, beyond, finished, load, make, numpy_type, pack_groups, weights

packing = load("cuda/packing.py")
UNIT = 2.0**-23  # tensor cores cut sums of float32 off
MOST_GROUPED_ROWS = 32  # beyond, weights may be rounded to X's type
STREAMED, TILES, WGMMA, BULK, DIRECT = 1_000_000, 2_000_000, 3_000_000, 4_000_000, 5_000_000


@dataclass(frozen=True)
class Case(Call):
    """``rounds``: X of float32 may be rounded to bfloat16."""

    rounds: bool = True
    dtype: str = "bfloat16"


def reference(case: Case, data: Data) -> tuple[np.ndarray, np.ndarray]:
    """Y by the definition, and a bound of what rounding may add to it."""
    w, magnitude = weights(case, data)
    x = data.x.astype(np.float64)
    sums = x @ w.T
    sizes = np.abs(x) @ magnitude.T
    bound = (case.depth + 6) * UNIT * sizes
    in_floats = case.zeros == "float32" or (case.dtype == "float32" and not case.rounds)
    if not in_floats:
        kind = "bfloat16" if case.dtype == "float32" else case.dtype
        # Roundings to 16 bits: of X, of what codes are looked up in, and for many rows of the scale and of its product with the code.
        count = (case.dtype == "float32") + bool(FORMATS[case.format].values) + 2 * (case.rows > MOST_GROUPED_ROWS)
        bound = bound + 1.01 * count * ROUNDING[kind] * (np.abs(x) @ np.abs(w).T)
        if case.rows > MOST_GROUPED_ROWS:  # small scales of float16, times codes of up to 255
            bound = bound + 256 * STEP[kind] * np.abs(x).sum(axis=1, keepdims=True)
    return finished(case, data, sums, bound, UNIT)


def run(case: Case, data: Data, capability: int = 0, variant: int = 0) -> np.ndarray:
    """The kernel's output."""
    kind = FORMATS[case.format]
    inputs = [data.x, packing.pack_codes(kind, data.codes), pack_groups(data.scales),
              pack_groups(data.zeros) if data.zeros is not None else None, data.bias, data.residual]
    ints = [kind.code, case.group, int(case.rounds), 0, ACTIVATIONS[case.activation], variant]
    return np.asarray(harness.run("quantized_matmul", inputs, [((case.rows, case.columns), data.x.dtype)], ints=ints, capability=capability)[0])


def check(case: Case, data: Data, capability: int = 0, variant: int = 0) -> None:
    expected, bound = reference(case, data)
    excess = beyond(run(case, data, capability, variant), expected, bound)
    assert (excess <= 0).all(), f"{excess.max()} more than the {bound.flat[excess.argmax()]} there may be, {(~(excess <= 0)).sum()} times: {case}"


GROUPS = st.sampled_from([0, 16, 32, 64, 128, 256, 2048])
CASES = st.builds(
    Case,
    rows=st.one_of(st.integers(0, 10), st.integers(11, 40)), columns=st.one_of(st.integers(0, 40), st.integers(41, 140)),
    depth=st.one_of(st.integers(0, 70), st.integers(71, 400)), format=st.sampled_from(["int8", "int4"]), group=GROUPS, rounds=st.booleans(),
    activation=st.sampled_from(["", "", *ACTIVATIONS]), scales=st.sampled_from(["float32", "float16", "bfloat16", "uint8"]),
    zeros=st.sampled_from([None, "int8", "int8", "float32"]), bias=st.booleans(), residual=st.booleans(),
    dtype=st.sampled_from(["float32", "float16", "bfloat16"]), seed=st.integers(0, 2**32 - 1),
)
TABLES = st.builds(replace, CASES, format=st.sampled_from(["mxfp4", "nf4"]), zeros=st.none())


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(case=st.one_of(CASES, CASES, TABLES), capability=st.sampled_from([0, 80]))
def test_a_product_is_its_definition(case: Case, capability: int) -> None:
    if case.dtype == "float16":  # few numbers near its largest
        case = replace(case, scales="float16" if case.scales == "uint8" else case.scales)
    check(case, make(case), capability)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("case", [
    Case(1, 40, 1100, group=128), Case(8, 40, 520, "int8", 32, zeros="int8"), Case(2, 70, 300, "nf4", 64, bias=True),
    Case(5, 150, 330, "mxfp4", 32, residual=True), Case(17, 140, 1032, group=16, zeros="int8"), Case(33, 130, 700, "int8", 0, activation="silu"),
], ids=lambda case: f"{case.format}-{case.rows}")
def test_warps_and_blocks_share_k_however_it_is_divided(case: Case, dtype: str) -> None:
    case = replace(case, dtype=dtype)
    data = make(case)
    for path in (STREAMED, TILES, BULK) if case.rows <= 8 else (TILES,):
        for splits, stages, warps in ((1, 2, 1), (2, 3, 2), (3, 8, 1), (5, 5, 2), (1, 4, 6)):
            check(case, data, variant=path + splits * 10_000 + stages * 100 + warps)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("case", [
    Case(1, 40, 1100, group=128), Case(8, 40, 520, "int8", 64, scales="float16"), Case(2, 70, 300, "nf4", 0, bias=True, scales="bfloat16"),
    Case(5, 33, 328, "mxfp4", 256, residual=True), Case(3, 96, 2048, group=64), Case(7, 30, 40, "int4", 64),
], ids=lambda case: f"{case.format}-{case.rows}")
def test_few_rows_with_bulk_copies(case: Case, dtype: str) -> None:
    case = replace(case, dtype=dtype)
    data = make(case)
    for stages, warps in ((0, 0), (1, 1), (2, 3), (3, 4), (8, 1), (4, 16), (1, 32)):
        check(case, data, variant=BULK + stages * 100 + warps)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("case", [
    Case(1, 40, 1100, group=128), Case(8, 150, 520, "int8", 64, zeros="int8"), Case(2, 70, 300, "nf4", 0, bias=True, scales="bfloat16"),
    Case(9, 150, 330, "mxfp4", 64, residual=True), Case(16, 300, 1032, group=256, zeros="int8"), Case(32, 130, 700, "int8", 0, activation="silu"),
    Case(29, 260, 904, group=128, scales="float16"), Case(17, 20, 72, "int4", 64, zeros="int8"),
], ids=lambda case: f"{case.format}-{case.rows}")
def test_few_rows_straight_from_memory(case: Case, dtype: str) -> None:
    case = replace(case, dtype=dtype)
    data = make(case)
    for splits, columns, warps in ((0, 0, 0), (1, 1, 1), (2, 3, 2), (3, 8, 1), (5, 2, 6), (1, 1, 12)):
        check(case, data, variant=DIRECT + splits * 10_000 + columns * 100 + warps)


NORMALIZED = st.builds(
    Case,
    rows=st.sampled_from([1, 1, 2, 5, 8, 9, 33]), columns=st.one_of(st.integers(1, 140), st.sampled_from([400, 800])),
    depth=st.one_of(st.integers(0, 70), st.integers(5, 60).map(lambda n: 8 * n), st.just(2056)), format=st.sampled_from(["int8", "int4"]),
    group=st.sampled_from([0, 32, 64, 128]), rounds=st.booleans(), activation=st.sampled_from(["", "silu"]),
    zeros=st.sampled_from([None, None, "int8", "float32"]), bias=st.booleans(), residual=st.booleans(),
    dtype=st.sampled_from(["float32", "float16", "bfloat16", "bfloat16"]), seed=st.integers(0, 2**32 - 1),
)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(case=NORMALIZED, weight=st.sampled_from([None, "float32", "bfloat16", "float16"]), offset=st.sampled_from([0.0, 1.0]),
       variant=st.sampled_from([0, 0, DIRECT, DIRECT + 20_000, DIRECT + 30_000 + 300 + 2]), capability=st.sampled_from([0, 80]))
def test_rows_are_normalized_and_rounded_first(case: Case, weight: str | None, offset: float, variant: int, capability: int) -> None:
    """X is rounded once more than in a product, and a float32 that is near the middle between two numbers may be rounded to the other."""
    data = make(case)
    raw = (data.x.astype(np.float32) * 3 + 0.5).astype(data.x.dtype)
    factors = None if weight is None else np.random.default_rng(case.seed).uniform(-2, 2, case.depth).astype(numpy_type(weight))
    wide = raw.astype(np.float64)
    normal = wide / np.sqrt((wide**2).sum(axis=1, keepdims=True) / max(case.depth, 1) + 1e-3)
    normal = normal * (1.0 if factors is None else factors.astype(np.float64) + offset)
    w, _ = weights(case, data)
    data.x = normal.astype(data.x.dtype)
    expected, bound = reference(case, data)
    # A step of rounding, and what float32 loses in sums of squares.
    bound = bound + 1.13 * (2 * ROUNDING[case.dtype] + 2.0**-18) * (np.abs(normal) @ np.abs(w).T) + STEP[case.dtype] * np.abs(w).sum(axis=1)
    kind = FORMATS[case.format]
    inputs = [raw, packing.pack_codes(kind, data.codes), pack_groups(data.scales), pack_groups(data.zeros) if data.zeros is not None else None,
              data.bias, data.residual, factors]
    ints = [kind.code, case.group, int(case.rounds), 0, ACTIVATIONS[case.activation], variant]
    output = ((case.rows, case.columns), raw.dtype)
    found, = harness.run("normalized_matmul", inputs, [output], ints=ints, floats=[1e-3, offset], capability=capability)
    excess = beyond(found, expected, bound)
    assert (excess <= 0).all(), (case, excess.max())


@pytest.mark.parametrize("rows", [64, 128, 256])
@pytest.mark.parametrize("case", [
    Case(70, 130, 200, group=64), Case(66, 70, 330, group=32, zeros="int8", dtype="float16"), Case(200, 60, 64, "int8", 0, zeros="int8"),
    Case(65, 200, 136, "int8", 128, dtype="float16", scales="bfloat16"), Case(90, 20, 1000, "nf4", 128, activation="gelu"),
    Case(70, 66, 500, "mxfp4", 32, scales="uint8", residual=True), Case(67, 50, 77, group=16, bias=True), Case(3, 40, 130),
    Case(260, 20, 64, group=0, dtype="float32", scales="float16"),
], ids=lambda case: f"{case.format}-{case.rows}" if isinstance(case, Case) else None)
def test_many_rows_with_wgmma(case: Case, rows: int) -> None:
    case = replace(case, rows=max(case.rows, 65)) if case.rows < 60 else case
    check(case, make(case), variant=WGMMA + rows // 8)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("rest", [{}, {"bias": True}, {"bias": True, "residual": True}, {"residual": True, "activation": "silu"}], ids=str)
def test_many_rows_of_columns_in_eights(rest: dict[str, Any], dtype: str) -> None:
    case = Case(75, 136, 72, group=64, dtype=dtype, **rest)
    check(case, make(case), variant=WGMMA + 8)


# Variants by the most rows that they take.
GATED = [(3, "float32", 0, 0), (8, "bfloat16", STREAMED, 0), (8, "bfloat16", STREAMED + 30_000, 80), (20, "float16", TILES + 20_002, 0),
         (8, "float16", BULK + 203, 0), (8, "bfloat16", DIRECT + 10_101, 0), (30, "bfloat16", DIRECT + 30_202, 80),
         (70, "bfloat16", WGMMA + 8, 0), (150, "float16", WGMMA + 16, 0), (66, "float32", WGMMA + 8, 0), (40, "bfloat16", 0, 80)]


@pytest.mark.parametrize(("rows", "dtype", "variant", "capability"), GATED)
@pytest.mark.parametrize(("columns", "rest"), [(144, {"activation": "silu"}), (80, {"activation": "gelu_tanh", "bias": True, "residual": True})],
                         ids=str)
def test_gates_are_multiplied_by_what_they_belong_to(columns: int, rest: dict[str, Any], rows: int, dtype: str, variant: int,
                                                     capability: int) -> None:
    case = Case(rows, columns, 264, "int8" if dtype == "float16" else "int4", 128, dtype=dtype, rounds=variant != 0, **rest)
    data = make(case)
    data.scales[:] /= 256 if case.format == "int8" else 8  # products of two sums do not overflow
    residual = data.residual[:, : columns // 2].copy() if data.residual is not None else None
    sums, bound = reference(replace(case, activation=""), replace(data, residual=None))
    is_gate = np.arange(columns) % 16 < 8
    gate, other, near, far = sums[:, is_gate], sums[:, ~is_gate], bound[:, is_gate], bound[:, ~is_gate]
    factor = activated(gate, case.activation)
    expected = factor * other + (0 if residual is None else residual.astype(np.float64))
    near = 1.13 * near + 16 * UNIT * np.abs(gate)  # no activation is steeper
    limit = np.abs(factor) * far + near * (np.abs(other) + far) + (UNIT + ROUNDING[dtype]) * np.abs(expected) + STEP[dtype]
    kind = FORMATS[case.format]
    inputs = [data.x, packing.pack_codes(kind, data.codes), pack_groups(data.scales), None, data.bias, residual]
    ints = [kind.code, case.group, int(case.rounds), 0, 8 + ACTIVATIONS[case.activation], variant]
    found, = harness.run("quantized_matmul", inputs, [((rows, columns // 2), data.x.dtype)], ints=ints, capability=capability)
    assert (np.abs(found.astype(np.float64) - expected) <= limit).all()


@pytest.mark.parametrize(("rows", "columns", "tile"), [(1100, 264, 64), (70, 400, 64), (1030, 130, 256)])
def test_each_tile_of_many_is_computed_once(rows: int, columns: int, tile: int) -> None:
    """Y is the residual, in place: what is computed twice is added twice."""
    case = Case(rows, columns, 64, group=64, residual=True)
    data = make(case)
    kind = FORMATS[case.format]
    inputs = [data.x, packing.pack_codes(kind, data.codes), pack_groups(data.scales), None, None, data.residual]
    output = ((rows, columns), data.x.dtype)
    found, = harness.run("quantized_matmul", inputs, [output], ints=[kind.code, case.group, 1, 0, 0, WGMMA + tile // 8], aliases={0: 5})
    np.testing.assert_array_equal(found, run(case, data, variant=WGMMA + tile // 8))
    expected, bound = reference(case, data)
    assert (np.abs(found.astype(np.float64) - expected) <= bound).all()


@pytest.mark.parametrize("capability", [0, 80])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_many_rows(dtype: str, capability: int) -> None:
    for format in FORMATS:
        case = Case(75, 140, 200, format, 64, dtype=dtype)
        check(case, make(case), capability)


@pytest.mark.parametrize("rows", [1, 7, 30])
@pytest.mark.parametrize("format", ["int8", "int4", "mxfp4"])
def test_sums_of_the_largest_numbers_do_not_overflow(format: str, rows: int) -> None:
    case = Case(rows, 33, 512, format, 0)
    codes = {"int8": (-128, 127), "int4": (0, 15), "mxfp4": (15, 7)}[format]  # of the least and the largest number
    for code, x in ((codes[0], 1.0), (codes[1], 1.0), (codes[0], -1.0)):
        data = make(case)
        data.x[:] = x
        data.codes[:] = code
        check(case, data)


@pytest.mark.parametrize("format", ["int8", "int4"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("rows", [3, 66])
def test_zeros_of_the_largest_size_are_subtracted_exactly(format: str, dtype: str, rows: int) -> None:
    case = Case(rows, 32, 64, format, 64, zeros="int8", dtype=dtype, scales="float16")
    data = make(case)
    assert data.zeros is not None
    data.scales[:] = 1
    data.x[:] = np.eye(rows, 64)
    data.zeros[:] = np.where(np.arange(32) % 2 == 0, packing.MOST_NIBBLE_ZERO if format == "int4" else 127, -128)[:, None]
    np.testing.assert_array_equal(run(case, data).astype(np.float64), data.x.astype(np.float64) @ weights(case, data)[0].T)


@pytest.mark.parametrize("rows", [14, 66])
@pytest.mark.parametrize("format", FORMATS)
def test_a_row_with_nan_or_infinities_is_the_only_one_that_they_touch(format: str, rows: int) -> None:
    case = Case(rows, 40, 200, format, 32)
    for value in (np.nan, np.inf, -np.inf):
        data = make(case)
        data.x[2, 199] = value
        data.x[11, 0] = value
        found = run(case, data).astype(np.float64)
        assert not np.isfinite(found[[2, 11]]).any()
        data.x[[2, 11]] = 0
        expected, bound = reference(case, data)
        others = [r for r in range(rows) if r not in (2, 11)]
        assert (np.abs(found - expected)[others] <= bound[others]).all()


def test_leading_axes_are_rows() -> None:
    case = Case(12, 20, 64)
    data = make(case)
    packed = [packing.pack_codes(FORMATS["int4"], data.codes), pack_groups(data.scales)]
    found = np.asarray(harness.run("quantized_matmul", [data.x.reshape(3, 1, 4, 64), *packed], [((3, 1, 4, 20), data.x.dtype)],
                                   ints=[1, 32, 1, 0, 0])[0])
    np.testing.assert_array_equal(found.reshape(12, 20), run(case, data))


def test_a_call_gives_the_same_bits_again() -> None:
    case = Case(9, 130, 900, group=128)
    data = make(case)
    variant = TILES + 4 * 10_000
    np.testing.assert_array_equal(run(case, data, variant=variant).view(np.uint16), run(case, data, variant=variant).view(np.uint16))


def test_what_does_not_fit_is_an_error() -> None:
    def message(ints: list[int], *, codes: tuple[int, ...] = (2, 512), scales: tuple[int, ...] = (2, 2, 16), dtype: str = "float32",
                columns: int = 20, capability: int = 0) -> str:
        inputs = [np.zeros((3, 40), dtype), np.zeros(codes, np.uint8), np.ones(scales, np.float32)]
        with pytest.raises(Exception, match="quantized_matmul") as caught:
            harness.run("quantized_matmul", inputs, [((3, columns), dtype)], ints=ints, capability=capability)
        return str(caught.value)

    assert "no format 9" in message([9, 32, 1, 0, 0])
    assert "group is 24; it is a power of two" in message([1, 24, 1, 0, 0])
    assert "group of activations is 8" in message([1, 32, 1, 8, 0])
    assert "no activation 5" in message([1, 32, 1, 0, 5])
    assert "no activation 8" in message([1, 32, 1, 0, 16], codes=(3, 512), scales=(3, 2, 16), columns=24)
    assert "gates for eight columns at a time, not 20" in message([1, 32, 1, 0, 12])
    assert "packed W is [2, 512], not [2, 1024]" in message([0, 32, 1, 0, 0])
    assert "packed W is [2, 512], not [3, 512]" in message([1, 32, 1, 0, 0], columns=40)
    assert "scales is [2, 2, 16], not [2, 3, 16]" in message([1, 16, 1, 0, 0])
    assert "float64" in message([1, 32, 1, 0, 0], dtype="float64")
    assert "no variant -1" in message([1, 32, 1, 0, 0, -1])
    assert "is for compute capability 9.0, not 8.0" in message([1, 32, 1, 0, 0, WGMMA], capability=80)


def unpacked(kind: Any, packed: np.ndarray) -> np.ndarray:
    """The codes of packed W, as kernels/cuda/quantized_matmul/quantized_matmul.h says where each lies: [16 panels, K']."""
    panels, size = packed.shape
    step_bytes = 16 * 64 * kind.bits // 8
    steps = size // step_bytes
    row, k = np.meshgrid(np.arange(16), np.arange(steps * 64), indexing="ij")
    lane = row % 8 * 4 + k % 8 // 2
    matrix, register, element = k % 64 // 16, row // 8 + 2 * (k // 8 % 2), k % 2
    if kind.bits == 8:
        at = k // 64 * step_bytes + matrix // 2 * 512 + lane * 16 + matrix % 2 * 8 + register // 2 * 4 + register % 2 + 2 * element
        codes = packed[:, at].astype(np.int16) - 128
    else:
        bit = 8 * register + 4 * element if kind.values else 4 * register + 16 * element
        codes = packed[:, k // 64 * step_bytes + lane * 16 + matrix * 4 + bit // 8] >> (bit % 8).astype(np.uint8) & 15
    return codes.reshape(panels * 16, steps * 64)


@pytest.mark.parametrize("format", FORMATS)
def test_packed_codes_lie_where_the_contract_says(format: str) -> None:
    kind = FORMATS[format]
    for rows, depth in ((1, 1), (16, 64), (37, 150), (130, 700)):
        codes = make(Case(1, rows, depth, format)).codes
        packed = packing.pack_codes(kind, codes)
        assert packed.shape == packing.packed_shape(kind, rows, depth)
        np.testing.assert_array_equal(unpacked(kind, packed)[:rows, :depth], codes)


def test_zeros_that_cannot_be_subtracted_exactly_are_refused() -> None:
    packing.check_zeros(FORMATS["int4"], np.array([[-128, 120]], np.int8))
    packing.check_zeros(FORMATS["int4"], np.array([[1000]], np.float32))
    packing.check_zeros(FORMATS["int8"], np.array([[127]], np.int8))
    with pytest.raises(ValueError, match="a zero point of 121 is too far from the codes 0 to 15 of int4"):
        packing.check_zeros(FORMATS["int4"], np.array([[121]], np.int8))


LARGE = [Case(rows, *shape, group=128, scales=scales, zeros=zeros, dtype=dtype)
         for shape in ((14336, 4096), (4096, 14336), (5632, 2048))
         for rows, scales, zeros, dtype in ((1, "bfloat16", None, "bfloat16"), (4, "float32", "int8", "float16"), (8, "float16", None, "float16"),
                                            (16, "bfloat16", None, "bfloat16"), (31, "float32", None, "bfloat16"),
                                            (64, "bfloat16", "int8", "bfloat16"), (100, "bfloat16", None, "bfloat16"),
                                            (300, "float32", None, "float16"))]


@pytest.mark.gpu
@pytest.mark.parametrize("capability", [0, 80])
@pytest.mark.parametrize("format", ["int4", "int8", "nf4"])
def test_products_of_the_sizes_of_models(format: str, capability: int) -> None:
    for case in LARGE:
        case = replace(case, format=format, zeros=None if format == "nf4" else case.zeros)
        data = make(case)
        # Sums of many thousand products are well below the bound of their magnitudes; and stay in the range of float16.
        data.x[:] = (data.x.astype(np.float32) / 16).astype(data.x.dtype)
        check(case, data, capability)
