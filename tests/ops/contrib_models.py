"""Models of one com.microsoft node, compiled and run by onnxruntime's own kernels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper

from ingot.backend import IngotBackendRep, prepare

OPSET = 17
FLOAT_EPSILON = float(np.finfo(np.float32).eps)


def model_of(op: str, inputs: Mapping[str, np.ndarray | None], outputs: int | Sequence[str] = 1, *,
             shapes: Mapping[str, Sequence[int | str]] | None = None, constants: Sequence[str] = (), domain: str = "com.microsoft",
             version: int = OPSET, types: Mapping[str, int] | None = None, **attributes: Any) -> onnx.ModelProto:
    """A model of one node.

    Args:
        op: The operator.
        inputs: Arrays by name in the operator's order; None is an input that is left out.
        outputs: How many, or their names; an empty one is left out.
        shapes: Shapes with symbolic extents for some inputs.
        constants: Inputs that are initializers.
        domain: The operator's domain.
        version: ONNX's own opset, and the version of ``domain`` if that is ONNX's.
        types: Types of outputs, where onnxruntime cannot infer them.
        attributes: The node's attributes.
    """
    names = [f"y{i}" for i in range(outputs)] if isinstance(outputs, int) else list(outputs)
    node = helper.make_node(op, [n if a is not None else "" for n, a in inputs.items()], names, domain=domain, **attributes)
    given = {n: a for n, a in inputs.items() if a is not None}
    declared = [helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), (shapes or {}).get(n, a.shape))
                for n, a in given.items() if n not in constants]
    graph = helper.make_graph([node], "g", declared, [_declared(n, types or {}) for n in names if n],
                              [numpy_helper.from_array(given[n], n) for n in constants])
    return helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", version), helper.make_opsetid("com.microsoft", 1)])


def _declared(name: str, types: Mapping[str, int]) -> onnx.ValueInfoProto:
    return helper.make_value_info(name, helper.make_tensor_type_proto(types[name], None) if name in types else onnx.TypeProto())


@dataclass
class Pair:
    """A model compiled, and in onnxruntime without its optimizer."""

    compiled: IngotBackendRep
    reference: onnxruntime.InferenceSession

    def run(self, inputs: Mapping[str, np.ndarray | None]) -> list[tuple[np.ndarray, np.ndarray]]:
        """Each output, and what onnxruntime gives."""
        fed = {i.name: inputs[i.name] for i in self.reference.get_inputs()}
        got = self.compiled.run({n: a for n, a in fed.items() if n in self.compiled.input_names})
        return list(zip(got, self.reference.run(None, fed), strict=True))

    def check(self, inputs: Mapping[str, np.ndarray | None], tolerance: float) -> None:
        """Every output has the shape and type of onnxruntime's, and its numbers but for ``tolerance`` times the largest of them."""
        for got, want in self.run(inputs):
            assert got.dtype == want.dtype and got.shape == want.shape
            np.testing.assert_allclose(got, want, rtol=0, atol=tolerance * max(1.0, float(np.abs(want).max(initial=0))))

    def check_codes(self, inputs: Mapping[str, np.ndarray | None], most: int = 1) -> None:
        """Integers differ from onnxruntime's by one where a quotient lies next to a half, and that is rare."""
        for got, want in self.run(inputs):
            assert got.dtype == want.dtype and got.shape == want.shape
            difference = np.abs(got.astype(np.int64) - want.astype(np.int64))
            assert difference.max(initial=0) <= most
            assert np.count_nonzero(difference) <= max(1, got.size // 50)


def pair(model: onnx.ModelProto) -> Pair:
    """A model in both runtimes."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return Pair(prepare(model), session)


def numbers(seed: int, *shape: int, scale: float = 1.0) -> np.ndarray:
    """Normal float32 numbers."""
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype(np.float32)


def codes(seed: int, dtype: Any, *shape: int) -> np.ndarray:
    """Integers over the whole range of a type."""
    info = np.iinfo(dtype)
    return np.random.default_rng(seed).integers(info.min, info.max + 1, shape, dtype=dtype)
