"""Cast between every two types of ONNX, against ml_dtypes and NumPy."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from onnx import helper

from ingot.backend import prepare

INTEGERS = ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "int4", "uint4", "int2", "uint2")
FLOATS = ("float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float4_e2m1fn")
TYPES = ("bool", *INTEGERS, *FLOATS, "float8_e8m0fnu")
#: Where the largest finite number takes what lies beyond it, unless saturate is 0.
SATURATING = tuple(t for t in FLOATS if t.startswith("float8"))


def kind(name: str) -> np.dtype[Any]:
    return np.dtype(bool) if name == "bool" else np.dtype(getattr(ml_dtypes, name, None) or name)


def element(name: str) -> int:
    return int(helper.np_dtype_to_tensor_dtype(kind(name)))


def elements(source: str) -> np.ndarray:
    """All values of a type of 8 bits and less; of others, whole and half numbers, random ones of all magnitudes, and what is special."""
    own = kind(source)
    if source == "bool":
        return np.array([False, True])
    if source in ("int4", "uint4", "int2", "uint2"):
        info: Any = ml_dtypes.iinfo(own)
        return np.arange(info.min, info.max + 1).astype(own)
    if own.itemsize == 1:
        return np.arange(256, dtype=np.uint8).view(own)
    rng = np.random.default_rng(0)
    if source in INTEGERS:
        limits = np.iinfo(own)
        return np.concatenate([np.array([0, 1, limits.min, limits.max, limits.max - 1], own), rng.integers(limits.min, limits.max, 99, own)])
    halves = np.arange(-260, 260) / 2
    wide = rng.standard_normal(400) * 2.0 ** rng.integers(-30, 30, 400)
    special = np.array([np.inf, -np.inf, np.nan, -0.0, 1e-45, 448.0, 464.0, 465.0, 57344.0, 61440.0, 65520.0, 3.4e38, 6.0, 7.0])
    with np.errstate(over="ignore"):
        return np.concatenate([halves, wide, special]).astype(own)


def defined(x: np.ndarray, source: str, target: str) -> np.ndarray:
    """Which elements ONNX says the result of: not of numbers beyond an integer type, nor of what is no power of two's neighbour as a power of two."""
    wide = x.astype(np.float64)
    if target == "float8_e8m0fnu":
        return np.isfinite(wide) & (wide >= 2.0**-126) & (wide < 2.0**126)
    if target in INTEGERS and source.startswith(("float", "bfloat")):
        info: Any = ml_dtypes.iinfo(kind(target))
        whole = np.trunc(np.where(np.isfinite(wide), wide, np.nan))
        return (whole >= float(info.min)) & (whole <= float(info.max) if info.max < 2**53 else whole < float(info.max))
    return ~np.isnan(wide) if target == "float4_e2m1fn" or target in INTEGERS else np.ones(len(x), bool)


def expected(x: np.ndarray, source: str, target: str) -> np.ndarray:
    """ONNX's definition: integers lose high bits, floats are rounded to nearest even and saturate in float8 and float4."""
    own = kind(target)
    if target == "bool":
        return x.astype(np.float64) != 0
    if target in INTEGERS:
        whole = x if source in INTEGERS and x.dtype.kind in "iu" else x.astype(np.float64 if source not in INTEGERS else np.int64)
        whole = np.trunc(whole) if whole.dtype.kind == "f" else whole
        bits = {"4": 4, "2": 2}.get(target[-1]) if target in ("int4", "uint4", "int2", "uint2") else None
        if bits is None:
            return whole.astype(own)
        masked = whole.astype(np.int64) & (2**bits - 1)
        return np.where(masked >= 2 ** (bits - 1), masked - 2**bits, masked).astype(own) if target.startswith("int") else masked.astype(own)
    with np.errstate(all="ignore"):
        wide = x.astype(np.float64) if kind(source).itemsize <= 4 or source == "float64" else x
        if target == "float8_e8m0fnu":  # rounded up to a power of two
            return np.ldexp(1.0, np.ceil(np.log2(x.astype(np.float64))).astype(int)).astype(own)
        if target in SATURATING or target == "float4_e2m1fn":
            largest = float(ml_dtypes.finfo(own).max)
            wide = np.clip(wide.astype(np.float64), -largest, largest)
        return wide.astype(own)


def outputs(source: str, targets: list[str], x: np.ndarray, **attributes: int) -> dict[str, np.ndarray]:
    nodes = [helper.make_node("Cast", ["x"], [target], to=element(target), **(attributes if target in SATURATING else {})) for target in targets]
    graph = helper.make_graph(nodes, "casts", [helper.make_tensor_value_info("x", element(source), ["n"])],
                              [helper.make_tensor_value_info(target, element(target), ["n"]) for target in targets])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 25)], ir_version=13)
    return dict(zip(targets, prepare(model).run([x]), strict=True))


#: Sources whose decoding and rounding other sources share in part are left to `make test-all`.
IN_SHORT = ("bool", "int64", "int4", "float32", "bfloat16", "float8_e5m2")


@pytest.mark.parametrize("source", [pytest.param(t, marks=[pytest.mark.extended] * (t not in IN_SHORT)) for t in TYPES])
def test_a_type_is_cast_to_every_other(source: str) -> None:
    x = elements(source)
    found = outputs(source, [t for t in TYPES if t != source], x)
    for target, ours in found.items():
        keep = defined(x, source, target)
        wanted = expected(x[keep], source, target)
        assert ours.dtype == kind(target)
        same = (ours[keep].astype(np.float64) == wanted.astype(np.float64)) | (np.isnan(ours[keep].astype(np.float64))
                                                                             & np.isnan(wanted.astype(np.float64)))
        assert same.all(), f"{source} to {target}: {x[keep][~same][:5]} became {ours[keep][~same][:5]}, not {wanted[~same][:5]}"
