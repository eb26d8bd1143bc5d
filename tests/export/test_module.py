"""PyTorch modules become ONNX with names and symbolic dimensions that a caller expects."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from ingot.errors import CompileError, InputError
from ingot.export import Exported, export_module
from ingot.export.torch import OPSET

ort = pytest.importorskip("onnxruntime")


def shapes(exported: Exported) -> dict[str, list[Any]]:
    """The declared shape of each input and output."""
    graph = onnx.load(exported.path, load_external_data=False).graph
    return {v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in [*graph.input, *graph.output]}


def agrees(exported: Exported, inputs: dict[str, np.ndarray]) -> None:
    """The file computes what PyTorch computes."""
    expected = exported.reference(inputs)
    actual = ort.InferenceSession(str(exported.path)).run(list(expected), inputs)
    for got, (name, wanted) in zip(actual, expected.items(), strict=True):
        assert got.shape == wanted.shape, name
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5, err_msg=name)


class Two(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(8, 4)

    def forward(self, x: torch.Tensor, scale: torch.Tensor | None = None, *, shift: torch.Tensor | None = None) -> dict[str, Any]:
        y = self.linear(x)
        if scale is not None:
            y = y * scale
        return {"y": y if shift is None else y + shift, "nothing": None, "pair": (x, y.sum(-1))}


class Tokens(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(50, 8)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return self.embedding(input_ids) * attention_mask.unsqueeze(-1)


def test_by_default_axis_0_is_the_batch_and_names_are_those_of_forward(tmp_path: Path) -> None:
    exported = export_module(Two(), torch.randn(3, 8), tmp_path)
    assert shapes(exported) == {"x": ["batch", 8], "y": ["batch", 4], "pair_0": ["batch", 8], "pair_1": ["batch"]}
    assert list(exported.inputs) == ["x"]
    agrees(exported, {"x": np.random.default_rng(0).standard_normal((5, 8), np.float32)})


def test_token_ids_and_masks_have_a_symbolic_batch_and_sequence(tmp_path: Path) -> None:
    ids = torch.randint(0, 50, (2, 7))
    exported = export_module(Tokens(), {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, tmp_path)
    assert shapes(exported) == {"input_ids": ["batch", "sequence"], "attention_mask": ["batch", "sequence"], "output": ["batch", "sequence", 8]}
    agrees(exported, {"input_ids": np.arange(12).reshape(4, 3), "attention_mask": np.eye(4, 3, dtype=np.int64)})


def test_an_example_of_batch_1_still_gives_a_symbolic_batch(tmp_path: Path) -> None:
    exported = export_module(Tokens(), (torch.ones(1, 1, dtype=torch.int64), torch.ones(1, 1, dtype=torch.int64)), tmp_path)
    assert shapes(exported)["output"] == ["batch", "sequence", 8]
    assert exported.inputs["input_ids"].shape == (1, 1)


def test_keyword_only_arguments_are_inputs(tmp_path: Path) -> None:
    exported = export_module(Two(), {"x": torch.randn(2, 8), "shift": torch.randn(2, 4)}, tmp_path)
    assert list(exported.inputs) == ["x", "shift"]
    agrees(exported, {"x": np.ones((3, 8), np.float32), "shift": np.ones((3, 4), np.float32)})


def test_dynamic_shapes_replace_the_default(tmp_path: Path) -> None:
    pool = torch.nn.AdaptiveAvgPool2d(1)
    image = torch.randn(1, 3, 8, 8)
    named = export_module(pool, image, tmp_path / "named", dynamic_shapes={"input": {2: "height", 3: "width"}})
    assert shapes(named)["input"] == [1, 3, "height", "width"]
    fixed = export_module(pool, image, tmp_path / "fixed", dynamic_shapes={})
    assert shapes(fixed)["input"] == [1, 3, 8, 8]
    listed = export_module(pool, image, tmp_path / "listed", dynamic_shapes={"input": ["n", None, "h", None]})
    assert shapes(listed)["input"] == ["n", 3, "h", 8]


def test_names_can_be_given(tmp_path: Path) -> None:
    exported = export_module(torch.nn.Linear(8, 4), torch.randn(2, 8), tmp_path, input_names=["features"], output_names=["scores"])
    assert shapes(exported) == {"features": ["batch", 8], "scores": ["batch", 4]}
    assert exported.output_names == ["scores"]


def test_an_input_whose_axis_0_is_no_batch_stays_fixed_and_is_reported(tmp_path: Path) -> None:
    class Add(torch.nn.Module):
        def forward(self, x: torch.Tensor, row: torch.Tensor) -> torch.Tensor:
            return x + row

    exported = export_module(Add(), (torch.randn(4, 3), torch.randn(1, 3)), tmp_path)
    assert shapes(exported)["row"] == [1, 3]
    assert "'row'" in exported.messages[0] and "dynamic_shapes" in exported.messages[0]


def test_weights_lie_beside_the_file_under_the_names_of_the_module(tmp_path: Path) -> None:
    exported = export_module(torch.nn.Sequential(torch.nn.Linear(64, 64)), torch.randn(2, 64), tmp_path)
    graph = onnx.load(exported.path, load_external_data=False).graph
    weight = next(t for t in graph.initializer if t.name == "0.weight")
    assert weight.data_location == onnx.TensorProto.EXTERNAL
    assert onnx.load(exported.path, load_external_data=False).opset_import[0].version == OPSET


def test_recurrent_layers_are_written_as_onnx_operators_of_any_length(tmp_path: Path) -> None:
    class Tagger(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = torch.nn.LSTM(8, 6, num_layers=2, bidirectional=True, batch_first=True)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.lstm(x)[0]

    exported = export_module(Tagger(), torch.randn(2, 5, 8), tmp_path, dynamic_shapes={"x": {0: "batch", 1: "sequence"}})
    graph = onnx.load(exported.path, load_external_data=False).graph
    assert [n.op_type for n in graph.node].count("LSTM") == 2
    agrees(exported, {"x": np.random.default_rng(0).standard_normal((3, 11, 8), np.float32)})


def test_the_module_keeps_its_mode_and_evaluates_without_dropout(tmp_path: Path) -> None:
    module = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Dropout(0.5)).train()
    module[1].eval()
    exported = export_module(module, torch.randn(2, 8), tmp_path)
    assert module.training and module[0].training and not module[1].training
    agrees(exported, {"input": np.ones((2, 8), np.float32)})


def test_bfloat16_arrays_keep_their_type(tmp_path: Path) -> None:
    exported = export_module(torch.nn.ReLU(), torch.randn(2, 8).to(torch.bfloat16), tmp_path)
    assert exported.inputs["input"].dtype.name == "bfloat16"
    assert exported.reference(exported.inputs)["output"].dtype.name == "bfloat16"


@pytest.mark.parametrize(("arguments", "message"), [
    ({"inputs": (torch.randn(2, 8), torch.randn(2, 4), torch.randn(1))}, "do not fit Two.forward"),
    ({"inputs": "x"}, "not str"),
    ({"inputs": {"x": 3}}, "hold no tensor"),
    ({"inputs": torch.randn(2, 9)}, "fails on the example inputs"),
    ({"inputs": torch.randn(2, 8), "input_names": ["a", "b"]}, "2 input names were given"),
    ({"inputs": torch.randn(2, 8), "output_names": ["a"]}, "1 output names were given"),
    ({"inputs": torch.randn(2, 8), "dynamic_shapes": {"z": {0: "n"}}}, "names the input 'z'"),
    ({"inputs": torch.randn(2, 8), "dynamic_shapes": {"x": {5: "n"}}}, "axis 5"),
    ({"inputs": torch.randn(2, 8), "dynamic_shapes": {"x": {0: "n", 1: "n"}}}, "'n' is 2"),
])
def test_wrong_arguments_are_refused_with_what_would_work(tmp_path: Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(CompileError, match=message):
        export_module(Two(), folder=tmp_path, **arguments)


def test_the_reference_names_a_missing_input(tmp_path: Path) -> None:
    exported = export_module(Two(), torch.randn(2, 8), tmp_path)
    with pytest.raises(InputError, match="'x' is missing"):
        exported.reference({})


def test_what_pytorch_cannot_export_is_an_error_with_both_reasons(tmp_path: Path) -> None:
    class Branch(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.linalg.eigvals(x)

    with pytest.raises(CompileError, match=r"cannot export Branch(.|\n)*torch.export(.|\n)*TorchScript"):
        export_module(Branch(), torch.randn(2, 4, 4), tmp_path)
