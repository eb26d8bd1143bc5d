"""ONNX's backend interface (``onnx.backend.base``), which every runtime of the field offers.

>>> import ingot.backend
>>> outputs = ingot.backend.run_model(model, [x])
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx.backend.base import Backend, BackendRep, namedtupledict

from ingot.compiler import compile as compile_model
from ingot.errors import InputError, NeedsConstantError
from ingot.runtime import Model


class IngotBackendRep(BackendRep):
    """A model that is ready to run.

    Some inputs decide the shape of the computation itself (a ReduceSum's axes, say) and must be known while compiling. The
    model is then compiled once for each distinct set of their values, when it is first run with them; ``constant_inputs`` names them.
    """

    def __init__(self, model: onnx.ModelProto, **options: Any) -> None:
        initialized = {t.name for t in model.graph.initializer}
        self._model = model
        self._options = {"samples": 0, **options}
        self._compiled: dict[tuple[Any, ...], Model] = {}
        self.input_names = [i.name for i in model.graph.input if i.name not in initialized]
        self.output_names = [o.name for o in model.graph.output]
        self.constant_inputs: list[str] = []
        self._compile({})

    def run(self, inputs: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Runs the model on a sequence of inputs (in the graph's order), a dict by name, or one array."""
        named = self._named(inputs)
        constants = {name: named.pop(name) for name in self.constant_inputs}
        model = self._compile(constants)
        if model is None:  # another input turned out to be needed: the list of constants has grown
            return self.run(inputs, **kwargs)
        outputs = model.run(named)
        maps = model.manifest["model"].get("maps", {})
        results = [_as_maps(outputs[o.name], maps[o.name]) if o.name in maps else _output(o, outputs) for o in self._model.graph.output]
        return tuple(namedtupledict("Outputs", self.output_names)(*results))

    def _named(self, inputs: Any) -> dict[str, Any]:
        if isinstance(inputs, Mapping):
            named = dict(inputs)
        else:
            given = inputs if isinstance(inputs, Sequence) else [inputs]
            if len(given) > len(self.input_names):
                raise InputError(f"{len(given)} inputs were given; the model has {len(self.input_names)}: {', '.join(self.input_names)}")
            named = dict(zip(self.input_names, given, strict=False))
        missing = [name for name in self.constant_inputs if name not in named]
        if missing:
            raise InputError(f"input '{missing[0]}' is missing")
        return named

    def _compile(self, constants: dict[str, Any]) -> Model | None:
        if len(constants) < len(self.constant_inputs):
            return None
        key = tuple((name, _identity(a)) for name, a in constants.items())
        if key not in self._compiled:
            with tempfile.TemporaryDirectory(prefix="ingot-") as folder:
                path = Path(folder) / "model.ingot"
                try:
                    compile_model(self._model, path, constants=constants or None, **{"states": {}, **self._options})
                except NeedsConstantError as error:
                    deciding = _integers_behind(self._model.graph, error.input_name, self.input_names)
                    deciding = [name for name in deciding if name not in self.constant_inputs]
                    if not deciding:
                        raise
                    self.constant_inputs += deciding
                    return None
                self._compiled[key] = Model.load(path)
        return self._compiled[key]


def _integers_behind(graph: onnx.GraphProto, name: str | None, inputs: Sequence[str]) -> list[str]:
    """The inputs that a value is, or is computed from: none if there is a tensor of floats among the latter, which is not for a compiler to know."""
    if name is None or name in inputs:
        return [name] if name is not None else []
    producers = {output: node for node in _nodes(graph) for output in node.output}
    kinds = {i.name: i.type.tensor_type.elem_type for i in graph.input}
    behind, pending, seen = list[str](), [name], set[str]()
    while pending:
        current = pending.pop()
        if current in seen:
            continue
        seen.add(current)
        if current in inputs:
            behind.append(current)
        elif current in producers:
            pending += _read(producers[current])
    return behind if all(kinds[i] in (onnx.TensorProto.INT64, onnx.TensorProto.INT32, onnx.TensorProto.BOOL) for i in behind) else []


def _nodes(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """The nodes of a graph and of the bodies in it."""
    return [n for node in graph.node for n in (node, *(inner for body in _bodies(node) for inner in _nodes(body)))]


def _bodies(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    return [g for a in node.attribute for g in ([a.g] if a.type == onnx.AttributeProto.GRAPH else a.graphs)]


def _read(node: onnx.NodeProto) -> list[str]:
    """The names that a node reads, in its bodies too."""
    return [name for name in node.input if name] + [name for body in _bodies(node) for inner in _nodes(body) for name in inner.input if name]


def _identity(value: Any) -> Any:
    """Something hashable that tells an input from others: an array, a list of them for a sequence, or None."""
    if value is None or isinstance(value, (list, tuple)):
        return value if value is None else tuple(map(_identity, value))
    array = np.asarray(value)
    return array.dtype.str, array.shape, tuple(array.ravel().tolist()) if array.dtype.kind == "O" else array.tobytes()


def _as_maps(scores: Any, labels: Sequence[Any]) -> list[dict[Any, Any]]:
    """Rows of scores as a sequence of maps, from labels to scores."""
    return [dict(zip(labels, row, strict=True)) for row in scores.tolist()]


def _output(declared: onnx.ValueInfoProto, outputs: Mapping[str, Any]) -> Any:
    """An output by its declared type: an array, a list for a sequence, or None for an optional without element."""
    if declared.name in outputs:
        return outputs[declared.name]
    items: list[Any] = []
    while f"{declared.name}[{len(items)}]" in outputs:
        items.append(outputs[f"{declared.name}[{len(items)}]"])
    return items if items or declared.type.WhichOneof("value") != "optional_type" else None


class IngotBackend(Backend):
    """Compiles and runs ONNX models on this machine's CPU."""

    @classmethod
    def is_compatible(cls, model: onnx.ModelProto, device: str = "CPU", **kwargs: Any) -> bool:
        """Whether the model can be compiled."""
        try:
            IngotBackendRep(model, **kwargs)
        except Exception:
            return False
        return True

    @classmethod
    def prepare(cls, model: onnx.ModelProto, device: str = "CPU", **kwargs: Any) -> IngotBackendRep:
        """Compiles a model. Keyword arguments go to :func:`ingot.compile`."""
        if not cls.supports_device(device):
            raise InputError(f"there is no device '{device}'; the device is CPU")
        return IngotBackendRep(model, **kwargs)

    @classmethod
    def run_model(cls, model: onnx.ModelProto, inputs: Any, device: str = "CPU", **kwargs: Any) -> tuple[Any, ...]:
        """Compiles a model and runs it once."""
        return cls.prepare(model, device, **kwargs).run(inputs)

    @classmethod
    def run_node(cls, node: onnx.NodeProto, inputs: Any, device: str = "CPU", outputs_info: Any = None, **kwargs: Any) -> tuple[Any, ...]:
        """Compiles and runs one node."""
        arrays = [np.asarray(a) for a in inputs]
        names = [n for n in node.input if n]
        declared = [onnx.helper.make_tensor_value_info(n, onnx.helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
                    for n, a in zip(names, arrays, strict=True)]
        outputs = [onnx.helper.make_value_info(n, onnx.TypeProto()) for n in node.output if n]
        model = onnx.helper.make_model(onnx.helper.make_graph([node], "node", declared, outputs), **kwargs)
        return cls.run_model(model, arrays, device)

    @classmethod
    def supports_device(cls, device: str) -> bool:
        """Whether ``device`` (``CPU``, ``CPU:0``) is one that Ingot runs on."""
        return device.split(":")[0].upper() == "CPU"


is_compatible = IngotBackend.is_compatible
prepare = IngotBackend.prepare
run_model = IngotBackend.run_model
run_node = IngotBackend.run_node
supports_device = IngotBackend.supports_device
