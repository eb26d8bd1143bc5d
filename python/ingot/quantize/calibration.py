"""Runs a model on calibration data and adds up, for each matrix product, what quantization needs to know of its left operand X."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ingot.errors import CompileError
from ingot.importer.graph import node_label

if TYPE_CHECKING:
    import onnx

#: A case of calibration data: the model's inputs by name.
Case = Mapping[str, Any]
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

    def __init__(self, files: Mapping[str, _Sums], cases: int, examples: Sequence[Path] = ()) -> None:
        self._files = files
        self.cases = cases
        self.examples = examples  # .npz files of cases with what the model makes of them, by "in:" and "out:" and the name

    def of(self, node: str, depth: int) -> Statistics | None:
        """Those of a node whose X has so many columns; None if they are not known."""
        found = self._files.get(node)
        return found.load() if found is not None and found.depth == depth else None


def collect(model: onnx.ModelProto, folder: str, cases: Iterable[Case], constants: Case, scratch: Path) -> Moments:
    """Runs a model with onnxruntime.

    Args:
        model: The ONNX model; products inside functions and subgraphs are not followed.
        folder: Where its external data is.
        cases: Calibration data, one run each.
        constants: Inputs that are the same for all cases.
        scratch: An existing folder for the sums.

    Raises:
        CompileError: onnxruntime is missing or cannot run the model on a case, or there is no case.
    """
    operands = _operands(model)
    names = sorted(set(operands.values()))
    outputs = [o.name for o in model.graph.output]
    run = _session(model, folder, [*names, *outputs])
    examples: list[Path] = []
    room = _EXAMPLES
    sums: dict[str, _Sums] = {}
    count = 0
    for case in cases:
        values = run({**constants, **case}, count)
        example = {f"in:{name}": np.asarray(value) for name, value in case.items()}
        example |= {f"out:{name}": np.asarray(value) for name, value in zip(outputs, values[len(names):], strict=True)}
        room -= sum(a.nbytes for a in example.values())
        if room >= 0 and not any(a.dtype.kind in "OV" for a in example.values()):
            examples.append(scratch / f"example{count}.npz")
            np.savez(examples[-1], allow_pickle=False, **example)
        for index, (name, found) in enumerate(zip(names, values[: len(names)], strict=True)):
            x = np.asarray(found).astype(np.float32)
            if x.ndim == 0 or not np.isfinite(x).all():
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
    if not count:
        raise CompileError("the calibration data holds no case")
    return Moments({node: sums[name] for node, name in operands.items() if name in sums}, count, examples)


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


def _session(model: onnx.ModelProto, folder: str, names: list[str]) -> Any:
    """A function from inputs and the number of their case to the values of some names."""
    import onnx

    try:
        import onnxruntime
    except ImportError as error:
        raise CompileError("calibration runs the model with onnxruntime, which is not installed: pip install onnxruntime") from error
    whole = onnx.ModelProto()
    whole.CopyFrom(model)
    known = {o.name for o in whole.graph.output} | {i.name for i in whole.graph.input}
    whole.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in known)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(Path(folder).resolve()))
    inputs = [i.name for i in model.graph.input]
    fetched = sorted({name for name in names if name not in inputs})
    try:
        session = onnxruntime.InferenceSession(whole.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own types, which it does not export
        raise CompileError(f"calibration: onnxruntime cannot load the model: {str(error).strip()}") from error

    def run(case: Case, number: int) -> list[Any]:
        feeds = {name: np.asarray(value) for name, value in case.items()}
        try:
            outputs = dict(zip(fetched, session.run(fetched, feeds), strict=True)) if fetched else {}
        except Exception as error:
            raise CompileError(f"calibration: onnxruntime cannot run the model on case {number}, whose inputs are "
                               f"{', '.join(feeds) or 'none'}: {str(error).strip()}") from error
        return [outputs[name] if name in outputs else feeds[name] for name in names]

    return run
