"""Products and convolutions with what onnxruntime's optimizer fuses into them, against its kernels."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import onnxruntime
import pytest

import ingot
from ingot.backend import prepare
from tests.ops.contrib_models import FLOAT_EPSILON, model_of, numbers, pair

DEPTH = 8
ROUNDING = 4 * DEPTH * FLOAT_EPSILON
FLAGS = list(product((0, 1), repeat=2))


@pytest.mark.parametrize("op", ["FusedMatMul", "TransposeMatMul"])
@pytest.mark.parametrize(("left", "right"), FLAGS)
@pytest.mark.parametrize("shared", [False, True])
def test_operands_are_transposed_and_the_product_scaled(op: str, left: int, right: int, shared: bool) -> None:
    def inputs(batch: int) -> dict[str, np.ndarray]:
        b = (6, DEPTH) if right else (DEPTH, 6)
        return {"a": numbers(1, batch, 3, *((DEPTH, 5) if left else (5, DEPTH))), "b": numbers(2, *b) if shared else numbers(2, batch, 3, *b)}

    shapes = {n: a.shape if n == "b" and shared else ["batch", *a.shape[1:]] for n, a in inputs(2).items()}
    both = pair(model_of(op, inputs(2), shapes=shapes, transA=left, transB=right, alpha=0.3))
    for batch in (1, 4):
        both.check(inputs(batch), ROUNDING)


@pytest.mark.parametrize(("left", "right"), FLAGS)
def test_the_axis_of_rows_may_stand_before_those_of_batches(left: int, right: int) -> None:
    inputs = {"a": numbers(1, *((DEPTH, 2, 3, 5) if left else (5, 2, 3, DEPTH))), "b": numbers(2, 2, 3, *((6, DEPTH) if right else (DEPTH, 6)))}
    pair(model_of("FusedMatMul", inputs, transA=left, transB=right, transBatchA=1)).check(inputs, ROUNDING)
    inputs = {"a": numbers(1, 2, 3, *((DEPTH, 5) if left else (5, DEPTH))), "b": numbers(2, *((6, 2, 3, DEPTH) if right else (DEPTH, 2, 3, 6)))}
    pair(model_of("FusedMatMul", inputs, transA=left, transB=right, transBatchB=1)).check(inputs, ROUNDING)


def test_vectors_are_multiplied() -> None:
    inputs = {"a": numbers(1, DEPTH), "b": numbers(2, DEPTH, 6)}
    pair(model_of("FusedMatMul", inputs)).check(inputs, ROUNDING)


OF_GEMM: list[tuple[str, dict[str, float]]] = [
    ("Relu", {}), ("LeakyRelu", {"activation_alpha": 0.2}), ("Tanh", {}), ("Sigmoid", {}), ("Softplus", {}), ("Softsign", {}),
    ("HardSigmoid", {"activation_alpha": 0.3, "activation_beta": 0.4}), ("Elu", {"activation_alpha": 0.5}),
    ("ThresholdedRelu", {"activation_alpha": 0.5}), ("Selu", {"activation_alpha": 0.5, "activation_gamma": 2.0})]


@pytest.mark.parametrize(("activation", "parameters"), OF_GEMM)
def test_a_gemm_is_activated(activation: str, parameters: dict[str, float]) -> None:
    inputs = {"a": numbers(1, 4, DEPTH), "b": numbers(2, 6, DEPTH), "c": numbers(3, 6)}
    both = pair(model_of("FusedGemm", inputs, shapes={"a": ["rows", DEPTH]}, constants=("b", "c"), transB=1, alpha=0.5, beta=2.0,
                         activation=activation, **parameters))
    for rows in (1, 7):
        both.check({**inputs, "a": numbers(rows, rows, DEPTH)}, ROUNDING)


OF_CONVOLUTION: list[tuple[str, list[float]]] = [("", []), ("Relu", []), ("LeakyRelu", [0.2]), ("Tanh", []), ("Sigmoid", []), ("Clip", [-0.5, 0.7]),
                                                 ("HardSigmoid", [0.3, 0.4])]


def convolution(activation: str, parameters: list[float], added: bool) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    inputs = {"x": numbers(1, 2, 4, 5, 5), "w": numbers(2, 6, 2, 3, 3), "b": numbers(3, 6), **({"z": numbers(4, 2, 6, 5, 5)} if added else {})}
    attributes: dict[str, Any] = {"pads": [1, 1, 1, 1], "group": 2, **({"activation": activation} if activation else {}),
                                  **({"activation_params": parameters} if parameters else {})}
    return inputs, attributes


@pytest.mark.parametrize(("activation", "parameters"), OF_CONVOLUTION)
@pytest.mark.parametrize("added", [False, True])
def test_a_convolution_is_added_to_and_activated(activation: str, parameters: list[float], added: bool) -> None:
    inputs, attributes = convolution(activation, parameters, added)
    shapes = {"x": ["n", 4, 5, 5], "z": ["n", 6, 5, 5]}
    pair(model_of("FusedConv", inputs, shapes=shapes, constants=("w", "b"), **attributes)).check(inputs, ROUNDING)


@pytest.mark.parametrize(("op", "added"), [("NhwcConv", False), ("NhwcFusedConv", False), ("NhwcFusedConv", True)])
def test_a_convolution_may_have_channels_last(op: str, added: bool) -> None:
    fused = op == "NhwcFusedConv"
    inputs, attributes = convolution("LeakyRelu" if fused else "", [0.2] if fused else [], added)
    plain = model_of("FusedConv", inputs, **attributes)
    (want,) = onnxruntime.InferenceSession(plain.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, inputs)
    last = {n: np.ascontiguousarray(a.transpose(0, 2, 3, 1)) if n in "xz" else a for n, a in inputs.items()}
    (got,) = prepare(model_of(op, last, shapes={"x": ["n", "h", "w", 4], **({"z": ["n", "h", "w", 6]} if added else {})}, constants=("w", "b"),
                              **attributes)).run({n: a for n, a in last.items() if n in "xz"})
    np.testing.assert_allclose(got, want.transpose(0, 2, 3, 1), rtol=0, atol=ROUNDING * np.abs(want).max())


def test_an_unknown_activation_is_refused_with_those_that_are_known() -> None:
    inputs = {"a": numbers(1, 4, DEPTH), "b": numbers(2, DEPTH, 6)}
    with pytest.raises(ingot.IngotError, match="activation 'Snake' is not supported; it can be Clip, Elu"):
        prepare(model_of("FusedGemm", inputs, activation="Snake"))
