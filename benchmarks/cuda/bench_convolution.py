"""Times the CUDA kernel convolution on the layers of ResNet-50 and MobileNet beside cuDNN (PyTorch, channels last)."""

from __future__ import annotations

from dataclasses import dataclass

import common
import torch
import torch.nn.functional as F

PATHS = {0: "Ingot", 2: "Ingot 128x128", 3: "Ingot 128x64", 4: "Ingot 64x64"}


@dataclass(frozen=True)
class Layer:
    """A convolution of square images with pads of half the kernel, and how often ResNet-50 has it."""

    size: int
    channels: int
    kernels: int
    window: int = 1
    stride: int = 1
    times: int = 1
    groups: int = 1

    def __str__(self) -> str:
        grouped = " depthwise" if self.groups > 1 else ""
        return f"{self.size}^2 x {self.channels} > {self.kernels}, {self.window}x{self.window} / {self.stride}{grouped}"


RESNET = (
    Layer(224, 3, 64, 7, 2),
    Layer(56, 64, 64),
    Layer(56, 64, 64, 3, times=3),
    Layer(56, 64, 256, times=4),
    Layer(56, 256, 64, times=2),
    Layer(56, 256, 128),
    Layer(56, 128, 128, 3, 2),
    Layer(28, 128, 512, times=4),
    Layer(56, 256, 512, 1, 2),
    Layer(28, 512, 128, times=3),
    Layer(28, 128, 128, 3, times=3),
    Layer(28, 512, 256),
    Layer(28, 256, 256, 3, 2),
    Layer(14, 256, 1024, times=6),
    Layer(28, 512, 1024, 1, 2),
    Layer(14, 1024, 256, times=5),
    Layer(14, 256, 256, 3, times=5),
    Layer(14, 1024, 512),
    Layer(14, 512, 512, 3, 2),
    Layer(7, 512, 2048, times=3),
    Layer(14, 1024, 2048, 1, 2),
    Layer(7, 2048, 512, times=2),
    Layer(7, 512, 512, 3, times=2),
)
DEPTHWISE = (Layer(112, 96, 96, 3, 2, groups=96), Layer(56, 144, 144, 3, groups=144), Layer(14, 576, 576, 3, groups=576))


def layer(bench: common.Bench, totals: dict[str, float], images: int, what: Layer, dtype: torch.dtype, variants: tuple[int, ...]) -> None:
    """One layer: convolution alone, without what is fused."""
    pad = what.window // 2
    out = (what.size + 2 * pad - what.window) // what.stride + 1
    x = torch.randn(images, what.size, what.size, what.channels, device="cuda", dtype=dtype)
    w = torch.randn(what.kernels, what.window, what.window, what.channels // what.groups, device="cuda", dtype=dtype)
    y = torch.empty(images, out, out, what.kernels, device="cuda", dtype=dtype)
    image, weights = x.permute(0, 3, 1, 2), w.permute(0, 3, 1, 2)
    torch.backends.cudnn.allow_tf32 = False
    reference = F.conv2d(image.float(), weights.float(), stride=what.stride, padding=pad, groups=what.groups).permute(0, 2, 3, 1)
    torch.backends.cudnn.allow_tf32 = True
    work = {"bytes": x.nbytes + w.nbytes + y.nbytes, "flops": 2 * y.numel() * w[0].numel()}
    best = float("inf")
    for variant in variants:
        ints = [what.stride, what.stride, pad, pad, pad, pad, 1, 1, what.groups, 0, 0, 0, variant]
        call = common.kernel("convolution", [x, w], [y], ints=ints, floats=[0, 0])
        call()
        bench.check(y, reference)
        taken = bench.time(PATHS[variant], call, seconds=0.02, **work)
        if variant == 0:
            totals["Ingot"] = totals.get("Ingot", 0) + what.times * taken
        best = min(best, taken)
    totals["Ingot, best"] = totals.get("Ingot, best", 0) + what.times * best
    taken = bench.time("cuDNN", lambda: F.conv2d(image, weights, stride=what.stride, padding=pad, groups=what.groups), seconds=0.02, **work)
    totals["cuDNN"] = totals.get("cuDNN", 0) + what.times * taken


def main() -> None:
    """All layers."""
    bench = common.Bench("convolution")
    torch.backends.cudnn.benchmark = True
    for images in (1, 32):
        totals: dict[str, float] = {}
        for what in RESNET:
            bench.run(f"{images} x {what}", layer, bench, totals, images, what, torch.bfloat16, (0, 2, 3, 4))
        print(f"{images} x ResNet-50, all convolutions, ms:", ", ".join(f"{name} {value:.3f}" for name, value in totals.items()), flush=True)
        for what in DEPTHWISE:
            bench.run(f"{images} x {what}", layer, bench, {}, images, what, torch.bfloat16, (0,))
    bench.run("tf32 8 x 56^2 x 64 > 64, 3x3", layer, bench, {}, 8, Layer(56, 64, 64, 3), torch.float32, (0, 2, 3, 4))
    bench.finish()


if __name__ == "__main__":
    main()
