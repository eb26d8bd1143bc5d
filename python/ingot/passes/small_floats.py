"""Quantized numbers that are small floats, on CPUs, none of which has them: integers make their codes, and a table says what codes stand for."""

from __future__ import annotations

from typing import Any

from tvm import relax

from ingot.importer import dims
from ingot.importer.narrow import FLOATS, encoding, float_code, numbers_of
from ingot.importer.weights import from_array
from ingot.passes.attention_operands import calls
from ingot.passes.computed import computed
from ingot.passes.graph import Graph, Rewriter


def small_floats(graph: Graph) -> Graph:
    """Rewrites ``relax.quantize`` to small floats, and ``relax.dequantize`` of what is computed of them, to arithmetic of their bytes."""
    return Rewriter(graph).run(_visit)


def _visit(rewriter: Rewriter, variable: Any, value: Any) -> Any:
    if calls(value, "relax.quantize") and str(value.attrs.out_dtype) in FLOATS:
        dtype = str(value.attrs.out_dtype)
        code = float_code(encoding(dtype), True, "float32")
        quotient = rewriter.emit(relax.op.divide(value.args[0], _spread(rewriter, value)))
        codes = computed(rewriter, "encode", [quotient], quotient.ty.shape.values, "uint8", lambda x, *i: code(x(*i)).astype("uint8"))
        return _viewed(rewriter, codes, dtype)
    if calls(value, "relax.dequantize") and str(value.args[0].ty.dtype) in FLOATS and rewriter.weight(value.args[0]) is None:
        table = rewriter.constant(from_array("numbers", numbers_of(str(value.args[0].ty.dtype))))
        codes = _viewed(rewriter, value.args[0], "uint8")
        numbers = computed(rewriter, "decode", [codes, table], codes.ty.shape.values, "float32", lambda x, known, *i: known(x(*i).astype("int32")))
        return rewriter.emit(relax.op.multiply(numbers, _spread(rewriter, value)))
    return None


def _spread(rewriter: Rewriter, call: Any) -> Any:
    """The scale of a call, shaped to broadcast."""
    x, scale = call.args[:2]
    rank, axis = len(x.ty.shape.values), int(call.attrs.axis)
    if not scale.ty.shape.values:
        return scale
    return rewriter.emit(relax.op.reshape(scale, [scale.ty.shape.values[0] if a == axis % rank else dims.expr(1) for a in range(rank)]))


def _viewed(rewriter: Rewriter, value: Any, dtype: str) -> Any:
    """The same bytes as elements of another type."""
    shape = list(value.ty.shape.values)
    viewed = rewriter.emit(relax.call_pure_packed(
        "ingot.builtin.view", relax.Tuple([value]), relax.ShapeExpr([]), relax.Tuple([]), relax.Tuple([]),
        ty_args=relax.TensorType(dtype=dtype, ndim=len(shape))))
    return rewriter.bb.match_cast(viewed, relax.TensorType(shape, dtype))
