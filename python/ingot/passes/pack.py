"""Matrix products and convolutions with constant weights become contractions, whose weights are packed while compiling."""

from __future__ import annotations

from typing import Any

from tvm import relax, te, tirx

from ingot.importer import dims
from ingot.importer.context import with_scalars
from ingot.importer.weights import Weight
from ingot.lower.cpu import winograd
from ingot.lower.cpu.choices import Choices, CostModel, Problem
from ingot.lower.cpu.contraction import OUT_ELEMENTWISE_FUSABLE, Contraction, contraction_function, result_shape
from ingot.lower.cpu.tiles import Tile
from ingot.lower.targets import Target
from ingot.passes.graph import Graph, Rewriter

_CONVOLUTIONS = {"relax.nn.conv1d": "NWC", "relax.nn.conv2d": "NHWC", "relax.nn.conv3d": "NDHWC"}


def pack_weights(graph: Graph, target: Target, choices: Choices | None = None) -> Graph:
    """Rewrites matmul and channels-last convolutions with constant float weights to calls of contraction functions.

    ``choices`` says by which tile each is computed, and which by Winograd; by default the cost model does.
    """
    choose: Choices = choices or CostModel(target)

    def visit(rewriter: Rewriter, variable: Any, value: Any) -> Any:
        if not isinstance(value, relax.Call) or not hasattr(value.op, "name") or len(value.args) < 2:
            return None
        if not isinstance(value.args[0].ty, relax.TensorType):
            return None
        weight = rewriter.weight(value.args[1])
        if weight is None or not weight.dtype.startswith("float") or str(value.args[0].ty.dtype) != weight.dtype:
            return None
        if value.op.name == "relax.matmul":
            return _matmul(rewriter, value, weight, choose)
        if _CONVOLUTIONS.get(value.op.name, "") == str(getattr(value.attrs, "data_layout", None)):
            return _convolution(rewriter, value, weight, target, choose)
        return None

    return Rewriter(graph).run(visit)


def _matmul(rewriter: Rewriter, call: Any, weight: Weight, choose: Choices) -> Any:
    x = call.args[0]
    shape = x.ty.shape.values
    if len(weight.shape) != 2 or len(shape) < 2:
        return None
    depth, columns = weight.shape
    problem = Problem((), (), (), (), 1, depth, columns, _known(shape[:-1]), (weight.dtype, weight.dtype))
    return _call(rewriter, _tiled(problem, choose.tile(problem)), x, weight)


def _convolution(rewriter: Rewriter, call: Any, weight: Weight, target: Target, choose: Choices) -> Any:
    x = call.args[0]
    attributes = call.attrs
    rank = len(weight.shape) - 2
    strides, dilations = ([int(v) for v in a] for a in (attributes.strides, attributes.dilation))
    groups = int(attributes.groups)
    *window, depth, channels = weight.shape
    pads = [int(p) for p in attributes.padding]
    if groups > 1 and depth == 1 and channels == groups:
        return _depthwise(rewriter, x, call.args[1], window, strides, dilations, pads)
    extents = _known(call.ty.shape.values[:-1])
    problem = Problem(tuple(window), tuple(strides), tuple(dilations), tuple(pads), groups, depth, channels // groups, extents,
                      (weight.dtype, weight.dtype))
    tiling = choose.winograd(problem) if problem.winograd_fits else None
    if tiling is not None:
        return _winograd(rewriter, tiling, x, pads, weight, target, choose.tile(problem.under(tiling)))
    return _call(rewriter, _tiled(problem, choose.tile(problem)), _padded(rewriter, x, pads[:rank], pads[rank:]), weight)


def _winograd(rewriter: Rewriter, tiling: winograd.Tiling, x: Any, pads: list[int], weight: Weight, target: Target, tile: Tile) -> Any:
    shape, dtype = list(x.ty.shape.values), weight.dtype
    *_, depth, channels = weight.shape
    tiles = dims.product([shape[0], tiling.down, tiling.across])
    transformed = _emit(rewriter, winograd.input_function(tiling, shape, (pads[0], pads[1]), dtype, target.lanes(4)), "winograd_input", [x],
                        [dims.expr(d) for d in (tiling.points, tiles, shape[-1])], dtype)
    what = Contraction((), (), (), 1, depth, channels, tile.rows, tile.vectors, tile.lanes, tiling.points)
    filters = weight.map(lambda a: winograd.transformed(tiling, a), (tiling.points, depth, channels), f":winograd{tiling.m}")
    products = _call(rewriter, what, transformed, filters)
    result = [shape[0], *(dims.expr(d) for d in (tiling.height, tiling.width, channels))]
    return _emit(rewriter, winograd.output_function(tiling, shape[0], channels, dtype), "winograd_output", [products], result, dtype)


