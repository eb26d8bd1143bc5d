"""The emulator's instructions compared with NumPy. On a GPU the same tests hold for the GPU, which is how the emulator is known to be like it."""

from __future__ import annotations

from collections.abc import Sequence

import harness
import ml_dtypes
import numpy as np
import pytest

BF16, F16, F32, I8, E4M3 = map(np.dtype, (ml_dtypes.bfloat16, np.float16, np.float32, np.int8, ml_dtypes.float8_e4m3fn))
WIDTHS = (16, 128, 64, 32)  # bytes of a row, by swizzle: none, 128, 64, 32
hopper = pytest.mark.skipif("harness.on_gpu() and harness.capability() != 90")


def numbers(rng: np.random.Generator, shape: Sequence[int], dtype: np.dtype) -> np.ndarray:
    """Small integers and halves: all types hold them, and sums of their products are exact."""
    if dtype == I8:
        return rng.integers(-128, 128, shape).astype(dtype)
    return (rng.integers(-16, 17, shape) / 2).astype(dtype)


@pytest.mark.parametrize("dtype", [BF16, F16, F32, I8, E4M3], ids=str)
def test_mma_multiplies_fragments_that_ldmatrix_loads(dtype: np.dtype) -> None:
    if dtype == E4M3 and harness.on_gpu() and harness.capability() < 89:
        pytest.skip("products of float8 need compute capability 8.9")
    rng = np.random.default_rng(1)
    depth = 32 // dtype.itemsize
    a, b = numbers(rng, (16, depth), dtype), numbers(rng, (8, depth), dtype)
    total = np.int32 if dtype == I8 else np.float32
    (d,) = harness.run("check_mma", [a, b], [((16, 8), total)], kind="checks")
    np.testing.assert_array_equal(d, a.astype(np.float64) @ b.astype(np.float64).T)


def test_mma_adds_up_in_half() -> None:
    rng = np.random.default_rng(2)
    a, b = (rng.standard_normal((rows, 16)).astype(F16) for rows in (16, 8))
    (d,) = harness.run("check_mma", [a, b], [((16, 8), F16)], kind="checks")
    exact = a.astype(np.float64) @ b.astype(np.float64).T
    magnitude = np.abs(a.astype(np.float64)) @ np.abs(b.astype(np.float64)).T
    assert np.all(np.abs(d - exact) <= 4 * 2.0**-11 * magnitude + 2.0**-24)  # a few roundings to half


def test_tf32_products_see_ten_bits_of_mantissa() -> None:
    a, b = np.zeros((16, 8), F32), np.zeros((8, 8), F32)
    a[:, 0] = np.float32(1 + 2**-10 + 2**-11 + 2**-20)
    b[:, 0] = 1
    (d,) = harness.run("check_mma", [a, b], [((16, 8), F32)], kind="checks")
    np.testing.assert_array_equal(d, np.float32(1 + 2**-10))


def test_ldmatrix_gives_lanes_their_elements() -> None:
    rows = np.arange(32 * 8, dtype=np.uint16).reshape(32, 8) * 37
    (registers,) = harness.run("check_load_matrix", [rows], [((12, 32), np.uint32)], kind="checks")
    matrices = rows.reshape(4, 8, 8)
    expected = [*matrices, *matrices.transpose(0, 2, 1), *matrices[:2], *matrices[:2].transpose(0, 2, 1)]
    np.testing.assert_array_equal(registers, np.stack([np.ascontiguousarray(m).view(np.uint32).reshape(32) for m in expected]))


@hopper
def test_stmatrix_is_the_inverse_of_ldmatrix() -> None:
    registers = np.random.default_rng(3).integers(0, 2**32, (4, 32), dtype=np.uint32)
    (rows,) = harness.run("check_store_matrix", [registers], [((2, 32, 8), np.uint16)], kind="checks")
    matrices = registers.view(np.uint16).reshape(4, 8, 8)
    np.testing.assert_array_equal(rows[0], matrices.reshape(32, 8))
    np.testing.assert_array_equal(rows[1], matrices.transpose(0, 2, 1).reshape(32, 8))


