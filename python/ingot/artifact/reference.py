"""Reference samples: inputs, and what the model's framework makes of them, for ``ingot verify``.

For an ONNX model, which no framework is at hand to run, the reference is onnxruntime if it is installed, else ONNX's own
reference evaluator. Either runs in a process of its own, so that its copy of the weights is gone before code is generated.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ingot.artifact.samples import Sample

if TYPE_CHECKING:
    import onnx

    from ingot.importer.module import Imported

_WORDS = ("one", "Two words", "", "3")  # what inputs of strings hold
_SYMBOLIC_EXTENTS = (2, 7, 5, 3)  # for the first symbolic dimension, the second, ...: small, different, and not all even


def make_samples(model: onnx.ModelProto, folder: str, imported: Imported, count: int, scratch: Path,
                 reference: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None, reference_name: str,
                 examples: Mapping[str, Any] | None) -> tuple[list[Sample], str, str]:
    """Makes ``count`` samples. Returns them, the name of what made their outputs, and a note if there are none."""
    inputs = [_inputs(imported, seed) for seed in range(count)]
    if examples is not None and all(s.name in examples for s in imported.inputs):
        inputs[0] = {s.name: np.asarray(examples[s.name]) for s in imported.inputs}
    names = [s.name for s in imported.outputs]
    if reference is not None:
        return [Sample(case, _ordered(reference(case), names)) for case in inputs], reference_name, ""
    initialized = {t.name for t in model.graph.initializer}
    declared = [i for i in model.graph.input if i.name not in initialized]
    if len(imported.inputs) + len(imported.states) != len(declared) + sum(i.type.WhichOneof("value") == "map_type" for i in declared):
        return [], "", "no samples, because some inputs were made constant"
    outputs, engine, problem = _run_onnx(model, folder, scratch, [{**case, **_first_states(imported, case)} for case in inputs])
    if problem:
        return [], "", f"no samples, because {engine} could not run the model: {problem}"
    maps = imported.metadata.get("maps", {})
    hidden = [i for i, o in enumerate(model.graph.output) if o.name in {s.output for s in imported.states}]
    shown = [[array for i, array in enumerate(out) if i not in hidden] for out in outputs]
    named = [{name: _columns(array, maps.get(name)) for name, array in zip(names, out, strict=True)} for out in shown]
    return [Sample(case, out) for case, out in zip(inputs, named, strict=True)], engine, ""


def _columns(array: Any, labels: list[Any] | None) -> Any:
    """The values of maps, which come in the order of their keys, in that of the labels."""
    return array if labels is None else array[:, [sorted(labels).index(label) for label in labels]]


def _ordered(outputs: Mapping[str, Any], names: list[str]) -> dict[str, Any]:
    return {name: np.asarray(outputs[name]) for name in names}


def _inputs(imported: Imported, seed: int) -> dict[str, Any]:
    from ingot.importer.weights import numpy_dtype

    random = np.random.default_rng(seed)
    extents = {s.name: min(_SYMBOLIC_EXTENTS[min(i, len(_SYMBOLIC_EXTENTS) - 1)], imported.bounds.get(s.name, 1 << 30))
               for i, s in enumerate(imported.symbols)}
    result = {}
    for spec in imported.inputs:
        shape = tuple(d if isinstance(d, int) else extents[str(d)] for d in spec.shape)
        dtype = numpy_dtype(spec.dtype)
        if spec.name in imported.vocabularies:
            result[spec.name] = np.resize(imported.vocabularies[spec.name], shape)
        elif dtype.kind == "O":
            result[spec.name] = np.resize(np.array(_WORDS, object), shape)
        elif np.issubdtype(dtype, np.integer) or dtype == np.bool_:  # indices, masks and lengths: 1 is valid for nearly all
            result[spec.name] = np.ones(shape, dtype)
        else:
            result[spec.name] = random.standard_normal(shape).astype(dtype)
    return result


def _first_states(imported: Imported, case: Mapping[str, Any]) -> dict[str, Any]:
    """The states that a session starts with: zeros; caches as long as their bound, and what grows empty (runtime/src/states.cpp)."""
    from ingot.importer.weights import numpy_dtype

    known = {str(d): extent for spec in imported.inputs for d, extent in zip(spec.shape, case[spec.name].shape, strict=True)}
    return {spec.name: np.zeros([d if isinstance(d, int) else known.get(str(d), imported.bounds.get(str(d), 0)) for d in spec.shape],
                                numpy_dtype(spec.dtype)) for spec in imported.state_inputs}


def _run_onnx(model: onnx.ModelProto, folder: str, scratch: Path, inputs: list[dict[str, Any]]) -> tuple[list[list[Any]], str, str]:
    package = "onnxruntime" if importlib.util.find_spec("onnxruntime") else "onnx"
    engine = f"{package} {importlib.metadata.version(package)}"
    import onnx

    path = scratch / "reference.onnx"
    path.write_bytes(onnx.ModelProto.SerializeToString(model))
    for index, case in enumerate(inputs):
        named: dict[str, Any] = {f"i{i}": _without_objects(a) for i, a in enumerate(case.values())}
        np.savez(scratch / f"case{index}.npz", **named)
    command = [sys.executable, "-m", "ingot.artifact.reference", package, str(path), folder, str(scratch), str(len(inputs))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        lines = [line for line in done.stderr.strip().splitlines() if line.strip()]
        return [], engine, lines[-1] if lines else f"it ended with status {done.returncode}"
    outputs = []
    for index in range(len(inputs)):
        with np.load(scratch / f"result{index}.npz") as arrays:
            outputs.append([_with_objects(arrays[f"o{i}"]) for i in range(len(arrays.files))])
    return outputs, engine, ""


def _main(package: str, path: str, folder: str, scratch: str, count: str) -> None:
    run = _onnxruntime(path, folder) if package == "onnxruntime" else _onnx_reference(path, folder)
    for index in range(int(count)):
        with np.load(Path(scratch) / f"case{index}.npz") as arrays:
            outputs = run([_with_objects(arrays[f"i{i}"]) for i in range(len(arrays.files))])
        named: dict[str, Any] = {f"o{i}": _without_objects(_as_array(a)) for i, a in enumerate(outputs)}
        np.savez(Path(scratch) / f"result{index}.npz", **named)


def _as_array(output: Any) -> Any:
    """A sequence of maps as rows, by ascending keys."""
    if isinstance(output, list) and output and isinstance(output[0], dict):
        return np.array([[row[key] for key in sorted(row)] for row in output], np.float32)
    return np.asarray(output)


def _without_objects(array: Any) -> Any:
    """Strings as files can hold them: an array of objects would be a pickle."""
    return array.astype(np.str_) if array.dtype.kind == "O" else array


def _with_objects(array: Any) -> Any:
    return array.astype(object) if array.dtype.kind == "U" else array


def _onnxruntime(path: str, folder: str) -> Callable[[list[Any]], list[Any]]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    # External data lies beside the original model. A link to it is refused as a way out of the model's folder; a model from memory has none.
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(Path(folder).resolve()))
    session = onnxruntime.InferenceSession(Path(path).read_bytes(), options, providers=["CPUExecutionProvider"])
    inputs = [(i.name, i.type.startswith("map(")) for i in session.get_inputs()]
    return lambda arrays: list(session.run(None, _as_given(inputs, arrays)))


def _onnx_reference(path: str, folder: str) -> Callable[[list[Any]], list[Any]]:
    import onnx
    from onnx.reference import ReferenceEvaluator

    model = onnx.load(path, load_external_data=False)
    onnx.load_external_data_for_model(model, folder)
    evaluator = ReferenceEvaluator(model)
    maps = {i.name for i in model.graph.input if i.type.WhichOneof("value") == "map_type"}
    inputs = [(name, name in maps) for name in evaluator.input_names]
    return lambda arrays: list(evaluator.run(None, _as_given(inputs, arrays)))


def _as_given(inputs: list[tuple[str, bool]], arrays: list[Any]) -> dict[str, Any]:
    """Arrays by the names of the inputs (with whether it is a map): the next one, or a map of the next two, its keys and its values."""
    rest = iter(arrays)
    return {name: dict(zip(next(rest).tolist(), next(rest).tolist(), strict=True)) if is_map else next(rest) for name, is_map in inputs}


if __name__ == "__main__":
    _main(*sys.argv[1:])
