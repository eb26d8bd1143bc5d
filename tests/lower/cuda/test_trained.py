"""A network that PyTorch trained with rounding: its quantizer's modules, as PyTorch exports them, run in int8."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import ingot
from ingot.cli.main import main
from ingot.export.exported import Exported
from ingot.export.torch import export_module
from tests.lower.cuda.interpreter import Program


class Network(nn.Module):
    """Convolutions with a normalization, a residual and activations, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.normalized = nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16)
        self.second, self.third, self.last = nn.Conv2d(16, 16, 3, 1, 1), nn.Conv2d(16, 24, 1), nn.Linear(24, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.normalized(self.first(x)))
        x = torch.relu(self.second(x) + x)
        return self.last(torch.relu(self.third(x)).mean((2, 3)))  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def trained() -> Any:
    """The network with ``FakeQuantize`` modules that have seen a few batches: uint8 activations, int8 weights with a scale for each channel."""
    import torch.ao.quantization as q
    from torch.ao.quantization.quantize_fx import prepare_qat_fx

    torch.manual_seed(0)
    activation = q.FakeQuantize.with_args(observer=q.MovingAverageMinMaxObserver, quant_min=0, quant_max=255, dtype=torch.quint8)
    weight = q.FakeQuantize.with_args(observer=q.MovingAveragePerChannelMinMaxObserver, quant_min=-128, quant_max=127, dtype=torch.qint8,
                                      qscheme=torch.per_channel_symmetric, ch_axis=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        example = torch.randn(2, 3, 20, 18)
        model = prepare_qat_fx(Network().train(), q.QConfigMapping().set_global(q.QConfig(activation=activation, weight=weight)), (example,))
        for _ in range(3):
            model(torch.randn(4, 3, 20, 18))
    model.eval()
    model.apply(q.disable_observer)
    return model


@pytest.fixture(scope="module")
def exported(trained: Any, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return export_module(trained, (torch.randn(2, 3, 20, 18),), tmp_path_factory.mktemp("trained"), exporter="torchscript")


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not installed")
def test_inspect_shows_it(exported: Exported, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ingot.compile(exported.path, tmp_path / "m.ingot", target="cuda:sm_80", samples=0)
    assert main(["inspect", str(tmp_path / "m.ingot")]) == 0
    shown = capsys.readouterr().out
    assert shown.count("kernel qlinear_conv") == 3 and shown.count("kernel qlinear_matmul") == 1 and "on the CPU" not in shown


def test_what_pytorch_trained_with_rounding_runs_in_int8(trained: Any, exported: Exported, tmp_path: Path) -> None:
    model = onnx.load(exported.path)
    program = Program(model)
    assert not any(s.get("host") for s in program.steps)
    assert [s["name"] for s in program.steps if s["op"] == "kernel"] == ["qlinear_conv"] * 3 + ["qlinear_matmul"]
    ingot.compile(model, tmp_path / "cpu.ingot", samples=0)
    on_cpu = ingot.load(tmp_path / "cpu.ingot")
    (name,) = exported.inputs
    step = float(trained.activation_post_process_8.scale)  # of the output's codes
    for seed, n in ((1, 1), (3, 40)):
        x = torch.randn(n, 3, 20, 18, generator=torch.Generator().manual_seed(seed))
        with torch.no_grad():
            expected = trained(x).numpy()
        (on_gpu,), (on_host,) = program.run({name: x.numpy()}).values(), dict(on_cpu.run({name: x.numpy()})).values()
        np.testing.assert_array_equal(on_gpu, on_host)
        # The nearest codes; but for images of which some number before lies at a tie, which float32 decides either way.
        off = np.abs(on_gpu - expected) / step
        assert off.max() <= 1.01 and np.mean(off > 0.5) < 0.1, (off.max(), np.mean(off > 0.5))
