"""libingot's C ABI through ctypes, as far as tests and benchmarks of models on a GPU need it: for machines without Ingot's Python package."""

from __future__ import annotations

import ctypes
import os
from ctypes import POINTER, byref, c_char_p, c_int32, c_int64, c_size_t, c_uint8, c_uint16, c_uint32, c_uint64, c_void_p
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[3]
#: What ``make cuda-models`` writes: libingot.so, the folders runtime and small of the tests, and the models of benchmarks.
MADE = ROOT / "build" / "cuda-models"
LIBINGOT = MADE / "libingot.so"
CUDA_LIBRARY = Path(os.environ.get("INGOT_CUDA_LIBRARY") or ROOT / "build" / "cuda" / "libingot_cuda.so")
CPU, CUDA = 1, 2


def missing(*inputs: Path) -> str | None:
    """What of libingot, libingot_cuda and these inputs is not there, and what makes it; None: nothing."""
    for path, command in ((CUDA_LIBRARY, "make cuda"), *((path, "make cuda-models") for path in (LIBINGOT, *inputs))):
        if not path.exists():
            return f"there is no {path.relative_to(ROOT) if path.is_relative_to(ROOT) else path}: `{command}` writes it"
    return None


class Device(ctypes.Structure):
    """DLDevice."""

    _fields_ = [("kind", c_int32), ("number", c_int32)]


class DataType(ctypes.Structure):
    """DLDataType."""

    _fields_ = [("code", c_uint8), ("bits", c_uint8), ("lanes", c_uint16)]


class Tensor(ctypes.Structure):
    """DLTensor."""

    _fields_ = [("data", c_void_p), ("device", Device), ("ndim", c_int32), ("dtype", DataType), ("shape", POINTER(c_int64)),
                ("strides", POINTER(c_int64)), ("byte_offset", c_uint64)]


class Managed(ctypes.Structure):
    """DLManagedTensorVersioned."""

    _fields_ = [("major", c_uint32), ("minor", c_uint32), ("context", c_void_p), ("deleter", ctypes.CFUNCTYPE(None, c_void_p)),
                ("flags", c_uint64), ("tensor", Tensor)]


class Options(ctypes.Structure):
    """ingot_load_options."""

    _fields_ = [("size", c_size_t), ("threads", c_int32), ("verify", c_int32), ("target", c_char_p), ("device", c_int32)]


