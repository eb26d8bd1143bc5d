"""The programs that compute kernels: a file for each, with one row for each kernel. They import what they need when they are made ready."""

from __future__ import annotations

from ingot.bench.kernels.contestants import ggml, ingot_, onnxruntime_, openvino_, torch_
from ingot.bench.kernels.contestants.library import load_library
from ingot.bench.kernels.problem import Contestant

CONTESTANTS: tuple[Contestant, ...] = (*ingot_.ROWS, *onnxruntime_.ROWS, *openvino_.ROWS, *torch_.ROWS, *ggml.ROWS)

__all__ = ["CONTESTANTS", "load_library"]
