"""Matrix products and convolutions of any shape agree with float64, and get the schedules that are meant for them."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from tests.lower.build import model, product_and_sums, relative_error, run

#: Sums of up to a few thousand float32 products: unit roundoff 6e-8 times the square root of their number, with room for the order.
TOLERANCE = 5e-6
#: Winograd's F(4x4) multiplies by up to 8 and 5 and their inverses on the way: a digit is lost (Lavin and Gray 2016, section 5.1).
WINOGRAD_TOLERANCE = 5e-5

few = settings(max_examples=6, deadline=None)  # of a second each


@few
@given(rows=st.integers(1, 40), depth=st.integers(1, 70), columns=st.integers(1, 70), batch=st.integers(1, 3), seed=st.integers(0, 99))
def test_matmul_with_constant_weights(rows: int, depth: int, columns: int, batch: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((batch, rows, depth)).astype(np.float32)
    w, b = rng.standard_normal((depth, columns)).astype(np.float32), rng.standard_normal(columns).astype(np.float32)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["p"]), helper.make_node("Add", ["p", "b"], ["s"]), helper.make_node("Relu", ["s"], ["y"])]
    outputs, kernels = run(model(nodes, {"x": ("float32", ["batch", "rows", depth])}, ["y"], {"w": w, "b": b}), {"x": x})
    expected = np.maximum(x.astype(np.float64) @ w + b, 0)
    assert relative_error(outputs["y"], expected) < TOLERANCE
    assert [k for k in kernels if k.startswith("matmul")] and len(kernels) == 1  # what follows is fused


@few
@given(rows=st.integers(20, 90), columns=st.sampled_from([100, 160, 320]), symbolic=st.booleans(), threads=st.integers(1, 3), seed=st.integers(0, 99))
def test_few_blocks_of_columns_are_shared_by_rows_too(rows: int, columns: int, symbolic: bool, threads: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, w = rng.standard_normal((2, rows, 200)).astype(np.float32), rng.standard_normal((200, columns)).astype(np.float32)
    built = model([helper.make_node("MatMul", ["x", "w"], ["y"])], {"x": ("float32", ["batch" if symbolic else 2, rows, 200])}, ["y"], {"w": w})
    outputs, _ = run(built, {"x": x}, threads)
    assert relative_error(outputs["y"], x.astype(np.float64) @ w) < TOLERANCE


@few
@given(rows=st.sampled_from([1, 5, 90, 300, 700]), depth=st.sampled_from([1536, 2304, 4094]), columns=st.sampled_from([40, 192, 330]),
       known=st.booleans(), threads=st.integers(1, 2), seed=st.integers(0, 99))
def test_deep_products_go_in_parts_of_k(rows: int, depth: int, columns: int, known: bool, threads: int, seed: int) -> None:
    """Weights of which a block of columns is larger than what a second-level cache is to hold of them."""
    built, x, w, b, r = product_and_sums(rows, depth, columns, known, seed)
    outputs, kernels = run(built, {"x": x, "r": r}, threads)
    assert relative_error(outputs["y"], x.astype(np.float64) @ w + b + r) < TOLERANCE
    assert len(kernels) == 1


@few
@given(size=st.tuples(st.integers(5, 19), st.integers(5, 19)), window=st.tuples(st.integers(1, 4), st.integers(1, 4)), stride=st.integers(1, 3),
       dilation=st.integers(1, 2), pads=st.tuples(*[st.integers(0, 2)] * 4), channels=st.integers(1, 9), columns=st.integers(1, 40),
       groups=st.sampled_from([1, 2, 3]), batch=st.integers(1, 3), seed=st.integers(0, 99))
def test_convolution(size: tuple[int, int], window: tuple[int, int], stride: int, dilation: int, pads: tuple[int, ...], channels: int, columns: int,
                     groups: int, batch: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    reach = [(k - 1) * dilation + 1 for k in window]
    if any(s + p + q < r for s, p, q, r in zip(size, pads[:2], pads[2:], reach, strict=True)):
        return
    x = rng.standard_normal((batch, channels * groups, *size)).astype(np.float32)
    w = rng.standard_normal((columns * groups, channels, *window)).astype(np.float32)
    node = helper.make_node("Conv", ["x", "w"], ["y"], strides=[stride] * 2, dilations=[dilation] * 2, pads=list(pads), group=groups)
    built = model([node], {"x": ("float32", ["batch", channels * groups, *size])}, ["y"], {"w": w})
    padded = torch.nn.functional.pad(torch.from_numpy(x).double(), (pads[1], pads[3], pads[0], pads[2]))
    expected = torch.nn.functional.conv2d(padded, torch.from_numpy(w).double(), stride=stride, dilation=dilation, groups=groups).numpy()
    outputs, kernels = run(built, {"x": x})
    assert relative_error(outputs["y"], expected) < TOLERANCE
    assert any("convolution" in k or "columns" in k for k in kernels) or (window == (1, 1) and channels == 1)  # then it is element-wise


@few
@given(height=st.integers(6, 30), width=st.integers(6, 30), pad=st.integers(0, 1), depth=st.sampled_from([32, 35, 64]),
       columns=st.sampled_from([32, 50, 64]), batch=st.integers(1, 2), symbolic=st.booleans(), seed=st.integers(0, 99))
def test_3x3_convolution_by_winograd_with_bias_residual_and_relu(height: int, width: int, pad: int, depth: int, columns: int, batch: int,
                                                                 symbolic: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((batch, depth, height, width)).astype(np.float32)
    w, b = rng.standard_normal((columns, depth, 3, 3)).astype(np.float32), rng.standard_normal(columns).astype(np.float32)
    out = (height + 2 * pad - 2, width + 2 * pad - 2)
    r = rng.standard_normal((batch, columns, *out)).astype(np.float32)
    nodes = [helper.make_node("Conv", ["x", "w", "b"], ["c"], pads=[pad] * 4), helper.make_node("Add", ["c", "r"], ["s"]),
             helper.make_node("Relu", ["s"], ["y"])]
    size, rest = (["h", "w"], ["rh", "rw"] if pad == 0 else ["h", "w"]) if symbolic else ([height, width], [*out])
    built = model(nodes, {"x": ("float32", ["batch", depth, *size]), "r": ("float32", ["batch", columns, *rest])}, ["y"], {"w": w, "b": b})
    expected = torch.nn.functional.conv2d(*(torch.from_numpy(a).double() for a in (x, w, b)), padding=pad).numpy() + r
    outputs, kernels = run(built, {"x": x, "r": r})
    assert relative_error(outputs["y"], np.maximum(expected, 0)) < WINOGRAD_TOLERANCE
    if height * width >= 400 or symbolic:
        assert any(k.startswith("winograd") for k in kernels)


def test_winograd_is_left_where_it_loses() -> None:
    from ingot.lower.cpu import winograd

    assert winograd.pick(56, 56, 64, 64) == winograd.Tiling(4, 56, 56)
    assert winograd.pick(2, 2, 512, 512) is None  # more weights to read than multiplications to save
    assert winograd.pick(56, 56, 3, 64) is None


@few
@given(size=st.tuples(st.integers(1, 9), st.integers(1, 9)), window=st.tuples(st.integers(1, 5), st.integers(1, 4)),
       strides=st.tuples(st.integers(1, 3), st.integers(1, 3)), dilation=st.integers(1, 2), pads=st.tuples(*[st.integers(0, 1)] * 4),
       extra=st.tuples(st.integers(0, 2), st.integers(0, 2)), channels=st.integers(1, 9), columns=st.integers(1, 20),
       groups=st.sampled_from([1, 2]), batch=st.integers(1, 2), seed=st.integers(0, 99))
def test_transposed_convolution(size: tuple[int, int], window: tuple[int, int], strides: tuple[int, int], dilation: int, pads: tuple[int, ...],
                                extra: tuple[int, int], channels: int, columns: int, groups: int, batch: int, seed: int) -> None:
    extra = (min(extra[0], max(strides[0], dilation) - 1), min(extra[1], max(strides[1], dilation) - 1))  # PyTorch asks for it
    full = [(e - 1) * s + (k - 1) * dilation + 1 for e, s, k in zip(size, strides, window, strict=True)]
    if any(f - p - q + o < 1 for f, p, q, o in zip(full, pads[:2], pads[2:], extra, strict=True)):
        return
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((batch, channels * groups, *size)).astype(np.float32)
    w, b = rng.standard_normal((channels * groups, columns, *window)).astype(np.float32), rng.standard_normal(columns * groups).astype(np.float32)
    node = helper.make_node("ConvTranspose", ["x", "w", "b"], ["y"], strides=list(strides), dilations=[dilation] * 2, pads=list(pads), group=groups,
                            output_padding=list(extra))
    built = model([node], {"x": ("float32", ["batch", channels * groups, "height", size[1]])}, ["y"], {"w": w, "b": b})
    whole = torch.nn.functional.conv_transpose2d(*(torch.from_numpy(a).double() for a in (x, w, b)), stride=strides, dilation=dilation,
                                                 groups=groups, output_padding=extra).numpy()
    expected = whole[:, :, pads[0] : whole.shape[2] - pads[2], pads[1] : whole.shape[3] - pads[3]]
    outputs, kernels = run(built, {"x": x})
    assert outputs["y"].shape == expected.shape
    assert relative_error(outputs["y"], expected) < TOLERANCE
    assert any("convolution" in k for k in kernels) or max(window) == 1 or channels == 1
