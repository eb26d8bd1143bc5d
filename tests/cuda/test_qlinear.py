"""The CUDA kernels qlinear_matmul and qlinear_conv against their definitions in float64, on every path."""

from __future__ import annotations

from dataclasses import dataclass, replace

import harness
import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from products import ACTIVATIONS, CLAMP, MATVEC, MMA, WGMMA, Array, activated
from test_convolution import Case as Window
from test_convolution import convolved

few = settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
E4M3 = "float8_e4m3fn"
TYPES = {"int8": np.dtype(np.int8), E4M3: np.dtype(ml_dtypes.float8_e4m3fn), "float32": np.dtype(np.float32), "float16": np.dtype(np.float16),
         "bfloat16": np.dtype(ml_dtypes.bfloat16)}


@dataclass(frozen=True)
class Steps:
    """What follows the sums. Scales are those of codes; 0: nothing is rounded there."""

    codes: str = "int8"
    result: str = ""  # the type of Y: codes if empty
    offsets: bool = True
    bias: bool = True
    activation: str = ""
    before_bias: float = 0.0
    before_residual: float = 0.0
    residual: str = ""
    variant: int = 0
    capability: int = 0
    seed: int = 0

    @property
    def y(self) -> str:
        """The type of Y."""
        return self.result or self.codes


def encoded(x: Array, codes: str, scale: float, zero: int) -> Array:
    """QuantizeLinear: codes as numbers of float64."""
    if codes == E4M3:
        return np.clip(x / scale, -448, 448).astype(TYPES[E4M3]).astype(np.float64)
    return np.clip(np.rint(x / scale) + zero, -128, 127)


def random_codes(rng: np.random.Generator, shape: tuple[int, ...], codes: str) -> Array:
    return rng.integers(-128, 128, shape).astype(np.int8) if codes == "int8" else rng.standard_normal(shape).astype(TYPES[E4M3])


def run(steps: Steps, name: str, x: Array, w: Array, ints: list[int], sums: Array) -> None:
    """Calls a kernel, whose sums by the definition are given in float64, and compares."""
    rng = np.random.default_rng(steps.seed + 1)
    columns, integers = w.shape[0], steps.codes == "int8"
    spread = float(np.sqrt(np.mean(sums**2))) or 1.0
    factors = (rng.uniform(0.5, 2, columns) / spread).astype(np.float32)
    offsets = rng.integers(-999, 999, columns).astype(np.int32) if steps.offsets and integers else None
    bias = rng.standard_normal(columns).astype(np.float32) if steps.bias else None
    zeros = [int(z) if integers else 0 for z in rng.integers(-40, 40, 4)]
    residual_scale, y_scale = 0.021, 0.071 if integers else 0.37  # more than those before it together
    residual = random_codes(rng, sums.shape, steps.codes) if steps.residual == steps.codes else None
    if steps.residual and residual is None:
        residual = rng.standard_normal(sums.shape).astype(TYPES[steps.residual])
    inner = [(1 / s if s else 0.0, float(z), s) for s, z in zip((steps.before_bias, steps.before_residual), zeros, strict=False)]
    floats = [*CLAMP, *inner[0], *inner[1], residual_scale, float(zeros[2]), 1 / y_scale, float(zeros[3])]
    y, = harness.run(name, [x, w, factors, offsets, bias, residual], [(sums.shape, TYPES[steps.y])], ints=ints, floats=floats,
                     capability=steps.capability)

    v = (sums - (0 if offsets is None else offsets)) * factors
    for scale, zero, step in ((steps.before_bias, zeros[0], bias), (steps.before_residual, zeros[1], residual)):
        if scale:
            v = (encoded(v, steps.codes, scale, zero) - zero) * scale
        if step is not None and step is residual and steps.residual == steps.codes:
            v = v + (residual.astype(np.float64) - zeros[2]) * residual_scale
        elif step is not None:
            v = v + step.astype(np.float64)
    v = activated(v, steps.activation)
    assert y.shape == sums.shape
    if steps.y == steps.codes:
        expected = encoded(v, steps.codes, y_scale, zeros[3])
        found = y.astype(np.float64)
        step = np.ones_like(v) if integers else np.maximum(np.abs(expected) * 2.0**-3, 2.0**-9)
    else:
        expected, found = v, y.astype(np.float64)
        inner_step = steps.before_bias + steps.before_residual
        unit = {"float32": 2.0**-18 if integers else 2.0**-9, "float16": 2.0**-10, "bfloat16": 2.0**-7}[steps.y]
        step = inner_step + unit * np.maximum(np.abs(v), 1)
    off = np.abs(found - expected) / step
    assert not np.isnan(found).any()
    assert off.max(initial=0) <= 1.01, (off.max(), np.argmax(off))
    # A sum within float32's rounding of a tie may go either way; sums of float8 have 14 bits on Hopper.
    assert np.count_nonzero(off > 0.5) <= max(2, (0.01 if integers else 0.1) * off.size)


