"""Puts artifacts together by hand, as docs/format.md describes them: what the compiler would never write can be tested too."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import ingot

PAGE = 65536
MAGIC = b"\x89INGOT\r\n"
MANIFEST, CODE, WEIGHTS, SAMPLES = 1, 2, 3, 4
#: Extents: a number, or a symbol's name.
Shape = Sequence["int | str"]


def padded(data: bytes) -> bytes:
    """Data with zeros up to the next segment boundary."""
    return data + bytes(-len(data) % PAGE)


def file_bytes(manifest: Mapping[str, Any] | bytes, segments: Sequence[tuple[int, bytes]], *, version: int = 1) -> bytes:
    """A file with these segments after the manifest."""
    text = manifest if isinstance(manifest, bytes) else json.dumps(manifest).encode()
    parts = [(MANIFEST, padded(text)), *((kind, padded(data)) for kind, data in segments)]
    offset = PAGE
    table = b""
    for kind, data in parts:
        table += struct.pack("<IIQQQ", kind, zlib.crc32(data), offset, len(data), 0)
        offset += len(data)
    rest = table + bytes(PAGE - 64 - len(table))

    def header(crc: int) -> bytes:
        return struct.pack("<8sIIQQQ20xI", MAGIC, version, len(parts), offset, PAGE, len(text), crc)

    return header(zlib.crc32(header(0) + rest)) + rest + b"".join(data for _, data in parts)


@dataclass
class Function:
    """A function of a program; expressions and values are numbered as they are added."""

    name: str = "main"
    symbols: list[str] = field(default_factory=list)
    exprs: list[list[Any]] = field(default_factory=list)
    values: list[dict[str, Any]] = field(default_factory=list)
    inputs: list[int] = field(default_factory=list)
    outputs: list[int] = field(default_factory=list)
    weights: dict[str, int] = field(default_factory=dict)
    steps: list[dict[str, Any]] = field(default_factory=list)

    def expr(self, operator: str, *operands: int) -> int:
        """The number of an expression."""
        row = [operator, *operands]
        if row not in self.exprs:
            self.exprs.append(row)
        return self.exprs.index(row)

    def dim(self, extent: int | str) -> int:
        """The expression of an extent."""
        if isinstance(extent, int):
            return self.expr("const", extent)
        if extent not in self.symbols:
            self.symbols.append(extent)
        return self.expr("sym", self.symbols.index(extent))

    def value(self, dtype: str, shape: Shape) -> int:
        """A new value."""
        self.values.append({"dtype": dtype, "shape": [self.dim(d) for d in shape]})
        return len(self.values) - 1

    def input(self, dtype: str, shape: Shape) -> int:
        """A new input."""
        self.inputs.append(self.value(dtype, shape))
        return self.inputs[-1]

    def step(self, op: str, **fields: Any) -> None:
        """Adds a step."""
        self.steps.append({"op": op, "node": f"{fields.get('name', op)}_{len(self.steps)}", **fields})

    def apply(self, op: str, name: str, inputs: Sequence[int], *outputs: tuple[str, Shape], dims: Sequence[int] = (), ints: Sequence[int] = (),
              floats: Sequence[float] = ()) -> Any:
        """Adds a builtin or kernel step: its output, or a list of them."""
        results = [self.value(dtype, shape) for dtype, shape in outputs]
        self.step(op, name=name, inputs=list(inputs), outputs=results, dims=list(dims), ints=list(ints), floats=list(floats))
        return results[0] if len(results) == 1 else results

    def kernel(self, name: str, inputs: Sequence[int], *outputs: tuple[str, Shape], **attributes: Any) -> Any:
        """Adds a kernel step."""
        return self.apply("kernel", name, inputs, *outputs, **attributes)

    def builtin(self, name: str, inputs: Sequence[int], *outputs: tuple[str, Shape], **attributes: Any) -> Any:
        """Adds a builtin step."""
        return self.apply("builtin", name, inputs, *outputs, **attributes)

    def view(self, value: int, dtype: str, shape: Shape) -> int:
        """Adds a view step."""
        result = self.value(dtype, shape)
        self.step("view", input=value, output=result)
        return result

    def copy(self, value: int) -> int:
        """Adds a copy of a value."""
        source = self.values[value]
        self.values.append(dict(source))
        result = len(self.values) - 1
        self.step("builtin", name="copy", inputs=[value], outputs=[result])
        return result

    def as_json(self) -> dict[str, Any]:
        """The function as the manifest holds it."""
        return {"name": self.name, "symbols": self.symbols, "exprs": self.exprs, "values": self.values, "inputs": self.inputs,
                "outputs": self.outputs,
                "weights": self.weights, "steps": self.steps}


class Artifact:
    """An artifact under construction. ``main`` is its main function; ``add`` adds functions for ``if`` and ``loop``."""

    def __init__(self, dims: Sequence[str] = (), bounds: Mapping[str, int] | None = None) -> None:
        self.main = Function(symbols=list(dims))
        self.functions = [self.main]
        self.dims = [{"name": name, "max": (bounds or {}).get(name)} for name in dims]
        self.weights: list[tuple[dict[str, Any], bytes]] = []
        self.code: tuple[dict[str, Any], bytes] | None = None
        self.names: dict[int, str] = {}

    def add(self, name: str) -> tuple[int, Function]:
        """A new function and its number."""
        self.functions.append(Function(name))
        return len(self.functions) - 1, self.functions[-1]

    def weight(self, function: Function, array: np.ndarray[Any, Any], name: str = "w") -> int:
        """A value of ``function`` that is a weight."""
        data = np.ascontiguousarray(array)
        offset = sum(len(d) + -len(d) % 64 for _, d in self.weights)
        value = function.value(str(data.dtype), data.shape)
        function.weights[str(value)] = len(self.weights)
        row = {"name": name, "dtype": str(data.dtype), "shape": list(data.shape), "offset": offset, "nbytes": data.nbytes,
               "crc32": zlib.crc32(data.tobytes())}
        self.weights.append((row, data.tobytes()))
        return value

    def manifest(self) -> dict[str, Any]:
        """The manifest as JSON values."""

        def infos(prefix: str, values: Sequence[int]) -> list[dict[str, Any]]:
            rows = []
            for i, value in enumerate(values):
                row = self.main.values[value]
                shape = [self._text(e) for e in row["shape"]]
                rows.append({"name": f"{prefix}{i}", "dtype": row["dtype"], "shape": shape})
            return rows

        code = self.code[0] if self.code else {"text_size": 0, "data_size": 0, "bss_size": 0, "imports": [], "relocations": [], "functions": {}}
        target = {"name": "cpu:test", "arch": ingot.machine()["architecture"], "features": [], "code": {"segment": 1, **code},
                  "program": {"functions": [f.as_json() for f in self.functions]}}
        return {"format": 1, "producer": {}, "model": {"name": "test", "source": "hand"}, "dims": self.dims, "inputs": infos("x", self.main.inputs),
                "outputs": infos("y", self.main.outputs), "weights": {"segment": 2, "tensors": [row for row, _ in self.weights]}, "targets": [target],
                "samples": None}

    def _text(self, expression: int) -> int | str:
        operator, *operands = self.main.exprs[expression]
        if operator == "const":
            return int(operands[0])
        return self.main.symbols[operands[0]] if operator == "sym" else f"{operator}({', '.join(str(self._text(o)) for o in operands)})"

    def to_bytes(self, manifest: Mapping[str, Any] | None = None) -> bytes:
        """The file; ``manifest`` replaces the one that would be written."""
        weights = b"".join(data + bytes(-len(data) % 64) for _, data in self.weights)
        return file_bytes(manifest or self.manifest(), [(CODE, self.code[1] if self.code else b""), (WEIGHTS, weights)])

    def load(self, folder: Path, **options: Any) -> ingot.Model:
        """Writes the artifact and loads it."""
        path = folder / "test.ingot"
        path.write_bytes(self.to_bytes())
        return ingot.load(path, **options)
