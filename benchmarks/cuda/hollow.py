"""Artifacts without their weights, for timings on a machine that nothing large can be brought to. NumPy is all that is needed.

    python3 benchmarks/cuda/hollow.py empty model.ingot model.hollow      a file of some hundred kB: all but large weights
    python3 benchmarks/cuda/hollow.py fill model.hollow model.ingot       there: random weights in their place

Numbers are random but of a plausible size, so that nothing overflows; tensors of up to 64 kB (indices, biases, norms) are kept as they are.
Outputs mean nothing; times do, as long as they do not depend on what is computed.
"""

from __future__ import annotations

import argparse
import json
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np

# docs/format.md
HEADER, ENTRY = struct.Struct("<8sIIQQQ20xI"), struct.Struct("<IIQQQ")
MANIFEST, WEIGHTS = 1, 3
KEPT = 65536  # bytes of a tensor that is not worth leaving out
_HOLLOW = struct.Struct("<8sQQ")
_MAGIC = b"HOLLOW01"


def _read(data: bytes) -> tuple[tuple[Any, ...], list[list[int]], dict[str, Any]]:
    """The header, the segment table and the manifest of an artifact."""
    header = HEADER.unpack_from(data)
    table = [list(ENTRY.unpack_from(data, HEADER.size + ENTRY.size * i)) for i in range(header[2])]
    start = table[0][2]
    return header, table, json.loads(data[start : start + header[5]])


def manifest_of(path: Path) -> dict[str, Any]:
    """The manifest of an artifact."""
    return _read(path.read_bytes())[2]


def _weights(table: list[list[int]]) -> list[int]:
    return next(segment for segment in table if segment[0] == WEIGHTS)


def empty(source: Path, output: Path) -> None:
    """Writes an artifact without its large weights."""
    data = bytearray(source.read_bytes())
    _, table, manifest = _read(bytes(data))
    offset, size = _weights(table)[2:4]
    for tensor in manifest["weights"]["tensors"]:
        if tensor["nbytes"] > KEPT:
            begin = offset + tensor["offset"]
            data[begin : begin + tensor["nbytes"]] = bytes(tensor["nbytes"])
    output.write_bytes(_HOLLOW.pack(_MAGIC, len(data), size) + zlib.compress(bytes(data), 6))


def _random(tensor: dict[str, Any], rng: np.random.Generator) -> bytes:
    """Numbers of a tensor's type: codes are any bits, scales of quantized weights small and positive, other floats normal."""
    dtype, count = tensor["dtype"], tensor["nbytes"]
    if dtype not in ("float32", "float16", "bfloat16", "float64"):
        return rng.bytes(count)
    block = rng.standard_normal(1 << 20).astype(np.float32) * np.float32(0.02)
    if ":panels" in tensor["name"]:
        block = np.abs(block) * np.float32(0.1) + np.float32(1e-4)
    raw = block.astype(dtype).tobytes() if dtype != "bfloat16" else (block.view(np.uint32) >> 16).astype(np.uint16).tobytes()
    return (raw * (count // len(raw) + 1))[:count]


def fill(source: Path, output: Path) -> None:
    """Writes the artifact again, with random weights and checksums that are theirs."""
    packed = source.read_bytes()
    magic, size, _ = _HOLLOW.unpack_from(packed)
    if magic != _MAGIC:
        raise SystemExit(f"{source} was not made by `hollow.py empty`")
    data = bytearray(zlib.decompress(packed[_HOLLOW.size :], bufsize=size))
    header, table, manifest = _read(bytes(data))
    rng = np.random.default_rng(0)
    segment = _weights(table)
    for tensor in manifest["weights"]["tensors"]:
        if tensor["nbytes"] > KEPT:
            begin = segment[2] + tensor["offset"]
            data[begin : begin + tensor["nbytes"]] = filled = _random(tensor, rng)
            tensor["crc32"] = zlib.crc32(filled)
    segment[1] = zlib.crc32(memoryview(data)[segment[2] : segment[2] + segment[3]])
    text = json.dumps(manifest, ensure_ascii=False, separators=(",", ":")).encode()
    start, room = table[0][2], table[0][3]
    if len(text) > room:
        raise SystemExit(f"{source}: the manifest has grown from {header[5]} to {len(text)} bytes, and has room for {room}")
    data[start : start + room] = body = text + bytes(room - len(text))
    table[0][1] = zlib.crc32(body)
    rest = b"".join(ENTRY.pack(*s) for s in table)
    rest += bytes(header[4] - HEADER.size - len(rest))

    def first(crc: int) -> bytes:
        return HEADER.pack(header[0], header[1], header[2], header[3], header[4], len(text), crc)

    data[: header[4]] = first(zlib.crc32(first(0) + rest)) + rest
    output.write_bytes(data)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("empty", "fill"))
    parser.add_argument("source", type=Path)
    parser.add_argument("output", type=Path)
    arguments = parser.parse_args()
    {"empty": empty, "fill": fill}[arguments.action](arguments.source, arguments.output)


if __name__ == "__main__":
    main()
