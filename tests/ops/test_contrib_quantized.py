"""Quantized operators of com.microsoft against onnxruntime's kernels.

Where onnxruntime has only AVX2, its products of uint8 by int8 saturate sums of two in 16 bits. Weights of 7 bits, which it recommends for such
machines, keep it exact. Scales have no simple ratios, so that few quotients lie at a half, where one unit in the last place decides.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import ingot
from ingot.backend import prepare
from tests.ops.contrib_models import FLOAT_EPSILON, codes, model_of, numbers, pair

EIGHT = [np.uint8, np.int8]
DEPTH, COLUMNS = 32, 12
EXACT = 4 * FLOAT_EPSILON  # sums of integers are exact; a scale, its product and a bias round


def number(value: float, dtype: Any = np.float32) -> np.ndarray:
    return np.array(value, dtype)


def weights(seed: int, *shape: int) -> np.ndarray:
    """Integers of 7 bits."""
    return codes(seed, np.int8, *shape) >> 1


@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize("dtype", EIGHT)
@pytest.mark.parametrize("columns", [1, COLUMNS])
@pytest.mark.parametrize("zeros", [False, True])
def test_products_of_integers_become_floats(constant: bool, dtype: Any, columns: int, zeros: bool) -> None:
    def inputs(batch: int) -> dict[str, np.ndarray | None]:
        arrays: dict[str, np.ndarray | None] = {
            "a": codes(batch, dtype, batch, 5, DEPTH), "b": weights(2, DEPTH, COLUMNS), "a_scale": number(0.0213),
            "b_scale": np.abs(numbers(3, columns)), "a_zero": number(7, dtype) if zeros else None,
            "b_zero": codes(4, np.int8, columns) >> 2 if zeros else None, "bias": numbers(5, COLUMNS)}
        return arrays

    fixed = [n for n in ("b", "b_scale", *(["b_zero"] if zeros else []), "bias") if constant]
    both = pair(model_of("MatMulIntegerToFloat", inputs(2), shapes={"a": ["batch", 5, DEPTH]}, constants=fixed))
    for batch in (1, 3):
        both.check(inputs(batch), EXACT)


@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize("columns", [1, COLUMNS])
@pytest.mark.parametrize("bias", [False, True])
def test_activations_are_quantized_while_they_are_multiplied(constant: bool, columns: int, bias: bool) -> None:
    fixed = {"b": weights(2, DEPTH, COLUMNS), "b_scale": np.abs(numbers(3, columns)), "b_zero": codes(4, np.int8, columns) >> 2,
             **({"bias": numbers(5, COLUMNS)} if bias else {})}
    shape = {"a": ["batch", "sequence", DEPTH]}
    both = pair(model_of("DynamicQuantizeMatMul", {"a": numbers(0, 2, 5, DEPTH), **fixed}, shapes=shape, constants=list(fixed) if constant else ()))
    for batch, sequence in ((1, 1), (2, 5), (3, 9)):
        both.check({"a": numbers(batch, batch, sequence, DEPTH), **fixed}, EXACT)


@pytest.mark.parametrize("turned", [(0, 0), (0, 1), (1, 0), (1, 1)])
@pytest.mark.parametrize("quantized", [False, True])
@pytest.mark.parametrize("bias", [None, (COLUMNS,), (5, COLUMNS)])
def test_a_gemm_of_integers_gives_integers_or_floats(turned: tuple[int, int], quantized: bool, bias: tuple[int, ...] | None) -> None:
    columns = COLUMNS if quantized else 1
    inputs: dict[str, np.ndarray | None] = {
        "a": codes(1, np.uint8, *((DEPTH, 5) if turned[0] else (5, DEPTH))), "a_scale": number(0.0213), "a_zero": number(120, np.uint8),
        "b": weights(2, *((COLUMNS, DEPTH) if turned[1] else (DEPTH, COLUMNS))), "b_scale": np.abs(numbers(3, columns)),
        "b_zero": np.zeros(columns, np.int8), "c": None if bias is None else codes(4, np.int16, *bias).astype(np.int32)}
    if quantized:
        inputs.update(y_scale=number(1.37), y_zero=number(100, np.uint8))
    if inputs["c"] is None and not quantized:
        del inputs["c"]
    model = model_of("QGemm", inputs, constants=[n for n in inputs if n != "a" and inputs[n] is not None], transA=turned[0], transB=turned[1],
                     alpha=1.0 if quantized else 0.5)
    if quantized:
        pair(model).check_codes(inputs)
    else:
        pair(model).check(inputs, EXACT)


@pytest.mark.parametrize("dtype", EIGHT)
@pytest.mark.parametrize("op", ["QLinearAdd", "QLinearMul"])
@pytest.mark.parametrize("shape", [(2, 5, DEPTH), (5, DEPTH), (DEPTH,), (1,)])
def test_two_quantized_tensors_broadcast(dtype: Any, op: str, shape: tuple[int, ...]) -> None:
    def inputs(batch: int) -> dict[str, np.ndarray]:
        return {"a": codes(1, dtype, batch, 5, DEPTH), "a_scale": number(0.0213), "a_zero": number(5, dtype),
                "b": codes(2, dtype, *shape) if shape[:1] != (2,) else codes(2, dtype, batch, 5, DEPTH), "b_scale": number(0.0317),
                "b_zero": number(7, dtype), "c_scale": number(0.0411), "c_zero": number(9, dtype)}

    free = ["batch", 5, DEPTH]
    both = pair(model_of(op, inputs(2), shapes={"a": free, **({"b": free} if len(shape) == 3 else {})}))
    for batch in (1, 4):
        both.check_codes(inputs(batch))


UNARY: list[tuple[str, float, dict[str, Any]]] = [
    ("QLinearSigmoid", 1 / 256, {}), ("QLinearLeakyRelu", 0.031, {"alpha": 0.2}), ("QLinearLeakyRelu", 0.031, {}),
    ("QLinearGlobalAveragePool", 0.0107, {}), ("QLinearGlobalAveragePool", 0.0107, {"channels_last": 1}),
    ("QLinearSoftmax", 1 / 256, {"opset": 13, "axis": -1}),
    ("QLinearSoftmax", 1 / 256, {"opset": 13, "axis": 1}), ("QLinearSoftmax", 1 / 256, {"opset": 12, "axis": 1}),
    *[("QLinearAveragePool", 0.0177, {"kernel_shape": [3, 2], "channels_last": last, **window}) for last in (0, 1)
      for window in ({}, {"pads": [1, 0, 1, 1], "count_include_pad": 1}, {"pads": [1, 0, 1, 1]}, {"ceil_mode": 1, "strides": [2, 2]},
                     {"auto_pad": "SAME_UPPER"})],
]


@pytest.mark.parametrize("dtype", EIGHT)
@pytest.mark.parametrize(("op", "scale", "attributes"), UNARY)
def test_a_quantized_tensor_is_computed_on(dtype: Any, op: str, scale: float, attributes: dict[str, Any]) -> None:
    parameters = {"x_scale": number(0.0213), "x_zero": number(5, dtype), "y_scale": number(scale), "y_zero": number(3, dtype)}
    # onnxruntime's softmax and the sigmoid's table want to know scales beforehand.
    inputs = {"x": codes(1, dtype, 2, 8, 6, 7), **parameters}
    both = pair(model_of(op, inputs, shapes={"x": ["n", 8, 6, 7]}, constants=list(parameters), **attributes))
    for batch in (1, 2):
        both.check_codes({"x": codes(1, dtype, batch, 8, 6, 7), **parameters})


@pytest.mark.parametrize("dtype", EIGHT)
def test_quantized_tensors_are_joined_and_chosen_in_a_common_scale(dtype: Any) -> None:
    a = {"a": codes(1, dtype, 2, 5, DEPTH), "a_scale": number(0.0213), "a_zero": number(5, dtype)}
    b = {"b": codes(2, dtype, 2, 5, DEPTH), "b_scale": number(0.0731), "b_zero": number(1, dtype)}
    joined = {"y_scale": number(0.0511), "y_zero": number(3, dtype), **a, **b}
    free = ["n", 5, DEPTH]
    pair(model_of("QLinearConcat", joined, shapes={"a": free, "b": ["n", "m", DEPTH]}, axis=1)).check_codes(joined)
    chosen = {"c": a["a"] > 9, **a, **b, "z_scale": number(0.0411), "z_zero": number(9, dtype)}
    pair(model_of("QLinearWhere", chosen, shapes={"c": free, "a": free, "b": free})).check_codes(chosen)


@pytest.mark.parametrize("dtype", EIGHT)
@pytest.mark.parametrize("last", [0, 1])
@pytest.mark.parametrize("group", [1, 2])
def test_a_quantized_convolution_may_have_channels_last(dtype: Any, last: int, group: int) -> None:
    x = codes(1, dtype, 2, 8, 6, 7)
    inputs = {"x": np.ascontiguousarray(x.transpose(0, 2, 3, 1)) if last else x, "x_scale": number(0.0213), "x_zero": number(5, dtype),
              "w": weights(2, 6, 8 // group, 3, 3), "w_scale": np.abs(numbers(3, 6)), "w_zero": np.zeros(6, np.int8), "y_scale": number(3.7),
              "y_zero": number(9, dtype), "b": codes(4, np.int16, 6).astype(np.int32)}
    model = model_of("QLinearConv", inputs, constants=[n for n in inputs if n != "x"], channels_last=last, group=group, pads=[1, 1, 1, 1],
                     strides=[2, 1])
    pair(model).check_codes(inputs)


@pytest.mark.parametrize("dtype", EIGHT)
def test_the_largest_of_windows_are_taken_with_channels_last(dtype: Any) -> None:
    inputs = {"x": codes(1, dtype, 2, 6, 7, 8)}
    both = pair(model_of("NhwcMaxPool", inputs, shapes={"x": ["n", 6, 7, 8]}, kernel_shape=[3, 2], pads=[1, 0, 1, 1], strides=[2, 1]))
    both.check_codes(inputs, most=0)


@pytest.mark.parametrize("dtype", [*EIGHT, np.int16, np.uint16])
@pytest.mark.parametrize("axis", [None, 0, 1, 2])
def test_numbers_are_quantized_and_back(dtype: Any, axis: int | None) -> None:
    x = numbers(0, 2, 5, DEPTH, scale=9)
    extent = () if axis is None else (x.shape[axis],)
    parameters = {"scale": np.asarray(np.abs(numbers(1, *extent)) + np.float32(0.01)), "zero": codes(2, np.int8, *extent).astype(dtype)}
    options = {} if axis is None else {"axis": axis}
    pair(model_of("QuantizeLinear", {"x": x, **parameters}, **options)).check_codes({"x": x, **parameters})
    whole = {"x": codes(3, dtype, *x.shape), **parameters}
    pair(model_of("DequantizeLinear", whole, **options)).check(whole, EXACT)


@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize("columns", [1, 3 * DEPTH])
@pytest.mark.parametrize("causal", [0, 1])
def test_attention_projects_integers(constant: bool, columns: int, causal: int) -> None:
    def inputs(batch: int, sequence: int) -> dict[str, np.ndarray]:
        lengths = np.arange(1, batch + 1) % sequence + 1
        return {"x": codes(1, np.uint8, batch, sequence, DEPTH), "w": weights(2, DEPTH, 3 * DEPTH), "b": numbers(3, 3 * DEPTH),
                "x_scale": number(0.0113), "w_scale": np.abs(numbers(4, columns, scale=0.003)) + np.float32(1e-4),
                "mask": (np.arange(sequence) < lengths[:, None]).astype(np.int32), "x_zero": number(128, np.uint8),
                "w_zero": codes(5, np.int8, columns) >> 2}

    fixed = ["w", "b", "w_scale", "w_zero"] if constant else []
    both = pair(model_of("QAttention", inputs(2, 5), shapes={"x": ["batch", "sequence", DEPTH], "mask": ["batch", "sequence"]}, constants=fixed,
                         num_heads=4, unidirectional=causal))
    for batch, sequence in ((1, 4), (3, 9)):
        both.check(inputs(batch, sequence), 64 * FLOAT_EPSILON)


def test_quantized_attention_keeps_keys_and_values() -> None:
    inputs = {"x": codes(1, np.uint8, 2, 5, DEPTH), "w": weights(2, DEPTH, 3 * DEPTH), "b": numbers(3, 3 * DEPTH), "x_scale": number(0.0113),
              "w_scale": number(0.0031), "mask": None, "x_zero": number(128, np.uint8), "w_zero": number(0, np.int8),
              "past": numbers(6, 2, 2, 4, 3, 8)}
    shapes = {"x": ["batch", "sequence", DEPTH], "past": [2, "batch", 4, "before", 8]}
    pair(model_of("QAttention", inputs, 2, shapes=shapes, num_heads=4, unidirectional=1)).check(inputs, 64 * FLOAT_EPSILON)


def test_a_joined_tensor_without_scale_is_refused() -> None:
    inputs = {"y_scale": number(0.1), "y_zero": number(0, np.uint8), "a": codes(1, np.uint8, 2, 3), "a_scale": number(0.1)}
    with pytest.raises(ingot.IngotError, match="each tensor has a scale and a zero point"):
        prepare(model_of("QLinearConcat", inputs, axis=1))
