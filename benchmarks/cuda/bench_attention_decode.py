"""Times attention of few queries over a cache, with several numbers of parts, beside PyTorch's back ends.

    python3 benchmarks/cuda/bench_attention_decode.py --json decode.json

Bytes are those of the keys and values (and scales) that are seen, read once. PyTorch reads [B, H, T, D], Ingot [B, T, H, D] as its caches lie.
"folded" gives PyTorch the heads that share keys as queries of one head, which is the same without a mask, and lets it read the cache once.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Any

import common
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

BACKENDS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cuDNN": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}
TYPES = {"bf16": torch.bfloat16, "f16": torch.float16, "f32": torch.float32, "int8": torch.int8, "fp8": torch.float8_e4m3fn}
FAST = ("flash", "cuDNN")  # the other back ends are timed in one case alone
MOST_PEER_BYTES = 2 << 30  # of a cache that PyTorch gets as well


@dataclass(frozen=True)
class Problem:
    """One call: a batch of caches of as many keys."""

    batch: int
    keys: int
    heads: int = 32
    kv_heads: int = 8
    size: int = 128
    cache: str = "bf16"
    dtype: str = "bf16"  # of Q and O
    queries: int = 1
    storage: str = "plain"
    page: int = 64

    @property
    def name(self) -> str:
        """What the table calls it."""
        parts = f"B={self.batch} T={self.keys} {self.heads}/{self.kv_heads}x{self.size} {self.cache}"
        parts += f" Q {self.dtype}" if self.dtype != "bf16" else ""
        parts += f" {self.queries} queries" if self.queries > 1 else ""
        return parts + (f" {self.storage}" if self.storage != "plain" else "")

    @property
    def scaled(self) -> bool:
        """Whether elements of the cache have scales."""
        return self.cache == "int8"

    @property
    def bytes(self) -> int:
        """Of keys and values."""
        row = self.size * TYPES[self.cache].itemsize + (4 if self.scaled else 0)
        return 2 * self.batch * self.keys * self.kv_heads * row


SLOW_CASE = Problem(1, 8192)


def cached(p: Problem) -> Any:
    """Keys or values [B, T, H, D]."""
    shape = (p.batch, p.keys, p.kv_heads, p.size)
    if p.cache == "int8":
        return torch.randint(-127, 128, shape, dtype=torch.int8, device="cuda")
    return torch.randn(shape, dtype=torch.bfloat16, device="cuda").to(TYPES[p.cache])


def expected(p: Problem, q: Any, pair: tuple[Any, Any], scales: list[Any], rows: int) -> Any:
    """The first rows of the batch in float32, [rows, S, H, D]."""
    wide = [t[:rows].float() * (1 if s is None else s[:rows, :, :, None]) for t, s in zip(pair, scales, strict=True)]
    wide = [t.transpose(1, 2).repeat_interleave(p.heads // p.kv_heads, 1) for t in wide]
    scores = q[:rows].float().transpose(1, 2) @ wide[0].transpose(2, 3) / math.sqrt(p.size)
    place = torch.arange(p.keys, device="cuda")[None, :] - torch.arange(p.queries, device="cuda")[:, None]
    scores = scores.masked_fill(place > p.keys - p.queries, -math.inf)
    return (scores.softmax(-1) @ wide[1]).transpose(1, 2)


def run(bench: common.Bench, p: Problem, variants: tuple[int, ...] = ()) -> None:
    """One problem, by all contestants."""
    count = common.copies(p.bytes)
    caches = [(cached(p), cached(p)) for _ in range(count)]
    scales: list[Any] = [None, None]
    if p.scaled:
        scales = [torch.rand(p.batch, p.keys, p.kv_heads, device="cuda") / 127 for _ in range(2)]
    q = torch.randn(p.batch, p.queries, p.heads, p.size, device="cuda").to(TYPES[p.dtype])
    lengths = torch.full((p.batch,), p.keys, dtype=torch.int64, device="cuda")
    pages = ring = None
    if p.storage == "pages":
        each = p.keys // p.page
        pages = torch.arange(p.batch * each, dtype=torch.int32, device="cuda").reshape(p.batch, each)
    if p.storage == "ring":
        ring = torch.zeros(p.batch, 2, dtype=torch.int64, device="cuda")
    rows = max(1, min(p.batch, (64 << 20) // (p.keys * p.heads * p.size)))
    want = expected(p, q, caches[0], scales, rows)

    def ingot(name: str, variant: int) -> None:
        outputs = [torch.empty_like(q) for _ in caches]
        calls = []
        for (k, v), o in zip(caches, outputs, strict=True):
            pools = [t if p.storage != "pages" else t.reshape(p.batch * p.keys // p.page, p.page, p.kv_heads, p.size) for t in (k, v)]
            pool_scales = [s if s is None or p.storage != "pages" else s.reshape(-1, p.page, p.kv_heads) for s in scales]
            calls.append(common.kernel("attention", [q, *pools, None, lengths, None, None, *pool_scales, pages, ring], [o],
                                       ints=[0, 0, 0, 0, -1, 0, 1, 0, variant], floats=[1 / math.sqrt(p.size), 0.0]))  # fmt: skip
        calls[0]()
        bench.check(outputs[0][:rows], want)
        bench.time(name, common.rotating(calls), bytes=p.bytes, calls=count, seconds=0.05)

    ingot("Ingot", 0)
    for variant in variants:
        stages = f", {variant // 1000} stages" if variant >= 1000 else ""
        ingot(f"Ingot {variant % 1000} parts{stages}", variant)
    if p.cache not in ("bf16", "f16") or p.cache != p.dtype or p.storage != "plain" or p.bytes > MOST_PEER_BYTES or p.queries > 1:
        return
    apart = [(k.transpose(1, 2).contiguous(), v.transpose(1, 2).contiguous()) for k, v in caches]
    del caches[1:]
    by_head = q.transpose(1, 2).contiguous()
    folded = by_head.reshape(p.batch, p.kv_heads, p.heads // p.kv_heads, p.size)
    for name, backend in BACKENDS.items():
        if name not in FAST and p != SLOW_CASE:
            continue
        with sdpa_kernel([backend]):
            calls = [lambda pair=pair: scaled_dot_product_attention(by_head, pair[0], pair[1], enable_gqa=True) for pair in apart]
            bench.time(f"SDPA {name}", common.rotating(calls), bytes=p.bytes, calls=count, seconds=0.03)
            if name in FAST and p != SLOW_CASE:
                continue
            calls = [lambda pair=pair: scaled_dot_product_attention(folded, pair[0], pair[1]) for pair in apart]
            bench.time(f"SDPA {name} folded", common.rotating(calls), bytes=p.bytes, calls=count, seconds=0.03)


def main() -> None:
    """All problems."""
    warnings.filterwarnings("ignore", category=UserWarning)  # why PyTorch's back ends refuse a case: the table says that they do
    bench = common.Bench("attention_decode")
    problems: list[tuple[Problem, tuple[int, ...]]] = [
        (SLOW_CASE, (8, 16, 5016, 32, 2032)),
        (Problem(32, 8192), (1, 2001, 6001, 2)),
        (Problem(8, 8192), (2, 2004, 4, 8)),
        (Problem(256, 8192, heads=4, kv_heads=1), (2001,)),  # the same bytes, whose keys lie one after another
        (Problem(1, 1024), (4, 8, 16)),
        (Problem(1, 65536), (16, 32, 2032, 66)),
        (Problem(1, 2048, heads=32, kv_heads=4, size=64), (8, 16)),
        (Problem(16, 4096, heads=16, kv_heads=16), (1,)),
        (Problem(8, 4096, heads=16, kv_heads=4, size=256), (4, 8)),
        (Problem(8, 4096, heads=32, kv_heads=32, size=96), ()),
        (Problem(32, 8192, storage="pages"), ()),
        (Problem(1, 8192, storage="pages"), ()),
        (Problem(32, 8192, storage="ring"), ()),
        (Problem(32, 8192, cache="int8"), (1, 2)),
        (Problem(1, 8192, cache="int8"), (16,)),
        (Problem(32, 8192, cache="fp8"), (1, 2)),
        (Problem(1, 8192, cache="fp8"), (16,)),
        (Problem(32, 8192, dtype="f32"), ()),
        (Problem(8, 8192, cache="f32", dtype="f32"), ()),
        (Problem(8, 8192, queries=4), ()),
    ]
    for problem, variants in problems:
        bench.run(problem.name, run, bench, problem, variants)
    bench.finish()


if __name__ == "__main__":
    main()