def product(steps: Steps, rows: tuple[int, ...], depth: int, columns: int) -> None:
    rng = np.random.default_rng(steps.seed)
    x, w = random_codes(rng, (*rows, depth), steps.codes), random_codes(rng, (columns, depth), steps.codes)
    ints = [ACTIVATIONS.index(steps.activation), steps.variant]
    run(steps, "qlinear_matmul", x, w, ints, x.astype(np.float64) @ w.astype(np.float64).T)


def convolution(steps: Steps, window: Window, outside: int = 0) -> None:
    rng = np.random.default_rng(steps.seed)
    x = random_codes(rng, (window.images, window.height, window.width, window.channels), steps.codes)
    w = random_codes(rng, (window.kernels, *window.window, window.channels // window.groups), steps.codes)
    ints = [*window.strides, *window.pads, *window.dilations, window.groups, ACTIVATIONS.index(steps.activation), outside, steps.variant]
    # Pads of another code: what is outside, taken off everywhere, is 0 there; its products are added again.
    wide = convolved(window, x.astype(np.float64) - outside, w)
    wide += outside * w.astype(np.float64).reshape(window.kernels, -1).sum(axis=1)
    run(steps, "qlinear_conv", x, w, ints, wide)


@few
@given(rows=st.integers(1, 70), depth=st.integers(1, 140), columns=st.integers(1, 70), codes=st.sampled_from(["int8", E4M3]),
       result=st.sampled_from(["", "", "float32", "float16", "bfloat16"]), offsets=st.booleans(), bias=st.booleans(),
       activation=st.sampled_from(ACTIVATIONS), before=st.sampled_from([(0.0, 0.0), (0.031, 0.0), (0.0, 0.031), (0.0193, 0.0437)]),
       residual=st.sampled_from(["", "codes", "float32", "float16"]), seed=st.integers(0, 99))
def test_products(rows: int, depth: int, columns: int, codes: str, result: str, offsets: bool, bias: bool, activation: str,
                  before: tuple[float, float], residual: str, seed: int) -> None:
    steps = Steps(codes, result, offsets, bias, activation, *(before if codes == "int8" else (0.0, 0.0)), codes if residual == "codes" else residual,
                  seed=seed)
    product(steps, (rows,), depth, columns)


@pytest.mark.parametrize("codes", ["int8", E4M3])
@pytest.mark.parametrize("path", [MATVEC, *MMA, *WGMMA])
def test_each_path_of_products_in_slices_and_whole(path: int, codes: str) -> None:
    rows = 19 if path == MATVEC else 200
    for variant, columns in ((path + 100, 136), (path + (100 if path == MATVEC else 300), 131)):
        product(Steps(codes, variant=variant, activation="relu", residual=codes, seed=path), (rows,), 1100, columns)
        product(Steps(codes, variant=variant, bias=False, offsets=columns == 136, seed=path), (rows,), 1100, columns)


def test_sums_beyond_the_integers_of_float32_are_exact() -> None:
    """Where float32 would round a sum before its offset is taken off, in one slice and in several."""
    depth, columns = 2064, 24
    x, w = np.full((40, depth), 127, np.int8), np.full((columns, depth), 127, np.int8)
    x[:, 0] = np.arange(40)
    sums = x.astype(np.int64) @ w.astype(np.int64).T
    assert sums.min() > 2**24
    offsets = np.full(columns, sums.min() - 3, np.int32)
    floats = [0.0] * 10 + [0.0, 0.0]
    for variant in (0, 104, 304, 106, 206, 306):
        given = [x, w, np.ones(columns, np.float32), offsets]
        y, = harness.run("qlinear_matmul", given, [(sums.shape, np.float32)], ints=[0, variant], floats=floats)
        np.testing.assert_array_equal(y, (sums - offsets).astype(np.float32))


@few
@given(size=st.tuples(st.integers(1, 12), st.integers(1, 13)), channels=st.integers(1, 40), kernels=st.integers(1, 40),
       window=st.tuples(st.integers(1, 3), st.integers(1, 3)), stride=st.integers(1, 2), dilation=st.integers(1, 2), pad=st.integers(0, 2),
       groups=st.sampled_from([1, 1, 2]), codes=st.sampled_from(["int8", E4M3]), activation=st.sampled_from(["", "relu", "clamp"]),
       before=st.sampled_from([0.0, 0.03]), residual=st.booleans(), outside=st.integers(-128, 127), seed=st.integers(0, 99))
def test_convolutions(size: tuple[int, int], channels: int, kernels: int, window: tuple[int, int], stride: int, dilation: int, pad: int, groups: int,
                      codes: str, activation: str, before: float, residual: bool, outside: int, seed: int) -> None:
    integers = codes == "int8"
    steps = Steps(codes, activation=activation, before_residual=before if integers else 0.0, residual=codes if residual else "", seed=seed)
    case = Window(2, *size, channels * groups, kernels * groups, window, (stride, stride), (pad, pad + 1, pad, pad), (dilation, dilation), groups)
    assume(min(case.out) > 0)
    convolution(steps, case, outside if integers else 0)


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("path", [0, *MMA])
def test_each_path_of_convolutions_in_slices_and_whole(path: int, capability: int) -> None:
    for variant in (path, path + 300 if path else 0):
        steps = Steps(variant=variant, activation="relu", residual="int8", capability=capability, seed=path)
        convolution(steps, Window(channels=80, kernels=72), outside=-128)
        convolution(replace(steps, residual="", bias=False), Window(channels=70, kernels=50, groups=2, strides=(2, 2)), outside=3)


def test_pixels_by_themselves_are_products() -> None:
    convolution(Steps(residual="int8"), Window(channels=48, kernels=40, window=(1, 1), pads=(0, 0, 0, 0)), outside=7)
    convolution(Steps(), Window(channels=21, kernels=9, window=(1, 1), pads=(0, 0, 0, 0), strides=(2, 2)), outside=7)


def test_nan_and_infinities_become_codes_as_on_a_cpu() -> None:
    x, w = np.ones((3, 16), np.int8), np.ones((2, 16), np.int8)
    floats = [0.0] * 10 + [1.0, 5.0]
    for factor, expected in ((np.nan, -128), (np.inf, 127), (-np.inf, -128)):
        y, = harness.run("qlinear_matmul", [x, w, np.full(2, factor, np.float32)], [((3, 2), np.int8)], ints=[0, 0], floats=floats)
        assert (y == expected).all()


@pytest.mark.parametrize(("change", "message"), [
    ({"w": np.ones((4, 17), np.int8)}, "does not give Y"),
    ({"w": np.ones((4, 16), np.uint8)}, "takes X and W of int8, or both of float8_e4m3fn, not int8 and uint8"),
    ({"factors": np.ones(3, np.float32)}, r"factors are float32 \[3\], not float32 with 4 elements"),
    ({"offsets": np.ones(4, np.float32)}, r"offsets are float32 \[4\], not int32 with 4 elements"),
    ({"residual": np.ones((3, 5), np.int8)}, r"the residual is \[3, 5\], but Y is \[3, 4\]"),
    ({"y": np.dtype(np.int16)}, "takes Y of float32, float16 or bfloat16, not int16"),
    ({"zero": 0.5}, "has no codes with the scale"),
])
def test_what_does_not_fit_is_said(change: dict[str, Array | np.dtype | float], message: str) -> None:
    given = {"x": np.ones((3, 16), np.int8), "w": np.ones((4, 16), np.int8), "factors": np.ones(4, np.float32), "offsets": None, "bias": None,
             "residual": None, "y": np.dtype(np.int8), "zero": 0.0, **change}
    floats = [0.0] * 10 + [1.0, given["zero"]]
    with pytest.raises(harness.KernelError, match=message):
        harness.run("qlinear_matmul", [given[n] for n in ("x", "w", "factors", "offsets", "bias", "residual")], [((3, 4), given["y"])], ints=[0, 0],
                    floats=floats)


def test_float8_needs_a_gpu_that_multiplies_it() -> None:
    x, w = np.ones((3, 16), TYPES[E4M3]), np.ones((4, 16), TYPES[E4M3])
    with pytest.raises(harness.KernelError, match=r"qlinear_matmul of float8_e4m3fn needs compute capability 8\.9, and this GPU has 8\.0"):
        harness.run("qlinear_matmul", [x, w, np.ones(4, np.float32)], [((3, 4), np.float32)], ints=[0, 0], floats=[0.0] * 12, capability=80)
