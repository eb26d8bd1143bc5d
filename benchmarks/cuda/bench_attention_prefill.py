"""Times attention of many queries, with each of its tiles, beside PyTorch's back ends.

    python3 benchmarks/cuda/bench_attention_prefill.py --json prefill.json

Operations are those of the keys that are seen: half of the square where attention is causal. All read the same tensors [B, H, S, D].
"""

from __future__ import annotations

import math
from typing import Any

import common
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

HEAD_FIRST = 1  # AttentionLayout::kHeadFirst
VARIANTS = {64: 4, 128: 6, 256: 2}  # kernels/cuda/attention_prefill/hopper_run.h
BACKENDS = {
    "SDPA cuDNN": SDPBackend.CUDNN_ATTENTION,
    "SDPA flash": SDPBackend.FLASH_ATTENTION,
    "SDPA efficient": SDPBackend.EFFICIENT_ATTENTION,
}


def sampled(q: Any, k: Any, v: Any, causal: bool, rows: list[int]) -> Any:
    """Some queries' attention in float32, [B, H, len(rows), D]."""
    keys = torch.arange(k.shape[2], device=k.device)
    result = []
    for row in rows:
        scores = (k.float() @ q[:, :, row, :, None].float()).squeeze(-1) / math.sqrt(q.shape[-1])
        if causal:
            scores = scores.masked_fill(keys > row, -math.inf)
        result.append((scores.softmax(-1)[:, :, None] @ v.float()).squeeze(2))
    return torch.stack(result, 2)


def run(bench: common.Bench, size: int, batch: int, length: int, causal: bool) -> None:
    """One problem, by all contestants."""
    heads = 2048 // size
    q, k, v = (torch.randn(batch, heads, length, size, dtype=torch.bfloat16, device="cuda") for _ in range(3))
    o = torch.empty_like(q)
    flops = 4 * batch * heads * length * length * size / (2 if causal else 1)
    rows = sorted({0, 1, length // 3, length // 2 + 17, length - 130, length - 1})
    expected = sampled(q, k, v, causal, rows)

    def ingot(name: str, variant: int, capability: int = 0) -> None:
        o.zero_()
        ints = [HEAD_FIRST] * 4 + [-1, 0 if causal else -1, 1, 0, variant]
        call = common.kernel("attention_prefill", [q, k, v], [o], ints=ints, floats=[1 / math.sqrt(size), 0.0], capability=capability)
        call()
        bench.check(o[:, :, rows], expected)
        bench.time(name, call, flops=flops, seconds=0.08)

    attempt(bench, "Ingot", lambda: ingot("Ingot", 0))
    for name, backend in BACKENDS.items():

        def peer(backend: Any = backend, name: str = name) -> None:
            with sdpa_kernel([backend]):
                bench.time(name, lambda: scaled_dot_product_attention(q, k, v, is_causal=causal), flops=flops, seconds=0.08)

        attempt(bench, name, peer)
    for variant in range(1, VARIANTS[size] + 1):
        attempt(bench, f"Ingot tile {variant}", lambda variant=variant: ingot(f"Ingot tile {variant}", variant))
    if length == 4096:
        attempt(bench, "Ingot sm_80", lambda: ingot("Ingot sm_80", 0, 80))


def attempt(bench: common.Bench, name: str, body: Any) -> None:
    """A contestant that fails says so, and the others are timed."""
    try:
        body()
    except Exception as error:
        bench.failures += name.startswith("Ingot")
        print(f"    {name} failed: {type(error).__name__}: {str(error)[:200]}", flush=True)


def main() -> None:
    """All problems."""
    bench = common.Bench("attention_prefill")
    for size, batch, length, causal in [
        (128, 1, 16384, True),
        (128, 1, 4096, True),
        (128, 4, 4096, True),
        (128, 1, 16384, False),
        (64, 1, 16384, True),
        (64, 4, 4096, True),
        (256, 1, 16384, True),
        (256, 4, 4096, True),
    ]:
        name = f"{'causal' if causal else 'full'} {batch} x {length}, {2048 // size} heads of {size}"
        if bench.wants(name):
            with bench.case(name):
                run(bench, size, batch, length, causal)
    bench.finish()


if __name__ == "__main__":
    main()
