"""Pooled regions against their definition in float64: every type of floats, means and maxima, regions that are wide, outside or turned round."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

import ingot
from ingot.backend import IngotBackendRep, prepare

BFLOAT16 = np.dtype(helper.tensor_dtype_to_np_dtype(TensorProto.BFLOAT16))
#: A unit in the last place of each type's results; sums of float16 and bfloat16 are of float32.
ROUNDING = {np.dtype(np.float16): 2**-11, BFLOAT16: 2**-8, np.dtype(np.float32): 2**-20, np.dtype(np.float64): 2**-48}


def model(dtype: np.dtype, mode: str, half_pixel: bool, samples: int, scale: float, size: tuple[int, int]) -> onnx.ModelProto:
    kind = helper.np_dtype_to_tensor_dtype(dtype)
    inputs = [helper.make_tensor_value_info("features", kind, ["b", "c", "h", "w"]), helper.make_tensor_value_info("regions", kind, ["r", 4]),
              helper.make_tensor_value_info("images", TensorProto.INT64, ["r"])]
    node = helper.make_node("RoiAlign", ["features", "regions", "images"], ["pooled"], mode=mode, sampling_ratio=samples, spatial_scale=scale,
                            output_height=size[0], output_width=size[1],
                            coordinate_transformation_mode="half_pixel" if half_pixel else "output_half_pixel")
    graph = helper.make_graph([node], "g", inputs, [helper.make_tensor_value_info("pooled", kind, None)])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)


@functools.cache
def compiled(dtype: np.dtype, mode: str, half_pixel: bool, samples: int, scale: float, size: tuple[int, int]) -> IngotBackendRep:
    return prepare(model(dtype, mode, half_pixel, samples, scale, size))


def side(first: float, last: float, scale: float, half_pixel: bool, bins: int, samples: int, extent: int) -> np.ndarray:
    """How much of each element is in each sample of each bin: [bins, samples, extent]."""
    start = first * scale - (0.5 if half_pixel else 0.0)
    length = last * scale - first * scale
    length = length if half_pixel else max(length, 1.0)
    count = samples or max(int(np.ceil(length / bins)), 0)
    weights = np.zeros((bins, count, extent))
    for i, k in np.ndindex(bins, count):
        at = start + i * length / bins + (k + 0.5) * (length / bins) / count
        if not -1 <= at <= extent:
            continue
        at = min(max(at, 0.0), extent - 1)
        low = min(int(at), extent - 1)
        weights[i, k, low] += 1 - (at - low)
        if at > low:
            weights[i, k, low + 1] += at - low
    return weights


def expected(inputs: dict[str, np.ndarray], mode: str, half_pixel: bool, samples: int, scale: float, size: tuple[int, int]) -> np.ndarray:
    features, regions, images = inputs.values()
    wide = features.astype(np.float64)
    pooled = np.zeros((len(regions), features.shape[1], *size))
    for r, (x1, y1, x2, y2) in enumerate(regions.astype(np.float64)):
        rows = side(y1, y2, scale, half_pixel, size[0], samples, features.shape[2])
        columns = side(x1, x2, scale, half_pixel, size[1], samples, features.shape[3])
        if mode == "avg":
            if rows.shape[1] * columns.shape[1]:
                pooled[r] = np.einsum("iy,cyx,jx->cij", rows.mean(1), wide[images[r]], columns.mean(1))
            continue
        for i, j in np.ndindex(*size):
            # ONNX takes the largest of the weighted elements, not of their sums.
            best = [wide[images[r]][:, y, x] * a[y] * b[x] for a in rows[i] for b in columns[j] for y in near(a) for x in near(b)]
            pooled[r, :, i, j] = np.max(best, 0) if best else 0
    return pooled


def near(weights: np.ndarray) -> list[int]:
    """The elements that a sample looks at: those that have a weight, and a neighbour without one if there is no other."""
    found = np.flatnonzero(weights).tolist()
    return found if len(found) == 2 else [*found, *[i for i in range(len(weights)) if weights[i] == 0][:1]]


def drawn(dtype: np.dtype, half_pixel: bool, samples: int, scale: float, shape: tuple[int, ...], count: int, seed: int) -> dict[str, np.ndarray]:
    """Inputs. Coordinates are multiples of 1 / 4, which every type holds; a region may be turned round, or lie outside."""
    rng = np.random.default_rng(seed)
    reach = np.array([shape[3], shape[2]] * 2) / scale
    regions = (np.round(rng.uniform(-0.3, 1.3, (count, 4)) * reach * 4) / 4).clip(-60, 60).astype(dtype)
    if not half_pixel or samples == 0:
        regions = np.concatenate([np.minimum(regions[:, :2], regions[:, 2:]), np.maximum(regions[:, :2], regions[:, 2:])], 1)
    return {"features": rng.uniform(0.5, 2.0, shape).astype(dtype), "regions": regions, "images": rng.integers(0, shape[0], count)}


def check(dtype: np.dtype, mode: str, half_pixel: bool, samples: int, scale: float, size: tuple[int, int], shape: tuple[int, ...], count: int,
          seed: int) -> None:
    inputs = drawn(dtype, half_pixel, samples, scale, shape, count, seed)
    found = compiled(dtype, mode, half_pixel, samples, scale, size).run(inputs)[0].astype(np.float64)
    np.testing.assert_allclose(found, expected(inputs, mode, half_pixel, samples, scale, size), rtol=ROUNDING[dtype], atol=ROUNDING[dtype])


@pytest.mark.parametrize("dtype", list(ROUNDING), ids=str)
@pytest.mark.parametrize("mode", ["avg", "max"])
@pytest.mark.parametrize("samples", [0, 1, 2, 3])
def test_regions_are_pooled_as_defined(dtype: np.dtype, mode: str, samples: int) -> None:
    for half_pixel in (False, True):
        check(dtype, mode, half_pixel, samples, 0.5, (7, 5), (2, 3, 13, 17), 9, samples)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1), height=st.integers(1, 40), width=st.integers(1, 90), channels=st.integers(1, 5), count=st.integers(0, 6),
       half_pixel=st.booleans(), samples=st.sampled_from([0, 2]), size=st.sampled_from([(7, 7), (1, 1), (2, 9), (17, 3)]))
def test_means_of_features_of_any_extents(seed: int, height: int, width: int, channels: int, count: int, half_pixel: bool, samples: int,
                                          size: tuple[int, int]) -> None:
    check(np.dtype(np.float32), "avg", half_pixel, samples, 1.0, size, (1, channels, height, width), count, seed)


def test_threads_share_channels_and_regions(tmp_path: Path) -> None:
    ingot.compile(model(np.dtype(np.float32), "avg", True, 2, 0.25, (7, 7)), tmp_path / "roi.ingot", samples=0)
    for shape, count in (((2, 70, 25, 34), 20), ((1, 3, 500, 400), 9)):  # the second's channels do not all stay in a cache
        inputs = drawn(np.dtype(np.float32), True, 2, 0.25, shape, count, 3)
        wanted = expected(inputs, "avg", True, 2, 0.25, (7, 7))
        for threads in (1, 2, 5):
            found = ingot.load(tmp_path / "roi.ingot", threads=threads).run(inputs)["pooled"]
            np.testing.assert_allclose(found, wanted, rtol=2**-20, atol=2**-20)


def test_elements_that_no_sample_weighs_do_not_count() -> None:
    features = np.full((1, 1, 4, 4), np.nan, np.float32)
    features[0, 0, 1:3, 1:3] = 3.0
    found = compiled(np.dtype(np.float32), "avg", True, 1, 1.0, (1, 1)).run([features, np.array([[1, 1, 3, 3], [-9, -9, -5, -5]], np.float32),
                                                                                    np.array([0, 0])])[0]
    assert found.ravel().tolist() == [3.0, 0.0]
