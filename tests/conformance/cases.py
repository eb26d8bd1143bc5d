"""The node and simple cases of ONNX's own backend test suite (``onnx.backend.test``)."""

from __future__ import annotations

import glob
import os
import warnings
from functools import cache
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper


@cache
def cases() -> dict[str, Any]:
    """All cases by name, in a fixed order."""
    from onnx.backend.test import loader

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some cases overflow on purpose while their expected outputs are computed
        loaded = [case for kind in ("node", "simple") for case in loader.load_model_tests(kind=kind)]
    return {case.name: case for case in sorted(loaded, key=lambda case: str(case.name))}


def model_and_data(case: Any) -> tuple[onnx.ModelProto, list[tuple[list[Any], list[Any]]]]:
    """A case's model, and its (inputs, expected outputs)."""
    if case.model is not None:
        return case.model, [([_array(v) for v in inputs], [_array(v) for v in outputs]) for inputs, outputs in case.data_sets]
    model = onnx.load(os.path.join(case.model_dir, "model.onnx"))
    folders = sorted(glob.glob(os.path.join(case.model_dir, "test_data_set_*")))
    return model, [(_tensors(f, "input", model.graph.input), _tensors(f, "output", model.graph.output)) for f in folders]


def _array(value: Any) -> Any:
    """A tensor of a type that NumPy lacks comes as a protobuf."""
    return numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else value


def _tensors(folder: str, kind: str, declared: Any) -> list[Any]:
    result = []
    for index in range(len(glob.glob(os.path.join(folder, f"{kind}_*.pb")))):
        tensor = onnx.TensorProto()
        with open(os.path.join(folder, f"{kind}_{index}.pb"), "rb") as file:
            tensor.ParseFromString(file.read())
        result.append(numpy_helper.to_array(tensor))
    return result


def compare(case: Any, expected: Any, actual: Any) -> None:
    """Raises AssertionError unless an output has the expected dtype, shape and elements, within the case's own tolerances."""
    if expected is None or isinstance(expected, (list, tuple)):  # an optional without element, a sequence
        assert type(actual) is (list if expected is not None else type(None))
        assert len(actual or ()) == len(expected or ())
        for want, got in zip(expected or (), actual or (), strict=True):
            compare(case, want, got)
        return
    expected = np.asarray(expected)
    if expected.dtype.kind in "OUS":  # strings are objects here, of whichever kind they are there
        expected = expected.astype(object)
    assert actual.dtype == expected.dtype
    assert actual.shape == expected.shape
    if expected.dtype.kind in "biuO":
        np.testing.assert_array_equal(actual, expected)
    else:
        wide = "complex128" if expected.dtype.kind == "c" else "float64"
        np.testing.assert_allclose(actual.astype(wide), expected.astype(wide), rtol=case.rtol or 1e-3, atol=case.atol or 1e-7)
