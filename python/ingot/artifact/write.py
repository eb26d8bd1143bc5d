"""Writes .ingot files (docs/format.md): segments are streamed to a temporary file that replaces the output when it is whole."""

from __future__ import annotations

import contextlib
import json
import os
import struct
import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from ingot.errors import InternalError
from ingot.importer.weights import STRING, as_strings, dtype_name, encode_strings

if TYPE_CHECKING:
    from ingot.artifact.link import Image
    from ingot.artifact.samples import Sample
    from ingot.importer.module import TensorSpec
    from ingot.importer.weights import Weight
    from ingot.lower.cuda.codegen import CudaImage
    from ingot.lower.targets import Target

MAGIC = b"\x89INGOT\r\n"
VERSION = 1
ALIGNMENT = 65536
WEIGHT_ALIGNMENT = 64
MANIFEST, CODE, WEIGHTS, SAMPLES, ASSETS = 1, 2, 3, 4, 5
_HEADER = struct.Struct("<8sIIQQQ20xI")
_ENTRY = struct.Struct("<IIQQQ")


@dataclass
class _Segment:
    kind: int
    crc: int = 0
    size: int = 0


class Writer:
    """Writes one artifact. Add the segments that follow the manifest in order, then :meth:`finish` with the manifest.

    The manifest comes first in the file but is complete only last, so room for it is kept: ``manifest_capacity`` bytes.
    """

    def __init__(self, file: IO[bytes], manifest_capacity: int, segment_count: int) -> None:
        self._file = file
        self._capacity = -(-manifest_capacity // ALIGNMENT) * ALIGNMENT
        self._prefix_size = -(-(_HEADER.size + _ENTRY.size * (segment_count + 1)) // ALIGNMENT) * ALIGNMENT
        self._count = segment_count
        self._segments: list[_Segment] = []
        file.seek(self._prefix_size + self._capacity)

    @contextlib.contextmanager
    def segment(self, kind: int) -> Iterator[Callable[[Any], int]]:
        """Adds a segment piece by piece: yields a function that writes bytes and returns their offset in the segment."""
        segment = _Segment(kind)

        def write(data: Any) -> int:
            offset = segment.size
            segment.crc = zlib.crc32(data, segment.crc)
            self._file.write(data)
            segment.size += memoryview(data).nbytes
            return offset

        yield write
        write(bytes(-segment.size % ALIGNMENT))
        self._segments.append(segment)

    def finish(self, manifest: dict[str, Any]) -> int:
        """Writes the manifest, the header and the segment table; returns the size of the file in bytes."""
        text = encode(manifest)
        if len(text) > self._capacity or len(self._segments) != self._count:
            raise InternalError(f"the artifact was planned for {self._count} segments and a manifest of {self._capacity} bytes, "
                                f"but has {len(self._segments)} and {len(text)}")
        body = text + bytes(self._capacity - len(text))
        segments = [_Segment(MANIFEST, zlib.crc32(body), len(body)), *self._segments]
        offset, table = self._prefix_size, b""
        for segment in segments:
            table += _ENTRY.pack(segment.kind, segment.crc, offset, segment.size, 0)
            offset += segment.size

        def header(crc: int) -> bytes:
            return _HEADER.pack(MAGIC, VERSION, len(segments), offset, self._prefix_size, len(text), crc)

        rest = table + bytes(self._prefix_size - _HEADER.size - len(table))
        self._file.seek(0)
        self._file.write(header(zlib.crc32(header(0) + rest)) + rest + body)
        return offset


_LARGEST_CRC = 2**32 - 1  # stands for a checksum that is not known yet, in as many digits as one can have


class Layout:
    """Places weights and samples in their segments before they are written, so that the manifest can be sized."""

    def __init__(self) -> None:
        self._end = 0
        self._assets = 0

    def weight(self, weight: Weight) -> dict[str, Any]:
        """The manifest entry of the next weight; its checksum is filled in by :func:`put_weight`."""
        offset = -(-self._end // WEIGHT_ALIGNMENT) * WEIGHT_ALIGNMENT
        nbytes = weight.nbytes
        self._end = offset + nbytes
        return {"name": weight.name, "dtype": manifest_dtype(weight.dtype), "shape": list(weight.shape), "offset": offset, "nbytes": nbytes,
                "crc32": _LARGEST_CRC}

    def asset(self, name: str, path: Path) -> dict[str, Any]:
        """The manifest entry of the next file that travels with the model."""
        offset, size = self._assets, path.stat().st_size
        self._assets += size
        return {"name": name, "offset": offset, "nbytes": size}

    @staticmethod
    def samples(cases: Sequence[Sample]) -> list[dict[str, Any]]:
        """The manifest entries of reference samples."""
        end = 0
        entries = []
        for case in cases:
            entry: dict[str, Any] = {}
            for side, arrays in (("inputs", case.inputs), ("outputs", case.outputs)):
                entry[side] = []
                for array in arrays.values():
                    dtype = manifest_dtype(dtype_name(array.dtype))
                    nbytes = len(_stored(array))
                    entry[side].append({"dtype": dtype, "shape": list(array.shape), "offset": end, "nbytes": nbytes})
                    end += -(-nbytes // WEIGHT_ALIGNMENT) * WEIGHT_ALIGNMENT
            entries.append(entry)
        return entries


def manifest_dtype(name: str) -> str:
    """A dtype's name in a manifest."""
    return "string" if name == STRING else name


def tensor_entry(spec: TensorSpec) -> dict[str, Any]:
    """The manifest entry of an input, an output or a state."""
    return {"name": spec.name, "dtype": manifest_dtype(spec.dtype), "shape": [d if isinstance(d, int) else str(d) for d in spec.shape]}


def _stored(array: np.ndarray[Any, Any]) -> Any:
    """The bytes of an array as files hold them."""
    if array.dtype.kind in "OUST":
        return encode_strings(as_strings(array))
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8) if array.size else b""


def put_weight(put: Callable[[Any], int], weight: Weight, entry: dict[str, Any]) -> None:
    """Reads a weight, writes it at its place and notes its checksum. It is in memory only meanwhile."""
    array = np.asarray(weight.load(), order="C")  # np.ascontiguousarray would make a scalar 1-D
    if dtype_name(array.dtype) != weight.dtype or array.shape != weight.shape:
        raise InternalError(f"weight '{weight.name}' is {array.dtype.name}{list(array.shape)}, expected {weight.dtype}{list(weight.shape)}")
    view: Any = _stored(array)
    put(bytes(entry["offset"] - put(b"")))
    put(view)
    entry["crc32"] = zlib.crc32(view)


def put_samples(put: Callable[[Any], int], cases: Sequence[Sample]) -> None:
    """Writes reference samples as :meth:`Layout.samples` placed them."""
    for case in cases:
        for array in (*case.inputs.values(), *case.outputs.values()):
            stored = _stored(array)
            put(stored)
            put(bytes(-len(stored) % WEIGHT_ALIGNMENT))


def target_entry(target: Target, image: Image | CudaImage, program: dict[str, Any], segment: int) -> dict[str, Any]:
    """The manifest entry of a target."""
    return {"name": target.name, "arch": target.arch, "features": list(target.features), "code": image.entry(segment), "program": program}


def encode(manifest: dict[str, Any]) -> bytes:
    """The manifest's JSON."""
    return json.dumps(manifest, ensure_ascii=False, separators=(",", ":")).encode()


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A new file that takes ``path``'s place when the block ends without an error; a killed process leaves ``path`` alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
