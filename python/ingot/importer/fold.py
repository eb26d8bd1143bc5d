"""Constant folding: a node whose inputs are all small constants is run while compiling, by ONNX's reference evaluator."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator

from ingot.importer.values import SMALL, Value, constant

if TYPE_CHECKING:
    from ingot.importer.context import Context

_NEVER = frozenset(
    {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial", "Dropout", "If", "Loop", "Scan",
     "SequenceConstruct", "SequenceEmpty", "SequenceInsert", "SequenceErase", "SequenceAt", "SequenceLength", "SequenceMap", "SplitToSequence",
     "ConcatFromSequence", "Optional", "OptionalHasElement", "OptionalGetElement", "QuantizeLinear", "DequantizeLinear"})


def fold(cx: Context, node: onnx.NodeProto, inputs: list[Value | None]) -> list[Value] | None:
    """The node's results as constants, or None if it must be computed at run time."""
    if node.op_type in _NEVER or node.domain not in ("", "ai.onnx"):
        return None
    if any(v is not None and not v.is_small_constant for v in inputs):
        return None
    arrays = [None if v is None else v.array for v in inputs]
    try:
        results = _evaluate(node, arrays, cx.opset)
    except Exception:  # the reference evaluator lacks this case: the operator's own function decides
        return None
    if not all(isinstance(r, np.ndarray) and r.dtype.kind != "O" and r.dtype.kind != "U" and r.size <= max(SMALL, 16 * SMALL) for r in results):
        return None
    return [constant(cx, r, name) for r, name in zip(results, node.output, strict=False)]


def _evaluate(node: onnx.NodeProto, arrays: list[np.ndarray | None], opset: int) -> list[np.ndarray]:
    feeds = {name: a for name, a in zip(node.input, arrays, strict=False) if name and a is not None}
    declared = [onnx.helper.make_tensor_value_info(n, onnx.helper.np_dtype_to_tensor_dtype(a.dtype), list(a.shape)) for n, a in feeds.items()]
    outputs = [onnx.helper.make_value_info(n, onnx.TypeProto()) for n in node.output if n]
    graph = onnx.helper.make_graph([node], "fold", declared, outputs)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)])
    return [np.asarray(r) for r in ReferenceEvaluator(model).run(None, feeds)]
