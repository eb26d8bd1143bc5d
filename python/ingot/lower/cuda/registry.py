"""Which kernels there are for GPUs (kernels/cuda/registry.cpp); the others run on the CPU, their operands copied (docs/format.md, "host")."""

from __future__ import annotations

#: The names in kernels/cuda/registry.cpp that compiled models use; a test compares.
CUDA_KERNELS = frozenset({
    "attention", "convolution", "matmul", "matmul_int8", "normalization", "normalized_matmul", "qlinear_conv", "qlinear_matmul", "quantize_rows",
    "quantized_matmul", "rotary_cache", "sample", "tensor_scatter"})


def on_host(name: str) -> bool:
    """Whether a kernel runs on the CPU in a program for a GPU."""
    return name not in CUDA_KERNELS
