"""The programs that can be compared: one row each. A row loads a model and returns a function of one run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import util
from typing import Any, TypeAlias

import numpy.typing as npt

Inputs: TypeAlias = Mapping[str, npt.NDArray[Any]]
#: Runs a model once and returns its outputs in order.
Run: TypeAlias = Callable[[Inputs], list[Any]]


def _ingot(path: str, threads: int) -> Run:
    from ingot.runtime import Model

    session = Model.load(path, threads=threads).session()
    return lambda inputs: list(session.run(inputs).values())


def _onnxruntime(path: str, threads: int) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda inputs: list(session.run(None, dict(inputs)))


def _openvino(path: str, threads: int) -> Run:
    import openvino

    compiled = openvino.Core().compile_model(path, "CPU", {
        "INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32"})
    request = compiled.create_infer_request()
    return lambda inputs: list(request.infer(dict(inputs)).values())


#: Name → (what must be installed, how it loads a model). ``ingot`` takes an artifact, the others an .onnx file.
CONTESTANTS: dict[str, tuple[str, Callable[[str, int], Run]]] = {
    "ingot": ("ingot", _ingot),
    "onnxruntime": ("onnxruntime", _onnxruntime),
    "openvino": ("openvino", _openvino),
}


def installed() -> list[str]:
    """The contestants that this environment has."""
    return [name for name, (module, _) in CONTESTANTS.items() if util.find_spec(module) is not None]


def load(name: str, path: str, threads: int) -> Run:
    """Loads a model with one contestant."""
    return CONTESTANTS[name][1](path, threads)
