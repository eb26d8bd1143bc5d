"""Runs one CUDA kernel on NumPy arrays: on a GPU where there is one, else on the emulator of kernels/cuda/emulator.

Nothing of Ingot's Python package is needed, so that these tests also run on a GPU machine that has but NumPy, ml_dtypes and PyTorch there.

    y, = harness.run("quantized_matmul", [x, packed, scales], [((4, 512), np.float32)], ints=[1, 32, 0, 0, 0])

Environment: INGOT_CUDA_LIBRARY, the file to load in place of build/cuda/libingot_cuda.so; INGOT_CUDA_EMULATE=1, the emulator in spite of a GPU;
INGOT_CUDA_ONLY=matmul,convolution builds only these folders of kernels/cuda for the emulator, in a folder of its own; INGOT_EMULATOR_SEED, the order
in which emulated threads take turns; INGOT_CUDA_PATIENCE, the seconds (20) that a kernel may take on a GPU.
"""

from __future__ import annotations

import ctypes
import fcntl
import functools
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

ROOT = Path(__file__).resolve().parent.parent.parent
PATIENCE = float(os.environ.get("INGOT_CUDA_PATIENCE") or 20)  # seconds for a kernel on a GPU
GUARD = 1024  # bytes of NaN on both sides of every tensor, which no kernel may change

Array: TypeAlias = npt.NDArray[Any]
Output: TypeAlias = "Array | tuple[Sequence[int], npt.DTypeLike]"


class KernelError(RuntimeError):
    """What a kernel said about its arguments, or what the emulator found."""


class Unavailable(RuntimeError):
    """There is neither a GPU with a library built for it nor what the emulator is built with; the message says what is missing."""


