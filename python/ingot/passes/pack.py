"""Matrix products and convolutions with constant weights become contractions, whose weights are packed while compiling."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from tvm import relax, te, tirx

from ingot.importer import dims
from ingot.importer.context import with_scalars
from ingot.importer.weights import Weight
from ingot.lower.cpu import arithmetic, winograd
from ingot.lower.cpu.arithmetic import Arithmetic
from ingot.lower.cpu.choices import Problem
from ingot.lower.cpu.contraction import OUT_ELEMENTWISE_FUSABLE, Contraction, contraction_function, result_shape
from ingot.lower.cpu.tiles import Tile
from ingot.passes.graph import Graph, Rewriter
from ingot.passes.settings import PRECISIONS, Settings

_CONVOLUTIONS = {"relax.nn.conv1d": "NWC", "relax.nn.conv2d": "NHWC", "relax.nn.conv3d": "NDHWC"}

#: The kind of arithmetic for weights of a type, where the precision that was asked for does not decide it.
_KINDS = {"float64": "float64", "float16": "float16", "int8": "int8", "int16": "int16"}


def pack_weights(graph: Graph, settings: Settings) -> Graph:
    """Rewrites matmul and channels-last convolutions with constant weights to calls of contraction functions."""

    def visit(rewriter: Rewriter, variable: Any, value: Any) -> Any:
        if not isinstance(value, relax.Call) or not hasattr(value.op, "name") or len(value.args) < 2:
            return None
        if not isinstance(value.args[0].ty, relax.TensorType):
            return None
        weight = rewriter.weight(value.args[1])
        if weight is None or not (weight.dtype == "float32" or weight.dtype in _KINDS):
            return None
        how = arithmetic.choose(_KINDS.get(weight.dtype, PRECISIONS[settings.precision]), settings.target)
        x = str(value.args[0].ty.dtype)
        narrow = arithmetic.fitting("int7", settings.target) if (x, weight.dtype, how.x) == ("uint8", "int8", "int16") else None
        if narrow is not None and _magnitude(weight) <= arithmetic.SEVEN_BITS:
            how = narrow
        elif how.sums == "int32" and x in ("int8", "uint8") and how.x == "int16":
            wide = rewriter.emit(relax.op.astype(value.args[0], "int16"))
            value = rewriter.bb.normalize(relax.Call(value.op, [wide, value.args[1]], value.attrs))
        elif x != (how.x if how.sums == "int32" else weight.dtype):
            return None
        if value.op.name == "relax.matmul":
            return _matmul(rewriter, value, weight, how, settings)
        if _CONVOLUTIONS.get(value.op.name, "") == str(getattr(value.attrs, "data_layout", None)):
            return _convolution(rewriter, value, weight, how, settings)
        return None

    return Rewriter(graph).run(visit)


def _magnitude(weight: Weight) -> int:
    return int(np.abs(weight.load().astype(np.int32)).max(initial=0))


def _matmul(rewriter: Rewriter, call: Any, weight: Weight, how: Arithmetic, settings: Settings) -> Any:
    x = call.args[0]
    shape = x.ty.shape.values
    if len(weight.shape) != 2 or len(shape) < 2:
        return None
    depth, columns = weight.shape
    how = _worth_while(how, depth, columns, settings)
    problem = Problem((), (), (), (), 1, depth, columns, _known(shape[:-1]), (how.x, how.w), how.name)
    return _call(rewriter, _tiled(problem, settings.choices.tile(problem), how), x, weight, how)


def _convolution(rewriter: Rewriter, call: Any, weight: Weight, how: Arithmetic, settings: Settings) -> Any:
    x = call.args[0]
    rank = len(weight.shape) - 2
    strides, dilations = (tuple(int(v) for v in a) for a in (call.attrs.strides, call.attrs.dilation))
    groups = int(call.attrs.groups)
    *window, depth, channels = weight.shape
    pads = [int(p) for p in call.attrs.padding]
    if groups > 1 and depth == 1 and channels == groups:
        return depthwise(rewriter, call, window, pads)
    how = _worth_while(how, math.prod(window) * depth, channels // groups, settings)
    if groups > 1 and depth % how.together and not how.matrices:
        simple = arithmetic.one_by_one(how)
        if simple is None:
            return None
        how = simple
    problem = Problem(tuple(window), strides, dilations, tuple(pads), groups, depth, channels // groups, _known(call.ty.shape.values[:-1]),
                      (how.x, how.w), how.name)
    if how.matrices and how.x == "uint16":
        x = _stored(rewriter, x, how)
    tiling = settings.choices.winograd(problem) if problem.winograd_fits else None
    if tiling is not None:
        return _winograd(rewriter, winograd.Tiling(tiling.m, *dims.dims(call.ty.shape.values[1:3])), x, weight, problem, settings)
    return _call(rewriter, _tiled(problem, settings.choices.tile(problem), how), _padded(rewriter, x, pads[:rank], pads[rank:]), weight, how)


def _worth_while(how: Arithmetic, depth: int, columns: int, settings: Settings) -> Arithmetic:
    """Vectors in place of matrices that would be mostly padding."""
    if not how.matrices:
        return how
    return arithmetic.in_vectors(how, settings.target) if min(depth, columns) < arithmetic.MATRIX_ROWS else how


def _winograd(rewriter: Rewriter, tiling: winograd.Tiling, x: Any, weight: Weight, problem: Problem, settings: Settings) -> Any:
    """The convolution by products of transformed tiles, whose weights stay in float32 in every precision: transforms magnify their rounding."""
    shape, dtype = _shape(x), weight.dtype
    *_, depth, channels = weight.shape
    tiles = dims.product([shape[0], tiling.down, tiling.across])
    function = winograd.input_function(tiling.m, shape, problem.pads, dtype, settings.target.lanes(4))
    transformed = _emit(rewriter, function, "winograd_input", [x], [dims.expr(d) for d in (tiling.points, tiles, shape[-1])], dtype)
    inner = problem.under(tiling)
    how = arithmetic.find(inner.arithmetic, settings.target)
    what = _tiled(inner, settings.choices.tile(inner), how)
    filters = weight.once(("winograd", tiling.m), lambda: weight.map(lambda a: winograd.transformed(tiling, a), (tiling.points, depth, channels),
                                                                     f":winograd{tiling.m}"))
    products = _call(rewriter, what, transformed, filters, how)
    result = [shape[0], *(dims.expr(d) for d in (tiling.height, tiling.width, channels))]
    return _emit(rewriter, winograd.output_function(tiling, shape[0], channels, dtype), "winograd_output", [products], result, dtype)


def depthwise(rewriter: Rewriter, call: Any, window: list[int], pads: list[int]) -> Any:
    """A convolution of each channel by itself: a reduction that keeps the last axis (rules/columns.py)."""
    x, weights = call.args
    strides, dilations = ([int(v) for v in a] for a in (call.attrs.strides, call.attrs.dilation))
    shape, dtype = _shape(x), str(x.ty.dtype)
    sums = str(call.ty.dtype)
    source = te.placeholder(shape, dtype, name="x")
    kernel = te.placeholder([dims.expr(d) for d in (*window, 1, shape[-1])], str(weights.ty.dtype), name="w")
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
        return te.sum(_as(value, sums) * _as(kernel(*taps, 0, c), sums), axis=taps)

    result = [shape[0], *spatial, shape[-1]]
    function = te.create_prim_func([source, kernel, te.compute(result, compute, name="depthwise")])
    function = function.without_attr("global_symbol").with_attr("op_pattern", OUT_ELEMENTWISE_FUSABLE)
    return _emit(rewriter, function, "depthwise_convolution", [x, weights], result, sums)


def _as(value: Any, dtype: str) -> Any:
    return value if str(value.ty.dtype) == dtype else value.astype(dtype)


def _tiled(problem: Problem, tile: Tile, how: Arithmetic) -> Contraction:
    """The contraction of a problem, with a depth that the arithmetic's steps divide; matrices take any."""
    together = 1 if how.matrices else how.together
    depth = -(-problem.depth // together) * together
    window, strides, dilations = ((), (), ()) if problem.winograd else (problem.window, problem.strides, problem.dilations)
    batch = problem.tiling(problem.winograd).points if problem.winograd else 1
    return Contraction(window, strides, dilations, problem.groups, depth, problem.columns, tile.rows, tile.vectors, tile.lanes, batch, how.name,
                       how.together, how.multiple // how.together)


def _shape(x: Any) -> list[Any]:
    """A shape, simplified as legalizing makes shapes: functions are fused by the form of expressions, and 3 + n is not n + 3."""
    return [dims.expr(d) for d in dims.dims(x.ty.shape.values)]


def _known(extents: Any) -> tuple[int | None, ...]:
    """Extents, None where they are symbolic."""
    simple = dims.dims(extents)
    return tuple(e if isinstance(e, int) else None for e in simple)


def _call(rewriter: Rewriter, what: Contraction, x: Any, weight: Weight, how: Arithmetic) -> Any:
    """The contraction's call, X in the type and the depth that its arithmetic takes, the result in X's type where that is floating point."""
    dtype = str(x.ty.dtype)
    packed = rewriter.constant(weight.once(("packed", what, how), lambda: weight.map(
        lambda a: what.pack(how.stored(a)), what.packed_shape, f":packed {how.name}", how.w)))
    x = _deepened(rewriter, x, what)
    if dtype != how.x:
        x = _rounded(rewriter, x, how)
    shape = _shape(x)
    result = [dims.expr(d) for d in result_shape(what, shape)]
    y = _emit(rewriter, contraction_function(what, shape, how), "convolution" if what.window else "matmul", [x, packed], result, how.sums)
    return y if dtype in (how.sums, how.x) or how.sums == "int32" else rewriter.emit(relax.op.astype(y, dtype))


def _deepened(rewriter: Rewriter, x: Any, what: Contraction) -> Any:
    """X with zeros after its last axis, so that it is as deep as the contraction."""
    shape = _shape(x)
    wanted = what.groups * what.depth
    if dims.equal(shape[-1], wanted):
        return x
    source = te.placeholder(shape, str(x.ty.dtype), name="x")
    wide = [*shape[:-1], dims.expr(wanted)]
    deep = te.compute(wide, lambda *i: tirx.if_then_else(i[-1] < shape[-1], source(*i), tirx.const(0, source.dtype)), name="deepen")
    return _emit(rewriter, te.create_prim_func([source, deep]).without_attr("global_symbol"), "deepen", [x], wide, str(x.ty.dtype))


def _rounded(rewriter: Rewriter, x: Any, how: Arithmetic) -> Any:
    """float32 as the bits of bfloat16."""
    shape = _shape(x)
    source = te.placeholder(shape, str(x.ty.dtype), name="x")
    bits = te.compute(shape, lambda *i: arithmetic.to_bfloat16(source(*i)), name="to_bfloat16")
    return _emit(rewriter, te.create_prim_func([source, bits]).without_attr("global_symbol"), "to_bfloat16", [x], shape, how.x)


def _stored(rewriter: Rewriter, x: Any, how: Arithmetic) -> Any:
    """A float32 as the bits of bfloat16, in which it is stored: what else reads it reads them, too.

    Multiplied by matrices, convolutional networks spend much of their time on moving activations.
    """
    bits = _rounded(rewriter, x, how)
    shape = _shape(x)
    source = te.placeholder(shape, how.x, name="x")
    wide = te.compute(shape, lambda *i: arithmetic.widened_bfloat16(source(*i)), name="from_bfloat16")
    function = te.create_prim_func([source, wide]).without_attr("global_symbol")
    rewriter.replace(x, _emit(rewriter, function, "from_bfloat16", [bits], shape, str(x.ty.dtype)))
    return bits


def _emit(rewriter: Rewriter, function: tirx.PrimFunc, name: str, operands: list[Any], shape: list[Any], dtype: str) -> Any:
    function, scalars = with_scalars(function)
    arguments = relax.Tuple([*operands, *(dims.expr(s) for s in scalars)])
    return rewriter.emit(relax.call_tir(rewriter.function(function, name), arguments, relax.TensorType(shape, dtype)))


def _padded(rewriter: Rewriter, x: Any, before: list[int], after: list[int]) -> Any:
    """Zeros around the spatial axes of a channels-last value."""
    if not any(before) and not any(after):
        return x
    shape = _shape(x)
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
