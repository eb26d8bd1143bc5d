"""Random problems, and models of one problem."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from hypothesis import strategies as st
from onnx import helper

from ingot.lower.cpu.choices import Problem
from tests.lower.build import model


@st.composite
def problems(draw: st.DrawFn, arithmetic: str = "float32", dtypes: tuple[str, str] = ("float32", "float32")) -> Problem:
    """Matrix products and convolutions of one to three spatial axes, some of whose extents are symbolic."""
    rank = draw(st.integers(0, 3))

    def each(values: st.SearchStrategy[Any]) -> tuple[Any, ...]:
        return tuple(draw(values) for _ in range(rank))

    window = draw(st.just((3, 3)) if rank == 2 and draw(st.booleans()) else st.tuples(*[st.integers(1, 4)] * rank))
    dilations = each(st.integers(1, 2))
    pads = (*each(st.integers(0, 2)), *each(st.integers(0, 2)))
    groups = draw(st.integers(1, 3)) if rank else 1
    lead = st.one_of(st.none(), st.integers(1, 40))
    extents = (*(draw(lead) for _ in range(1 if rank else draw(st.integers(1, 3)))), *each(st.one_of(st.none(), st.integers(5, 20))))
    depth = draw(st.sampled_from([2, 3, 16, 35]))
    return Problem(window, each(st.integers(1, 3)), dilations, pads, groups, depth, draw(st.integers(1, 70)), extents, dtypes, arithmetic)


W = np.random.default_rng(0).standard_normal((48, 32, 3, 3)).astype(np.float32)
V = np.random.default_rng(1).standard_normal((48, 40)).astype(np.float32)


def small_network() -> onnx.ModelProto:
    """Takes x [batch, 32, 20, 20] through a 3x3 convolution, ReLU, a mean and a matrix product to y [batch, 40]: two problems."""
    nodes = [helper.make_node("Conv", ["x", "w"], ["c"], pads=[1] * 4), helper.make_node("Relu", ["c"], ["r"]),
             helper.make_node("GlobalAveragePool", ["r"], ["m"]), helper.make_node("Flatten", ["m"], ["f"]),
             helper.make_node("MatMul", ["f", "v"], ["y"])]
    return model(nodes, {"x": ("float32", ["batch", 32, 20, 20])}, ["y"], {"w": W, "v": V})


#: The keys of its problems.
CONVOLUTION = "3x3 convolution, ?x20x20, 32>48, strides 1x1, dilations 1x1, pads 1x1x1x1, groups 1, float32"
PRODUCT = "matmul, ?, 48>40, float32"


def expected(x: np.ndarray) -> np.ndarray:
    """What it computes, in float64."""
    import torch

    c = torch.relu(torch.nn.functional.conv2d(torch.from_numpy(x).double(), torch.from_numpy(W).double(), padding=1))
    result: np.ndarray = c.mean((2, 3)).numpy() @ V.astype(np.float64)
    return result


def single(problem: Problem, seed: int) -> tuple[Any, np.ndarray, np.ndarray]:
    """A model of one problem, an input and the result in float64."""
    import torch

    rng = np.random.default_rng(seed)
    rank, depth, columns = len(problem.window), problem.groups * problem.depth, problem.groups * problem.columns
    extents = [7 if e is None else e for e in problem.extents]
    lead = extents[: len(extents) - rank]
    spatial = [max(1, (e - 1) * s + (k - 1) * d + 1 - b - a) for e, s, k, d, b, a in zip(
        extents[len(lead):], problem.strides, problem.window, problem.dilations, problem.pads[:rank], problem.pads[rank:], strict=True)]
    sizes = [*lead, depth, *spatial] if rank else [*lead, depth]
    axes = [*problem.extents[: len(lead)], 0, *problem.extents[len(lead):]] if rank else [*problem.extents, 0]
    shape = [f"extent{i}" if e is None else size for i, (e, size) in enumerate(zip(axes, sizes, strict=True))]
    x = rng.standard_normal(sizes).astype(np.float32)
    if not rank:
        w = rng.standard_normal((depth, columns)).astype(np.float32)
        node, reference = helper.make_node("MatMul", ["x", "w"], ["y"]), x.astype(np.float64) @ w
    else:
        w = rng.standard_normal((columns, problem.depth, *problem.window)).astype(np.float32)
        node = helper.make_node("Conv", ["x", "w"], ["y"], strides=problem.strides, dilations=problem.dilations, pads=problem.pads,
                                group=problem.groups)
        ahead = [p for b, a in zip(reversed(problem.pads[:rank]), reversed(problem.pads[rank:]), strict=True) for p in (b, a)]
        convolve = {1: torch.nn.functional.conv1d, 2: torch.nn.functional.conv2d, 3: torch.nn.functional.conv3d}[rank]
        reference = convolve(torch.nn.functional.pad(torch.from_numpy(x).double(), ahead), torch.from_numpy(w).double(), stride=problem.strides,
                             dilation=problem.dilations, groups=problem.groups).numpy()
    return model([node], {"x": ("float32", shape)}, ["y"], {"w": w}), x, reference
