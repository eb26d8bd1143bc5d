"""The programs that can be compared: one row each. A row loads a model and returns a function of one run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import util
from typing import Any, TypeAlias

import numpy.typing as npt

Inputs: TypeAlias = Mapping[str, npt.NDArray[Any]]
#: Runs a model once and returns its outputs in order.
Run: TypeAlias = Callable[[Inputs], list[Any]]


@dataclass(frozen=True)
class Loaded:
    """A model that is ready to run, and what floats it really computes in: a CPU may lack what was asked for."""

    run: Run
    precision: str


#: Linux's names for products of bfloat16, on x86-64 and aarch64.
_BF16_DOT = {"avx512_bf16", "amx_bf16", "bf16"}


def _ingot(path: str, threads: int, precision: str) -> Loaded:
    from ingot.runtime import Model

    model = Model.load(path, threads=threads)
    features = next(t for t in model.manifest["targets"] if t["name"] == model.target)["features"]
    # The artifact was compiled for this precision, but its products are float32's where the target has no dot product of bfloat16.
    computes = "f32 with bf16 weights" if precision == "bf16" and not _BF16_DOT & set(features) else precision
    session = model.session()
    return Loaded(lambda inputs: list(session.run(inputs).values()), computes)


def _onnxruntime(path: str, threads: int, precision: str) -> Loaded:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return Loaded(lambda inputs: list(session.run(None, dict(inputs))), "f32")


def _openvino(path: str, threads: int, precision: str) -> Loaded:
    import openvino

    compiled = openvino.Core().compile_model(path, "CPU", {
        "INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": precision})
    request = compiled.create_infer_request()
    return Loaded(lambda inputs: list(request.infer(dict(inputs)).values()), compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name())


@dataclass(frozen=True)
class Contestant:
    """A program: the module that must be installed, how it loads a model, and the precisions that it can be asked for."""

    module: str
    load: Callable[[str, int, str], Loaded]
    precisions: tuple[str, ...]


#: ``ingot`` takes an artifact, the others an .onnx file. onnxruntime's CPU provider computes floats in the model's own type alone.
CONTESTANTS: dict[str, Contestant] = {
    "ingot": Contestant("ingot", _ingot, ("f32", "bf16")),
    "onnxruntime": Contestant("onnxruntime", _onnxruntime, ("f32",)),
    "openvino": Contestant("openvino", _openvino, ("f32", "bf16")),
}


def installed(precision: str = "f32") -> list[str]:
    """The contestants that this environment has and that can be asked to compute in ``precision``."""
    return [name for name, row in CONTESTANTS.items() if precision in row.precisions and util.find_spec(row.module) is not None]


def load(name: str, path: str, threads: int, precision: str = "f32") -> Loaded:
    """Loads a model with one contestant."""
    return CONTESTANTS[name].load(path, threads, precision)
