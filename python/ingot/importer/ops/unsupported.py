"""Operators that are not supported and for which a person can do something else: their errors say what."""

from __future__ import annotations

from ingot.importer.context import Context
from ingot.importer.registry import onnx_op
from ingot.importer.values import Value


@onnx_op("ImageDecoder", since=20)
def image_decoder(cx: Context, encoded_stream: Value, *, pixel_format: str = "RGB") -> Value:
    raise cx.error("compressed images are not decoded; decode them before the model, and give it pixels")