def wgmma(dtype: np.dtype, columns: int, swizzle: int, a_major: int, b_major: int, registers: int) -> None:
    rng = np.random.default_rng([columns, swizzle, a_major, b_major, registers])
    width = WIDTHS[swizzle] // dtype.itemsize
    # A row of the swizzle is one extent of K; where nothing is K-major, K is free.
    depth = 64 // dtype.itemsize if swizzle == 0 or (a_major and b_major) else width
    if swizzle == 0 or not (a_major or b_major) or (a_major and b_major):
        depth = max(depth, 32 // dtype.itemsize)
    a, b = numbers(rng, (64, depth), dtype), numbers(rng, (columns, depth), dtype)
    given = [np.ascontiguousarray(m.T) if major else m for m, major in ((a, a_major), (b, b_major))]
    total = np.int32 if dtype == I8 else np.float32
    (d,) = harness.run("check_wgmma", given, [((64, columns), total)], ints=[swizzle, a_major, b_major, registers], kind="checks")
    np.testing.assert_array_equal(d, a.astype(np.float64) @ b.astype(np.float64).T)


@hopper
@pytest.mark.parametrize("registers", [0, 1])
@pytest.mark.parametrize("swizzle", range(4))
@pytest.mark.parametrize("columns", [8, 64, 96, 256])
@pytest.mark.parametrize("dtype", [BF16, F16, F32, I8, E4M3], ids=str)
def test_wgmma_reads_k_major_matrices(dtype: np.dtype, columns: int, swizzle: int, registers: int) -> None:
    wgmma(dtype, columns, swizzle, 0, 0, registers)


@hopper
@pytest.mark.parametrize(("a_major", "b_major", "registers"), [(0, 1, 0), (1, 0, 0), (1, 1, 0), (0, 1, 1)])
@pytest.mark.parametrize("swizzle", range(4))
@pytest.mark.parametrize("columns", [64, 256])
@pytest.mark.parametrize("dtype", [BF16, F16], ids=str)
def test_wgmma_reads_mn_major_matrices(dtype: np.dtype, columns: int, swizzle: int, a_major: int, b_major: int, registers: int) -> None:
    wgmma(dtype, columns, swizzle, a_major, b_major, registers)


def swizzled(box: np.ndarray, swizzle: int) -> np.ndarray:
    """The bytes of a box as TMA puts them into memory that is aligned to 1,024 bytes."""
    offsets = np.arange(box.nbytes)
    mask = (0, 0x70, 0x30, 0x10)[swizzle]
    memory = np.empty(box.nbytes, np.uint8)
    memory[offsets ^ ((offsets >> 3) & mask)] = np.frombuffer(box.tobytes(), np.uint8)
    return memory


@hopper
@pytest.mark.parametrize("swizzle", range(4))
@pytest.mark.parametrize(
    ("shape", "rows", "start", "end"),
    [
        ((50, 192), (24,), (3, 64), (1, 32)),
        ((50, 192), (24,), (40, 160), (49, 160)),
        ((50, 192), (8,), (-5, -16), (47, 184)),
        ((5, 12, 96), (2, 6), (4, 9, 32), (1, 3, 64)),
        ((3, 5, 7, 64), (2, 3, 4), (1, 3, -2, 0), (2, 4, 5, 32)),
    ],
)
@pytest.mark.parametrize("dtype", [np.dtype(np.uint8), BF16, F32], ids=str)
def test_tma_copies_boxes(
    dtype: np.dtype, shape: tuple[int, ...], rows: tuple[int, ...], start: tuple[int, ...], end: tuple[int, ...], swizzle: int
) -> None:
    rng = np.random.default_rng(4)
    source = np.frombuffer(rng.bytes(int(np.prod(shape)) * dtype.itemsize), dtype).reshape(shape)
    extents = (*rows, (WIDTHS[swizzle] if swizzle else 64) // dtype.itemsize)
    padded = [np.arange(first, first + extent) for first, extent in zip(start, extents, strict=True)]
    inside = [(places >= 0) & (places < extent) for places, extent in zip(padded, shape, strict=True)]
    box = np.zeros(extents, dtype)
    box[np.ix_(*inside)] = source[np.ix_(*[places[kept] for places, kept in zip(padded, inside, strict=True)])]
    target = np.zeros(shape, dtype)
    rank = len(shape)
    fill = [0] * (4 - rank)
    dims = [swizzle, *extents[::-1], *fill, *start[::-1], *fill, *end[::-1], *fill]
    memory, stored = harness.run("check_tensor_map", [source], [((box.nbytes,), np.uint8), target], dims=dims, kind="checks")
    np.testing.assert_array_equal(memory, swizzled(box, swizzle))
    into = [np.arange(first, first + extent) for first, extent in zip(end, extents, strict=True)]
    kept = [(places >= 0) & (places < extent) for places, extent in zip(into, shape, strict=True)]
    target[np.ix_(*[places[k] for places, k in zip(into, kept, strict=True)])] = box[np.ix_(*kept)]
    assert stored.tobytes() == target.tobytes()


@pytest.mark.emulated
def test_tma_stores_that_start_before_a_tensor_are_errors() -> None:
    dims = [0, 16, 2, 0, 0, 0, 0, 0, 0, 16, -1, 0, 0]
    with pytest.raises(harness.KernelError, match="a store to coordinate -1 of axis 1"):
        harness.run("check_tensor_map", [np.zeros((4, 32), np.uint8)], [((32,), np.uint8), np.zeros((4, 32), np.uint8)], dims=dims, kind="checks")


@hopper
def test_tma_copies_a_piece_of_a_vector() -> None:
    source = np.arange(100, dtype=np.float32)
    dims = [0, 32, 0, 0, 0, 80, 0, 0, 0, 0, 0, 0, 0]
    memory, _ = harness.run("check_tensor_map", [source], [((128,), np.uint8), np.zeros(100, np.float32)], dims=dims, kind="checks")
    np.testing.assert_array_equal(memory.view(np.float32), np.concatenate([source[80:], np.zeros(12, np.float32)]))


def test_barriers_of_all_kinds_pass_values_between_threads() -> None:
    values = np.random.default_rng(5).integers(-1000, 1000, 256).astype(np.int32)
    (sums,) = harness.run("check_barriers", [values], [((4, 256), np.int32)], kind="checks")
    expected = np.full((4, 256), values.sum(), np.int32)
    if harness.capability() < 90:
        expected[3] = 0
    np.testing.assert_array_equal(sums, expected)


def failing(wrong: int, capability: int = 0) -> np.ndarray:
    source = np.random.default_rng(6).standard_normal(1024).astype(np.float32)
    (target,) = harness.run("check_failures", [source], [((1024,), np.float32)], ints=[wrong], capability=capability, kind="checks")
    return target - source[::-1]


def test_asynchronous_copies_arrive_when_they_are_waited_for() -> None:
    assert not failing(0).any()


@pytest.mark.emulated
@pytest.mark.parametrize("wrong", [1, 12], ids=["copies nobody waited for", "memory nobody wrote"])
def test_what_is_not_there_yet_is_nan(wrong: int) -> None:
    assert np.isnan(failing(wrong)).all()


@pytest.mark.emulated
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (2, r"no thread can go on: threads 0 to 39, 41 to 63 wait in __syncthreads; threads 40 wait in bar\.sync at barrier 3, where 1 of 64"),
        (3, r"wait in mbarrier\.try_wait for phase 0 .* lacks 1 of 2 arrivals and 0 bytes"),
        (4, r"lanes of warp 0 execute different instructions together: (__syncwarp and __shfl_sync|__shfl_sync and __syncwarp)"),
        (5, r"ldmatrix: 16 bytes at shared address 5120 are outside of the block's shared memory"),
        (6, r"thread \(4, 0, 0\): cp\.async: shared address \d+ is not a multiple of 16"),
        (7, r"the mbarrier at \d+ is not initialized"),
        (8, r"the block ended before its wgmma products had been waited for"),
        (9, r"a thread wrote 0 bytes behind the 4096 bytes of dynamic shared memory"),
        (10, r"checks_failures\.cu:\d+: the index 4 is outside of the array"),
        (11, r"checks_failures\.cu:\d+: the address \d+ is not aligned"),
    ],
)
def test_errors_of_kernels_are_reported(wrong: int, message: str) -> None:
    with pytest.raises(harness.KernelError, match=r"check_failures: emulated block \(0, 0, 0\): .*" + message):
        failing(wrong)


@pytest.mark.emulated
def test_instructions_that_a_gpu_lacks_are_errors() -> None:
    with pytest.raises(harness.KernelError, match=r"needs compute capability 9\.0; this is run as 8\.0"):
        failing(8, capability=80)


def test_unknown_kernels_and_wrong_counts_are_refused() -> None:
    with pytest.raises(harness.KernelError, match="no CUDA kernel of this name"):
        harness.run("no_such_kernel", [], [], kind="checks")
    with pytest.raises(harness.KernelError, match="it takes 2 inputs, not 1"):
        harness.run("check_mma", [np.zeros(1)], [((1,), np.float32)], kind="checks")


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (3, 7), (16, 112), (17, 5), (4, 33), (33, 1)])
@pytest.mark.parametrize("band", [1, 4, 8, 16])
def test_bands_visit_each_tile_once(rows: int, columns: int, band: int) -> None:
    places, = harness.run("check_bands", [], [((rows * columns, 2), np.int32)], ints=[rows, columns, band], kind="checks")
    assert sorted(map(tuple, places.tolist())) == [(row, column) for row in range(rows) for column in range(columns)]
    bands = [[row // band, column, row] for row, column in places.tolist()]
    assert bands == sorted(bands)
