"""Times products with weights of 4 and 8 bits, with the divisions of work that can be chosen, beside cuBLAS and PyTorch's int4.

    python3 benchmarks/cuda/bench_quantized_matmul.py --json quantized_matmul.json

Bytes are those that a product must read and write, codes and scales of bfloat16 among them. Weights are not in the cache: calls take turns with
copies of them. cuBLAS multiplies the same weights as bfloat16.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import common
import torch

GROUP = 128
SHAPES = [(4096, 14336), (14336, 4096), (2048, 5632)]  # K, N
ROWS = [1, 8, 16, 32, 64, 128, 1024, 4096]
STREAMED, TILES, WGMMA, BULK, DIRECT = 1_000_000, 2_000_000, 3_000_000, 4_000_000, 5_000_000
INT8, INT4 = 0, 1


def variant(path: int, splits: int = 0, stages: int = 0, warps: int = 0) -> int:
    """The last entry of ints (kernels/cuda/quantized_matmul/quantized_matmul.h)."""
    return path + splits * 10_000 + stages * 100 + warps


def candidates(rows: int, columns: int) -> dict[str, int]:
    """Divisions of work to compare with the one that is chosen."""
    named: dict[str, int] = {}
    if rows <= 8:
        few = {14336: ((1, 1, 4), (1, 2, 4), (1, 4, 4), (1, 7, 4), (1, 7, 3)), 4096: ((1, 1, 16), (1, 2, 8), (1, 2, 16), (4, 8, 4), (2, 4, 8))}
        named |= {f"direct k{k} n{n} w{w}": variant(DIRECT, k, n, w) for k, n, w in few.get(columns, ())}
        named |= {f"bulk s{s} w{w}": variant(BULK, 0, s, w) for s, w in ((2, 8),) if rows == 1}
    elif rows <= 32:
        some = {14336: ((1, 4, 3), (1, 7, 3), (1, 3, 6), (2, 7, 1), (2, 4, 3), (2, 6, 2)), 4096: ((4, 8, 3), (8, 8, 1), (6, 6, 2), (3, 6, 4))}
        named |= {f"direct k{k} n{n} w{w}": variant(DIRECT, k, n, w) for k, n, w in some.get(columns, ())}
    if 16 <= rows <= 64:
        named |= {f"tiles k{k} w{w}": variant(TILES, k, 0, w) for k, w in ((1, 2 if rows > 32 else 4), (4, 2 if rows > 32 else 4))}
    if rows >= 32:
        named |= {f"wgmma {n}": variant(WGMMA, 0, 0, n // 8) for n in (64, 128, 256) if n <= max(64, rows) and (n > 64 or rows < 1024)}
    return named


def packed(codes: Any, bits: int) -> Any:
    """Codes [N, K] of 0 to 15 or 0 to 255 as the kernel reads them (python/ingot/lower/cuda/packing.py), N and K multiples of 16 and 64."""
    n, k = codes.shape
    tiles = codes.reshape(n // 16, 2, 8, k // 64, 4, 2, 4, 2)
    if bits == 8:
        return tiles.reshape(n // 16, 2, 8, k // 64, 2, 2, 2, 4, 2).permute(0, 3, 4, 2, 7, 5, 6, 8, 1).reshape(n // 16, -1).contiguous()
    nibbles = tiles.permute(0, 3, 2, 6, 4, 7, 5, 1).reshape(n // 16, -1, 2)
    return (nibbles[..., 0] | nibbles[..., 1] << 4).contiguous()


class Weights:
    """Random weights [N, K] in all forms, as often as they are needed to find none in the cache."""

    def __init__(self, depth: int, columns: int, bits: int) -> None:
        middle = 1 << (bits - 1)
        codes = torch.randint(0, 2 * middle, (columns, depth), dtype=torch.uint8, device="cuda")
        scales = (torch.rand(columns, depth // GROUP, device="cuda") / middle / depth**0.5 + 1e-4).bfloat16()
        self.depth, self.columns, self.bits = depth, columns, bits
        self.codes, self.scales = codes, scales
        dense = (codes.float() - middle) * scales.float().repeat_interleave(GROUP, 1)
        self.dense = dense.bfloat16()
        self.exact = dense if bits == 4 else None
        of_panels = scales.reshape(columns // 16, 16, -1).transpose(1, 2).contiguous()
        one = packed(codes, bits)
        self.bytes = one.nbytes + of_panels.nbytes
        self.packed = [(one.clone(), of_panels.clone()) for _ in range(common.copies(self.bytes))]
        self.denses = [self.dense.clone() for _ in range(common.copies(self.dense.nbytes))]

    def int4pack(self) -> list[tuple[Any, Any]]:
        """As PyTorch's int4 product takes them."""
        pairs = (self.codes[:, ::2] << 4 | self.codes[:, 1::2]).contiguous()
        weight = torch.ops.aten._convert_weight_to_int4pack(pairs, 8)
        scales = torch.stack([self.scales.t(), torch.zeros_like(self.scales.t())], 2).contiguous()
        return [(weight.clone(), scales.clone()) for _ in range(common.copies(weight.nbytes + scales.nbytes))]


