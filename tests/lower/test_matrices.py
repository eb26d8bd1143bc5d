"""Products and convolutions by matrices (AMX): any shape agrees with float64, in bfloat16 and in integers."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

import ingot
from ingot.lower import targets
from ingot.lower.cpu import arithmetic, tiles
from tests.lower import build
from tests.lower.build import model, product_and_sums, relative_error

TARGET = "cpu:x86-64-v4+vnni+amx"
runnable = pytest.mark.skipif(not set(targets.find(TARGET).features) <= set(ingot.machine()["features"]), reason="this machine has no AMX")
few = settings(max_examples=8, deadline=None)  # of a second each


def bfloat16(x: np.ndarray) -> np.ndarray:
    """Rounded to bfloat16, as float64."""
    return torch.from_numpy(x.astype(np.float32)).to(torch.bfloat16).to(torch.float64).numpy()


def run(built: onnx.ModelProto, feeds: dict[str, np.ndarray], threads: int, precision: str) -> tuple[np.ndarray, list[str]]:
    outputs, kernels = build.run(built, feeds, threads, target=TARGET, precision=precision)
    return outputs["y"], kernels


@runnable
@few
@given(rows=st.one_of(st.integers(0, 70), st.sampled_from([129, 300, 1100])), depth=st.one_of(st.integers(16, 140), st.sampled_from([1024, 3000])),
       columns=st.integers(16, 200), known=st.booleans(), threads=st.integers(1, 3), seed=st.integers(0, 99))
def test_products_of_bfloat16(rows: int, depth: int, columns: int, known: bool, threads: int, seed: int) -> None:
    built, x, w, b, r = product_and_sums(rows, depth, columns, known, seed)
    y, kernels = run(built, {"x": x, "r": r}, threads, "bf16")
    assert relative_error(y, bfloat16(x) @ bfloat16(w) + b + r) < 5e-6  # operands are rounded, sums are float32's
    assert any("bfloat16 matrices" in k for k in kernels)


@runnable
@few
@given(size=st.integers(5, 20), window=st.sampled_from([1, 2, 3, 5]), stride=st.integers(1, 2), dilation=st.integers(1, 2), pad=st.integers(0, 2),
       channels=st.integers(1, 70), columns=st.integers(16, 70), groups=st.sampled_from([1, 1, 3]), batch=st.integers(1, 3), known=st.booleans(),
       threads=st.integers(1, 2), seed=st.integers(0, 99))
def test_convolutions_of_bfloat16(size: int, window: int, stride: int, dilation: int, pad: int, channels: int, columns: int, groups: int, batch: int,
                                  known: bool, threads: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    size = max(size, (window - 1) * dilation + 1)
    x = rng.standard_normal((batch, channels * groups, size, size)).astype(np.float32)
    w = rng.standard_normal((columns * groups, channels, window, window)).astype(np.float32)
    conv = helper.make_node("Conv", ["x", "w"], ["c"], strides=[stride] * 2, dilations=[dilation] * 2, pads=[pad] * 4, group=groups)
    shape: list[Any] = list(x.shape) if known else ["batch", channels * groups, "height", "width"]
    built = model([conv, helper.make_node("Relu", ["c"], ["y"])], {"x": ("float32", shape)}, ["y"], {"w": w})
    y, kernels = run(built, {"x": x}, threads, "bf16")
    matrices = channels * window * window >= 16  # vectors multiply float32 by bfloat16
    seen = bfloat16(x) if matrices else x.astype(np.float64)
    expected = torch.nn.functional.conv2d(torch.from_numpy(seen), torch.from_numpy(bfloat16(w)), stride=stride, dilation=dilation,
                                          padding=pad, groups=groups).relu().numpy()
    assert relative_error(y, expected) < 5e-6
    assert any("bfloat16 matrices" in k for k in kernels) == matrices


@runnable
@few
@given(rows=st.integers(1, 300), depth=st.integers(16, 300), columns=st.integers(16, 100), threads=st.integers(1, 2), seed=st.integers(0, 99))
def test_products_of_bytes_are_exact(rows: int, depth: int, columns: int, threads: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, w = rng.integers(0, 256, (rows, depth)).astype(np.uint8), rng.integers(-128, 128, (depth, columns)).astype(np.int8)
    zero = np.array(rng.integers(0, 256), np.uint8)
    nodes = [helper.make_node("MatMulInteger", ["x", "w", "zero"], ["y"])]
    y, kernels = run(model(nodes, {"x": ("uint8", ["rows", depth])}, ["y"], {"w": w, "zero": zero}), {"x": x}, threads, "f32")
    assert (y == (x.astype(np.int64) - int(zero)) @ w.astype(np.int64)).all()
    assert any("int8 matrices" in k for k in kernels)


def test_matrices_come_first_where_a_target_has_them() -> None:
    target = targets.find(TARGET)
    for kind in ("int8", "bfloat16"):
        assert arithmetic.choose(kind, target).matrices and not arithmetic.in_vectors(arithmetic.choose(kind, target), target).matrices
        assert not arithmetic.choose(kind, targets.find("cpu:x86-64-v4+vnni+bf16")).matrices
    assert not arithmetic.choose("float32", target).matrices
    assert [tiles.matrices(rows).rows for rows in (None, 1, 16, 17, 500)] == [32, 16, 16, 32, 32]


@pytest.mark.parametrize(("depth", "columns"), [(15, 64), (64, 15), (8, 8)])
def test_what_would_be_padding_is_multiplied_by_vectors(depth: int, columns: int) -> None:
    built = model([helper.make_node("MatMul", ["x", "w"], ["y"])], {"x": ("float32", ["rows", depth])}, ["y"],
                  {"w": np.ones((depth, columns), np.float32)})
    with tempfile.TemporaryDirectory() as folder:
        ingot.compile(built, Path(folder) / "test.ingot", samples=0, target=TARGET, precision="bf16")
        steps = ingot.Artifact.open(Path(folder) / "test.ingot").manifest["targets"][0]["program"]["functions"][0]["steps"]
    assert not any("matrices" in str(s.get("kernel", "")) for s in steps)


@pytest.mark.parametrize(("precision", "rounds"), [("bf16", True), ("f32", False)])
def test_attention_rounds_its_operands_in_bfloat16_alone(precision: str, rounds: bool, tmp_path: Path) -> None:
    node = helper.make_node("Attention", ["q", "k", "v"], ["y"])
    built = model([node], {name: ("float32", ["batch", 2, "sequence", 16]) for name in "qkv"}, ["y"], opset=23)
    ingot.compile(built, tmp_path / "test.ingot", samples=0, target=TARGET, precision=precision)
    steps = ingot.Artifact.open(tmp_path / "test.ingot").manifest["targets"][0]["program"]["functions"][0]["steps"]
    assert [bool(s["ints"][6] & 2) for s in steps if s["op"] == "kernel"] == [rounds]  # kRoundsOperands
