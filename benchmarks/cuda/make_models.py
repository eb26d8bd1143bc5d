"""Writes the models of bench_models.py, without their weights (hollow.py), to build/cuda-models, on a machine that has Ingot and nvcc.

``python -m benchmarks.cuda.make_models [TARGET]`` (``make cuda-models``); the target is cuda:sm_90 if none is given. A file's name says model and
type.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ingot
from benchmarks.cuda.hollow import empty
from tests.lower.cuda.hollow import checkpoint
from tests.models.zoo import ZOO
from tests.runtime.gpu.library import MADE

LAYERS = 22


def _zoo(name: str) -> Callable[[Path], dict[str, Any]]:
    """What ``ingot.compile`` is given of a model of tests/models/zoo.py."""

    def arguments(folder: Path) -> dict[str, Any]:
        model = ZOO[name]()
        return {"model": model.module, "inputs": model.inputs, "dynamic_shapes": model.dynamic_shapes, "output_names": model.output_names}

    return arguments


def _llama(folder: Path) -> dict[str, Any]:
    """The Llama of 1.1 billion parameters, as docs/cuda.md counts its kernels."""
    return {"model": str(checkpoint(folder, LAYERS)), "quantize": "int4:g128", "cache": "bf16"}


MODELS: Mapping[str, Callable[[Path], dict[str, Any]]] = {
    "resnet50-bf16": _zoo("resnet50"),
    "bert_base-bf16": _zoo("bert_base"),
    "llama_1b-int4": _llama,
}


def main(target: str) -> None:
    """Writes everything."""
    MADE.mkdir(parents=True, exist_ok=True)
    for name, arguments in MODELS.items():
        with tempfile.TemporaryDirectory() as scratch:
            whole = Path(scratch) / "whole.ingot"
            ingot.compile(**arguments(Path(scratch)), output=whole, name=name, target=target, precision="bf16", samples=0)
            empty(whole, MADE / f"{name}.hollow")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "cuda:sm_90")
