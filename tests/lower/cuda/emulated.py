"""Generated CUDA code on the CPU: compiled by a C++ compiler against kernels/cuda/emulator, and called with NumPy arrays."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import mmap
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[3]
_EMULATOR = ROOT / "kernels/cuda/emulator"
_KERNEL = re.compile(r'extern "C" __global__ void __launch_bounds__\(\d+\) (\w+)\(([^)]*)\)')
_PAGE = mmap.PAGESIZE


def include_folders() -> list[str]:
    """Where headers are that generated code and the emulator include; the test is skipped where CUDA's are not installed."""
    import tvm_ffi.libinfo

    cuda = next((p for p in (Path("/usr/local/cuda/include"), Path("/opt/cuda/include")) if (p / "cuda_runtime.h").exists()), None)
    compiler = shutil.which("nvcc")
    if cuda is None and compiler is not None:
        cuda = Path(compiler).resolve().parents[1] / "include"
    if cuda is None or not (cuda / "cuda_runtime.h").exists():
        pytest.skip("CUDA's headers are not installed")
    folders = [ROOT / "kernels", ROOT / "kernels/cuda", ROOT / "runtime/src", ROOT / "runtime/include", cuda]
    return [*map(str, folders), tvm_ffi.libinfo.find_dlpack_include_path()]


def _compile(sources: Sequence[Path], output: Path, *options: str) -> None:
    command = ["g++", "-std=c++20", "-O1", "-fPIC", "-shared", "-w", "-DINGOT_EMULATE", *(f"-I{f}" for f in include_folders()),
               *map(str, sources), *options, "-o", str(output)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[:4000]


@functools.cache
def _emulator() -> Path:
    """The emulator as a library, built once for its sources."""
    sources = [_EMULATOR / f"{name}.cpp" for name in ("block", "fiber", "device_functions", "runtime_api")] + [ROOT / "runtime/src/error.cpp"]
    texts = [p.read_bytes() for p in sorted([*_EMULATOR.iterdir(), *sources])]
    path = ROOT / "build/test-cache" / f"libemulator-{hashlib.sha256(b''.join(texts)).hexdigest()[:16]}.so"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        made = path.with_name(f"{path.name}.{os.getpid()}")
        _compile(sources, made)
        made.replace(path)
    return path


class Kernels:
    """The kernels of a generated source."""

    def __init__(self, source: str, folder: Path) -> None:
        runners = []
        for name, parameters in _KERNEL.findall(source):
            kinds = [p.rpartition(" ")[0].replace("__restrict__", "") for p in parameters.split(", ") if p]
            arguments = ", ".join(f"({kind})arguments[{i}]" for i, kind in enumerate(kinds))
            runners.append(f'extern "C" int run_{name}(const int64_t* arguments, unsigned grid, unsigned block) {{\n'
                           f"  return (int)ingot::emulator::Run(dim3(grid), dim3(block), 0, [&] {{ {name}({arguments}); }});\n}}\n")
        file = folder / "generated.cpp"
        file.write_text('#include "launch.h"\n' + source + "\n".join(runners))
        emulator = _emulator()
        library = folder / "generated.so"
        _compile([file], library, str(emulator), f"-Wl,-rpath,{emulator.parent}")
        self._library = ctypes.CDLL(str(library))

    def launch(self, name: str, grid: int, block: int, arguments: Sequence[int]) -> None:
        """Runs a kernel with its arguments as 64-bit numbers."""
        if grid == 0:
            return
        packed = (ctypes.c_int64 * max(1, len(arguments)))(*arguments)
        result = getattr(self._library, f"run_{name}")(packed, ctypes.c_uint(grid), ctypes.c_uint(block))
        assert result == 0, f"{name}: error {result}"


#: Whether tensors start where pieces of 16 bytes do not.
SHIFT = False


class _Guarded:
    """Memory that ends where a page begins that cannot be touched."""

    def __init__(self, nbytes: int) -> None:
        pages = -(-max(nbytes, 1) // _PAGE)
        self._map = mmap.mmap(-1, (pages + 1) * _PAGE)
        start = ctypes.addressof(ctypes.c_char.from_buffer(self._map))
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.mprotect(ctypes.c_void_p(start + pages * _PAGE), ctypes.c_size_t(_PAGE), 0) == 0
        self.offset = pages * _PAGE - -(-nbytes // 16) * 16
        if SHIFT and nbytes + 16 <= pages * _PAGE:
            self.offset -= 8  # aligned to elements alone

    def array(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        count = int(np.prod(shape, dtype=np.int64))
        flat = np.frombuffer(self._map, np.uint8, count * dtype.itemsize, self.offset)
        return flat.view(dtype).reshape(shape)


def allocate(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An array of garbage, aligned to 16 bytes, behind which (but for up to 15 bytes) nothing can be read or written."""
    array = _Guarded(int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize).array(shape, np.dtype(dtype))
    if array.size:
        array.reshape(-1).view(np.uint8)[...] = 0xA5
    return array


def guarded(array: np.ndarray) -> np.ndarray:
    """A copy of an array in such memory."""
    made = allocate(array.shape, array.dtype)
    made[...] = array
    return made
