"""Recurrent layers by way of PyTorch's newer exporter: any number of steps, whatever the example's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

import ingot
from ingot.export import export_module


class Layer(torch.nn.Module):
    """A recurrent layer that gives all steps and the last states."""

    def __init__(self, kind: type[torch.nn.RNNBase], **options: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = kind(5, 6, **options)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        y, states = self.layer(x)
        return y, *(states if isinstance(states, tuple) else (states,))


@pytest.mark.parametrize(("kind", "options"), [
    (torch.nn.LSTM, {"bidirectional": True, "batch_first": True}),
    (torch.nn.GRU, {"bidirectional": True}),
    (torch.nn.RNN, {"num_layers": 2, "bidirectional": True, "batch_first": True}),
    (torch.nn.RNN, {"nonlinearity": "relu", "bias": False}),
], ids=["LSTM", "GRU", "RNN", "RNN of relu"])
def test_a_layer_exported_by_dynamo_takes_any_number_of_steps(kind: type[torch.nn.RNNBase], options: dict[str, Any], tmp_path: Path) -> None:
    module = Layer(kind, **options).eval()
    batch, steps = (0, 1) if options.get("batch_first") else (1, 0)
    exported = export_module(module, torch.randn(3, 4, 5), tmp_path, dynamic_shapes={"x": {batch: "batch", steps: "steps"}}, exporter="dynamo")
    assert sum(node.op_type == kind.__name__ for node in onnx.load(exported.path).graph.node) == options.get("num_layers", 1)
    ingot.compile(exported.path, tmp_path / "layer.ingot", samples=0)
    model = ingot.load(tmp_path / "layer.ingot")
    for extents in ((3, 4), (1, 1), (2, 9), (5, 2)):
        x = torch.randn(*extents, 5)
        expected = [y.detach().numpy() for y in module(x)]
        for found, wanted in zip(model.run(x=x.numpy()).values(), expected, strict=True):
            np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


def test_the_decompositions_are_pytorchs_own_again_after_an_export(tmp_path: Path) -> None:
    from torch._decomp import decomposition_table

    layer = torch.ops.aten.rnn_tanh.input
    before = decomposition_table[layer], dict(layer.py_kernels)
    export_module(torch.nn.Linear(2, 2), torch.randn(2, 2), tmp_path, exporter="dynamo")
    assert (decomposition_table[layer], dict(layer.py_kernels)) == before
