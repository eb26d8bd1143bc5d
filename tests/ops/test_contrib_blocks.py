"""What onnxruntime's quantizers write beside products of 4 bits: tables in blocks, bitsandbytes' weights, LSTMs. And distances, biases."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper
from onnxruntime.capi._pybind_state import quantize_matmul_bnb4
from onnxruntime.quantization import QuantType, quantize_dynamic

import ingot
from ingot.backend import prepare
from tests.ops.contrib_models import FLOAT_EPSILON, model_of, numbers, pair

ROWS, WIDTH, BLOCK = 11, 64, 32


def packed(codes: np.ndarray, bits: int) -> np.ndarray:
    """Codes along the last axis as bytes, low ones first; the last byte may have room left."""
    each = 8 // bits
    room = np.concatenate([codes, np.zeros((*codes.shape[:-1], -codes.shape[-1] % each), np.uint8)], -1)
    parts = [room[..., i::each] << (i * bits) for i in range(each)]
    return np.bitwise_or.reduce(np.stack(parts), 0).astype(np.uint8)


INDICES = np.array([[0, ROWS - 1, -1], [-ROWS, 4, 4]], np.int64)
OUTSIDE = np.array([[ROWS, 1, -ROWS - 1]], np.int64)


@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_rows_of_a_packed_table_are_gathered(bits: int, zeros: bool) -> None:
    rng = np.random.default_rng(bits)
    width = WIDTH + BLOCK  # three blocks: zero points do not fill a byte
    table = packed(rng.integers(0, 2**bits, (ROWS, width)).astype(np.uint8), bits)
    inputs: dict[str, np.ndarray | None] = {"data": table, "indices": INDICES, "scales": np.abs(numbers(1, ROWS, width // BLOCK))}
    if zeros:
        inputs["zeros"] = packed(rng.integers(0, 2**bits, (ROWS, width // BLOCK)).astype(np.uint8), bits)
    both = pair(model_of("GatherBlockQuantized", inputs, shapes={"indices": ["batch", "sequence"]}, constants=["data", "scales", *["zeros"] * zeros],
                         bits=bits, block_size=BLOCK, gather_axis=0, quantize_axis=1))
    for indices in (INDICES, INDICES[:1, :1], OUTSIDE):
        both.check({**inputs, "indices": indices}, FLOAT_EPSILON)


@pytest.mark.parametrize("dtype", ["int4", "uint4"])
@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize(("gathered", "blocked"), [(0, 1), (1, 0), (0, 2), (-1, 0), (1, 1)])
def test_any_axis_of_a_table_of_integers_of_4_bits_is_gathered(dtype: str, zeros: bool, gathered: int, blocked: int) -> None:
    rng = np.random.default_rng(0)
    shape = (ROWS, 40, 36)
    blocks = [-(-d // 16) if axis == blocked else d for axis, d in enumerate(shape)]
    kind = np.dtype(getattr(ml_dtypes, dtype))
    low = -8 if dtype == "int4" else 0
    inputs: dict[str, np.ndarray | None] = {"data": rng.integers(low, low + 16, shape).astype(kind), "indices": np.array([0, 7, -2], np.int32),
                                            "scales": np.abs(numbers(1, *blocks))}
    if zeros:
        inputs["zeros"] = rng.integers(low, low + 16, blocks).astype(kind)
    both = pair(model_of("GatherBlockQuantized", inputs, shapes={"indices": ["count"]}, constants=["data", "scales", *["zeros"] * zeros], version=21,
                         block_size=16, gather_axis=gathered, quantize_axis=blocked))
    both.check(inputs, FLOAT_EPSILON)
    both.check({**inputs, "indices": np.array([5], np.int32)}, FLOAT_EPSILON)


@pytest.mark.parametrize("kind", [0, 1])
@pytest.mark.parametrize(("depth", "columns", "block"), [(64, 24, 32), (48, 10, 64), (15, 7, 16)])
def test_products_with_bitsandbytes_weights_agree(kind: int, depth: int, columns: int, block: int) -> None:
    weights = numbers(3, depth, columns)
    codes, largest = np.zeros(-(-depth * columns // 2), np.uint8), np.zeros(-(-depth * columns // block), np.float32)
    quantize_matmul_bnb4(codes, np.ascontiguousarray(weights.T), largest, block, kind, columns, depth)
    inputs: dict[str, np.ndarray | None] = {"x": numbers(1, 2, 3, depth), "b": codes, "absmax": largest}
    both = pair(model_of("MatMulBnb4", inputs, shapes={"x": ["batch", "rows", depth]}, constants=("b", "absmax"), K=depth, N=columns,
                         block_size=block, quant_type=kind))
    for batch in (1, 3):
        both.check({**inputs, "x": numbers(batch, batch, 5, depth)}, depth * FLOAT_EPSILON)


def test_weights_of_bitsandbytes_that_are_not_constant_are_refused() -> None:
    inputs: dict[str, np.ndarray | None] = {"x": numbers(1, 2, 16), "b": np.zeros(64, np.uint8), "absmax": np.ones(8, np.float32)}
    with pytest.raises(ingot.UnsupportedError, match="quant_type 2"):
        prepare(model_of("MatMulBnb4", inputs, constants=("b", "absmax"), K=16, N=8, block_size=16, quant_type=2))
    with pytest.raises(ingot.UnsupportedError, match="16 elements are expected"):
        prepare(model_of("MatMulBnb4", inputs, constants=("b", "absmax"), K=16, N=2, block_size=16, quant_type=1))


@pytest.mark.parametrize("per_channel", [False, True])
def test_a_quantized_lstm_is_the_lstm_of_its_weights(per_channel: bool, tmp_path: Path) -> None:
    width, hidden = 10, 12
    rng = np.random.default_rng(0)
    tensors: dict[str, Any] = {"W": (2, 4 * hidden, width), "R": (2, 4 * hidden, hidden), "B": (2, 8 * hidden)}
    weights = {name: (rng.standard_normal(shape) * 0.3).astype(np.float32) for name, shape in tensors.items()}
    node = helper.make_node("LSTM", ["x", "W", "R", "B"], ["y", "h", "c"], hidden_size=hidden, direction="bidirectional")
    declared = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name, shape in (
        ("x", ["steps", "batch", width]), ("y", ["steps", 2, "batch", hidden]), ("h", [2, "batch", hidden]), ("c", [2, "batch", hidden]))]
    graph = helper.make_graph([node], "lstm", declared[:1], declared[1:], [numpy_helper.from_array(a, name) for name, a in weights.items()])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "lstm.onnx")
    quantize_dynamic(tmp_path / "lstm.onnx", tmp_path / "quantized.onnx", per_channel=per_channel, weight_type=QuantType.QInt8)
    quantized = onnx.load(tmp_path / "quantized.onnx")
    assert [n.op_type for n in quantized.graph.node] == ["DynamicQuantizeLSTM"]
    stored = {t.name: numpy_helper.to_array(t) for t in quantized.graph.initializer}
    names = quantized.graph.node[0].input

    def restored(codes: str, scale: str, zero: str) -> np.ndarray:
        def spread(a: np.ndarray) -> np.ndarray:
            return a.reshape(-1, 1, a.shape[-1] if a.ndim == 2 else 1).astype(np.float32)

        return np.ascontiguousarray(((stored[codes].astype(np.float32) - spread(stored[zero])) * spread(stored[scale])).transpose(0, 2, 1))

    weights |= {"W": restored(names[1], names[8], names[9]), "R": restored(names[2], names[10], names[11])}
    del graph.initializer[:]
    graph.initializer.extend(numpy_helper.from_array(a, name) for name, a in weights.items())
    plain = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    ours = prepare(quantized)
    sessions = [onnxruntime.InferenceSession(m.SerializeToString(), providers=["CPUExecutionProvider"]) for m in (plain, quantized)]
    for steps, batch in ((5, 2), (1, 1)):
        x = numbers(steps, steps, batch, width)
        exact, rounded = (session.run(None, {"x": x}) for session in sessions)
        for found, wanted, near in zip(ours.run([x]), exact, rounded, strict=True):
            np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5)
            # onnxruntime rounds inputs and states to 255 steps of their range besides.
            assert np.abs(found - near).max() < 0.05


@pytest.mark.parametrize("metric", ["sqeuclidean", "euclidean"])
def test_distances_of_all_pairs_agree(metric: str) -> None:
    inputs: dict[str, np.ndarray | None] = {"a": numbers(1, 5, 7), "b": numbers(2, 9, 7)}
    both = pair(model_of("CDist", inputs, shapes={"a": ["rows", 7]}, constants=["b"], metric=metric))
    for rows in (1, 6):
        both.check({**inputs, "a": numbers(rows, rows, 7)}, 20 * FLOAT_EPSILON)


def test_a_bias_and_a_skipped_value_are_added() -> None:
    inputs: dict[str, np.ndarray | None] = {"x": numbers(0, 2, 3, 320), "bias": numbers(1, 320), "skip": numbers(2, 2, 3, 320)}
    (found,) = prepare(model_of("BiasAdd", inputs, shapes={"x": ["batch", 3, 320], "skip": ["batch", 3, 320]})).run(inputs)
    np.testing.assert_allclose(found, inputs["x"] + inputs["bias"] + inputs["skip"], rtol=0, atol=4 * FLOAT_EPSILON * 8)
