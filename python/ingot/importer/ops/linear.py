"""Matrix products."""

from __future__ import annotations

from tvm import relax

from ingot.importer.context import Context
from ingot.importer.registry import onnx_op
from ingot.importer.values import Value


@onnx_op("MatMul")
def matmul(cx: Context, a: Value, b: Value) -> Value:
    return cx.op(relax.op.matmul(a.expr, b.expr))
