"""The files that a comparison runs: exported, quantized and compiled once, in the cache of the tests under build/."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np

import ingot
from benchmarks.groups import GROUPS, Setting
from benchmarks.quantize import OPERATORS, quantize, quantize_weights
from benchmarks.tasks import TASKS
from ingot.errors import CompileError
from tests import cache
from tests.models.zoo import ZOO

_EXPORT = ("python/ingot/export", "tests/models/zoo.py", "tests/models/densenet.py")
_QUANTIZE = (*_EXPORT, "benchmarks/quantize.py")
#: Batches of random inputs of these sizes calibrate a quantized model.
_CALIBRATION = (2, 3, 4)


class RefusedError(Exception):
    """Ingot does not compile a model as it is asked to; the message says why."""


def onnx_file(group: str, model: str, contestant: str = "ingot") -> Path:
    """The model that a runtime reads, or that Ingot compiles."""
    if model in TASKS:
        task = TASKS[model]
        return cache._once(f"benchmark-{cache._hash(task.sources)}", model, task.write) / "model.onnx"
    exported = cache.exported(model) / "model.onnx"
    quantized = GROUPS[group].quantized
    if not quantized or (quantized == "dynamic" and contestant == "ingot"):
        return exported
    if quantized == "dynamic" and contestant == "onnxruntime":
        return cache._once(f"dynamic-{cache._hash(_QUANTIZE)}", model,
                           lambda folder: quantize_weights(exported, folder / "model.onnx")) / "model.onnx"
    folder = cache._once(f"quantize-{cache._hash(_QUANTIZE)}", model, lambda folder: quantize(
        exported, folder / "model.onnx", map(ZOO[model]().batch, _CALIBRATION), OPERATORS.get(model, ())))
    return folder / "model.onnx"


@functools.cache
def artifact(group: str, model: str) -> Path:
    """The model that Ingot runs.

    Raises:
        RefusedError: It does not compile.
    """
    source, precision = onnx_file(group, model), GROUPS[group].precision
    quantized = GROUPS[group].quantized
    name = {"static": f"{model}-int8", "dynamic": f"{model}-int8-row"}.get(quantized, model if precision == "f32" else f"{model}-{precision}")
    options = {"quantize": "int8:row"} if quantized == "dynamic" else {}
    if name == model and model in ZOO:
        return cache.zoo_case(model).artifact

    def make(folder: Path) -> None:
        ingot.compile(source, folder / f"{name}.ingot", name=name, precision=precision, samples=0, **options)

    sources = TASKS[model].sources if model in TASKS else _QUANTIZE
    try:
        return cache._once(f"compile-{cache._hash((*cache._COMPILE, *sources))}", name, make) / f"{name}.ingot"
    except CompileError as error:
        raise RefusedError(str(error)) from error


def inputs(setting: Setting) -> dict[str, np.ndarray]:
    """Inputs of the setting's batch size."""
    if setting.model in TASKS:
        return TASKS[setting.model].inputs(setting.batch)

    def make(folder: Path) -> None:
        np.savez(folder / "inputs.npz", **ZOO[setting.model]().batch(setting.batch))

    with np.load(cache._once(f"inputs-{cache._hash(_EXPORT)}", f"{setting.model}-{setting.batch}", make) / "inputs.npz") as stored:
        return {key: stored[key] for key in stored.files}
