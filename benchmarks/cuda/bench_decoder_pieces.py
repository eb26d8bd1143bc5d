"""Times the small kernels of a decoder's step: normalization, rotary embeddings and caches, sampling, beside PyTorch's operators.

    python3 benchmarks/cuda/bench_decoder_pieces.py --json pieces.json

One row is a step of one text: these kernels take about as long as a launch. PyTorch's contestants are those that make the same result; where there is
no single operator, what torch.compile is usually given, run in a CUDA graph.
"""

from __future__ import annotations

from typing import Any

import common
import torch

BF16 = torch.bfloat16


def normalize(bench: common.Bench, rows: int, size: int) -> None:
    """RMS normalization of a sum with a residual."""
    x, residual = (torch.randn(rows, size, dtype=BF16, device="cuda") for _ in range(2))
    weight = torch.randn(size, dtype=BF16, device="cuda")
    y, total = torch.empty_like(x), torch.empty_like(x)
    call = common.kernel("normalization", [x, weight, None, residual], [y, total], ints=[1], floats=[1e-5, 0.0])
    call()
    wide = x.float() + residual.float()
    bench.check(y, torch.nn.functional.rms_norm(wide, (size,), weight.float(), 1e-5))
    moved = 4 * x.nbytes
    bench.time("Ingot", call, bytes=moved)
    bench.time("PyTorch add, rms_norm", lambda: torch.nn.functional.rms_norm(x + residual, (size,), weight, 1e-5), bytes=moved)


def layer_normalize(bench: common.Bench, rows: int, size: int) -> None:
    """Layer normalization."""
    x = torch.randn(rows, size, dtype=BF16, device="cuda")
    weight, bias = (torch.randn(size, dtype=BF16, device="cuda") for _ in range(2))
    y = torch.empty_like(x)
    call = common.kernel("normalization", [x, weight, bias], [y], ints=[0], floats=[1e-5, 0.0])
    call()
    bench.check(y, torch.nn.functional.layer_norm(x.float(), (size,), weight.float(), bias.float(), 1e-5))
    bench.time("Ingot", call, bytes=2 * x.nbytes)
    bench.time("PyTorch layer_norm", lambda: torch.nn.functional.layer_norm(x, (size,), weight, bias, 1e-5), bytes=2 * x.nbytes)


def turned(x: Any, cosines: Any, sines: Any) -> Any:
    """Rotated x [B, S, H, D]."""
    first, second = x.chunk(2, -1)
    c, s = cosines[:, :, None], sines[:, :, None]
    return torch.cat([first * c - second * s, second * c + first * s], -1)


def rotate(bench: common.Bench, batch: int, steps: int, cache: Any) -> None:
    """Q and K rotated, K and V into their caches."""
    heads, kv_heads, size, slots = 32, 8, 128, 4096
    q, k, v = (torch.randn(batch, steps, h, size, dtype=BF16, device="cuda") for h in (heads, kv_heads, kv_heads))
    angle = torch.rand(batch, steps, size // 2, device="cuda") * 6
    cosines, sines = angle.cos(), angle.sin()
    first = torch.full((batch,), 17, dtype=torch.int64, device="cuda")
    caches = [torch.zeros(batch, slots, kv_heads, size, device="cuda").to(cache) for _ in range(2)]
    scales = [torch.zeros(batch, slots, kv_heads, device="cuda") for _ in range(2)] if cache == torch.int8 else []
    out = torch.empty_like(q)
    no_scales: list[Any] = [None, None]
    inputs = [*caches, q, k, v, cosines, sines, first, *(scales or no_scales)]
    call = common.kernel("rotary_cache", inputs, [*caches, out, *scales], ints=[0, 0, 0, 0])
    call()
    bench.check(out, turned(q.float(), cosines, sines))
    stored = caches[0][:, 17 : 17 + steps].float() * (scales[0][:, 17 : 17 + steps, :, None] if scales else 1)
    bench.check(stored, turned(k.float(), cosines, sines), 2e-2)
    moved = 2 * q.nbytes + k.nbytes + v.nbytes + 2 * k.numel() * caches[0].itemsize
    bench.time("Ingot", call, bytes=moved)
    if cache == torch.int8:
        return

    def eager() -> None:
        turned(q.float(), cosines, sines).to(BF16)
        caches[0][:, 17 : 17 + steps] = turned(k.float(), cosines, sines).to(cache)
        caches[1][:, 17 : 17 + steps] = v

    bench.time("PyTorch, 10 operators", eager, bytes=moved)


def sample(bench: common.Bench, rows: int, vocabulary: int, greedy: bool) -> None:
    """The next tokens: of the largest logits, or drawn of the 50 first whose shares reach 0.95."""
    logits = torch.randn(rows, vocabulary, device="cuda") * 3
    numbers = torch.rand(rows, device="cuda")
    tokens = torch.empty(rows, dtype=torch.int64, device="cuda")
    floats = [0.0, 1.0, 0.0] if greedy else [0.8, 0.95, 0.0]
    call = common.kernel("sample", [logits, numbers], [tokens], ints=[0 if greedy else 50], floats=floats)
    call()
    if greedy and not torch.equal(tokens, logits.argmax(-1)):
        raise ValueError("not the largest logits")
    if not greedy:
        best = logits.topk(50).indices
        if not (best == tokens[:, None]).any(-1).all():
            raise ValueError("tokens that are not of the first 50")
    bench.time("Ingot", call, bytes=logits.nbytes)
    if greedy:
        bench.time("PyTorch argmax", lambda: logits.argmax(-1), bytes=logits.nbytes)
        return

    def eager() -> Any:
        values, places = logits.topk(50)
        shares = torch.softmax(values / 0.8, -1)
        ends = shares.cumsum(-1)
        shares = torch.where(ends - shares < 0.95, shares, 0)
        ends = shares.cumsum(-1)
        return places.gather(-1, torch.searchsorted(ends, (numbers[:, None] * ends[:, -1:])))

    bench.time("PyTorch topk, ...", eager, bytes=logits.nbytes)


def main() -> None:
    """All pieces."""
    bench = common.Bench("decoder_pieces")
    for rows, size in ((1, 2048), (1, 4096), (32, 4096), (4096, 4096), (8192, 8192)):
        bench.run(f"add, RMS normalization [{rows}, {size}]", normalize, bench, rows, size)
    for rows, size in ((1, 768), (4096, 768), (8192, 4096)):
        bench.run(f"layer normalization [{rows}, {size}]", layer_normalize, bench, rows, size)
    for batch, steps, cache in ((1, 1, BF16), (32, 1, BF16), (1, 2048, BF16), (1, 1, torch.int8), (32, 1, torch.int8)):
        bench.run(f"rotary, caches B={batch} S={steps} {str(cache)[6:]}", rotate, bench, batch, steps, cache)
    for rows, vocabulary, greedy in [(rows, size, greedy) for greedy in (True, False) for rows, size in ((1, 32000), (1, 128256), (32, 128256))]:
        bench.run(f"sample [{rows}, {vocabulary}] {'greedy' if greedy else 'top k, p'}", sample, bench, rows, vocabulary, greedy)
    bench.finish()


if __name__ == "__main__":
    main()
