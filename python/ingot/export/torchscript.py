"""Operators of transformers' models that PyTorch's older exporter does not know."""

from __future__ import annotations

from typing import Any

import torch
from torch.onnx.symbolic_helper import parse_args

_SINCE = 13  # the opset from which Slice and Squeeze take tensors


@parse_args("v", "i", "i", "v", "v")
def _diff(g: Any, x: Any, n: int, axis: int, before: Any, after: Any) -> Any:
    """Differences of neighbours: transformers finds with them where one sequence of a packed batch ends and the next begins."""

    def constant(value: int) -> Any:
        return g.op("Constant", value_t=torch.tensor([value]))

    parts = [t for t in (before, x, after) if not t.node().mustBeNone()]
    if len(parts) > 1:
        x = g.op("Concat", *parts, axis_i=axis)
    for _ in range(n):
        later = g.op("Slice", x, constant(1), constant(2**63 - 1), constant(axis))
        earlier = g.op("Slice", x, constant(0), constant(-1), constant(axis))
        x = g.op("Sub", later, earlier)
    return x


def register() -> None:
    """Makes them known to ``torch.onnx.export(dynamo=False)``, for the whole process."""
    torch.onnx.register_custom_op_symbolic("aten::diff", _diff, _SINCE)  # type: ignore[attr-defined]