def _depthwise(rewriter: Rewriter, x: Any, weights: Any, window: list[int], strides: list[int], dilations: list[int], pads: list[int]) -> Any:
    """A convolution of each channel by itself: a reduction that keeps the last axis (rules/columns.py)."""
    shape, dtype = list(x.ty.shape.values), str(x.ty.dtype)
    source = te.placeholder(shape, dtype, name="x")
    kernel = te.placeholder([dims.expr(d) for d in (*window, 1, shape[-1])], dtype, name="w")
    taps = [te.reduce_axis((dims.expr(0), dims.expr(k)), name="tap") for k in window]
    before, after = pads[: len(window)], pads[len(window) :]
    spatial = [dims.expr(dims.dim(dims.floordiv(e + b + a - ((k - 1) * d + 1), s) + 1))
               for e, k, s, d, b, a in zip(dims.dims(shape[1:-1]), window, strides, dilations, before, after, strict=True)]

    def compute(n: Any, *rest: Any) -> Any:
        *i, c = rest
        at = [p * s + t * d - b for p, t, s, d, b in zip(i, taps, strides, dilations, before, strict=True)]
        value = source(n, *at, c)
        if any(pads):
            inside = tirx.all(*(tirx.all(p >= 0, p < e) for p, e in zip(at, shape[1:-1], strict=True)))
            value = tirx.if_then_else(inside, value, tirx.const(0, dtype))
        return te.sum(value * kernel(*taps, 0, c), axis=taps)

    result = [shape[0], *spatial, shape[-1]]
    function = te.create_prim_func([source, kernel, te.compute(result, compute, name="depthwise")])
    function = function.without_attr("global_symbol").with_attr("op_pattern", OUT_ELEMENTWISE_FUSABLE)
    return _emit(rewriter, function, "depthwise_convolution", [x, weights], result, dtype)


def _tiled(problem: Problem, tile: Tile) -> Contraction:
    return Contraction(problem.window, problem.strides, problem.dilations, problem.groups, problem.depth, problem.columns, tile.rows, tile.vectors,
                       tile.lanes)


def _known(extents: Any) -> tuple[int | None, ...]:
    """Extents, None where they are symbolic."""
    simple = dims.dims(extents)
    return tuple(e if isinstance(e, int) else None for e in simple)


def _call(rewriter: Rewriter, what: Contraction, x: Any, weight: Weight) -> Any:
    dtype = weight.dtype
    packed = rewriter.constant(weight.map(what.pack, what.packed_shape, ":packed"))
    shape = list(x.ty.shape.values)
    result = [dims.expr(d) for d in result_shape(what, shape)]
    return _emit(rewriter, contraction_function(what, shape, dtype), "convolution" if what.window else "matmul", [x, packed], result, dtype)


def _emit(rewriter: Rewriter, function: tirx.PrimFunc, name: str, operands: list[Any], shape: list[Any], dtype: str) -> Any:
    function, scalars = with_scalars(function)
    arguments = relax.Tuple([*operands, *(dims.expr(s) for s in scalars)])
    return rewriter.emit(relax.call_tir(rewriter.function(function, name), arguments, relax.TensorType(shape, dtype)))


def _padded(rewriter: Rewriter, x: Any, before: list[int], after: list[int]) -> Any:
    """Zeros around the spatial axes of a channels-last value."""
    if not any(before) and not any(after):
        return x
    shape = list(x.ty.shape.values)
    dtype = str(x.ty.dtype)
    source = te.placeholder(shape, dtype, name="x")
    low = [0, *before, 0]
    wide = [dims.expr(dims.dim(e + b + a)) for e, b, a in zip(shape, low, [0, *after, 0], strict=True)]

    def compute(*i: Any) -> Any:
        at = [k - b for k, b in zip(i, low, strict=True)]
        inside = [c for k, e, axis in zip(at[1:-1], shape[1:-1], range(len(before)), strict=True) if before[axis] or after[axis]
                  for c in (k >= 0, k < e)]
        return tirx.if_then_else(tirx.all(*inside), source(*at), tirx.const(0, dtype))

    function = te.create_prim_func([source, te.compute(wide, compute, name="pad")]).without_attr("global_symbol")
    return _emit(rewriter, function, "pad", [x], wide, dtype)