class IngotError(Exception):
    """What libingot reported, with its status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


_CODES = {"int": 0, "uint": 1, "float": 2, "bfloat": 4, "bool": 6}  # DLPack's DLDataTypeCode
TYPES = {name + bits: DataType(_CODES[name], int(bits or 8), 1) for name, sizes in (
    ("int", ("8", "16", "32", "64")), ("uint", ("8", "16", "32", "64")), ("float", ("16", "32", "64")), ("bfloat", ("16",)), ("bool", ("",)))
    for bits in sizes}


class Library:
    """libingot.so, with libingot_cuda."""

    def __init__(self) -> None:
        os.environ["INGOT_CUDA_LIBRARY"] = str(CUDA_LIBRARY)
        self.c = ctypes.CDLL(str(LIBINGOT))
        self.c.ingot_last_error.restype = c_char_p

    def call(self, name: str, *arguments: Any) -> None:
        """Calls a function that returns a status."""
        status = getattr(self.c, name)(*arguments)
        if status != 0:
            raise IngotError(status, self.c.ingot_last_error().decode())

    def load(self, path: Path, target: str | None = None) -> Model:
        """Loads a model on GPU 0."""
        options = Options(ctypes.sizeof(Options), 2, 0, target.encode() if target else None, 0)
        model = c_void_p()
        self.call("ingot_model_load", str(path).encode(), byref(options), byref(model))
        return Model(self, model)


class Model:
    """A loaded model."""

    def __init__(self, library: Library, handle: c_void_p) -> None:
        self.library, self.handle = library, handle

    def __del__(self) -> None:
        self.library.c.ingot_model_free(self.handle)

    def session(self) -> Session:
        """A new session."""
        handle = c_void_p()
        self.library.call("ingot_session_create", self.handle, byref(handle))
        return Session(self, handle)


class Session:
    """A session. Inputs are NumPy arrays, or CUDA tensors of PyTorch."""

    def __init__(self, model: Model, handle: c_void_p) -> None:
        self.model, self.handle = model, handle
        self.call = model.library.call
        self._kept: dict[int, Any] = {}

    def __del__(self) -> None:
        self.model.library.c.ingot_session_free(self.handle)

    @staticmethod
    def tensor(array: Any) -> tuple[Tensor, Any]:
        """A DLTensor of an array, and what has to live as long."""
        shape = (c_int64 * len(array.shape))(*array.shape)
        on_cpu = isinstance(array, np.ndarray)
        data = array.ctypes.data if on_cpu else array.data_ptr()
        device = Device(CPU, 0) if on_cpu else Device(CUDA, array.device.index)
        return Tensor(data, device, len(array.shape), TYPES[str(array.dtype).removeprefix("torch.")], shape, None, 0), (array, shape)

    def set(self, index: int, array: Any) -> None:
        """Sets an input."""
        tensor, self._kept[index] = self.tensor(array)
        self.call("ingot_session_set_input", self.handle, c_size_t(index), byref(tensor))

    def run(self, *arrays: Any) -> None:
        """Sets inputs and runs."""
        for index, array in enumerate(arrays):
            self.set(index, array)
        self.call("ingot_session_run", self.handle)

    def output(self, index: int = 0) -> np.ndarray[Any, Any]:
        """A copy of an output on the CPU."""
        out = POINTER(Tensor)()
        self.call("ingot_session_output", self.handle, c_size_t(index), byref(out))
        tensor = out.contents
        assert tensor.device.kind == CPU
        shape = [tensor.shape[i] for i in range(tensor.ndim)]
        name = next(n for n, t in TYPES.items() if (t.code, t.bits) == (tensor.dtype.code, tensor.dtype.bits))
        array = np.empty(shape, name)
        if array.size:
            ctypes.memmove(array.ctypes.data, tensor.data, array.nbytes)
        return array

    def take(self, index: int = 0) -> Any:
        """An output as a capsule of DLPack."""
        out = POINTER(Managed)()
        self.call("ingot_session_take_output", self.handle, c_size_t(index), byref(out))
        make = ctypes.pythonapi.PyCapsule_New
        make.restype, make.argtypes = ctypes.py_object, [c_void_p, c_char_p, c_void_p]
        return make(ctypes.cast(out, c_void_p), b"dltensor_versioned", None)

    def give_on_gpu(self, index: int, on_gpu: bool) -> None:
        """Where an output is given."""
        self.call("ingot_session_set_output_device", self.handle, c_size_t(index), Device(CUDA if on_gpu else CPU, 0))

    def set_stream(self, stream: int) -> None:
        """The stream that later work goes to; 0: the session's own."""
        self.call("ingot_session_set_stream", self.handle, c_void_p(stream))

    def state(self, index: int, shape: tuple[int, ...], dtype: str) -> np.ndarray[Any, Any]:
        """A copy of a state."""
        array = np.empty(shape, dtype)
        self.call("ingot_session_read_state", self.handle, c_size_t(index), c_void_p(array.ctypes.data), c_size_t(array.nbytes))
        return array

    def graphs(self) -> tuple[int, int, str]:
        """How often runs were captured and replayed, and why the last one was not."""
        captured, replayed, reason = c_int64(), c_int64(), c_char_p()
        self.call("ingot_session_graphs", self.handle, byref(captured), byref(replayed), byref(reason))
        return captured.value, replayed.value, (reason.value or b"").decode()

    def profile(self) -> list[int]:
        """Nanoseconds of each step."""
        needed, runs = c_size_t(), c_int64()
        self.call("ingot_session_profile", self.handle, None, c_size_t(0), byref(needed), byref(runs))
        values = (c_int64 * needed.value)()
        self.call("ingot_session_profile", self.handle, values, needed, byref(needed), byref(runs))
        return list(values)
