"""Moves a factor for each output channel into the weights: a batch normalization after a convolution costs only its shift."""

from __future__ import annotations

from typing import Any

from tvm import relax

from ingot.passes.graph import Graph, Rewriter

#: For each operator, the axis of its result and of its weights that are the output channels, from (rank of the result, rank of the weights).
_CHANNELS = {
    "relax.nn.conv1d": (1, 0),
    "relax.nn.conv2d": (1, 0),
    "relax.nn.conv3d": (1, 0),
    "relax.matmul": (-1, -1),
}


def fold_scales(graph: Graph) -> Graph:
    """Rewrites ``convolution(x, w) * c`` as ``convolution(x, w * c)`` where w and c are constants."""
    return Rewriter(graph).run(_visit)


def _visit(rewriter: Rewriter, variable: Any, value: Any) -> Any:
    if not isinstance(value, relax.Call) or getattr(value.op, "name", "") != "relax.multiply":
        return None
    for product, factor in (value.args, reversed(value.args)):
        heavy = rewriter.values.get(product)
        if not isinstance(heavy, relax.Call) or getattr(heavy.op, "name", "") not in _CHANNELS or not rewriter.made_for_one(product):
            continue
        result_axis, weight_axis = _CHANNELS[heavy.op.name]
        weights, scale = rewriter.weight(heavy.args[1]), rewriter.weight(factor)
        if weights is None or scale is None or weights.dtype != scale.dtype or (weight_axis == -1 and len(weights.shape) != 2):
            continue
        rank = len(product.ty.shape.values)
        shape = (1,) * (rank - len(scale.shape)) + scale.shape
        channels = weights.shape[weight_axis]
        if any(extent != 1 for i, extent in enumerate(shape) if i != result_axis % rank) or shape[result_axis] not in (1, channels):
            continue
        spread = [1] * len(weights.shape)
        spread[weight_axis] = shape[result_axis]
        scaled = rewriter.emit(relax.op.multiply(heavy.args[1], relax.op.reshape(factor, spread)))
        return rewriter.emit(relax.Call(heavy.op, [heavy.args[0], scaled], heavy.attrs))
    return None
