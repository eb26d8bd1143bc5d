"""Artifacts for GPUs, compiled where there is none: what they hold, what is shown of them, and what is said where they cannot be made."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

import ingot
from ingot.cli.inspect import describe
from ingot.cli.main import main
from ingot.errors import CompileError, InternalError, TargetError, UnsupportedError
from ingot.lower import targets
from ingot.lower.cuda import nvcc
from ingot.lower.cuda.registry import CUDA_KERNELS
from ingot.runtime import Artifact
from tests.levels.models import MODELS

ROOT = Path(__file__).resolve().parents[3]
needs_nvcc = pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not installed")


def _compiled(name: str, path: Path, **options: Any) -> dict[str, Any]:
    ingot.compile(MODELS[name]().build(), path, samples=0, **options)
    return Artifact.open(path).manifest


@needs_nvcc
def test_one_file_has_code_for_several_gpus_and_a_cpu(tmp_path: Path) -> None:
    path = tmp_path / "m.ingot"
    manifest = _compiled("normalization", path, target=["cpu:x86-64-v3", "cuda:sm_90+sm_80"])
    assert [t["name"] for t in manifest["targets"]] == ["cuda:sm_80+sm_90", "cpu:x86-64-v3"]
    code = manifest["targets"][0]["code"]
    assert (code["architectures"], code["ptx"]) == ([80, 90], 90)
    fatbin = bytes(Artifact.open(path).segment(code["segment"])[: code["size"]])
    assert fatbin[:4] == (0xBA55ED50).to_bytes(4, "little")  # what fatbins begin with
    assert len(code["functions"]) == len({s["function"] for s in manifest["targets"][0]["program"]["functions"][0]["steps"] if s["op"] == "call"})


@needs_nvcc
def test_generated_kernels_take_few_registers_and_spill_nothing(tmp_path: Path) -> None:
    for name in ("normalization", "pooling", "reductions"):
        manifest = _compiled(name, tmp_path / "m.ingot", target="cuda:sm_90")
        for function, entry in manifest["targets"][0]["code"]["functions"].items():
            for launch in entry["launches"]:
                assert launch["spills"] == 0 and 0 < launch["registers"] <= 128, (name, function)
                assert launch["block"][0] % 32 == 0


@needs_nvcc
def test_inspect_shows_launches_and_what_runs_on_the_cpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "m.ingot"
    _compiled("selection", path, target="cuda:sm_90")
    steps = describe(str(path), {})["steps"]
    assert any(s.get("host") for s in steps)
    launch = next(s for s in steps if "launches" in s)["launches"][0]
    assert launch["block"][0] and launch["registers"] and all(isinstance(e, str) for e in launch["grid"])
    assert main(["inspect", str(path)]) == 0
    shown = capsys.readouterr().out
    assert "needs an NVIDIA GPU: it has code for sm_90, and PTX for GPUs newer than sm_90" in shown
    assert "kernel topk (on the CPU)" in shown and re.search(r"blocks of \d+, \d+ registers", shown)
    assert main(["inspect", "--json", str(path)]) == 0
    assert json.loads(capsys.readouterr().out)["targets"][0]["architectures"] == [90]


def test_names_of_gpu_targets(monkeypatch: pytest.MonkeyPatch) -> None:
    assert targets.find("cuda").name == "cuda:sm_80+sm_86+sm_89+sm_90"
    assert targets.find("cuda:sm_90+sm_80").name == "cuda:sm_80+sm_90"
    assert targets.find("cuda:sm_89").architectures == (89,)
    for wrong in ("cuda:", "cuda:sm_70", "cuda:90", "cuda:sm_80+", "cudax"):
        with pytest.raises(TargetError, match="sm_80"):
            targets.find(wrong)


def test_without_nvcc_the_error_says_what_would_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda *a, **k: None)
    with pytest.raises(CompileError, match=r"needs nvcc of the CUDA toolkit.*INGOT_NVCC"):
        _compiled("matmul", tmp_path / "m.ingot", target="cuda:sm_90")
    monkeypatch.setenv("INGOT_NVCC", str(tmp_path / "none"))
    with pytest.raises(CompileError, match="does not run"):
        _compiled("matmul", tmp_path / "m.ingot", target="cuda:sm_90")
    old = tmp_path / "nvcc"
    old.write_text("#!/bin/sh\necho 'Cuda compilation tools, release 11.4, V11.4.48'\n")
    old.chmod(0o755)
    monkeypatch.setenv("INGOT_NVCC", str(old))
    with pytest.raises(CompileError, match=r"is of CUDA 11.4; compiling for CUDA needs 12.0 or later"):
        _compiled("matmul", tmp_path / "m.ingot", target="cuda:sm_90")
    assert not (tmp_path / "m.ingot").exists()


@needs_nvcc
def test_strings_are_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="tensors of strings, which GPUs do not have"):
        _compiled("strings", tmp_path / "m.ingot", target="cuda:sm_90")


def test_kernels_that_programs_name_are_registered() -> None:
    registered = set(re.findall(r'^ +\{"(\w+)"', (ROOT / "kernels/cuda/registry.cpp").read_text(), re.MULTILINE))
    assert registered >= CUDA_KERNELS


@needs_nvcc
def test_source_that_nvcc_refuses_is_a_defect_with_its_words() -> None:
    with pytest.raises(InternalError, match=r"nvcc refuses generated code.*error"):
        nvcc.build("this is no code", (90,))
