"""Times the CUDA kernels matmul, matmul_fp8, matmul_int8 and quantize_rows beside cuBLAS."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import common
import torch

WITHOUT = 99  # 0, where cuBLASLt is left out
# ProductPath of kernels/cuda/matmul/products.h; + 100 slices
PATHS = {
    0: "Ingot",
    1: "Ingot matvec",
    2: "Ingot mma 128x128",
    4: "Ingot mma 64x64",
    5: "Ingot wgmma 128x256",
    6: "Ingot wgmma 128x128",
    7: "Ingot wgmma 64x128",
    8: "Ingot tile 32x128",
    9: "Ingot cuBLASLt",
    WITHOUT: "Ingot without cuBLASLt",
}
BLOCK = 128


@contextmanager
def cublaslt(used: bool) -> Iterator[None]:
    """Leaves cuBLASLt to Ingot, or does not."""
    before = os.environ.get("INGOT_CUBLASLT", "")  # empty is as good as none
    if not used:
        os.environ["INGOT_CUBLASLT"] = "0"
    yield
    os.environ["INGOT_CUBLASLT"] = before


def dense(bench: common.Bench, m: int, n: int, k: int, dtype: torch.dtype, layout: int, precision: int, variants: tuple[int, ...]) -> None:
    """One product of a float type; operands change from call to call where W fits into the cache."""
    size = torch.empty(0, dtype=dtype).element_size()
    count = common.copies((n + m) * k * size, 8)
    x = [torch.randn(m, k, device="cuda", dtype=dtype) for _ in range(count)]
    w = [torch.randn((n, k) if layout == 0 else (k, n), device="cuda", dtype=dtype) for _ in range(count)]
    y = torch.empty(m, n, device="cuda", dtype=dtype)
    weights = [each.t() if layout == 0 else each for each in w]
    torch.backends.cuda.matmul.allow_tf32 = False
    reference = torch.matmul(x[0].float(), weights[0].float())
    work = {"bytes": size * (m * k + n * k + m * n), "flops": 2 * m * n * k, "calls": count}
    for variant in variants:
        name = PATHS[variant % 100] + (f" / {variant // 100}" if variant >= 100 else "")
        ints = [layout, 0, precision, 0 if variant == WITHOUT else variant]
        calls = [common.kernel("matmul", [a, b], [y], ints=ints, floats=[0, 0]) for a, b in zip(x, w, strict=True)]
        with cublaslt(variant != WITHOUT):
            calls[0]()
            error = bench.check(y, reference, 1e-2 if size == 2 else 2e-3 if precision == 0 else 1e-5)
            bench.time(name, common.rotating(calls), note=f"error {error:.1e}", seconds=0.05, **work)
    torch.backends.cuda.matmul.allow_tf32 = precision == 0
    peers = [lambda a=a, b=b: torch.matmul(a, b, out=y) for a, b in zip(x, weights, strict=True)]
    bench.time("cuBLAS", common.rotating(peers), seconds=0.05, **work)


def _spread(scales: Any, rows: int, columns: int) -> Any:
    """Scales of blocks for each number."""
    return scales.repeat_interleave(rows, 0).repeat_interleave(columns, 1)


def fp8(bench: common.Bench, m: int, n: int, k: int, blocks: bool, variants: tuple[int, ...]) -> None:
    """A product of E4M3 numbers, and cuBLAS's of them and of bfloat16."""
    count = common.copies((n + m) * k, 8)
    x = [torch.randn(m, k, device="cuda").to(torch.float8_e4m3fn) for _ in range(count)]
    w = [torch.randn(n, k, device="cuda").to(torch.float8_e4m3fn) for _ in range(count)]
    y = torch.empty(m, n, device="cuda", dtype=torch.bfloat16)
    one = torch.ones(1, device="cuda")
    x_scales = torch.rand(m, k // BLOCK, device="cuda") + 0.5 if blocks else one
    w_scales = torch.rand(-(-n // BLOCK), k // BLOCK, device="cuda") + 0.5 if blocks else one
    left, right = x[0].float(), w[0].float()
    if blocks:
        left, right = left * _spread(x_scales, 1, BLOCK), right * _spread(w_scales, BLOCK, BLOCK)[:n]
    reference = left @ right.t()
    work = {"bytes": m * k + n * k + 2 * m * n, "flops": 2 * m * n * k, "calls": count}
    scale = 2 if blocks else 0
    for variant in variants:
        calls = [common.kernel("matmul_fp8", [a, b, x_scales, w_scales], [y], ints=[scale, scale, 0, variant]) for a, b in zip(x, w, strict=True)]
        calls[0]()
        error = bench.check(y, reference)
        bench.time(PATHS[variant], common.rotating(calls), note=f"error {error:.1e}", seconds=0.05, **work)
    if not blocks and m % 16 == 0:
        for fast in (False, True):
            peers = [
                lambda a=a, b=b, fast=fast: torch._scaled_mm(a, b.t(), one[0], one[0], out_dtype=torch.bfloat16, use_fast_accum=fast)
                for a, b in zip(x, w, strict=True)
            ]
            bench.time(f"_scaled_mm{' fast' if fast else ''}", common.rotating(peers), seconds=0.05, **work)
    bf16(bench, m, n, k)


def int8(bench: common.Bench, m: int, n: int, k: int, variants: tuple[int, ...]) -> None:
    """A product of int8 with scales of rows and channels, and PyTorch's without scales."""
    count = common.copies((n + m) * k, 8)
    x = [torch.randint(-128, 128, (m, k), device="cuda", dtype=torch.int8) for _ in range(count)]
    w = [torch.randint(-128, 128, (n, k), device="cuda", dtype=torch.int8) for _ in range(count)]
    y = torch.empty(m, n, device="cuda", dtype=torch.bfloat16)
    x_scales, w_scales = (torch.rand(rows, device="cuda") * 1e-2 for rows in (m, n))
    reference = (x[0].double() @ w[0].double().t()) * x_scales[:, None] * w_scales
    work = {"bytes": m * k + n * k + 2 * m * n, "flops": 2 * m * n * k, "calls": count}
    for variant in variants:
        calls = [common.kernel("matmul_int8", [a, b, x_scales, w_scales], [y], ints=[1, 1, 0, variant]) for a, b in zip(x, w, strict=True)]
        calls[0]()
        error = bench.check(y, reference)
        bench.time(PATHS[variant], common.rotating(calls), note=f"error {error:.1e}", seconds=0.05, **work)
    if m > 16:
        bench.time("_int_mm", common.rotating([lambda a=a, b=b: torch._int_mm(a, b.t()) for a, b in zip(x, w, strict=True)]), seconds=0.05, **work)
    bf16(bench, m, n, k)


def bf16(bench: common.Bench, m: int, n: int, k: int) -> None:
    """What products of 8 bits are to be faster than."""
    count = common.copies(2 * (n + m) * k, 8)
    x = [torch.randn(m, k, device="cuda", dtype=torch.bfloat16) for _ in range(count)]
    w = [torch.randn(n, k, device="cuda", dtype=torch.bfloat16) for _ in range(count)]
    y = torch.empty(m, n, device="cuda", dtype=torch.bfloat16)
    calls = [lambda a=a, b=b: torch.matmul(a, b.t(), out=y) for a, b in zip(x, w, strict=True)]
    bench.time("cuBLAS bf16", common.rotating(calls), seconds=0.05, flops=2 * m * n * k, bytes=2 * (m * k + n * k + m * n), calls=count)


def rows(bench: common.Bench, m: int, k: int, dtype: torch.dtype, group: int) -> None:
    """Rows of bfloat16 turned into codes."""
    count = common.copies(2 * m * k, 8)
    x = [torch.randn(m, k, device="cuda", dtype=torch.bfloat16) for _ in range(count)]
    codes = torch.empty(m, k, device="cuda", dtype=dtype)
    scales = torch.empty(m, k // group if group else 1, device="cuda")
    calls = [common.kernel("quantize_rows", [a], [codes, scales], ints=[group]) for a in x]
    calls[0]()
    bench.check(codes.float() * scales.repeat_interleave(group or k, 1), x[0], 4e-2)
    bench.time("Ingot", common.rotating(calls), bytes=3 * m * k, calls=count, seconds=0.05)


def main() -> None:
    """All cases."""
    bench = common.Bench("matmul")
    half = torch.bfloat16
    for n in (4096, 8192):
        bench.run(f"bf16 {n}^3", dense, bench, n, n, n, half, 0, 0, (0,) if n == 8192 else (0, 5))
    bench.run("bf16 4096^3, W [K, N]", dense, bench, 4096, 4096, 4096, half, 1, 0, (0, WITHOUT))
    for m in (1, 8, 16, 32, 128, 512, 4096):
        variants = (0, WITHOUT, 1, 7) if m <= 32 else (0, WITHOUT, 5, 7) if m < 4096 else (0, 9)
        bench.run(f"bf16 {m} x 4096 x 14336", dense, bench, m, 14336, 4096, half, 0, 0, variants)
    for m in (1, 16, 128):
        bench.run(f"bf16 {m} x 14336 x 4096", dense, bench, m, 4096, 14336, half, 0, 0, (0, WITHOUT, 1) if m <= 32 else (0, WITHOUT, 207, 407))
    bench.run("bf16 1 x 4096 x 128256", dense, bench, 1, 128256, 4096, half, 0, 0, (0, WITHOUT))
    for blocks in (False, True):
        for n in (4096, 14336):
            name = f"fp8{' blocks' if blocks else ''} 4096 x 4096 x {n}"
            bench.run(name, fp8, bench, 4096, n, 4096, blocks, (0, 7) if blocks and n == 4096 else (0,))
        bench.run(f"fp8{' blocks' if blocks else ''} 16 x 4096 x 14336", fp8, bench, 16, 14336, 4096, blocks, (0, 7))
    for n in (4096, 14336):
        bench.run(f"int8 4096 x 4096 x {n}", int8, bench, 4096, n, 4096, (0, 5, 6))
    bench.run("int8 16 x 4096 x 14336", int8, bench, 16, 14336, 4096, (0, 7))
    for precision, name in enumerate(("tf32", "float32")):
        bench.run(f"{name} 4096^3", dense, bench, 4096, 4096, 4096, torch.float32, 0, precision, (0, WITHOUT, 4))
        bench.run(f"{name} 1 x 4096 x 14336", dense, bench, 1, 14336, 4096, torch.float32, 0, precision, (0, WITHOUT, 9))
    bench.run("float32 4096^3, W [K, N]", dense, bench, 4096, 4096, 4096, torch.float32, 1, 1, (0, WITHOUT))
    for m in (4, 16, 64, 256):
        bench.run(f"float32 {m} x 4096 x 14336", dense, bench, m, 14336, 4096, torch.float32, 0, 1, (0, WITHOUT, 9))
    bench.run("rows to int8 4096 x 4096", rows, bench, 4096, 4096, torch.int8, 0)
    bench.run("rows to fp8 by 128, 4096 x 4096", rows, bench, 4096, 4096, torch.float8_e4m3fn, 128)
    bench.finish()


if __name__ == "__main__":
    main()
