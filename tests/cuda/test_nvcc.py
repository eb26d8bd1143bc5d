"""That nvcc and ptxas accept every source of libingot_cuda for the oldest GPUs and for Hopper, where there is none.

Mostly without optimization: what is shown is that the code is valid CUDA C++ and PTX, which the emulator cannot know.
`make cuda` builds it to be run.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import harness
import pytest

ROOT = harness.ROOT
FOLDERS = ("kernels/cuda", "runtime/cuda", "tests/cuda/checks")
SOURCES = sorted(path.relative_to(ROOT) for folder in FOLDERS for path in (ROOT / folder).rglob("*.cu"))
HOST_SOURCES = sorted(path.relative_to(ROOT) for folder in FOLDERS for path in (ROOT / folder).rglob("*.cpp") if "emulator" not in path.parts)
#: A source that has instructions of Hopper's is compiled for it, the others for the oldest GPUs: what these accept all do.
HOPPER = re.compile(r"hopper|wgmma|bulk|barrier|sm_90|capability >= 90|e4m3|fp8", re.IGNORECASE)
QUICK = ("-Xcicc=-O0", "-Xptxas=-O0")
OPTIMIZED = re.compile("attention_prefill/hopper_")  # ptxas of CUDA 13.0 crashes on these otherwise, and is quick with them
NVCC = os.environ.get("INGOT_NVCC") or shutil.which("nvcc")


def of_hopper(source: Path) -> bool:
    """Whether a source, or a header beside it that it includes, has what only Hopper can do."""
    text = (ROOT / source).read_text()
    beside = [(ROOT / source).parent / name for name in re.findall(r'#include "([^"/]+)"', text)]
    return bool(HOPPER.search(source.name) or any(HOPPER.search(part) for part in (text, *(b.read_text() for b in beside if b.exists()))))


def nvcc(source: Path, result: Path, *options: str) -> None:
    """Compiles a source with the build's warnings as errors."""
    tvm_ffi = pytest.importorskip("tvm_ffi", reason="dlpack/dlpack.h comes with the package apache-tvm-ffi, which is not installed")
    assert NVCC is not None
    folders = [*(ROOT / folder for folder in ("kernels", "runtime/src", "runtime/include")), tvm_ffi.libinfo.find_dlpack_include_path()]
    command = [NVCC, "-std=c++20", "-Xcompiler=-Wall,-Wextra,-Werror", *options, *(f"-I{folder}" for folder in folders)]
    done = subprocess.run([*command, "-o", str(result), str(ROOT / source)], check=False, capture_output=True, text=True)
    assert done.returncode == 0, f"{source}: nvcc refuses it\n{done.stdout}{done.stderr}"
    assert result.stat().st_size > 0


@pytest.mark.emulated
@pytest.mark.slow
@pytest.mark.skipif(NVCC is None, reason="nvcc is not installed")
@pytest.mark.parametrize(("source", "architecture"), [
    pytest.param(source, architecture, id=f"{source}-{architecture}", marks=[pytest.mark.extended] * ((architecture == "90a") != of_hopper(source)))
    for source in SOURCES for architecture in ("80", "90a")])
def test_nvcc_accepts_the_source(source: Path, architecture: str, tmp_path: Path) -> None:
    effort = () if OPTIMIZED.search(str(source)) else QUICK
    target = f"-gencode=arch=compute_{architecture},code=sm_{architecture}"
    nvcc(source, tmp_path / "code.fatbin", "-fatbin", target, *effort, "-Werror=all-warnings")


@pytest.mark.emulated
@pytest.mark.skipif(NVCC is None, reason="nvcc is not installed")
@pytest.mark.parametrize("source", HOST_SOURCES, ids=str)
def test_its_compiler_accepts_the_code_for_the_host(source: Path, tmp_path: Path) -> None:
    nvcc(source, tmp_path / "code.o", "-c")


def test_there_are_sources_of_each_kernel() -> None:
    folders = {source.parent.name for source in SOURCES if source.parts[:2] == ("kernels", "cuda")}
    assert folders == {path.name for path in (ROOT / "kernels/cuda").iterdir() if path.is_dir()} - {"emulator"}
