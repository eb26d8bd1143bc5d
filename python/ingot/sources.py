"""What can be compiled: an ONNX file or model, a directory of Hugging Face, a PyTorch module. All become ONNX."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ingot.errors import CompileError, FileError

if TYPE_CHECKING:
    import onnx


@dataclass
class Source:
    """A model as ONNX, and how its framework runs it.

    ``folder`` is where its external data lie; ``states`` the outputs by the inputs that they become, None where names tell; ``bounds`` are
    of symbolic dimensions; ``assets`` are files by the names that they have in the artifact; ``generation`` is what the artifact says of
    generating text with it (docs/format.md); ``samples`` how many reference samples are stored unless somebody says otherwise.
    """

    model: onnx.ModelProto
    label: str
    folder: str
    name: str
    metadata: dict[str, Any]
    reference: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None = None
    reference_name: str = ""
    examples: Mapping[str, Any] | None = None
    states: Mapping[str, str] | None = None
    bounds: Mapping[str, int] = field(default_factory=dict)
    assets: Mapping[str, Path] = field(default_factory=dict)
    generation: Mapping[str, Any] | None = None
    samples: int = 1


def load_source(model: Any, folder: Path, inputs: Any, dynamic_shapes: Any, input_names: Sequence[str] | None,
                output_names: Sequence[str] | None, context: int | None = None, cache: str | None = None, window: int | None = None,
                sinks: int | None = None, chooses: bool = False, cpus: Sequence[str] = ()) -> Source:
    """What ``ingot.compile`` was given, as ONNX; a language model of a directory that ``chooses`` tokens itself.

    ``cpus`` are the names of the targets that are CPUs.

    Raises:
        FileError: A file or directory is missing.
        CompileError: It is none of the kinds above, or PyTorch cannot export it.
        UnsupportedError: The directory's model needs something that Ingot does not have.
    """
    import onnx

    directory = isinstance(model, (str, os.PathLike)) and Path(model).is_dir()
    if any(option is not None for option in (context, cache, window, sinks)) and not directory:
        raise CompileError("context, cache, window and sinks are options of a language model's directory")
    if isinstance(model, onnx.ModelProto):
        return Source(model, model.graph.name or "model", ".", model.graph.name or "model", {"framework": "onnx"})
    if isinstance(model, (str, os.PathLike)):
        path = Path(model)
        if not path.exists():
            raise FileError(f"there is no file or directory '{path}'")
        if path.is_file():
            return Source(_parse(path), path.name, str(path.parent), path.stem, {"framework": "onnx", "file": path.name})
        from ingot.export import export_directory
        from ingot.export.decoder import export_decoder, is_decoder
        from ingot.export.seq2seq.directory import export_seq2seq, is_seq2seq

        if is_decoder(path):
            return export_decoder(path, folder, context, cache, window, sinks, chooses, cpus)
        if window is not None or sinks is not None:
            raise CompileError(f"{path}: window and sinks are options of a language model's directory, which this is not")
        if is_seq2seq(path):
            return export_seq2seq(path, folder, context, cache)
        exported = export_directory(path, folder)
        label = path.name
    elif type(model).__module__.split(".")[0] == "torch" or _is_module(model):
        from ingot.export import export_module

        if inputs is None:
            raise CompileError("a torch.nn.Module takes example inputs: compile(module, output, inputs=(x,))")
        exported = export_module(model, inputs, folder, dynamic_shapes=dynamic_shapes, input_names=input_names, output_names=output_names)
        label = type(model).__name__
    else:
        raise CompileError(f"a model is the path of an .onnx file or of a Hugging Face directory, an onnx.ModelProto or a torch.nn.Module, "
                           f"not a {type(model).__name__}")
    return Source(_parse(exported.path), label, str(exported.path.parent), label, dict(exported.metadata), exported.reference,
                   exported.reference_name, exported.inputs)


def _is_module(model: Any) -> bool:
    return any(f"{base.__module__}.{base.__qualname__}" == "torch.nn.modules.module.Module" for base in type(model).__mro__)


def _parse(path: Path) -> onnx.ModelProto:
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    try:
        model = onnx.load(str(path), load_external_data=False)
    except (DecodeError, ValueError, UnicodeDecodeError) as error:
        raise CompileError(f"{path.name}: this is not an ONNX model, or it is truncated: {str(error).strip()}") from error
    if not model.graph.node and not model.graph.output:
        raise CompileError(f"{path.name}: this is not an ONNX model, or it is truncated: it has no graph")
    return model