def compare(bench: common.Bench, weights: Weights, rows: int, peers: bool, search: bool) -> None:
    """One problem, by all contestants."""
    x = torch.randn(rows, weights.depth, dtype=torch.bfloat16, device="cuda")
    y = torch.empty(rows, weights.columns, dtype=torch.bfloat16, device="cuda")
    sizes = {"flops": 2.0 * rows * weights.columns * weights.depth}
    moved = weights.bytes + x.nbytes + y.nbytes
    few = min(rows, 256)
    reference = x[-few:].double() @ (weights.exact if weights.exact is not None else weights.dense).double().t()

    def ingot(name: str, number: int, capability: int = 0) -> None:
        ints = [INT4 if weights.bits == 4 else INT8, GROUP, 0, 0, 0, number]
        calls = [common.kernel("quantized_matmul", [x, w, s], [y], ints=ints, capability=capability) for w, s in weights.packed]
        y.zero_()
        calls[0]()
        torch.cuda.synchronize()
        bench.check(y[-few:], reference)
        bench.time(name, common.rotating(calls), calls=len(calls), bytes=moved, seconds=0.02, **sizes)

    ingot("Ingot", 0)
    if peers:
        products = [lambda w=w: torch.matmul(x, w.t(), out=y) for w in weights.denses]
        dense_bytes = weights.dense.nbytes + x.nbytes + y.nbytes
        bench.time("cuBLAS bf16", common.rotating(products), calls=len(products), bytes=dense_bytes, seconds=0.02, **sizes)
        if weights.bits == 4 and rows <= 256:
            int4(bench, weights, x, reference, moved, sizes)
    if search:
        for name, number in candidates(rows, weights.columns).items():
            attempt(bench, name, lambda name=name, number=number: ingot(f"Ingot {name}", number))
        if rows in (1, 16):
            attempt(bench, "sm_80", lambda: ingot("Ingot sm_80", 0, 80))


def normalized(bench: common.Bench, weights: Weights, rows: int) -> None:
    """A product of RMS-normalized rows: as one call, and as two."""
    x = torch.randn(rows, weights.depth, dtype=torch.bfloat16, device="cuda") * 3
    norm = torch.rand(weights.depth, device="cuda") + 0.5
    n = torch.empty_like(x)
    y = torch.empty(rows, weights.columns, dtype=torch.bfloat16, device="cuda")
    ints, floats = [INT4 if weights.bits == 4 else INT8, GROUP, 0, 0, 0], [1e-5, 0.0]
    of_rows = common.kernel("normalization", [x, norm], [n], ints=[1], floats=floats)
    ones = [common.kernel("normalized_matmul", [x, w, s, None, None, None, norm], [y], ints=ints, floats=floats) for w, s in weights.packed]
    products = [common.kernel("quantized_matmul", [n, w, s], [y], ints=ints) for w, s in weights.packed]
    twos = [call for product in products for call in (of_rows, product)]
    wide = x.double()
    reference = wide * (wide.square().mean(1, keepdim=True) + 1e-5).rsqrt() * norm.double() @ weights.dense.double().t()
    for name, calls in (("one call", ones), ("two calls", twos)):
        y.zero_()
        for call in calls[:2]:
            call()
        torch.cuda.synchronize()
        bench.check(y, reference)
        bench.time(name, common.rotating(calls), calls=len(weights.packed), bytes=weights.bytes + x.nbytes + y.nbytes, seconds=0.02)


def int4(bench: common.Bench, weights: Weights, x: Any, reference: Any, moved: float, sizes: dict[str, float]) -> None:
    """PyTorch's int4 product, where it has one."""
    try:
        forms = weights.int4pack()
        bench.check(torch.ops.aten._weight_int4pack_mm(x, forms[0][0], GROUP, forms[0][1])[-len(reference) :], reference, 2e-2)
    except Exception as error:
        print(f"{'':44} {'torch int4':22} cannot: {str(error).splitlines()[0][:90] if str(error) else type(error).__name__}", flush=True)
        return
    calls = [lambda w=w, s=s: torch.ops.aten._weight_int4pack_mm(x, w, GROUP, s) for w, s in forms]
    bench.time("torch int4", common.rotating(calls), calls=len(calls), bytes=moved, seconds=0.02, **sizes)


def attempt(bench: common.Bench, name: str, body: Callable[[], None]) -> None:
    """A variant that fails is said to, and the others go on."""
    try:
        body()
    except Exception as error:
        bench.failures += 1
        print(f"{'':44} {'Ingot ' + name:22} failed: {str(error).splitlines()[0][:120] if str(error) else type(error).__name__}", flush=True)


def main() -> None:
    bench = common.Bench("quantized_matmul")
    for depth, columns in SHAPES:
        weights = Weights(depth, columns, 4)
        for rows in ROWS:
            search = columns != 5632
            bench.run(f"int4 g128 [{rows}, {depth}] x [{depth}, {columns}]", compare, bench, weights, rows, True, search)
        for rows in (1, 8):
            bench.run(f"int4 g128 normalized [{rows}, {depth}] x [{depth}, {columns}]", normalized, bench, weights, rows)
        del weights
    weights = Weights(4096, 14336, 8)
    for rows in (1, 16, 4096):
        bench.run(f"int8 g128 [{rows}, 4096] x [4096, 14336]", compare, bench, weights, rows, True, False)
    bench.finish()


if __name__ == "__main__":
    main()
