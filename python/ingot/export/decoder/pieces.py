"""What graphs of language models are put together from: nodes, small constants, and tensors of a checkpoint."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ingot.export.decoder.checkpoint import Checkpoint

OPSET = 24
DOMAIN = "ingot"  # importer/ops/cached_attention.py
MICROSOFT = "com.microsoft"
_PREFIXES = ("transformer.", "model.", "language_model.")


class Pieces:
    """Gathers nodes and initializers. Methods take and give names of values."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, onnx.TensorProto] = {}
        self._count = 0
        self._ordered: dict[tuple[str, bytes], str] = {}

    def node(self, op: str, *inputs: str, name: str = "", outputs: int = 1, **attributes: Any) -> Any:
        """Adds a node; returns the name of its output, or of all of several."""
        self._count += 1
        label = name or f"{op}_{self._count}"
        results = [f"{label}:{i}" if outputs > 1 else label for i in range(outputs)]
        self.nodes.append(helper.make_node(op, list(inputs), results, name=label, **attributes))
        return results if outputs > 1 else results[0]

    def constant(self, value: Any, dtype: type = np.int64) -> str:
        """A small constant."""
        array: np.ndarray[Any, Any] = np.asarray(value, dtype)
        name = f"constant:{array.dtype}:{array.tolist()}" if array.size <= 8 else f"constant:{len(self.initializers)}"
        self.initializers.setdefault(name, numpy_helper.from_array(array, name))
        return name

    def tensor(self, name: str) -> str:
        """A tensor of the checkpoint in float32."""
        name = self.checkpoint.prefixed(name, _PREFIXES)
        wide = f"{name}:float32" if self.checkpoint.dtype(name) != TensorProto.FLOAT else name
        if name not in self.initializers:
            self.initializers[name] = self.checkpoint.initializer(name)
            if wide != name:
                self.node("Cast", name, name=wide, to=TensorProto.FLOAT)
        return wide

    def has(self, name: str) -> bool:
        """Whether the checkpoint has a tensor."""
        return self.checkpoint.prefixed(name, _PREFIXES) in self.checkpoint

    def has_matrix(self, name: str) -> bool:
        """Whether the checkpoint has a layer's matrix, in floats or quantized."""
        return self.has(f"{name}.weight") or self.has(f"{name}.qweight")

    def linear(self, x: str, name: str, transposed: bool | None = False) -> str:
        """The product x W^T + b, for weights [out, in], or x W + b for transposed ones; a bias is added where the checkpoint has one.

        A matrix that is quantized in the checkpoint stays so.
        """
        product = self.quantized(x, name)
        if product is None:
            weight = self.tensor(f"{name}.weight")
            if not transposed:
                weight = self.node("Transpose", weight, perm=[1, 0])
            product = self.node("MatMul", x, weight, name=f"/{name}")
        return str(self.node("Add", product, self.tensor(f"{name}.bias"))) if self.has(f"{name}.bias") else str(product)

    def quantized(self, x: str, name: str) -> str | None:
        """The product with a matrix that is quantized in the checkpoint; None if it is not."""
        layer = self.checkpoint.prefixed(f"{name}.qweight", _PREFIXES).removesuffix(".qweight")
        blocks = self.checkpoint.blocks(layer)
        if blocks is None:
            return None
        if blocks.order is not None:  # layers that read one tensor mostly have one order: it is then permuted once
            key = x, blocks.order.tobytes()
            if key not in self._ordered:
                self._ordered[key] = self.node("Gather", x, self.constant(blocks.order), axis=-1)
            x = self._ordered[key]
        inputs = [x]
        for part, array in (("codes", blocks.codes), ("scales", blocks.scales), ("zeros", blocks.zeros)):
            if array is not None:
                inputs.append(f"{layer}.{part}")
                self.initializers[inputs[-1]] = self.checkpoint.kept(inputs[-1], array)
        return str(self.node("MatMulNBits", *inputs, name=f"/{name}", domain=MICROSOFT, **blocks.attributes))

    def opsets(self) -> list[onnx.OperatorSetIdProto]:
        """The domains of the nodes."""
        return [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, 1), helper.make_opsetid(MICROSOFT, 1)]

    def activation(self, x: str, name: str) -> str:
        """An activation by ONNX's name, ``Silu`` or ``GeluTanh``."""
        if name == "Silu":
            return str(self.node("Mul", x, self.node("Sigmoid", x)))
        if name == "GeluTanh":
            return str(self.node("Gelu", x, approximate="tanh"))
        return str(self.node(name, x))

    def kept(self, x: str, steps: str, hidden: int) -> str:
        """The vectors [batch, kept, hidden] of the tokens whose logits are wanted: those that the input ``logits_at`` names.

        ``x`` is [batch, steps, hidden], and ``steps`` its second extent as a tensor [1].
        """
        rows = self.node("Shape", x, start=0, end=1)
        numbers = self.node("Range", self.constant(0), self.node("Squeeze", rows, self.constant([0])), self.constant(1))
        starts = self.node("Unsqueeze", self.node("Mul", numbers, steps), self.constant([1]))
        flat = self.node("Reshape", x, self.constant([-1, hidden]))
        return str(self.node("Gather", flat, self.node("Add", starts, "logits_at"), axis=0))
