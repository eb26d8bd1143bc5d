"""A checkpoint's tensors where they lie: safetensors files, one or sharded, as external data of ONNX. Nothing is read but their headers."""

from __future__ import annotations

import json
import os
import struct
from dataclasses import dataclass
from pathlib import Path

import onnx

from ingot.errors import CompileError, FileError

_TYPES = {"F64": onnx.TensorProto.DOUBLE, "F32": onnx.TensorProto.FLOAT, "F16": onnx.TensorProto.FLOAT16, "BF16": onnx.TensorProto.BFLOAT16}
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

    Raises:
        FileError: There is no safetensors file, or one that the index names is missing.
        CompileError: A file is malformed.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._entries: dict[str, _Entry] = {}
        for path in _files(directory):
            self._entries.update(_read_header(path))
        # Files of a hub's cache are links to elsewhere: external data has to lie below one folder.
        self.root = Path(os.path.commonpath([os.path.dirname(os.path.realpath(e.file)) for e in self._entries.values()]))

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def shape(self, name: str) -> tuple[int, ...]:
        """A tensor's shape."""
        return self._entry(name).shape

    def dtype(self, name: str) -> int:
        """A tensor's type, as ONNX numbers it."""
        return self._entry(name).dtype

    def prefixed(self, name: str, prefixes: tuple[str, ...]) -> str:
        """The name that a tensor has here: checkpoints of a model with and without its head differ by a prefix."""
        for prefix in ("", *prefixes):
            for candidate in (prefix + name, name.removeprefix(prefix) if prefix else name):
                if candidate in self._entries:
                    return candidate
        return name

    def initializer(self, name: str) -> onnx.TensorProto:
        """A tensor as external data, relative to ``root``."""
        entry = self._entry(name)
        tensor = onnx.TensorProto(name=name, data_type=entry.dtype, dims=entry.shape, data_location=onnx.TensorProto.EXTERNAL)
        location = os.path.relpath(os.path.realpath(entry.file), self.root)
        for key, value in (("location", location), ("offset", entry.offset), ("length", entry.nbytes)):
            tensor.external_data.add(key=key, value=str(value))
        return tensor

    def _entry(self, name: str) -> _Entry:
        if name not in self._entries:
            raise CompileError(f"{self.directory}: there is no tensor '{name}' in its safetensors files")
        return self._entries[name]


def _files(directory: Path) -> list[Path]:
    index = directory / "model.safetensors.index.json"
    if index.is_file():
        try:
            names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        except (ValueError, KeyError, AttributeError) as error:
            raise CompileError(f"{index}: this is not an index of safetensors files: {error}") from error
        missing = [n for n in names if not (directory / n).is_file()]
        if missing:
            raise FileError(f"{directory}: {len(missing)} of the {len(names)} files in {index.name} are missing, such as '{missing[0]}'")
        return [directory / n for n in names]
    found = sorted(directory.glob("*.safetensors"))
    if not found:
        raise FileError(f"{directory}: there is no safetensors file; save the model with save_pretrained(..., safe_serialization=True)")
    return found


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
