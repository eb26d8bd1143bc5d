"""The CUDA kernel convolution against its definition in float64, on every path."""

from __future__ import annotations

from dataclasses import dataclass, replace

import harness
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from products import ACTIVATIONS, CLAMP, DTYPES, FLOAT32, MMA, TF32, Array, WGMMA_128x128, check, numbers, sum_error


@dataclass(frozen=True)
class Case:
    """Sizes and options of one call; pads are top, left, bottom, right."""

    images: int = 2
    height: int = 9
    width: int = 11
    channels: int = 16
    kernels: int = 24
    window: tuple[int, int] = (3, 3)
    strides: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (1, 1, 1, 1)
    dilations: tuple[int, int] = (1, 1)
    groups: int = 1
    dtype: str = "bfloat16"
    result: str = ""
    activation: str = ""
    bias: str = ""
    residual: bool = False
    residual_last: bool = False
    precision: int = FLOAT32
    path: int = 0
    capability: int = 0
    seed: int = 0

    @property
    def out(self) -> tuple[int, int]:
        """Height and width of Y."""
        top, left, bottom, right = self.pads
        spans = (self.height + top + bottom, self.width + left + right)
        sizes = zip(spans, self.window, self.dilations, self.strides, strict=True)
        height, width = (max(0, (span - d * (k - 1) - 1) // s + 1) for span, k, d, s in sizes)
        return height, width


def convolved(case: Case, x: Array, w: Array) -> Array:
    """The definition, in float64: a product for each position under the kernel."""
    top, left, bottom, right = case.pads
    padded = np.pad(x.astype(np.float64), ((0, 0), (top, bottom), (left, right), (0, 0)))
    (height, width), (dilation_h, dilation_w), (stride_h, stride_w) = case.out, case.dilations, case.strides
    grouped = w.astype(np.float64).reshape(case.groups, case.kernels // case.groups, *w.shape[1:])
    y = np.zeros((case.images, height, width, case.groups, case.kernels // case.groups))
    for i in range(case.window[0]):
        for j in range(case.window[1]):
            rows = slice(i * dilation_h, i * dilation_h + (height - 1) * stride_h + 1, stride_h)
            columns = slice(j * dilation_w, j * dilation_w + (width - 1) * stride_w + 1, stride_w)
            pixels = padded[:, rows, columns].reshape(case.images, height, width, case.groups, -1)
            y += np.einsum("bhwgc,goc->bhwgo", pixels, grouped[:, :, i, j])
    return y.reshape(case.images, height, width, case.kernels)


def run(case: Case) -> None:
    """Calls the kernel and compares."""
    rng = np.random.default_rng(case.seed)
    x = numbers(rng, (case.images, case.height, case.width, case.channels), case.dtype)
    w = numbers(rng, (case.kernels, *case.window, case.channels // case.groups), case.dtype)
    result = case.result or case.dtype
    shape = (case.images, *case.out, case.kernels)
    bias = numbers(rng, (case.kernels,), case.bias) if case.bias else None
    residual = numbers(rng, shape, result) if case.residual else None
    ints = [*case.strides, *case.pads, *case.dilations, case.groups, ACTIVATIONS.index(case.activation), int(case.residual_last)]
    ints += [case.precision, case.path]
    y, = harness.run("convolution", [x, w, bias, residual], [(shape, DTYPES[result])], ints=ints, floats=CLAMP, capability=case.capability)
    if 0 in shape:
        return
    error = sum_error(convolved(case, np.abs(x.astype(np.float64)), np.abs(w.astype(np.float64))), w[0].size, case.dtype, case.precision)
    check(y, convolved(case, x, w), error, bias=bias, residual=residual, activation=case.activation, residual_last=case.residual_last)


@pytest.mark.parametrize("dtype", list(DTYPES))
@pytest.mark.parametrize("path", [*MMA, MMA[2] + 300])
def test_tiles(path: int, dtype: str) -> None:
    run(Case(images=3, kernels=72, dtype=dtype, path=path, bias=dtype, residual=True, activation="relu"))


@pytest.mark.parametrize("residual_last", [False, True])
@pytest.mark.parametrize("activation", ["relu", "silu"])
def test_the_residual_is_added_before_the_activation_or_after(activation: str, residual_last: bool) -> None:
    run(Case(residual=True, residual_last=residual_last, activation=activation, bias="float32"))


@pytest.mark.parametrize("channels", [1, 3, 4, 7, 8, 12, 40])
@pytest.mark.parametrize("dtype", list(DTYPES))
def test_any_number_of_channels(channels: int, dtype: str) -> None:
    run(Case(channels=channels, kernels=17, dtype=dtype, precision=TF32, window=(5, 2), pads=(2, 0, 1, 1)))


def test_the_first_layer_of_a_network() -> None:
    case = Case(images=1, height=30, width=34, channels=3, kernels=64, window=(7, 7), strides=(2, 2), pads=(3, 3, 3, 3))
    run(replace(case, bias="float32", activation="relu"))


@pytest.mark.parametrize(("strides", "dilations"), [((2, 1), (1, 1)), ((3, 2), (1, 2)), ((1, 1), (3, 2))])
def test_strides_and_dilations(strides: tuple[int, int], dilations: tuple[int, int]) -> None:
    run(Case(strides=strides, dilations=dilations, pads=(2, 3, 0, 4)))


@pytest.mark.parametrize("strides", [(1, 1), (2, 2)])
@pytest.mark.parametrize("capability", [80, 90])
def test_kernels_of_one_pixel(strides: tuple[int, int], capability: int) -> None:
    run(Case(window=(1, 1), pads=(0, 0, 0, 0), strides=strides, capability=capability, residual=True, bias="float32", activation="relu"))


def test_kernels_of_one_pixel_on_paths_of_products() -> None:
    run(Case(window=(1, 1), pads=(0, 0, 0, 0), channels=64, kernels=136, path=WGMMA_128x128, residual=True, activation="relu"))


@pytest.mark.parametrize(("channels", "kernels", "groups"), [(32, 48, 2), (12, 20, 4), (10, 15, 5), (6, 12, 6)])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_groups(channels: int, kernels: int, groups: int, dtype: str) -> None:
    run(Case(channels=channels, kernels=kernels, groups=groups, dtype=dtype, bias=dtype, residual=True, activation="relu"))


@pytest.mark.parametrize("channels", [5, 16, 72, 264])
@pytest.mark.parametrize("dtype", list(DTYPES))
def test_depthwise(channels: int, dtype: str) -> None:
    run(Case(channels=channels, kernels=channels, groups=channels, dtype=dtype, strides=(2, 1), bias="float32", activation="silu", residual=True))


def test_depthwise_with_large_kernels() -> None:
    run(Case(images=1, channels=24, kernels=24, groups=24, window=(13, 9), pads=(6, 4, 6, 4), dilations=(1, 2)))


def test_one_dimension() -> None:
    run(Case(height=1, width=50, window=(1, 5), pads=(0, 2, 0, 2)))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_results_may_be_float32(dtype: str) -> None:
    run(Case(dtype=dtype, result="float32", residual=True))


def test_results_without_pixels_are_empty() -> None:
    run(Case(height=2, pads=(0, 0, 0, 0)))
    run(Case(images=0))


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_geometry(data: st.DataObject) -> None:
    def size(least: int, most: int) -> int:
        return data.draw(st.integers(least, most))

    groups = data.draw(st.sampled_from([1, 1, 1, 2, 3]))
    case = Case(images=size(1, 3), height=size(1, 12), width=size(1, 12), channels=groups * size(1, 20), kernels=groups * size(1, 20), groups=groups)
    case = replace(case, window=(size(1, 4), size(1, 4)), strides=(size(1, 3), size(1, 3)), dilations=(size(1, 2), size(1, 2)), seed=size(0, 999))
    case = replace(case, pads=(size(0, 3), size(0, 3), size(0, 3), size(0, 3)), dtype=data.draw(st.sampled_from(list(DTYPES))), precision=size(0, 1))
    case = replace(case, capability=data.draw(st.sampled_from([80, 90])), residual=data.draw(st.booleans()), residual_last=data.draw(st.booleans()))
    run(replace(case, activation=data.draw(st.sampled_from(ACTIVATIONS)), bias=data.draw(st.sampled_from(["", "float32", case.dtype]))))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", list(DTYPES))
@pytest.mark.parametrize("path", [0, *MMA])
def test_large(path: int, dtype: str) -> None:
    run(Case(images=4, height=56, width=57, channels=64, kernels=96, strides=(2, 1), dtype=dtype, path=path, residual=True, activation="relu"))


def test_what_does_not_fit_is_named() -> None:
    x, w = np.zeros((1, 8, 8, 4), np.float32), np.zeros((6, 3, 3, 4), np.float32)
    ints = [1, 1, 0, 0, 0, 0, 1, 1, 1, 0, 0, 0, 0]

    def refused(match: str, y: tuple[int, ...] = (1, 6, 6, 6), *, weights: Array = w, **changed: int) -> None:
        names = ("stride", *"bcdefgh", "groups", "activation", "k", "precision", "path")
        values = [changed.get(name, value) for name, value in zip(names, ints, strict=True)]
        with pytest.raises(harness.KernelError, match=match):
            harness.run("convolution", [x, weights], [(y, np.float32)], ints=values, floats=CLAMP)

    refused("Y's height does not follow from X's", (1, 5, 6, 6))
    refused("Y's width does not follow from X's", (1, 6, 7, 6))
    refused("do not fit together with 3 groups", groups=3)
    refused("stride_h is 0; it must be at least 1", stride=0)
    refused("all need four axes", weights=w[0])
    refused("no activation 7", activation=7)
    refused("no precision 5", precision=5)
    refused("variant 5 does not compute", path=5)
    refused("W of X's type float32, not float16", weights=w.astype(np.float16))
