"""Code for NVIDIA GPUs: fused TIR functions become kernels in CUDA C++, and weights are packed for the kernels of kernels/cuda."""
