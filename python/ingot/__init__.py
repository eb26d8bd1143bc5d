"""Ingot compiles models ahead of time into one file, and runs that file.

>>> import ingot
>>> ingot.compile("resnet50.onnx", "resnet50.ingot")
>>> model = ingot.load("resnet50.ingot", threads=2)
>>> outputs = model.run({"pixel_values": x})

Importing this package, and running models, imports NumPy and nothing else: the compiler is imported when it is first used.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ingot._version import __version__
from ingot.errors import (
    ArtifactError,
    BusyError,
    CompileError,
    ExecutionError,
    FileError,
    IngotError,
    InputError,
    PrecisionWarning,
    TargetError,
    UnsupportedError,
    VersionError,
)

if TYPE_CHECKING:
    from ingot.compiler import CompileReport, compile
    from ingot.export.translations import torch_op
    from ingot.importer.custom import onnx_op
    from ingot.runtime import Artifact, Model, Session, load, machine

__all__ = [
    "Artifact", "ArtifactError", "BusyError", "CompileError", "CompileReport", "ExecutionError", "FileError", "IngotError", "InputError", "Model",
    "PrecisionWarning", "Session", "TargetError", "UnsupportedError", "VersionError", "__version__", "cmake_dir", "compile", "include_dir", "load",
    "machine", "onnx_op", "torch_op",
]

#: What is imported when it is first asked for, and from where.
_LAZY = {
    "Artifact": "ingot.runtime", "Model": "ingot.runtime", "Session": "ingot.runtime", "load": "ingot.runtime", "machine": "ingot.runtime",
    "CompileReport": "ingot.compiler", "compile": "ingot.compiler",
    "onnx_op": "ingot.importer.custom", "torch_op": "ingot.export.translations",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'ingot' has no attribute '{name}'")
    value = getattr(importlib.import_module(_LAZY[name]), name)
    globals()[name] = value
    return value


def include_dir() -> Path:
    """The folder of ``ingot/ingot.h`` and ``dlpack/dlpack.h``, for C and C++ programs."""
    return _installed() / "include"


def cmake_dir() -> Path:
    """The folder of the CMake package: ``cmake -Dingot_DIR=$(python -c 'import ingot; print(ingot.cmake_dir())')``."""
    return _installed() / "lib" / "cmake" / "ingot"


def _installed() -> Path:
    """The installed package's own folder. In an editable install, that is where the compiled parts are, not the sources."""
    from ingot.runtime import _native

    return Path(_native.__file__).resolve().parent.parent
