"""Models that people run, compiled for all GPUs by nvcc where there is none: nothing is left to the CPU, and `ingot inspect` shows it."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import ingot
from ingot.cli.main import main
from ingot.runtime import Artifact
from tests.generate.families import save

pytestmark = [pytest.mark.slow, pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not installed")]


def gpu_target(path: Path) -> tuple[dict[str, Any], Counter[str]]:
    """An artifact's code for GPUs, and how often it calls each kernel."""
    target = Artifact.open(path).manifest["targets"][0]
    steps = [step for function in target["program"]["functions"] for step in function["steps"]]
    assert [step["name"] for step in steps if step.get("host")] == []
    return target, Counter(step["name"] for step in steps if step["op"] == "kernel")


def test_a_sentence_encoder(zoo: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "minilm.ingot"
    ingot.compile(zoo("minilm").onnx, path, target=["cuda", "cpu:x86-64-v3"], precision="bf16", samples=0)
    target, kernels = gpu_target(path)
    assert kernels["attention"] == 6 and kernels["matmul"] >= 4 * 6 and kernels["normalization"] >= 12
    assert target["code"]["architectures"] == [80, 86, 89, 90] and target["code"]["ptx"] == 90
    assert main(["inspect", "--target", target["name"], str(path)]) == 0
    shown = capsys.readouterr().out
    assert all(f"sm_{architecture}" in shown for architecture in (80, 86, 89, 90)) and shown.count("kernel attention") == 6


def test_a_language_model_of_4_bits(tmp_path: Path) -> None:
    path = tmp_path / "llama.ingot"
    ingot.compile(save("llama", tmp_path / "model"), path, target="cuda:sm_90", precision="bf16", cache="bf16", quantize="int4")
    _, kernels = gpu_target(path)
    layers = kernels["rotary_cache"]
    assert layers == kernels["attention"] and kernels["sample"] == 1
    assert kernels["quantized_matmul"] + kernels["normalized_matmul"] >= 4 * layers
