"""What runs a model on calibration data, with values inside it as further outputs: onnxruntime, or Ingot where the model has operators of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnx

from ingot.errors import CompileError, IngotError

#: A case of calibration data: the model's inputs by name.
Case = Mapping[str, Any]
#: A function from a case and its number to the values that were asked for.
Run = Callable[[Case, int], list[Any]]


class Runner(Protocol):
    """What runs a model. ``internal`` are names of outputs that are no results: they become inputs of the next run, or follow from another output."""

    @property
    def internal(self) -> Sequence[str]:
        """Names of outputs."""

    def start(self, names: Sequence[str]) -> Run:
        """A function that gives the values of these names, which may be inputs. A CompileError says if the model cannot be run."""


def with_outputs(model: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    """A copy of a model that also gives the values of these names, unless they are inputs."""
    whole = onnx.ModelProto()
    whole.CopyFrom(model)
    known = {o.name for o in whole.graph.output} | {i.name for i in whole.graph.input}
    whole.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in known)
    return whole


@dataclass(frozen=True)
class Onnxruntime:
    """Runs models of ONNX's and its own operators. ``folder`` is where the model's external data is."""

    model: onnx.ModelProto
    folder: str
    internal: Sequence[str] = field(default=())

    def start(self, names: Sequence[str]) -> Run:
        """See :class:`Runner`. A CompileError says if onnxruntime is missing."""
        try:
            import onnxruntime
        except ImportError as error:
            raise CompileError("calibration runs the model with onnxruntime, which is not installed: pip install onnxruntime") from error
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(Path(self.folder).resolve()))
        fetched = _fetched(self.model, names)
        whole = with_outputs(self.model, names)
        try:
            session = onnxruntime.InferenceSession(whole.SerializeToString(), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's own types, which it does not export
            raise CompileError(f"calibration: onnxruntime cannot load the model: {str(error).strip()}") from error

        def run(case: Case, number: int) -> list[Any]:
            feeds = {name: np.asarray(value) for name, value in case.items()}
            try:
                outputs = dict(zip(fetched, session.run(fetched, feeds), strict=True)) if fetched else {}
            except Exception as error:
                raise _failed("onnxruntime", feeds, number, error) from error
            return [outputs[name] if name in outputs else feeds[name] for name in names]

        return run


@dataclass(frozen=True)
class Itself:
    """Compiles the model in float32 for this machine and runs that. States start from zero in each case."""

    model: onnx.ModelProto
    internal: Sequence[str]
    build: Callable[[onnx.ModelProto, Path], None]  # writes an artifact
    path: Path  # for it

    def start(self, names: Sequence[str]) -> Run:
        """See :class:`Runner`."""
        from ingot.runtime import Model

        fetched = _fetched(self.model, names)
        self.build(with_outputs(self.model, fetched), self.path)
        model = Model.load(self.path)
        self.path.unlink()  # it is mapped

        def run(case: Case, number: int) -> list[Any]:
            feeds = {name: np.ascontiguousarray(value) for name, value in case.items()}
            try:
                outputs = model.run(feeds)
            except IngotError as error:
                raise _failed("Ingot", feeds, number, error) from error
            return [outputs[name] if name in outputs else feeds[name] for name in names]

        return run


def _fetched(model: onnx.ModelProto, names: Sequence[str]) -> list[str]:
    inputs = {i.name for i in model.graph.input}
    return sorted({name for name in names if name not in inputs})


def _failed(who: str, feeds: Case, number: int, error: Exception) -> CompileError:
    return CompileError(f"calibration: {who} cannot run the model on case {number}, whose inputs are {', '.join(feeds) or 'none'}: "
                        f"{str(error).strip()}")
