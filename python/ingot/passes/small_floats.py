"""Quantized numbers that are small floats, on CPUs, none of which has them: integers make their codes, and a table says what codes stand for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm import relax, te

from ingot.importer import dims
from ingot.importer.context import with_scalars
from ingot.importer.narrow import FLOATS, encoding, float_code, numbers_of
from ingot.importer.weights import from_array
from ingot.passes.attention_operands import calls
from ingot.passes.graph import Graph, Rewriter


def small_floats(graph: Graph) -> Graph:
    """Rewrites ``relax.quantize`` to small floats, and ``relax.dequantize`` of what is computed of them, to arithmetic of their bytes."""
    return Rewriter(graph).run(_visit)


def _visit(rewriter: Rewriter, variable: Any, value: Any) -> Any:
    if calls(value, "relax.quantize") and str(value.attrs.out_dtype) in FLOATS:
        dtype = str(value.attrs.out_dtype)
        code = float_code(encoding(dtype), True, "float32")
        quotient = rewriter.emit(relax.op.divide(value.args[0], _spread(rewriter, value)))
        return _viewed(rewriter, _mapped(rewriter, "encode", [quotient], "uint8", lambda x: lambda *i: code(x(*i)).astype("uint8")), dtype)
    if calls(value, "relax.dequantize") and str(value.args[0].ty.dtype) in FLOATS and rewriter.weight(value.args[0]) is None:
        table = rewriter.constant(from_array("numbers", numbers_of(str(value.args[0].ty.dtype))))
        codes = _viewed(rewriter, value.args[0], "uint8")
        numbers = _mapped(rewriter, "decode", [codes, table], "float32", lambda x, known: lambda *i: known(x(*i).astype("int32")))
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


def _mapped(rewriter: Rewriter, name: str, operands: list[Any], dtype: str, compute: Callable[..., Callable[..., Any]]) -> Any:
    """A call of a function that computes each element from some tensors."""
    shape = [dims.expr(d) for d in dims.dims(operands[0].ty.shape.values)]
    sources = [te.placeholder([dims.expr(d) for d in dims.dims(o.ty.shape.values)], str(o.ty.dtype), name=f"x{i}") for i, o in enumerate(operands)]
    function, scalars = with_scalars(te.create_prim_func([*sources, te.compute(shape, compute(*sources), name=name)]).without_attr("global_symbol"))
    arguments = relax.Tuple([*operands, *(dims.expr(s) for s in scalars)])
    return rewriter.emit(relax.call_tir(rewriter.function(function, name), arguments, relax.TensorType(shape, dtype)))
