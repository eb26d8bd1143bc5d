"""Computes while compiling what depends on weights alone. Nothing is loaded: the result is a weight that computes itself when it is written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from tvm import relax

from ingot.importer import dims
from ingot.importer.narrow import FLOATS, encoding
from ingot.importer.weights import Weight, numpy_dtype
from ingot.passes.attention_operands import calls
from ingot.passes.graph import Graph, Rewriter

Compute = Callable[..., np.ndarray]


def fold_weights(graph: Graph) -> Graph:
    """Replaces operators on constants by constants."""
    return Rewriter(graph).run(fold)


def fold_quantized(graph: Graph) -> Graph:
    """Replaces constants that the model quantizes by quantized constants, as what was trained with rounding has its weights."""
    return Rewriter(graph).run(lambda rewriter, variable, value: fold(rewriter, variable, value) if calls(value, "relax.quantize") else None)


def fold(rewriter: Rewriter, variable: Any, value: Any) -> Any:
    """The constant that a call gives, or None if its operands are not constants or its operator is none of the table's."""
    if not isinstance(value, relax.Call) or not hasattr(value.op, "name"):
        return None
    make = _TABLE.get(value.op.name)
    operands = [a for a in value.args if not isinstance(a, relax.ShapeExpr)]
    weights = [rewriter.weight(a) for a in operands]
    if make is None or not weights or any(w is None for w in weights):
        return None
    result = relax.Call(value.op, value.args, value.attrs)
    ty = rewriter.bb.normalize(result).ty
    shape = dims.dims(ty.shape.values)
    if not dims.is_static(shape):
        return None
    sources = [w for w in weights if w is not None]
    key = ("folded", value.op.name, str(value.attrs), shape, str(ty.dtype), *sources)
    return rewriter.constant(sources[0].once(key, lambda: derived(make(value, shape), sources, shape, str(ty.dtype))))


def derived(compute: Compute, sources: list[Weight], shape: tuple[int, ...], dtype: str) -> Weight:
    """The weight that ``compute`` makes of others, when it is loaded."""

    def load() -> np.ndarray:
        return np.ascontiguousarray(compute(*[s.load() for s in sources]), numpy_dtype(dtype)).reshape(shape)

    return Weight("*".join(s.name for s in sources), shape, dtype, load)


def _elementwise(function: Compute) -> Callable[[Any, tuple[int, ...]], Compute]:
    return lambda call, shape: function


def _axes(call: Any) -> list[int]:
    return [int(a) for a in call.attrs.axes]


def _cast(call: Any, shape: tuple[int, ...]) -> Compute:
    dtype = numpy_dtype(str(call.attrs.dtype))
    return lambda a: a.astype(dtype)


def _quantize(call: Any, shape: tuple[int, ...]) -> Compute:
    axis, dtype = int(call.attrs.axis), str(call.attrs.out_dtype)

    def compute(x: np.ndarray, scale: np.ndarray, zero: np.ndarray) -> np.ndarray:
        spread, moved = _along(axis, x.ndim, scale, zero)
        with np.errstate(all="ignore"):
            quotient = x.astype(np.float32) / spread
            if dtype in FLOATS:
                most = float(encoding(dtype).maximum)
                return np.clip(quotient, -most, most).astype(numpy_dtype(dtype))
            limits = np.iinfo(dtype)
            return np.clip(np.nan_to_num(np.rint(quotient) + moved, nan=limits.min), limits.min, limits.max).astype(dtype)

    return compute


def _along(axis: int, rank: int, *parameters: np.ndarray) -> list[np.ndarray]:
    """Scales and zero points, shaped to broadcast."""
    shape = [-1 if a == axis % rank else 1 for a in range(rank)] if rank else []
    return [p.astype(np.float32).reshape(shape if p.ndim else []) for p in parameters]


def _dequantize(call: Any, shape: tuple[int, ...]) -> Compute:
    axis, dtype = int(call.attrs.axis), numpy_dtype(str(call.attrs.out_dtype))

    def compute(x: np.ndarray, scale: np.ndarray, zero: np.ndarray) -> np.ndarray:
        spread, moved = _along(axis, x.ndim, scale, zero)
        return ((x.astype(np.float32) - moved) * spread).astype(dtype)

    return compute


_TABLE: dict[str, Callable[[Any, tuple[int, ...]], Compute]] = {
    "relax.permute_dims": lambda call, shape: lambda a: a.transpose(_axes(call) if call.attrs.axes is not None else None),
    "relax.reshape": lambda call, shape: lambda a: a.reshape(shape),
    "relax.broadcast_to": lambda call, shape: lambda a: np.broadcast_to(a, shape),
    "relax.astype": _cast,
    "relax.quantize": _quantize,
    "relax.dequantize": _dequantize,
    "relax.add": _elementwise(np.add),
    "relax.subtract": _elementwise(np.subtract),
    "relax.multiply": _elementwise(np.multiply),
    "relax.divide": _elementwise(np.divide),
    "relax.negative": _elementwise(np.negative),
    "relax.sqrt": _elementwise(np.sqrt),
    "relax.rsqrt": _elementwise(lambda a: 1 / np.sqrt(a)),
}