class DLDataType(ctypes.Structure):
    _fields_ = (("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16))


class DLTensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("dtype", DLDataType),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


# DLPack's (code, bits) of NumPy's and ml_dtypes' names.
DTYPES = {
    "float16": (2, 16),
    "float32": (2, 32),
    "float64": (2, 64),
    "bfloat16": (4, 16),
    "bool": (6, 8),
    "int8": (0, 8),
    "int16": (0, 16),
    "int32": (0, 32),
    "int64": (0, 64),
    "uint8": (1, 8),
    "uint16": (1, 16),
    "uint32": (1, 32),
    "uint64": (1, 64),
    "int4": (0, 4),
    "uint4": (1, 4),
    "float8_e4m3fn": (10, 8),
    "float8_e5m2": (12, 8),
    "float8_e8m0fnu": (14, 8),
}
_CUDA = 2  # DLPack's device type


@functools.cache
def on_gpu() -> bool:
    """Whether kernels run on a GPU here: there is one, PyTorch sees it, and the library was built."""
    if os.environ.get("INGOT_CUDA_EMULATE") or not _gpu_library().exists():
        return False
    if not (os.path.exists("/dev/nvidiactl") or os.path.exists("/dev/nvidia0") or shutil.which("nvidia-smi")):
        return False
    try:
        import torch
    except ImportError:
        return False
    return bool(torch.cuda.is_available())


def _gpu_library() -> Path:
    return Path(os.environ.get("INGOT_CUDA_LIBRARY") or ROOT / "build" / "cuda" / "libingot_cuda.so")


def _tool(name: str) -> str:
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        raise Unavailable(f"the emulator is built with {name}, which was not found")
    return found


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@functools.cache
def _build(target: str) -> Path:
    """The path of an emulated library, built if it is not or is older than its sources. One process builds, others wait."""
    only = os.environ.get("INGOT_CUDA_ONLY", "").replace(",", ";")
    folder = ROOT / "build" / ("cuda-emulated" + "".join(f"-{part}" for part in only.split(";") if part))
    library = folder / f"lib{target}.so"
    cmake, ninja = _tool("cmake"), _tool("ninja")
    with _lock(folder / "lock"):
        commands = [[cmake, "--build", str(folder), "--parallel", "2", "--target", target]]
        if not (folder / "build.ninja").exists():
            options = ["-DINGOT_BUILD_CUDA_EMULATED=ON", f"-DCMAKE_MAKE_PROGRAM={ninja}", f"-DPython_EXECUTABLE={sys.executable}"]
            options += [f"-DPython3_EXECUTABLE={sys.executable}", f"-DINGOT_CUDA_ONLY={only}"]
            commands.insert(0, [cmake, "-S", str(ROOT), "-B", str(folder), "-G", "Ninja", *options])
        for command in commands:
            done = subprocess.run(command, check=False, capture_output=True, text=True)
            if done.returncode != 0:
                output = done.stdout + done.stderr
                if "INGOT_CUDA_INCLUDE_DIR" in output:
                    raise Unavailable("CUDA's headers were not found, which the emulator is built with")
                errors = [line for line in output.splitlines() if "error" in line or "FAILED" in line or "undefined" in line]
                raise RuntimeError(f"building {target} failed: {' '.join(command)}\n" + "\n".join(errors[:30] or output.splitlines()[-30:]))
    return library


@functools.cache
def library(kind: str = "kernels") -> ctypes.CDLL:
    """The library with the CUDA kernels, or ("checks") the one with the kernels of tests/cuda/checks.

    Raises:
        Unavailable: there is no GPU, and the emulator cannot be built here.
        RuntimeError: the build failed; the message has the compiler's errors.
    """
    suffix = "" if kind == "kernels" else f"_{kind}"
    path = _gpu_library().with_name(f"libingot_cuda{suffix}.so") if on_gpu() else _build(f"ingot_cuda_emulated{suffix}")
    loaded = ctypes.CDLL(str(path))
    counted = (ctypes.c_void_p, ctypes.c_size_t)
    loaded.ingot_cuda_run_kernel.argtypes = (ctypes.c_char_p, ctypes.c_int, *counted, *counted, *counted, *counted, *counted, ctypes.c_void_p,
                                             ctypes.c_char_p, ctypes.c_size_t)  # fmt: skip
    loaded.ingot_cuda_kernel_name.restype = ctypes.c_char_p
    loaded.ingot_cuda_kernel_name.argtypes = (ctypes.c_size_t,)
    return loaded


def kernels() -> list[str]:
    """The names of all CUDA kernels."""
    names: list[str] = []
    while (name := library().ingot_cuda_kernel_name(len(names))) is not None:
        names.append(name.decode())
    return names


def fault() -> str | None:
    """What kernels have reported since the last call of data that they do not take, the first of it; None: nothing."""
    message = ctypes.create_string_buffer(1024)
    return message.value.decode() if library().ingot_cuda_take_fault(message, ctypes.c_size_t(1024)) else None


def capability() -> int:
    """The compute capability that kernels see if none is asked for: 90 for an H100, and in the emulator."""
    values = ctypes.c_int(), ctypes.c_int()
    message = ctypes.create_string_buffer(1024)
    if library("checks" if not on_gpu() else "kernels").ingot_cuda_device(ctypes.byref(values[0]), ctypes.byref(values[1]), message, 1024) != 0:
        raise KernelError(message.value.decode())
    return values[0].value


def _tensor(address: int, shape: Sequence[int], dtype: str) -> DLTensor:
    code, bits = DTYPES[dtype]
    extents = (ctypes.c_int64 * max(1, len(shape)))(*shape)
    return DLTensor(address, _CUDA, 0, len(shape), DLDataType(code, bits, 1), extents, None, 0)


def prepare(
    name: str,
    inputs: Sequence[DLTensor | None],
    outputs: Sequence[DLTensor],
    *,
    dims: Sequence[int] = (),
    ints: Sequence[int] = (),
    floats: Sequence[float] = (),
    capability: int = 0,
    kind: str = "kernels",
) -> Callable[..., None]:
    """A function of a stream (a cudaStream_t as a number; 0) that puts a kernel on it, for tensors in device memory. It raises KernelError."""
    function = library(kind).ingot_cuda_run_kernel
    # `keep` of the function below holds the structures that these point at.
    addresses = [
        (ctypes.c_void_p * max(1, len(tensors)))(*[None if t is None else ctypes.addressof(t) for t in tensors]) for tensors in (inputs, outputs)
    ]
    numbers = [(ctypes.c_int64 * max(1, len(values)))(*values) for values in (dims, ints)]
    reals = (ctypes.c_double * max(1, len(floats)))(*floats)
    message = ctypes.create_string_buffer(4096)
    head = (name.encode(), capability, addresses[0], len(inputs), addresses[1], len(outputs), numbers[0], len(dims), numbers[1], len(ints))

    def call(stream: int = 0, keep: object = (inputs, outputs)) -> None:
        if function(*head, reals, len(floats), stream, message, len(message)) != 0:
            raise KernelError(message.value.decode(errors="replace"))

    return call


def of_torch(tensor: Any) -> DLTensor:
    """A contiguous PyTorch tensor on a GPU, for `prepare`; it must be kept while the kernel runs."""
    if not tensor.is_contiguous():
        raise ValueError("the tensor is not contiguous")
    return _tensor(tensor.data_ptr(), tensor.shape, str(tensor.dtype).removeprefix("torch."))


class _Buffer:
    """The bytes of a tensor in device memory, between guards."""

    def __init__(self, content: Array) -> None:
        content = np.ascontiguousarray(content)
        self.shape, self.dtype, self.bytes = content.shape, content.dtype, content.nbytes
        self.start = GUARD
        size = 2 * GUARD + (content.nbytes + 255) // 256 * 256
        if on_gpu():
            host = np.full(size, 0xFF, np.uint8)
            self.memory: Any = None
        else:
            # NumPy aligns to 16 bytes; CUDA's allocations are aligned to 256.
            memory = np.full(size + 256, 0xFF, np.uint8)
            host = memory[-memory.ctypes.data % 256 :][:size]
            self.memory = host
        host[self.start : self.start + self.bytes] = np.frombuffer(content.tobytes(), np.uint8)
        if on_gpu():
            import torch

            self.memory = torch.from_numpy(host).cuda()
        self.before = host.copy()

    @property
    def tensor(self) -> DLTensor:
        address = self.memory.data_ptr() if on_gpu() else self.memory.ctypes.data
        return _tensor(address + self.start, self.shape, str(self.dtype))

    def read(self, what: str, *, written: bool) -> Array:
        """The tensor as it is now. Raises KernelError if something else was written."""
        now = self.memory.cpu().numpy() if on_gpu() else self.memory
        changed = np.flatnonzero(now != self.before)
        if written:
            changed = changed[(changed < self.start) | (changed >= self.start + self.bytes)]
        if changed.size:
            where = int(changed[0]) - self.start
            raise KernelError(f"{what} of {self.bytes} bytes: the kernel wrote at byte {where} of it")
        return np.frombuffer(now[self.start : self.start + self.bytes].tobytes(), self.dtype).reshape(self.shape).copy()


def _synchronize(what: str) -> None:
    """Waits for the GPU. After an error in a kernel the process can use it no more, and a kernel that does not end cannot be ended otherwise.

    So the process ends, with a message: pytest-xdist starts another for the tests that are left, and calls this one crashed.
    """
    import torch

    problem = f"not done after {PATIENCE} s"
    try:
        done = torch.cuda.Event()  # type: ignore[no-untyped-call]
        done.record(torch.cuda.default_stream())
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            if done.query():  # type: ignore[no-untyped-call]
                return
            time.sleep(2e-5)
    except RuntimeError as error:
        problem = str(error).splitlines()[0]
    text = f"{os.environ.get('PYTEST_CURRENT_TEST', '')}: {what}: {problem}"
    if "PYTEST_XDIST_WORKER" not in os.environ and not problem.startswith("not done"):
        raise KernelError(text)
    folder = Path(os.environ.get("OUT") or ROOT / "build" / "cuda-results")
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "crashes.log").open("a") as file:
        file.write(text + "\n")
    print(text, file=sys.stderr, flush=True)
    os._exit(70)


def run(
    name: str,
    inputs: Sequence[Array | None],
    outputs: Sequence[Output],
    *,
    dims: Sequence[int] = (),
    ints: Sequence[int] = (),
    floats: Sequence[float] = (),
    capability: int = 0,
    aliases: Mapping[int, int] | None = None,
    kind: str = "kernels",
) -> list[Array]:
    """Runs a kernel and gives its outputs.

    Args:
        name: a row of kernels/cuda/registry.cpp.
        inputs: arrays; None where an input is left out. Types are NumPy's and ml_dtypes'.
        outputs: (shape, dtype) each: memory of NaN; or an array, with which the output's memory starts.
        dims: see KernelContext in kernels/kernel.h.
        ints: likewise.
        floats: likewise.
        capability: the GPU to take the path of (80, 90, ...); 0: the one that is there, 90 in the emulator.
        aliases: outputs that are an input's memory, changed in place: output -> input. The array of that output is not looked at.
        kind: the library that has the kernel: "kernels" or "checks".

    Raises:
        KernelError: the kernel refused its arguments, the emulator found an error, or something was written outside of the outputs.
    """
    shared = dict(aliases or {})
    given = [None if array is None else _Buffer(np.asarray(array)) for array in inputs]
    taken: list[_Buffer] = []
    for index, output in enumerate(outputs):
        if index in shared:
            buffer = given[shared[index]]
            assert buffer is not None
            taken.append(buffer)
        elif isinstance(output, np.ndarray):
            taken.append(_Buffer(output))
        else:
            shape, dtype = output
            size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
            taken.append(_Buffer(np.full(size, 0xFF, np.uint8).view(dtype).reshape(tuple(shape))))
    tensors = [None if buffer is None else buffer.tensor for buffer in given]
    call = prepare(name, tensors, [b.tensor for b in taken], dims=dims, ints=ints, floats=floats, capability=capability, kind=kind)
    call()
    if on_gpu():
        _synchronize(f"{name} {[b and (b.shape, str(b.dtype)) for b in given]} dims={[*dims]} ints={[*ints]} floats={[*floats]}")
    for index, buffer in enumerate(given):
        if buffer is not None and index not in shared.values():
            buffer.read(f"input {index}", written=False)
    return [buffer.read(f"output {index}", written=True) for index, buffer in enumerate(taken)]
