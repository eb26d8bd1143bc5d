"""CUDA C++ → a fatbin: machine code for each architecture, and PTX of the newest for GPUs to come."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from ingot.errors import CompileError, InternalError

#: CUDA 12.0 is the first that knows compute capability 9.0 and C++20.
OLDEST_NVCC = (12, 0)
_USUAL = ("/usr/local/cuda/bin", "/opt/cuda/bin")


@dataclass(frozen=True)
class Resources:
    """What one kernel takes on one architecture, as ptxas says: registers of a thread, bytes of spills of a thread and of static shared memory."""

    registers: int
    spills: int
    shared: int


@dataclass(frozen=True)
class Fatbin:
    """The code of a target's generated functions; ``resources`` by kernel, on the newest architecture."""

    data: bytes
    resources: dict[str, Resources]


def find_nvcc() -> str:
    """Where nvcc is: INGOT_NVCC, CUDA_HOME, the search path, or where CUDA is usually installed.

    Raises:
        CompileError: It is nowhere, or too old.
    """
    named = os.environ.get("INGOT_NVCC")
    home = os.environ.get("CUDA_HOME")
    folders = [str(Path(home) / "bin")] if home else []
    found = named or next((f for f in (shutil.which("nvcc", path=os.pathsep.join([*folders, os.environ.get("PATH", ""), *_USUAL])),) if f), None)
    if found is None:
        raise CompileError("compiling for CUDA needs nvcc of the CUDA toolkit, which is not on the search path, in CUDA_HOME or in "
                           f"{' or '.join(_USUAL)}; install the toolkit, or give nvcc's path in INGOT_NVCC (no GPU and no driver are needed)")
    try:
        said = subprocess.run([found, "--version"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise CompileError(f"compiling for CUDA needs nvcc, but {found} does not run: {error}") from error
    version = re.search(r"release (\d+)\.(\d+)", said)
    if version is None or (int(version[1]), int(version[2])) < OLDEST_NVCC:
        raise CompileError(f"{found} is of CUDA {version[0].removeprefix('release ') if version else '(unknown)'}; compiling for CUDA needs "
                           f"{'.'.join(map(str, OLDEST_NVCC))} or later: give another's path in INGOT_NVCC")
    return found


def build(source: str, architectures: Sequence[int], jobs: int = 2) -> Fatbin:
    """Compiles one source for each architecture, and PTX for the newest.

    Raises:
        CompileError: There is no nvcc.
        InternalError: It refuses the source.
    """
    nvcc = find_nvcc()
    with tempfile.TemporaryDirectory(prefix="ingot-cuda-") as name:
        folder = Path(name)
        file = folder / "functions.cu"
        file.write_text(source)
        common = [nvcc, "-std=c++17", "-O3", "-x", "cu", "--expt-relaxed-constexpr", "-diag-suppress=177,550"]

        def one(architecture: int) -> tuple[int, str]:
            output = folder / f"sm_{architecture}.cubin"
            return architecture, _run([*common, "-cubin", f"-arch=sm_{architecture}", "-Xptxas=-v", "-o", str(output), str(file)])

        def ptx(architecture: int) -> tuple[int, str]:
            return 0, _run([*common, "-ptx", f"-arch=compute_{architecture}", "-o", str(folder / "newest.ptx"), str(file)])

        newest = max(architectures)
        with ThreadPoolExecutor(jobs) as pool:
            works = [pool.submit(one, a) for a in architectures] + [pool.submit(ptx, newest)]
            said = dict(w.result() for w in works)
        images = [f"--image3=kind=elf,sm={a},file={folder}/sm_{a}.cubin" for a in architectures]
        images.append(f"--image3=kind=ptx,sm={newest},file={folder}/newest.ptx")
        result = folder / "functions.fatbin"
        fatbinary = str(Path(nvcc).resolve().with_name("fatbinary"))
        _run([fatbinary if Path(fatbinary).exists() else "fatbinary", "-64", "--compress-all", f"--create={result}", *images])
        return Fatbin(result.read_bytes(), _resources(said[newest]))


def _run(command: Sequence[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise InternalError(f"{Path(command[0]).name} refuses generated code: {done.stderr.strip()[:2000]}")
    return done.stderr


def _resources(said: str) -> dict[str, Resources]:
    """What ptxas's report says of each kernel."""
    found = {}
    name, spills = "", 0
    for line in said.splitlines():
        if match := re.search(r"Compiling entry function '(\w+)'", line):
            name, spills = match[1], 0
        elif match := re.search(r"(\d+) bytes spill stores", line):
            spills = int(match[1])
        elif (match := re.search(r"Used (\d+) registers", line)) and name:
            shared = re.search(r"(\d+) bytes smem", line)
            found[name] = Resources(int(match[1]), spills, int(shared[1]) if shared else 0)
    return found
