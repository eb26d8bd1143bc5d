"""Runs a model on calibration data and adds up what quantization needs to know: of the left operand X of each matrix product, and of other values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ingot.errors import CompileError
from ingot.importer.graph import node_label
from ingot.quantize.ranges import Histogram
from ingot.quantize.runner import Case, Runner

if TYPE_CHECKING:
    import onnx

#: Bytes of cases that are kept with the model's results, on which the artifact is measured later.
_EXAMPLES = 1 << 28


@dataclass(frozen=True)
class Statistics:
    """Of X, [rows, K]: ``moments`` X^T X [K, K], the ``largest`` magnitude in each column [K], and the mean ``magnitude`` [K], float32."""

    moments: npt.NDArray[Any]
    largest: npt.NDArray[Any]
    magnitude: npt.NDArray[Any]


@dataclass(frozen=True)
class _Sums:
    """A file of float32 [K + 2, K]: X^T X, the largest magnitudes and the sums of magnitudes, of so many rows."""

    path: Path
    depth: int
    rows: int

    def load(self) -> Statistics:
        found = np.fromfile(self.path, np.float32).reshape(self.depth + 2, self.depth)
        return Statistics(found[:-2], found[-2], found[-1] / max(self.rows, 1))


class Moments:
    """:class:`Statistics` by the name of the ONNX node that multiplies X; in files, so that a large model's are not all in memory."""

    def __init__(self, files: Mapping[str, _Sums], cases: int, examples: Sequence[Path] = (),
                 histograms: Mapping[str, Histogram] | None = None) -> None:
        self._files = files
        self.cases = cases
        self.histograms = histograms or {}  # of values by name
        self.examples = examples  # .npz files of cases with what the model makes of them, by "in:" and "out:" and the name

    def of(self, node: str, depth: int) -> Statistics | None:
        """Those of a node whose X has so many columns; None if they are not known."""
        found = self._files.get(node)
        return found.load() if found is not None and found.depth == depth else None


def collect(model: onnx.ModelProto, runner: Runner, cases: Iterable[Case], constants: Case, scratch: Path,
            values: Iterable[str] = ()) -> Moments:
    """Runs a model on cases.

    Args:
        model: The ONNX model; products inside functions and subgraphs are not followed.
        runner: What runs it (runner.py).
        cases: Calibration data, one run each.
        constants: Inputs that are the same for all cases.
        scratch: An existing folder for the sums.
        values: Names of values whose numbers are counted.

    Raises:
        CompileError: The model cannot be run on a case, or there is no case.
    """
    operands = _operands(model)
    multiplied = set(operands.values())
    histograms = {name: Histogram() for name in values}
    names = sorted(multiplied | set(histograms))
    outputs = [o.name for o in model.graph.output if o.name not in set(runner.internal)]
    given = iter(cases)
    first = next(given, None)
    if first is None:
        raise CompileError("the calibration data holds no case")
    run = runner.start([*names, *outputs])
    examples: list[Path] = []
    room = _EXAMPLES
    sums: dict[str, _Sums] = {}
    count = 0
    for case in chain([first], given):
        results = run({**constants, **case}, count)
        example = {f"in:{name}": np.asarray(value) for name, value in case.items()}
        example |= {f"out:{name}": np.asarray(value) for name, value in zip(outputs, results[len(names):], strict=True)}
        room -= sum(a.nbytes for a in example.values())
        if room >= 0 and not any(a.dtype.kind in "OV" for a in example.values()):
            examples.append(scratch / f"example{count}.npz")
            np.savez(examples[-1], allow_pickle=False, **example)
        for index, (name, found) in enumerate(zip(names, results[: len(names)], strict=True)):
            x = np.asarray(found).astype(np.float32)
            if name in histograms:
                histograms[name].add(x)
            if name not in multiplied or x.ndim == 0 or not np.isfinite(x).all():
                continue
            x = x.reshape(-1, x.shape[-1])
            path = scratch / f"moments{index}"
            whole = np.memmap(path, np.float32, "r+" if name in sums else "w+", shape=(x.shape[1] + 2, x.shape[1]))
            whole[:-2] += x.T @ x
            magnitudes = np.abs(x)
            whole[-2] = np.maximum(whole[-2], magnitudes.max(axis=0, initial=0))
            whole[-1] += magnitudes.sum(axis=0)
            sums[name] = _Sums(path, x.shape[1], len(x) + (sums[name].rows if name in sums else 0))
        count += 1
    return Moments({node: sums[name] for node, name in operands.items() if name in sums}, count, examples, histograms)


def _operands(model: onnx.ModelProto) -> dict[str, str]:
    """The left operand of each product, by the node's name; inputs of the graph and names that two nodes share are left out."""
    found: dict[str, str] = {}
    shared: set[str] = set()
    for node in model.graph.node:
        label = node_label(node)
        if node.op_type in ("MatMul", "Gemm") and not any(a.name == "transA" and a.i for a in node.attribute):
            shared |= {label} & found.keys()
            found[label] = node.input[0]
    return {label: name for label, name in found.items() if label not in shared}
