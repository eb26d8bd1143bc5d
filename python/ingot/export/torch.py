"""PyTorch → ONNX."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy.typing as npt
import onnx
import torch

from ingot.errors import CompileError, InputError
from ingot.export import recurrent, torchscript
from ingot.export.exported import Arrays, Exported
from ingot.export.leaves import Arguments, Flat, named_results, to_numpy, to_torch
from ingot.export.translations import translations

#: For inputs by name, the axes that are symbolic: ``{0: "batch"}``, or one entry for each axis: ``["batch", None, None]``.
DynamicShapes: TypeAlias = Mapping[str, Mapping[int, str] | Sequence[str | int | None]]

OPSET = 20  # the newest that both of PyTorch's exporters write
EXPORTERS = ("dynamo", "torchscript")
_INDEX_TYPES = (torch.int64, torch.int32, torch.bool)


def export_module(
    module: torch.nn.Module,
    inputs: Any,
    folder: str | Path,
    *,
    dynamic_shapes: DynamicShapes | None = None,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    exporter: str | None = None,
) -> Exported:
    """Exports a module to ``folder/model.onnx``, weights beside it.

    Args:
        module: The module; it is exported in evaluation mode and left in the mode it was in.
        inputs: Example inputs: a tensor, a sequence of positional arguments, or a dict of keyword arguments.
        folder: Where the files go; it is created.
        dynamic_shapes: The symbolic dimensions. By default axis 0 of every input is ``batch``, and axis 1 of an integer
            matrix (token ids, a mask) is ``sequence``. ``{}`` fixes every extent to the example's.
        input_names: Names instead of those of ``forward``'s parameters.
        output_names: Names instead of ``output`` (or ``output_0``, ``output_1``, …, or a mapping's keys).
        exporter: Which of PyTorch's exporters writes the file: ``dynamo``, the newer one, or ``torchscript``, the older one. By default
            whichever suits the module; the other one where that fails.

    Raises:
        CompileError: PyTorch cannot export the module, or the arguments contradict one another.
    """
    if exporter is not None and exporter not in EXPORTERS:
        raise CompileError(f"there is no exporter '{exporter}'; they are {', '.join(EXPORTERS)}")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    messages: list[str] = []
    with _evaluating(module):
        arguments = Arguments(module, inputs)
        flat = Flat(module, arguments).eval()
        example = arguments.tensors
        if input_names is not None:
            arguments.rename(input_names)
        names = arguments.names
        try:
            outputs = _output_names(module, arguments, output_names)
        except CompileError:
            raise
        except Exception as error:
            raise CompileError(f"{type(module).__name__} fails on the example inputs: {type(error).__name__}: {error}") from error
        axes = _axes(names, example, dynamic_shapes, messages)
        path = folder / "model.onnx"
        used = _export(flat, _widened(example, axes), path, names, outputs, axes, messages, exporter)
        declared = _declared_inputs(path)

    def reference(given: Mapping[str, npt.NDArray[Any]]) -> Arrays:
        missing = [n for n in names if n in declared and n not in given]
        if missing:
            raise InputError(f"input '{missing[0]}' is missing; the inputs are {', '.join(names)}")
        tensors = [to_torch(given[n]) if n in given else t for n, t in zip(names, example, strict=True)]
        with _evaluating(module):
            results = flat(*tensors)
        return {n: to_numpy(t) for n, t in zip(outputs, results, strict=True)}

    version = torch.__version__.split("+")[0]
    return Exported(
        path=path,
        inputs={n: to_numpy(t) for n, t in zip(names, example, strict=True) if n in declared},
        reference=reference,
        reference_name=f"torch {version}",
        metadata={"framework": "torch", "framework_version": version, "class": type(module).__name__, "exporter": used,
                  "opset": OPSET, "inputs": [n for n in names if n in declared], "outputs": outputs},
        messages=messages)


@contextlib.contextmanager
def _evaluating(module: torch.nn.Module) -> Iterator[None]:
    modes = [(child, child.training) for child in module.modules()]
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for child, training in modes:
            child.training = training


def _output_names(module: torch.nn.Module, arguments: Arguments, wanted: Sequence[str] | None) -> list[str]:
    args, kwargs = arguments.rebuild(arguments.tensors)
    found = [name for name, _ in named_results(module(*args, **kwargs))]
    if not found:
        raise CompileError(f"{type(module).__name__} returns no tensor")
    if wanted is not None and len(wanted) != len(found):
        raise CompileError(f"{len(wanted)} output names were given, but the model has {len(found)} outputs: {', '.join(found)}")
    chosen = list(wanted) if wanted is not None else found
    taken = set(arguments.names)
    return [f"{name}_out" if name in taken else name for name in chosen]


def _axes(names: Sequence[str], example: Sequence[torch.Tensor], wanted: DynamicShapes | None, messages: list[str]) -> list[dict[int, str]]:
    """For each input, the names of its symbolic axes."""
    if wanted is not None:
        unknown = [name for name in wanted if name not in names]
        if unknown:
            raise CompileError(f"dynamic_shapes names the input '{unknown[0]}'; the inputs are {', '.join(names)}")
        axes = [_named_axes(name, tensor, wanted.get(name, {})) for name, tensor in zip(names, example, strict=True)]
    else:
        axes = _default_axes(names, example, messages)
    extents: dict[str, tuple[int, str]] = {}
    for name, tensor, symbols in zip(names, example, axes, strict=True):
        for axis, symbol in symbols.items():
            extent, where = extents.setdefault(symbol, (tensor.shape[axis], name))
            if extent != tensor.shape[axis]:
                raise CompileError(f"the dimension '{symbol}' is {extent} in the example '{where}' but {tensor.shape[axis]} in '{name}'; "
                                   "name them apart with dynamic_shapes")
    return axes


def _default_axes(names: Sequence[str], example: Sequence[torch.Tensor], messages: list[str]) -> list[dict[int, str]]:
    batch = next((t.shape[0] for t in example if t.ndim), None)
    sequence = next((t.shape[1] for t in example if t.ndim == 2 and t.dtype in _INDEX_TYPES), None)
    axes = []
    for name, tensor in zip(names, example, strict=True):
        symbols: dict[int, str] = {}
        if tensor.ndim and tensor.shape[0] == batch:
            symbols[0] = "batch"
        elif tensor.ndim:
            messages.append(f"input '{name}' keeps its extent {tensor.shape[0]} in axis 0, which is not the batch of {batch}; "
                            "name its symbolic axes with dynamic_shapes")
        if tensor.ndim == 2 and tensor.dtype in _INDEX_TYPES and tensor.shape[1] == sequence:
            symbols[1] = "sequence"
        axes.append(symbols)
    return axes


def _named_axes(name: str, tensor: torch.Tensor, given: Mapping[int, str] | Sequence[str | int | None]) -> dict[int, str]:
    items = given.items() if isinstance(given, Mapping) else enumerate(given)
    symbols = {}
    for axis, symbol in items:
        if not -tensor.ndim <= axis < tensor.ndim:
            raise CompileError(f"dynamic_shapes names axis {axis} of input '{name}', which has {tensor.ndim} dimensions")
        if isinstance(symbol, str):
            symbols[axis % tensor.ndim] = symbol
    return symbols


def _widened(example: Sequence[torch.Tensor], axes: Sequence[Mapping[int, str]]) -> list[torch.Tensor]:
    """The examples with at least 2 in each symbolic axis: torch.export takes an extent of 0 or 1 to be a constant."""
    widened = []
    for tensor, symbols in zip(example, axes, strict=True):
        for axis in symbols:
            if tensor.shape[axis] == 1:
                tensor = tensor.repeat_interleave(2, dim=axis)
        widened.append(tensor)
    return widened


def _export(flat: Flat, example: list[torch.Tensor], path: Path, names: list[str], outputs: list[str], axes: list[dict[int, str]],
            messages: list[str], wanted: str | None) -> str:
    """Writes the file; returns the name of the exporter that managed it."""
    translations()  # a name that PyTorch does not know is no reason to try the other exporter
    attempts: list[tuple[str, Callable[..., None]]] = [("torch.export", _dynamo), ("TorchScript", _torchscript)]
    if wanted is not None:
        attempts = [attempts[EXPORTERS.index(wanted)]]
    elif isinstance(flat.module, torch.jit.ScriptModule) or any(isinstance(child, torch.nn.RNNBase) for child in flat.modules()):
        # The newer exporter leaves the reordering of a recurrent layer's gates in the graph, as some twenty nodes for
        # each layer, and takes longer; the older one writes the operator that ONNX has.
        attempts.reverse()
    failures: list[tuple[str, Exception]] = []
    for exporter, export in attempts:
        try:
            with _quiet():
                export(flat, example, path, names, outputs, axes)
        except Exception as error:
            failures.append((exporter, error))
            continue
        if failures:
            failed, why = failures[0]
            messages.append(f"exported by way of {exporter}, because {failed} failed: {_headline(why)}")
        return exporter
    reasons = "\n".join(f"  {exporter}: {_headline(error)}" for exporter, error in failures)
    raise CompileError(f"PyTorch cannot export {type(flat.module).__name__} to ONNX:\n{reasons}") from failures[0][1]


def _dynamo(flat: Flat, example: list[torch.Tensor], path: Path, names: list[str], outputs: list[str], axes: list[dict[int, str]]) -> None:
    with recurrent.any_number_of_steps():
        program = torch.onnx.export(
            flat, tuple(example), dynamo=True, opset_version=OPSET, input_names=names, output_names=outputs,
            dynamic_shapes={"tensors": tuple(axes)}, custom_translation_table={**recurrent.layers(), **translations()}, verbose=False)
    assert program is not None
    prefix = getattr(flat.module, "exported_prefix", "")
    for value in list(program.model.graph.initializers.values()):
        value.name = (value.name or "").removeprefix("module.").removeprefix(prefix)
    program.save(str(path), external_data=True)


def _torchscript(flat: Flat, example: list[torch.Tensor], path: Path, names: list[str], outputs: list[str], axes: list[dict[int, str]]) -> None:
    torchscript.register()
    dynamic = dict(zip(names, axes, strict=True))
    module: torch.nn.Module = flat
    args: tuple[Any, ...] = tuple(example)
    kwargs: dict[str, Any] = {}
    if isinstance(flat.module, torch.jit.ScriptModule):  # a program as it stands, loops included: a trace cannot have one inside
        module = flat.module
        args, kwargs = flat.arguments.rebuild(example)
    torch.onnx.export(module, args, str(path), kwargs=kwargs, dynamo=False, opset_version=OPSET, input_names=names, output_names=outputs,
                      dynamic_axes=dynamic)
    model = onnx.load(str(path))
    _data_path(path).unlink(missing_ok=True)
    onnx.save(model, str(path), save_as_external_data=True, all_tensors_to_one_file=True, location=_data_path(path).name)


def _data_path(path: Path) -> Path:
    return path.with_name(path.name + ".data")


def _declared_inputs(path: Path) -> set[str]:
    model = onnx.load(str(path), load_external_data=False)
    return {value.name for value in model.graph.input}


def _headline(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    cause = error.__cause__
    if cause is not None and str(cause).strip():
        lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
        return f"{type(cause).__name__}: {lines[0]}"
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the exporters' progress and deprecation notices off the terminal; errors still rise."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.onnx._internal.exporter._registration", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
