"""A model of a single kernel call, by which a kernel runs as it does in any model, without a compiler."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

from ingot.artifact.write import CODE, WEIGHTS, Writer
from ingot.runtime import machine

#: A data type as the manifest writes it, and a shape.
Spec: TypeAlias = "tuple[str, Sequence[int]]"


def manifest(name: str, inputs: Sequence[Spec | None], output: Spec, ints: Sequence[int], floats: Sequence[float]) -> dict[str, Any]:
    """The manifest (docs/format.md) of a model whose one step is the kernel ``name``; an input that is None is left out of the call."""
    given = [spec for spec in inputs if spec is not None]
    extents = sorted({extent for _, shape in (*given, output) for extent in shape})
    values = [{"dtype": dtype, "shape": [extents.index(e) for e in shape]} for dtype, shape in (*given, output)]
    numbers = iter(range(len(given)))
    step = {"op": "kernel", "name": name, "node": name, "inputs": [-1 if spec is None else next(numbers) for spec in inputs],
            "outputs": [len(given)], "dims": [], "ints": list(ints), "floats": list(floats)}
    function = {"name": "main", "symbols": [], "exprs": [["const", e] for e in extents], "values": values, "inputs": list(range(len(given))),
                "outputs": [len(given)], "weights": {}, "steps": [step]}
    code = {"segment": 1, "text_size": 0, "data_size": 0, "bss_size": 0, "imports": [], "relocations": [], "functions": {}}

    def described(prefix: str, specs: Sequence[Spec]) -> list[dict[str, Any]]:
        return [{"name": f"{prefix}{i}", "dtype": dtype, "shape": list(shape)} for i, (dtype, shape) in enumerate(specs)]

    return {"format": 1, "producer": {}, "model": {"name": name, "source": "kernel"}, "dims": [], "inputs": described("x", given),
            "outputs": described("y", [output]), "weights": {"segment": 2, "tensors": []}, "samples": None,
            "targets": [{"name": "cpu", "arch": machine()["architecture"], "features": [], "code": code, "program": {"functions": [function]}}]}


def session(name: str, inputs: Sequence[Spec | None], output: Spec, *, ints: Sequence[int] = (), floats: Sequence[float] = (), threads: int) -> Any:
    """A session of that model, with the version of the kernel that ``INGOT_ISA`` asks for, as the bare binding: the least that a call can cost."""
    from ingot.runtime import _native

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.ingot"
        with path.open("wb") as file:
            writer = Writer(file, 1 << 16, 2)
            for kind in (CODE, WEIGHTS):
                with writer.segment(kind):
                    pass
            writer.finish(manifest(name, inputs, output, ints, floats))
        return _native.Session(_native.Model(str(path), threads, None, False))
