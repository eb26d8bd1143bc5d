"""A program for a GPU (docs/format.md), run step by step: generated functions emulated, kernels by NumPy, after their contracts."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import ingot
from ingot.cli.program import Function
from ingot.importer.weights import numpy_dtype
from ingot.lower.cuda import nvcc
from ingot.runtime import Artifact
from tests.lower.cuda.emulated import Kernels, allocate, guarded, include_folders
from tests.lower.cuda.reference import KERNELS

#: Runs a kernel: its name, inputs (None: left out), shapes (None: not known yet) and dtypes of outputs, dims, ints and floats.
RunKernel = Callable[..., Sequence[np.ndarray]]


def by_numpy(name: str, inputs: Any, shapes: Any, dtypes: Any, dims: Any, ints: Any, floats: Any) -> Sequence[np.ndarray]:
    """A kernel by tests/lower/cuda/reference.py."""
    return KERNELS[name](inputs, shapes, dtypes, dims, ints, floats)


def by_emulator(name: str, inputs: Any, shapes: Any, dtypes: Any, dims: Any, ints: Any, floats: Any) -> Sequence[np.ndarray]:
    """A kernel of kernels/cuda itself, emulated; the in-place one on a copy."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "cuda"))
    import harness

    sys.path.pop(0)
    if name == "tensor_scatter":
        found = harness.run(name, inputs, [(inputs[0].shape, inputs[0].dtype)], dims=dims, ints=ints, floats=floats)
    else:
        found = harness.run(name, inputs, list(zip(shapes, dtypes, strict=True)), dims=dims, ints=ints, floats=floats)
    return list(found)


class Program:
    """A model, or a language model's directory, compiled for a GPU without machine code."""

    def __init__(self, model: onnx.ModelProto | str, target: str = "cuda:sm_90", run_kernel: RunKernel = by_numpy, **options: Any) -> None:
        include_folders()  # or the test is skipped
        self.run_kernel = run_kernel
        sources: list[str] = []

        def build(source: str, architectures: Any, jobs: int = 2) -> nvcc.Fatbin:
            sources.append(source)
            return nvcc.Fatbin(b"no code", {})

        with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
            folder = Path(name)
            patch.setattr(nvcc, "build", build)
            patch.setattr(nvcc, "find_nvcc", lambda: "none is needed")
            ingot.compile(model, folder / "model.ingot", target=target, samples=0, **options)
            artifact = Artifact.open(folder / "model.ingot")
            self.manifest = artifact.manifest
            self.target = self.manifest["targets"][0]
            self.weights = [_array(artifact, self.manifest["weights"], w) for w in self.manifest["weights"]["tensors"]]
            self.source = sources[0] if sources else ""
            self.kernels = Kernels(self.source, folder) if sources else None

    @property
    def steps(self) -> list[dict[str, Any]]:
        """The steps of the main function."""
        steps: list[dict[str, Any]] = self.target["program"]["functions"][0]["steps"]
        return steps

    def run(self, feeds: Mapping[str, np.ndarray], states: list[np.ndarray] | None = None) -> dict[str, np.ndarray]:
        """The outputs by name; ``states`` are replaced by the new ones."""
        inputs = [feeds[i["name"]] for i in self.manifest["inputs"]]
        results = self._function(0, inputs + (states or []))
        count = len(self.manifest["outputs"])
        if states is not None:
            states[:] = results[count:]
        return {o["name"]: r for o, r in zip(self.manifest["outputs"], results[:count], strict=True)}

    def first_states(self, **dims: int) -> list[np.ndarray]:
        """The states of a new session with these extents: zeros."""
        return [np.zeros([d if isinstance(d, int) else dims[d] for d in s["shape"]], numpy_dtype(s["dtype"])) for s in self.manifest["states"]]

    def _function(self, number: int, inputs: list[np.ndarray]) -> list[np.ndarray]:
        return _Frame(self, self.target["program"]["functions"][number]).run(inputs)


def _array(artifact: Artifact, table: Mapping[str, Any], entry: Mapping[str, Any]) -> np.ndarray:
    dtype = numpy_dtype(entry["dtype"])
    count = int(np.prod(entry["shape"], dtype=np.int64))
    flat = np.frombuffer(artifact.segment(table["segment"]), np.uint8, count * dtype.itemsize, entry["offset"])
    return guarded(flat.view(dtype).reshape(entry["shape"]))


