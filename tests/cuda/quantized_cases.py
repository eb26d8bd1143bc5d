"""What tests of quantized_matmul on CPUs and GPUs share: calls, their operands, and what follows from sums in float64."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np

if TYPE_CHECKING:
    from tests.cuda.products import ROUNDING, STEP, activated
else:
    sys.path.insert(0, str(Path(__file__).parent))  # machines that only test kernels have this folder alone
    from products import ROUNDING, STEP, activated

    sys.path.pop(0)


def load(path: str) -> Any:
    """A module of python/ingot/lower by its path: machines that only test kernels do not have the package."""
    name = "ingot_test_" + Path(path).stem
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parents[2] / "python" / "ingot" / "lower" / path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


_quantized_weights = load("cpu/quantized_weights.py")
FORMATS, ACTIVATIONS = _quantized_weights.FORMATS, _quantized_weights.ACTIVATIONS
groups_of, pack_groups = _quantized_weights.groups_of, _quantized_weights.pack_groups


@dataclass(frozen=True)
class Call:
    """Sizes and options of one call."""

    rows: int = 3
    columns: int = 20
    depth: int = 40
    format: str = "int4"
    group: int = 32
    activation: str = ""
    scales: str = "float32"  # or powers of two: "uint8"
    zeros: str | None = None
    bias: bool = False
    residual: bool = False
    dtype: str = "float32"
    seed: int = 0


@dataclass
class Data:
    """X [rows, K], codes [N, K], scales and zeros [N, groups], bias [N], residual [rows, N]."""

    x: np.ndarray
    codes: np.ndarray
    scales: np.ndarray
    zeros: np.ndarray | None
    bias: np.ndarray | None
    residual: np.ndarray | None


def numpy_type(name: str) -> Any:
    return getattr(ml_dtypes, name) if name == "bfloat16" else np.dtype(name)


def make(case: Call) -> Data:
    rng = np.random.default_rng(case.seed)
    shape = (case.columns, groups_of(case.depth, case.group))
    bits = FORMATS[case.format].bits
    low, high, dtype = (-128, 128, np.int8) if bits == 8 else (0, 16, np.uint8)
    codes = rng.integers(low, high, (case.columns, case.depth)).astype(dtype)
    if case.scales == "uint8":
        scales = rng.integers(120, 132, shape).astype(np.uint8)
    else:
        scales = rng.uniform(-1.5, 1.5, shape).astype(numpy_type(case.scales))
    zeros = None
    if case.zeros is not None:
        low, high = (-8, 8) if bits == 4 else (-128, 128)
        zeros = rng.integers(low, high, shape).astype(np.int8) if case.zeros == "int8" else rng.uniform(low, high, shape).astype(np.float32)
    return Data(rng.standard_normal((case.rows, case.depth)).astype(numpy_type(case.dtype)), codes, scales, zeros,
                rng.standard_normal(case.columns).astype(np.float32) if case.bias else None,
                rng.standard_normal((case.rows, case.columns)).astype(numpy_type(case.dtype)) if case.residual else None)


def weights(case: Call, data: Data, values: tuple[float, ...] = (), *, apart: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """W [N, K], and the magnitudes of what zeros are subtracted from.

    ``values`` are those of codes that are looked up, if not the format's; with ``apart`` codes and their offset are subtracted one by one.
    """
    kind = FORMATS[case.format]

    def spread(of_groups: np.ndarray) -> np.ndarray:
        return np.repeat(of_groups.astype(np.float64), case.group or max(case.depth, 1), axis=1)[:, : case.depth]

    scales = spread(np.exp2(data.scales.astype(np.float64) - 127) if data.scales.dtype == np.uint8 else data.scales)
    if kind.values:
        w = np.array(values or kind.values)[data.codes] * scales
        return w, np.abs(w)
    zeros = spread(data.zeros) if data.zeros is not None else np.zeros_like(scales)
    codes = data.codes.astype(np.float64)
    size = np.abs(codes) + kind.offset if apart else np.abs(codes - kind.offset)
    return (codes - kind.offset - zeros) * scales, (size + np.abs(zeros)) * np.abs(scales)


def finished(case: Call, data: Data, sums: np.ndarray, bound: np.ndarray, unit: float) -> tuple[np.ndarray, np.ndarray]:
    """Y from sums that are known up to ``bound``, with a bound of its own; float32 errs by ``unit``."""
    if data.bias is not None:
        sums = sums + data.bias
        bound = bound + unit * np.abs(sums)
    # No activation is steeper than 1.13; each errs by up to 16 roundings of its operand.
    y = activated(sums, case.activation)
    if case.activation:
        bound = 1.13 * bound + 16 * unit * np.abs(sums)
    if data.residual is not None:
        y = y + data.residual.astype(np.float64)
    return y, bound + (unit + ROUNDING[case.dtype]) * (np.abs(y) + bound) + STEP[case.dtype] + 1e-30


def beyond(found: np.ndarray, expected: np.ndarray, bound: np.ndarray) -> np.ndarray:
    """How much further than ``bound`` each number is from what is expected; where that may exceed the type, an infinity of its sign will do."""
    largest, wide = float(ml_dtypes.finfo(found.dtype).max), found.astype(np.float64)
    endless = np.isinf(wide) & (np.sign(wide) == np.sign(expected)) & (np.abs(expected) + bound >= largest)
    return np.asarray(np.where(endless, 0.0, np.abs(wide - expected) - bound))
