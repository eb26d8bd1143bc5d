"""The CUDA kernels matmul, matmul_fp8, matmul_int8 and quantize_rows against their definitions in float64, on every path."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import harness
import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from products import (
    ACTIVATIONS,
    CLAMP,
    DTYPES,
    FLOAT32,
    FMA,
    MATVEC,
    MMA,
    TF32,
    WGMMA,
    Array,
    FMA_32x128,
    MMA_64x64,
    MMA_128x64,
    WGMMA_64x128,
    WGMMA_128x128,
    WGMMA_128x256,
    check,
    numbers,
    sum_error,
)

ROWS_OF_K, ROWS_OF_N = 0, 1
E4M3 = ml_dtypes.float8_e4m3fn


@dataclass(frozen=True)
class Case:
    """Sizes and options of one call of matmul."""

    rows: int = 3
    columns: int = 20
    depth: int = 40
    x_leading: tuple[int, ...] = ()
    w_leading: tuple[int, ...] = ()
    dtype: str = "bfloat16"
    result: str = ""  # X's type
    layout: int = ROWS_OF_K
    precision: int = FLOAT32
    activation: str = ""
    bias: str = ""  # its type
    residual: bool = False
    path: int = 0
    capability: int = 0
    seed: int = 0


def run(case: Case) -> None:
    """Calls the kernel and compares."""
    rng = np.random.default_rng(case.seed)
    x = numbers(rng, (*case.x_leading, case.rows, case.depth), case.dtype)
    shape = (case.columns, case.depth) if case.layout == ROWS_OF_K else (case.depth, case.columns)
    w = numbers(rng, (*case.w_leading, *shape), case.dtype)
    leading = np.broadcast_shapes(case.x_leading, case.w_leading)
    result = case.result or case.dtype
    bias = numbers(rng, (case.columns,), case.bias) if case.bias else None
    residual = numbers(rng, (*leading, case.rows, case.columns), result) if case.residual else None
    ints = [case.layout, ACTIVATIONS.index(case.activation), case.precision, case.path]
    y, = harness.run("matmul", [x, w, bias, residual], [((*leading, case.rows, case.columns), DTYPES[result])], ints=ints, floats=CLAMP,
                     capability=case.capability)
    matrix = w.astype(np.float64)
    matrix = np.swapaxes(matrix, -1, -2) if case.layout == ROWS_OF_K else matrix
    sums = np.matmul(x.astype(np.float64), matrix)
    magnitude = np.matmul(np.abs(x.astype(np.float64)), np.abs(matrix))
    check(y, sums, sum_error(magnitude, case.depth, case.dtype, case.precision), bias=bias, residual=residual, activation=case.activation)


# ---- matmul --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("layout", [ROWS_OF_K, ROWS_OF_N])
@pytest.mark.parametrize("path", [*MMA, *WGMMA])
def test_16_bit_tiles(path: int, layout: int, dtype: str) -> None:
    run(Case(rows=150, columns=136, depth=144, dtype=dtype, layout=layout, path=path, activation="silu", bias=dtype, residual=True))


@pytest.mark.parametrize("path", [*MMA, *WGMMA])
def test_slices_of_k_are_added_up(path: int) -> None:
    run(Case(rows=70, columns=60, depth=328, path=path + 300, activation="relu", bias="float32", residual=True))


@pytest.mark.parametrize("rows", [1, 5, 8, 11, 16, 27, 32])
@pytest.mark.parametrize("dtype", ["tf32", "float16", "bfloat16"])
def test_few_rows(rows: int, dtype: str) -> None:
    case = Case(rows=rows, columns=43, depth=312, path=MATVEC, activation="gelu", bias="float32", residual=True)
    run(replace(case, dtype="float32", precision=TF32) if dtype == "tf32" else replace(case, dtype=dtype))


@pytest.mark.parametrize("rows", range(1, 9))
@pytest.mark.parametrize(("columns", "depth"), [(43, 316), (8, 4), (2, 2050), (2000, 24)])
def test_few_rows_of_float32(rows: int, columns: int, depth: int) -> None:
    run(Case(rows=rows, columns=columns, depth=depth, dtype="float32", path=MATVEC, activation="gelu", bias="float32", residual=True))


@pytest.mark.parametrize("layout", [ROWS_OF_K, ROWS_OF_N])
@pytest.mark.parametrize("path", [*FMA, *(path + 300 for path in FMA)])
@pytest.mark.parametrize(("rows", "columns", "depth"), [(150, 200, 100), (31, 71, 52), (129, 8, 1), (1, 130, 33), (257, 65, 17)])
def test_tiles_of_float32(path: int, layout: int, rows: int, columns: int, depth: int) -> None:
    if path < 100 or depth > 50:
        run(Case(rows=rows, columns=columns, depth=depth, dtype="float32", layout=layout, path=path, bias="float32", residual=True))


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("columns", [128, 67])
def test_everything_that_follows_sums_of_float32(activation: str, columns: int) -> None:
    for bias, residual in itertools.product(["", "float32"], [False, True]):
        run(Case(rows=70, columns=columns, depth=20, dtype="float32", path=MMA_64x64, activation=activation, bias=bias, residual=residual))


def test_few_rows_and_much_k() -> None:
    run(Case(rows=2, columns=33, depth=6152, path=MATVEC))


@pytest.mark.parametrize("path", [MATVEC, *MMA])
def test_tf32(path: int) -> None:
    run(Case(rows=30, columns=70, depth=100, dtype="float32", precision=TF32, path=path, bias="float32", residual=True))


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("layout", [ROWS_OF_K, ROWS_OF_N])
@pytest.mark.parametrize("capability", [80, 90])
def test_extents_that_are_not_aligned(layout: int, dtype: str, capability: int) -> None:
    run(Case(rows=67, columns=33, depth=77, dtype=dtype, layout=layout, capability=capability, bias=dtype, residual=True))


@pytest.mark.parametrize("leading", [((2, 3), (2, 3)), ((2, 3), ()), ((), (3,)), ((2, 1, 3), (1, 2, 3)), ((3, 1), (1, 2)), ((2, 3, 2), (2, 1, 2))])
@pytest.mark.parametrize("layout", [ROWS_OF_K, ROWS_OF_N])
def test_batches_are_broadcast(leading: tuple[tuple[int, ...], tuple[int, ...]], layout: int) -> None:
    case = Case(rows=20, columns=24, depth=40, x_leading=leading[0], w_leading=leading[1], layout=layout, residual=True)
    for path in (MMA_64x64, WGMMA_64x128, 0):
        run(replace(case, path=path))
    for path in (MMA_64x64, FMA_32x128, 0):
        run(replace(case, dtype="float32", columns=27, path=path))


def test_batches_of_few_rows_and_of_floats() -> None:
    run(Case(rows=3, columns=24, depth=40, x_leading=(2, 1, 3), w_leading=(2, 2, 1), path=MATVEC))
    run(Case(rows=3, columns=29, depth=40, x_leading=(2, 1, 3), w_leading=(2, 2, 1), dtype="float32", path=MATVEC))
    run(Case(rows=40, columns=25, depth=31, x_leading=(2, 1), w_leading=(1, 2), layout=ROWS_OF_N, dtype="float32"))


@pytest.mark.parametrize("path", [MATVEC, MMA_64x64, WGMMA_128x128])
def test_results_may_be_float32(path: int) -> None:
    run(Case(rows=9, columns=40, depth=64, dtype="float16", result="float32", path=path, bias="float16", residual=True))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations(activation: str) -> None:
    run(Case(rows=5, columns=32, depth=32, dtype="float32", activation=activation, residual=True))


@pytest.mark.parametrize("path", [WGMMA_128x256, WGMMA_64x128])
def test_blocks_stay_for_many_tiles(path: int) -> None:
    """More tiles than there are blocks at one time; stages go round in the middle of one."""
    run(Case(rows=64, columns=64, depth=200, x_leading=(300,), w_leading=(300,), path=path))


def test_a_product_without_k_is_its_bias() -> None:
    for capability in (80, 90):
        run(Case(rows=40, columns=20, depth=0, bias="float32", activation="relu", capability=capability))


def test_a_product_without_rows_is_empty() -> None:
    run(Case(rows=0))


def test_infinities_and_nan_are_what_float32_makes_of_them() -> None:
    x = np.ones((40, 64), np.float32)
    w = np.full((24, 64), 3.0, np.float32)
    x[3, 5], x[7, 9], x[11, 0], w[2, 9], x[12, 1], x[12, 2] = np.inf, np.nan, -np.inf, 0.0, np.inf, -np.inf
    with np.errstate(invalid="ignore"):
        wanted = x @ w.T
    for path in (*FMA, 0):
        y, = harness.run("matmul", [x, w], [((40, 24), np.float32)], ints=[ROWS_OF_K, 0, FLOAT32, path], floats=CLAMP)
        np.testing.assert_array_equal(y, wanted)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_extents(data: st.DataObject) -> None:
    def size(most: int) -> int:
        return data.draw(st.integers(1, most))

    case = Case(rows=size(140), columns=size(140), depth=size(140), dtype=data.draw(st.sampled_from(list(DTYPES))), seed=size(1000))
    case = replace(case, layout=data.draw(st.integers(0, 1)), precision=data.draw(st.integers(0, 1)), capability=data.draw(st.sampled_from([80, 90])))
    case = replace(case, activation=data.draw(st.sampled_from(ACTIVATIONS)), residual=data.draw(st.booleans()))
    run(replace(case, bias=data.draw(st.sampled_from(["", "float32", case.dtype]))))


@pytest.mark.gpu
@pytest.mark.parametrize("path", [0, *MMA, *WGMMA])
@pytest.mark.parametrize("layout", [ROWS_OF_K, ROWS_OF_N])
def test_large(path: int, layout: int) -> None:
    run(Case(rows=1111, columns=2056, depth=2048, layout=layout, path=path, bias="bfloat16", residual=True, activation="gelu_tanh"))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", list(DTYPES))
@pytest.mark.parametrize("layout", [ROWS_OF_K, ROWS_OF_N])
@pytest.mark.parametrize("rows", [1, 133])
def test_cublaslt(rows: int, layout: int, dtype: str) -> None:
    case = Case(rows=rows, columns=1048, depth=2056, dtype=dtype, layout=layout, path=9, bias=dtype, residual=True)
    try:
        run(case)
    except harness.KernelError as error:
        if "is not there" not in str(error):
            raise
        pytest.skip(str(error))
    run(replace(case, x_leading=(3,), w_leading=(3,)))
    if dtype == "float32":
        run(replace(case, precision=TF32))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("rows", [1, 8, 16, 32])
def test_large_with_few_rows(rows: int, dtype: str) -> None:
    run(Case(rows=rows, columns=5001, depth=4096, dtype=dtype, bias="float32", residual=True))


def _refused(match: str, inputs: list[Array | None], shape: tuple[int, ...], dtype: type, ints: list[int], kernel: str = "matmul") -> None:
    with pytest.raises(harness.KernelError, match=match):
        harness.run(kernel, inputs, [(shape, dtype)], ints=ints, floats=CLAMP if kernel == "matmul" else ())


def test_what_does_not_fit_is_named() -> None:
    x, w = np.zeros((4, 8), np.float32), np.zeros((5, 8), np.float32)
    _refused(r"do not have the same K", [x, w], (4, 8), np.float32, [1, 0, 0, 0])
    _refused(r"Y does not end in \[M, N\]", [x, w], (4, 6), np.float32, [0, 0, 0, 0])
    _refused("W of X's type float32, not float16", [x, w.astype(np.float16)], (4, 5), np.float32, [0, 0, 0, 0])
    _refused("gives Y of that type or of float32, not float16", [x, w], (4, 5), np.float16, [0, 0, 0, 0])
    _refused("X of float32, float16 or bfloat16, not int32", [x.astype(np.int32), w], (4, 5), np.float32, [0, 0, 0, 0])
    _refused(r"bias is \[4\], not \[5\]", [x, w, np.zeros(4, np.float32)], (4, 5), np.float32, [0, 0, 0, 0])
    _refused("the residual is", [x, w, None, np.zeros((4, 5), np.float16)], (4, 5), np.float32, [0, 0, 0, 0])
    _refused("no activation 9", [x, w], (4, 5), np.float32, [0, 9, 0, 0])
    _refused("no precision 2", [x, w], (4, 5), np.float32, [0, 0, 2, 0])
    _refused("no layout 2", [x, w], (4, 5), np.float32, [2, 0, 0, 0])
    _refused("variant 5 does not compute", [x, w], (4, 5), np.float32, [0, 0, 0, WGMMA_128x256])
    _refused("variant 8 does not compute", [x, w], (4, 5), np.float32, [0, 0, TF32, FMA_32x128])
    _refused("variant 1 does not compute", [np.zeros((9, 8), np.float32), w], (9, 5), np.float32, [0, 0, FLOAT32, MATVEC])
    _refused("leading extents do not fit", [np.zeros((2, 4, 8), np.float32), np.zeros((3, 5, 8), np.float32)], (3, 4, 5), np.float32, [0, 0, 0, 0])


# ---- Products of 8-bit numbers ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scaled:
    """Sizes and options of one call of matmul_fp8 or matmul_int8."""

    rows: int = 3
    columns: int = 20
    depth: int = 48
    type: str = "float8_e4m3fn"
    granularities: tuple[int, int] = (1, 1)
    result: str = "bfloat16"
    activation: str = ""
    bias: bool = False
    residual: bool = False
    path: int = 0
    capability: int = 0


def _scales(rng: np.random.Generator, granularity: int, rows: int, depth: int, block: int, size: float) -> tuple[Array, Array]:
    """Scales as the kernel takes them, and for each number."""
    shape = ((1,), (rows,), (-(-rows // block), -(-depth // 128)))[granularity]
    scales = (size * rng.uniform(0.5, 2.0, shape)).astype(np.float32)
    if granularity < 2:
        return scales, np.broadcast_to(scales[:, None], (rows, depth)).astype(np.float64)
    return scales, np.repeat(np.repeat(scales, block, 0)[:rows], 128, 1)[:, :depth].astype(np.float64)


def run_scaled(case: Scaled) -> None:
    """Calls the kernel and compares."""
    rng = np.random.default_rng(0)
    kernel = "matmul_int8" if case.type == "int8" else "matmul_fp8"

    def codes(rows: int) -> Array:
        if case.type == "int8":
            return rng.integers(-128, 128, (rows, case.depth)).astype(np.int8)
        return rng.standard_normal((rows, case.depth)).astype(np.float32).astype(E4M3)

    x, w = codes(case.rows), codes(case.columns)
    size = 2.0**-5 if case.type == "int8" else 1.0  # results that float16 has
    x_scales, x_each = _scales(rng, case.granularities[0], case.rows, case.depth, 1, size)
    w_scales, w_each = _scales(rng, case.granularities[1], case.columns, case.depth, 128, size)
    bias = numbers(rng, (case.columns,), case.result) if case.bias else None
    residual = numbers(rng, (case.rows, case.columns), case.result) if case.residual else None
    ints = [*case.granularities, ACTIVATIONS.index(case.activation), case.path]
    outputs = [((case.rows, case.columns), DTYPES[case.result])]
    y, = harness.run(kernel, [x, w, x_scales, w_scales, bias, residual], outputs, ints=ints, capability=case.capability)
    left, right = x.astype(np.float64) * x_each, w.astype(np.float64) * w_each
    error = sum_error(np.abs(left) @ np.abs(right).T, case.depth, case.type)
    check(y, left @ right.T, error, bias=bias, residual=residual, activation=case.activation)


@pytest.mark.parametrize("type_", ["float8_e4m3fn", "int8"])
@pytest.mark.parametrize("path", [MATVEC, *MMA, *WGMMA])
def test_8_bit_tiles(path: int, type_: str) -> None:
    rows = 23 if path == MATVEC else 140
    run_scaled(Scaled(rows=rows, columns=136, depth=336, type=type_, path=path, bias=True, residual=True, activation="silu"))


@pytest.mark.parametrize("path", [MATVEC, MMA_128x64, MMA_64x64, WGMMA_128x128, WGMMA_64x128, MMA_64x64 + 200, WGMMA_128x128 + 200])
def test_scales_of_blocks(path: int) -> None:
    rows = 19 if path == MATVEC else 140
    run_scaled(Scaled(rows=rows, columns=150, depth=400, granularities=(2, 2), path=path, residual=True))


@pytest.mark.parametrize("granularities", list(itertools.product((0, 1), (0, 1))))
@pytest.mark.parametrize("type_", ["float8_e4m3fn", "int8"])
@pytest.mark.parametrize("result", ["float32", "float16", "bfloat16"])
def test_granularities(type_: str, granularities: tuple[int, int], result: str) -> None:
    run_scaled(Scaled(rows=35, columns=21, depth=53, type=type_, granularities=granularities, result=result, bias=True))


@pytest.mark.parametrize(("type_", "capability"), [("float8_e4m3fn", 89), ("int8", 80), ("int8", 89)])
def test_8_bits_before_hopper(type_: str, capability: int) -> None:
    run_scaled(Scaled(rows=40, columns=70, depth=144, type=type_, capability=capability))
    if type_ != "int8":
        run_scaled(Scaled(rows=40, columns=70, depth=144, granularities=(2, 2), capability=capability))


def test_sums_of_int8_are_exact() -> None:
    """Each sum is one that float32 has, but not every sum on the way to it: 16,384 times 127 squared and back."""
    x = np.full((33, 8192), 127, np.int8)
    w = np.full((16, 8192), 127, np.int8)
    w[:, 4096:] = -127
    w[:, 17] = 126
    one = np.ones(1, np.float32)
    y, = harness.run("matmul_int8", [x, w, one, one], [((33, 16), np.float32)], ints=[0, 0, 0, MMA_64x64 + 100])
    assert (y == -127.0).all()


@pytest.mark.gpu
@pytest.mark.parametrize("rows", [1, 16, 777])
@pytest.mark.parametrize(("type_", "granularities"), [("int8", (1, 1)), ("float8_e4m3fn", (0, 0)), ("float8_e4m3fn", (2, 2))])
def test_large_8_bit(rows: int, type_: str, granularities: tuple[int, int]) -> None:
    run_scaled(Scaled(rows=rows, columns=2056, depth=4096, type=type_, granularities=granularities, residual=True))


def test_what_does_not_fit_is_named_for_8_bits() -> None:
    x, w, one = np.zeros((4, 16), E4M3), np.zeros((5, 16), E4M3), np.ones(1, np.float32)
    _refused("only one of X and W has scales of blocks", [x, w, np.ones(4, np.float32), one], (4, 5), np.float32, [2, 0, 0, 0], "matmul_fp8")
    _refused("X's scales are", [x, w, one, one], (4, 5), np.float32, [1, 0, 0, 0], "matmul_fp8")
    _refused("no granularity 2", [x.astype(np.int8), w.astype(np.int8), one, one], (4, 5), np.float32, [2, 2, 0, 0], "matmul_int8")
    _refused("takes X and W of int8", [x, w, one, one], (4, 5), np.float32, [0, 0, 0, 0], "matmul_int8")
    with pytest.raises(harness.KernelError, match=r"needs compute capability 8\.9, and this GPU has 8\.0"):
        harness.run("matmul_fp8", [x, w, one, one], [((4, 5), np.float32)], ints=[0, 0, 0, 0], capability=80)


# ---- quantize_rows -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", list(DTYPES))
@pytest.mark.parametrize("code", [np.int8, E4M3])
@pytest.mark.parametrize("group", [0, 128])
@pytest.mark.parametrize("columns", [300, 304, 5, 2048])
def test_quantize_rows(columns: int, group: int, code: type, dtype: str) -> None:
    rng = np.random.default_rng(1)
    x = numbers(rng, (2, 3, columns), dtype)
    x[0, 1] = 0
    groups = 1 if group == 0 else -(-columns // group)
    codes, scales = harness.run("quantize_rows", [x], [(x.shape, code), ((2, 3, groups), np.float32)], ints=[group])
    most = np.float32(127 if code is np.int8 else 448)
    each = np.zeros((2, 3, groups * (group or columns)), np.float32)
    each[..., :columns] = np.abs(x.astype(np.float32))
    wanted = each.reshape(2, 3, groups, -1).max(-1) / most
    wanted[wanted == 0] = 1
    np.testing.assert_allclose(scales, wanted, rtol=2.0**-22)
    spread = np.repeat(scales, group or columns, -1)[..., :columns].astype(np.float64)
    quotient = x.astype(np.float64) / spread
    step = 1.0 if code is np.int8 else 2.0 ** np.maximum(np.floor(np.log2(np.maximum(np.abs(quotient), 2.0**-6))) - 3, -9)
    assert (np.abs(codes.astype(np.float64) - quotient) <= step / 2 * (1 + 2.0**-10) + 2.0**-16).all()


def test_quantize_rows_with_a_scale_saturates() -> None:
    x = np.array([[1.0, 2.5, -3.5, 1000.0, -1000.0, 0.4]], np.float32)
    scale = np.array([0.5], np.float32)
    codes, = harness.run("quantize_rows", [x, scale], [(x.shape, np.int8)], ints=[0])
    assert codes.tolist() == [[2, 5, -7, 127, -128, 1]]
    codes, = harness.run("quantize_rows", [x, scale], [(x.shape, E4M3)], ints=[0])
    assert codes.astype(np.float32).tolist() == [[2.0, 5.0, -7.0, 448.0, -448.0, 0.8125]]


def test_nan_makes_the_scale_of_its_group_nan() -> None:
    x = np.ones((2, 256), np.float32)
    x[0, 200] = np.nan
    _, scales = harness.run("quantize_rows", [x], [(x.shape, np.int8), ((2, 2), np.float32)], ints=[128])
    assert np.isnan(scales).tolist() == [[False, True], [False, False]]
