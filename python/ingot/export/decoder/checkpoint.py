"""A checkpoint's tensors as external data of ONNX, where they lie: safetensors files, one or sharded, of which only headers are read.

What ``torch.save`` wrote (export/saved.py), weights that GPTQ or AWQ quantized, and those in FP8 are written to a scratch file first, one tensor at a
time.
"""

from __future__ import annotations

import json
import os
import struct
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx

from ingot.errors import CompileError, MissingFileError
from ingot.export.packed import FP8_SCALES, PARTS, Blocks, Settings, blocks_of, fp8_numbers, unpack

if TYPE_CHECKING:
    import torch

_TYPES = {"F64": onnx.TensorProto.DOUBLE, "F32": onnx.TensorProto.FLOAT, "F16": onnx.TensorProto.FLOAT16, "BF16": onnx.TensorProto.BFLOAT16,
          "I32": onnx.TensorProto.INT32, "F8_E4M3": onnx.TensorProto.FLOAT8E4M3FN}
_ALIGNMENT = 64  # of tensors in the scratch file
_LONGEST_HEADER = 100_000_000  # what the format allows


@dataclass(frozen=True)
class _Entry:
    file: Path
    dtype: int
    shape: tuple[int, ...]
    offset: int
    nbytes: int


class Checkpoint:
    """The tensors of a directory by name.

    Args:
        directory: Where its files are.
        folder: For a scratch file, which has to be there until the artifact is.
        settings: How the weights that are quantized there are quantized; None if none is.

    Raises:
        FileError: There are no weights, or a file that an index names is missing.
        CompileError: A file is malformed.
    """

    def __init__(self, directory: Path, folder: Path, settings: Settings | None = None) -> None:
        self.directory = directory
        self.settings = settings
        self._entries: dict[str, _Entry] = {}
        self._scratch = folder / "weights"
        for path in _files(directory):
            self._entries.update(_read_header(path))
        scratch = [] if self._entries and settings is None else [self._scratch]
        if not self._entries:
            self._keep_saved()
        # Files of a hub's cache are links to elsewhere: external data has to lie below one folder.
        files = [e.file for e in self._entries.values()] + scratch
        self.root = Path(os.path.commonpath([os.path.dirname(os.path.realpath(f)) for f in files]))

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def shape(self, name: str) -> tuple[int, ...]:
        """A tensor's shape."""
        return self._entry(name).shape

    def dtype(self, name: str) -> int:
        """A tensor's type, as ONNX numbers it; that of what is stored in FP8 is bfloat16."""
        dtype = self._entry(name).dtype
        return dtype if dtype != onnx.TensorProto.FLOAT8E4M3FN else int(onnx.TensorProto.BFLOAT16)

    def prefixed(self, name: str, prefixes: tuple[str, ...]) -> str:
        """The name that a tensor has here: checkpoints of a model with and without its head differ by a prefix."""
        for prefix in ("", *prefixes):
            for candidate in (prefix + name, name.removeprefix(prefix) if prefix else name):
                if candidate in self._entries:
                    return candidate
        return name

    def blocks(self, layer: str) -> Blocks | None:
        """The matrix of a layer as MatMulNBits has it, if it is quantized here."""
        if f"{layer}.qweight" not in self._entries:
            return None
        where = f"{self.directory}: {layer}"
        if self.settings is None:
            raise CompileError(f"{where}: its weight is quantized, but config.json has no quantization_config that says how")
        parts = {part: self._array(f"{layer}.{part}") for part in PARTS if f"{layer}.{part}" in self._entries}
        if "scales" not in parts or parts["scales"].ndim != 2 or parts["qweight"].ndim != 2:
            raise CompileError(f"{where}: its quantized weight lacks scales [groups, outputs]")
        rows, packed = len(parts["qweight"]), 32 // self.settings.bits
        return blocks_of(unpack(self.settings, parts, rows * packed if self.settings.method == "gptq" else rows, parts["scales"].shape[1], where))

    def initializer(self, name: str) -> onnx.TensorProto:
        """A tensor as external data, relative to ``root``."""
        entry = self._entry(name)
        return self._external(name, self._widened(name) if entry.dtype == onnx.TensorProto.FLOAT8E4M3FN else entry)

    def kept(self, name: str, array: npt.NDArray[Any]) -> onnx.TensorProto:
        """An array as external data in the scratch file."""
        return self._external(name, self._write(array, onnx.helper.np_dtype_to_tensor_dtype(array.dtype)))

    def _widened(self, name: str) -> _Entry:
        """A weight in FP8 with its scales, as bfloat16 in the scratch file: rounding it so loses a sixteenth of what FP8 did."""
        where = f"{self.directory}: {name}"
        scales = next((name + ending for ending in FP8_SCALES if name + ending in self._entries), None)
        if self.settings is None or scales is None:
            lacking = "config.json has no quantization_config" if self.settings is None else "there are no scales"
            raise CompileError(f"{where}: it is stored in FP8, but {lacking}")
        numbers = fp8_numbers(self._array(name), self._array(scales), where)
        return self._write(numbers.astype(ml_dtypes.bfloat16), onnx.TensorProto.BFLOAT16)

    def _external(self, name: str, entry: _Entry) -> onnx.TensorProto:
        tensor = onnx.TensorProto(name=name, data_type=entry.dtype, dims=entry.shape, data_location=onnx.TensorProto.EXTERNAL)
        location = os.path.relpath(os.path.realpath(entry.file), self.root)
        for key, value in (("location", location), ("offset", entry.offset), ("length", entry.nbytes)):
            tensor.external_data.add(key=key, value=str(value))
        return tensor

    def _entry(self, name: str) -> _Entry:
        if name not in self._entries:
            raise CompileError(f"{self.directory}: there is no tensor '{name}' in its files of weights")
        return self._entries[name]

    def _array(self, name: str) -> npt.NDArray[Any]:
        entry = self._entry(name)
        dtype = onnx.helper.tensor_dtype_to_np_dtype(entry.dtype)
        return np.memmap(entry.file, dtype, "r", entry.offset, entry.shape) if entry.nbytes else np.empty(entry.shape, dtype)

    def _write(self, array: npt.NDArray[Any], dtype: int) -> _Entry:
        """Adds to the scratch file."""
        data = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        with self._scratch.open("ab") as file:
            file.write(bytes(-file.tell() % _ALIGNMENT))
            entry = _Entry(self._scratch, dtype, array.shape, file.tell(), data.nbytes)
            file.write(data.data)
        return entry

    def _keep_saved(self) -> None:
        """Writes what ``torch.save`` wrote to the scratch file; tensors that share memory once."""
        from ingot.export.saved import saved_tensors

        for tensors in saved_tensors(self.directory):
            written: dict[Any, _Entry] = {}
            for name, tensor in tensors.items():
                dtype = _TORCH_TYPES.get(str(tensor.dtype))
                if dtype is None:
                    continue  # masks and positions of old checkpoints
                key = (tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
                if key not in written:
                    written[key] = self._write(_bits(tensor), dtype)
                self._entries[name] = replace(written[key], shape=tuple(tensor.shape))


def _files(directory: Path) -> list[Path]:
    index = directory / "model.safetensors.index.json"
    if index.is_file():
        try:
            names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        except (ValueError, KeyError, AttributeError) as error:
            raise CompileError(f"{index}: this is not an index of safetensors files: {error}") from error
        missing = [n for n in names if not (directory / n).is_file()]
        if missing:
            raise MissingFileError(f"{directory}: {len(missing)} of the {len(names)} files in {index.name} are missing, such as '{missing[0]}'")
        return [directory / n for n in names]
    return sorted(directory.glob("*.safetensors"))


_TORCH_TYPES = {"torch.float64": onnx.TensorProto.DOUBLE, "torch.float32": onnx.TensorProto.FLOAT, "torch.float16": onnx.TensorProto.FLOAT16,
                "torch.bfloat16": onnx.TensorProto.BFLOAT16, "torch.int32": onnx.TensorProto.INT32}


def _bits(tensor: torch.Tensor) -> npt.NDArray[Any]:
    """A tensor's numbers, of bfloat16 as integers."""
    import torch

    tensor = tensor.detach().contiguous()
    bits: npt.NDArray[Any] = (tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor).numpy()
    return bits


def _read_header(path: Path) -> dict[str, _Entry]:
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > min(size, _LONGEST_HEADER):
                raise ValueError("its header is longer than the file")
            header = json.loads(file.read(length))
        entries = {}
        for name, entry in header.items():
            if name == "__metadata__" or entry["dtype"] not in _TYPES:
                continue
            begin, end = entry["data_offsets"]
            if not 0 <= begin <= end <= size - 8 - length:
                raise ValueError(f"tensor '{name}' ends beyond the file")
            entries[name] = _Entry(path, _TYPES[entry["dtype"]], tuple(entry["shape"]), 8 + length + begin, end - begin)
    except (ValueError, KeyError, TypeError, struct.error) as error:
        raise CompileError(f"{path}: this is not a safetensors file, or it is truncated: {error}") from error
    return entries
