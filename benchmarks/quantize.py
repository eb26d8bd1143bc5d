"""Quantizes a model to int8 as onnxruntime's users do: statically, to QuantizeLinear and DequantizeLinear nodes that every runtime reads."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

import ingot

#: The operators that are quantized, all that onnxruntime knows where a model is not listed. For transformers, products with weights alone:
#: attention, normalization and residual sums stay float32, as it is usual because they lose the most and take the least time.
OPERATORS: dict[str, Sequence[str]] = {"bert_base": ("MatMul",)}


class Batches(CalibrationDataReader):
    """Batches to calibrate with, one after another."""

    def __init__(self, batches: Iterable[Mapping[str, np.ndarray]]) -> None:
        self._batches = iter(batches)

    def get_next(self) -> dict[str, np.ndarray] | None:
        found = next(self._batches, None)
        return None if found is None else dict(found)


def quantize(source: Path, target: Path, batches: Iterable[Mapping[str, np.ndarray]], operators: Sequence[str] = ()) -> None:
    """Writes the ONNX model ``source`` with int8 weights, one scale a channel, and uint8 activations to ``target``.

    ``batches`` are inputs by name, whose least and greatest values at each tensor become the activations' ranges; ``operators`` are the types of
    the nodes that are quantized (default: all that can be). On x86 without VNNI weights have 7 bits, as onnxruntime's documentation on quantization
    advises: its own byte products saturate there otherwise, as OpenVINO's do, and all three runtimes would not compute the same.
    """
    with tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder) / "prepared.onnx"
        # Symbolic shape inference is for what ONNX's own leaves open; the exporter has written all shapes. Weights lie beside the file, as
        # they do in `source`: onnxruntime would refer to the old place otherwise.
        quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True, save_as_external_data=True)
        quantize_static(str(prepared), str(target), Batches(batches), quant_format=QuantFormat.QDQ, per_channel=True,
                        op_types_to_quantize=list(operators),
                        activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8, reduce_range=_lacks_vnni(),
                        extra_options={"MatMulConstBOnly": True})


def quantize_weights(source: Path, target: Path) -> None:
    """Writes the ONNX model ``source`` with int8 weights of its products, one scale a channel, whose other operands are quantized while it runs."""
    quantize_dynamic(str(source), str(target), op_types_to_quantize=["MatMul"], per_channel=True, weight_type=QuantType.QInt8,
                     reduce_range=_lacks_vnni(), extra_options={"MatMulConstBOnly": True})


def _lacks_vnni() -> bool:
    """Whether this is an x86-64 CPU without exact products of unsigned and signed bytes."""
    machine = ingot.machine()
    return bool(machine["architecture"] == "x86_64" and not {"avx512_vnni", "avx_vnni"} & set(machine["features"]))