class _Frame:
    """One run of a function of the program."""

    def __init__(self, program: Program, function: Mapping[str, Any]) -> None:
        self.program = program
        self.function = function
        self.expressions = Function(function)
        self.symbols: dict[str, int] = {}
        self.values: dict[int, np.ndarray] = {int(v): program.weights[w] for v, w in function["weights"].items()}

    def run(self, inputs: list[np.ndarray]) -> list[np.ndarray]:
        for value, array in zip(self.function["inputs"], inputs, strict=True):
            self.give(value, guarded(np.asarray(array, order="C")))
        for step in self.function["steps"]:
            getattr(self, step["op"] if step["op"] != "if" else "if_")(step)
        return [self.values[v] for v in self.function["outputs"]]

    def give(self, value: int, array: np.ndarray) -> None:
        """Makes a value known, and binds the symbols of its shape."""
        declared = self.function["values"][value]
        assert numpy_dtype(declared["dtype"]) == array.dtype, (value, declared, array.dtype)
        assert len(declared["shape"]) == array.ndim
        for expression, extent in zip(declared["shape"], array.shape, strict=True):
            operator, *operands = self.function["exprs"][expression]
            if operator == "sym" and self.function["symbols"][operands[0]] not in self.symbols:
                self.symbols[self.function["symbols"][operands[0]]] = extent
            assert self.number(expression) == extent
        self.values[value] = array

    def number(self, expression: int) -> int:
        found = self.expressions.evaluate(expression, self.symbols)
        assert found is not None
        return found

    def shape(self, value: int) -> tuple[int, ...]:
        return tuple(self.number(e) for e in self.function["values"][value]["shape"])

    def dtype(self, value: int) -> np.dtype:
        return numpy_dtype(self.function["values"][value]["dtype"])

    def call(self, step: Mapping[str, Any]) -> None:
        for value in step["outputs"]:
            self.values[value] = allocate(self.shape(value), self.dtype(value))
        dims = [self.number(e) for e in step["dims"]]
        arguments = [self.values[v].ctypes.data for v in (*step["inputs"], *step["outputs"])] + dims
        entry = self.program.target["code"]["functions"][step["function"]]
        symbols = [f"s{i}" for i in range(len(dims))]
        expressions = Function({"exprs": entry["exprs"], "symbols": symbols, "steps": []})
        assert self.program.kernels is not None
        fault = np.zeros(6, np.int64)  # runtime/src/fault.h
        arguments += [fault.ctypes.data, 1] if entry.get("checks") else []
        for launch in entry["launches"]:
            grid = [expressions.evaluate(e, dict(zip(symbols, dims, strict=True))) for e in launch["grid"]]
            assert grid[1:] == [1, 1] and launch["block"][1:] == [1, 1] and grid[0] is not None and launch["shared"] == 0
            self.program.kernels.launch(launch["kernel"], grid[0], launch["block"][0], arguments)
        if fault[0]:
            raise IndexError(f"index {fault[2]} is out of range for an axis of {fault[3]}")

    def view(self, step: Mapping[str, Any]) -> None:
        source, output = self.values[step["input"]], step["output"]
        self.give(output, source.reshape(-1).view(self.dtype(output)).reshape(self.shape(output) if self._known(output) else source.shape))

    def _known(self, value: int) -> bool:
        return all(self.expressions.evaluate(e, self.symbols) is not None for e in self.function["values"][value]["shape"])

    def builtin(self, step: Mapping[str, Any]) -> None:
        if step["name"] == "shape":
            output = step["outputs"][0]
            self.give(output, guarded(np.array([self.number(e) for e in step["dims"]], np.int64).reshape(self.shape(output))))
        elif step["name"] == "to_dims":
            for symbol, number in zip(step["ints"], self.values[step["inputs"][0]].ravel().tolist(), strict=True):
                self.symbols[self.function["symbols"][symbol]] = number
        else:
            assert step["name"] == "copy"
            self.give(step["outputs"][0], guarded(self.values[step["inputs"][0]]))

    def kernel(self, step: Mapping[str, Any]) -> None:
        inputs = [None if v < 0 else self.values[v] for v in step["inputs"]]
        shapes = [self.shape(v) if v >= 0 and self._known(v) else None for v in step["outputs"]]
        dtypes = [self.dtype(v) if v >= 0 else None for v in step["outputs"]]
        results = self.program.run_kernel(step["name"], inputs, shapes, dtypes, [self.number(e) for e in step["dims"]], step["ints"], step["floats"])
        for value, result in zip(step["outputs"], results, strict=True):
            if value >= 0:
                self.give(value, guarded(result))

    def check(self, step: Mapping[str, Any]) -> None:
        assert self.number(step["expr"]), step["message"]

    def if_(self, step: Mapping[str, Any]) -> None:
        chosen = "then" if self.values[step["condition"]].item() else "else"
        results = self.program._function(step[chosen], [self.values[v] for v in step[f"{chosen}_inputs"]])
        for value, result in zip(step["outputs"], results, strict=True):
            self.give(value, result)

    def loop(self, step: Mapping[str, Any]) -> None:
        count = self.values[step["trip_count"]].item() if step["trip_count"] >= 0 else 2**63
        condition = self.values[step["condition"]].item() if step["condition"] >= 0 else True
        carried, scans, i = [self.values[v] for v in step["carried"]], [], 0
        captured = [self.values[v] for v in step["inputs"]]
        while i < count and condition:
            results = self.program._function(step["body"], [np.array(i, np.int64), np.array(condition), *carried, *captured])
            condition, carried = results[0].item(), results[1 : 1 + len(carried)]
            scans.append(results[1 + len(carried) :])
            i += 1
        for value, result in zip(step["outputs"], [*carried, *(np.stack(s) for s in zip(*scans, strict=True))], strict=True):
            self.give(value, guarded(result))
