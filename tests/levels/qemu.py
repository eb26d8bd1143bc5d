"""Code for aarch64 on a machine of another architecture: libingot and the C example cross-compiled into build/aarch64, run under qemu."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from tests.runtime.assemble import Artifact

ROOT = Path(__file__).resolve().parent.parent.parent
BUILD = ROOT / "build" / "aarch64"
#: What the tests need and Debian's packages that have it.
PROGRAMS = {"aarch64-linux-gnu-g++": "g++-aarch64-linux-gnu", "qemu-aarch64": "qemu-user"}
#: Where Debian's cross packages have the C library that qemu loads.
SYSROOT = "/usr/aarch64-linux-gnu"


def missing() -> str:
    """Why nothing for aarch64 can run here, or the empty string."""
    packages = [package for program, package in PROGRAMS.items() if shutil.which(program) is None]
    return f"needs Debian's packages {' and '.join(packages)}" if packages else ""


@functools.cache
def program() -> Path:
    """ingot-run (examples/c) for aarch64, linked to libingot for aarch64; both are built the way that an application would."""
    BUILD.mkdir(parents=True, exist_ok=True)
    toolchain = f"-DCMAKE_TOOLCHAIN_FILE={ROOT / 'cmake' / 'aarch64.cmake'}"
    quickly = ("-DCMAKE_BUILD_TYPE=None", "-DCMAKE_CXX_FLAGS=-O1")  # nothing is timed, and compiling takes longer than the tests
    with FileLock(str(BUILD / "lock")):
        _cmake("-S", ROOT, "-B", BUILD / "ingot", toolchain, *quickly, f"-DPython_EXECUTABLE={sys.executable}",
               f"-DCMAKE_INSTALL_PREFIX={BUILD / 'prefix'}")
        _cmake("--build", BUILD / "ingot", "-j2")
        _cmake("--install", BUILD / "ingot")
        _cmake("-S", ROOT / "examples" / "c", "-B", BUILD / "example", toolchain, f"-Dingot_DIR={BUILD / 'prefix' / 'lib' / 'cmake' / 'ingot'}")
        _cmake("--build", BUILD / "example")
    return BUILD / "example" / "ingot-run"


def run(artifact: Path, feeds: Mapping[str, np.ndarray], outputs: Mapping[str, tuple[np.dtype, tuple[int, ...]]], folder: Path, *, cpu: str = "max",
        instructions: str = "") -> dict[str, np.ndarray]:
    """Runs an artifact on a processor that qemu knows: its outputs, which must be as large as ``outputs`` says.

    ``instructions`` limits the kernels (INGOT_ISA). Tensors travel as raw bytes, since NumPy has no name for every type of theirs.
    """
    command = ["qemu-aarch64", "-cpu", cpu, "-L", SYSROOT, str(program()), str(artifact)]
    for name, array in feeds.items():
        np.ascontiguousarray(array).tofile(folder / f"{name}.in")
        command.append(f"{name}={','.join(map(str, array.shape))}={folder / f'{name}.in'}")
    command += [f"{name}={folder / f'{name}.out'}" for name in outputs]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "INGOT_ISA": instructions})
    assert done.returncode == 0, f"exit code {done.returncode}: {done.stdout}{done.stderr}"
    return {name: np.frombuffer((folder / f"{name}.out").read_bytes(), dtype).reshape(shape) for name, (dtype, shape) in outputs.items()}


def run_assembled(artifact: Artifact, feeds: Sequence[np.ndarray], outputs: Sequence[tuple[Any, tuple[int, ...]]], folder: Path, *, cpu: str = "max",
                  instructions: str = "") -> list[np.ndarray]:
    """Runs an artifact that was put together by hand, of kernels alone: the tests of a kernel can call it so for aarch64."""
    manifest = artifact.manifest()
    manifest["targets"][0]["arch"] = "aarch64"
    path = folder / "assembled.ingot"
    path.write_bytes(artifact.to_bytes(manifest))
    declared = {f"y{i}": (np.dtype(dtype), shape) for i, (dtype, shape) in enumerate(outputs)}
    return list(run(path, {f"x{i}": a for i, a in enumerate(feeds)}, declared, folder, cpu=cpu, instructions=instructions).values())


def _cmake(*arguments: object) -> None:
    tools = {**os.environ, "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])}
    done = subprocess.run(["cmake", *map(str, arguments)], capture_output=True, text=True, check=False, env=tools)
    assert done.returncode == 0, f"cmake {' '.join(map(str, arguments))}:\n{done.stdout}\n{done.stderr}"
