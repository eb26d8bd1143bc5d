"""An operator of one's own, in PyTorch and in ONNX: how it leaves PyTorch, and what it means to Ingot.

Run it with ``python examples/python/custom_operator.py``.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnxscript.values import Opset
from tvm import relax, te, tirx

import ingot

# 1. The operator in PyTorch: a soft threshold, which shrinks numbers towards 0.


@torch.library.custom_op("signal::shrink", mutates_args=())
def shrink(x: torch.Tensor, by: float) -> torch.Tensor:
    """Numbers of any shape, each nearer to 0 by ``by``."""
    return torch.sign(x) * torch.clamp(x.abs() - by, min=0)


@shrink.register_fake
def _(x: torch.Tensor, by: float) -> torch.Tensor:
    return torch.empty_like(x)


# 2. How it is exported: as an operator of a domain of our own, which ONNX is told about.

_NUMBERS = ["tensor(float)", "tensor(double)"]
onnx.defs.register_schema(onnx.defs.OpSchema(
    "Shrink", "signal", 1, inputs=[onnx.defs.OpSchema.FormalParameter("x", "T")], outputs=[onnx.defs.OpSchema.FormalParameter("y", "T")],
    type_constraints=[("T", _NUMBERS, "numbers")], attributes=[onnx.defs.OpSchema.Attribute("by", onnx.defs.OpSchema.AttrType.FLOAT, "how much")]))


@ingot.torch_op("signal::shrink")
def export_shrink(x: Any, by: float) -> Any:
    """The node: signal.Shrink."""
    return Opset("signal", 1).Shrink(x, by=by)


# 3. What it means. With Relax operators, which fuse with what stands around them:


@ingot.onnx_op("Shrink", domain="signal")
def import_shrink(cx: Any, x: Any, *, by: float) -> Any:
    """Sign(x) * max(|x| - by, 0)."""
    less = relax.op.subtract(relax.op.abs(x.expr), relax.const(by, x.dtype))
    return cx.op(relax.op.multiply(relax.op.sign(x.expr), relax.op.maximum(less, relax.const(0, x.dtype))))


# ... or as a tensor expression, element by element. The later registration counts.


@ingot.onnx_op("Shrink", domain="signal")
def import_shrink_as_expression(cx: Any, x: Any, *, by: float) -> Any:
    """The same as a tensor expression; shapes may be symbolic."""

    def compute(t: te.Tensor) -> te.Tensor:
        amount, zero = tirx.const(by, x.dtype), tirx.const(0, x.dtype)
        return te.compute(t.shape, lambda *i: tirx.Select(t(*i) > 0, tirx.max(t(*i) - amount, zero), tirx.min(t(*i) + amount, zero)))

    return cx.te(compute, x)


class Denoiser(torch.nn.Module):
    """Rows [batch, 16]: shrunk in another basis."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.basis = torch.nn.Linear(16, 16, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """There, shrunk, and back."""
        return shrink(self.basis(x), 0.3) @ self.basis.weight


def main() -> None:
    """Compiles the module, runs it, and compares with PyTorch."""
    module, x = Denoiser(), torch.randn(4, 16)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "denoiser.ingot"
        ingot.compile(module, path, inputs=(x,))
        output = ingot.load(path).run({"x": x})["output"]
    difference = float(np.abs(output - module(x).detach().numpy()).max())
    print(f"the largest difference to PyTorch is {difference:.1e}")
    assert difference < 1e-5


if __name__ == "__main__":
    main()
