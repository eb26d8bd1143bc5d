"""U-Net (Ronneberger et al., 2015), with padding, so that the result has the image's size."""

from __future__ import annotations

import torch
from torch import nn

from tests.models.vision.layers import ConvNorm


def double(inputs: int, outputs: int) -> nn.Sequential:
    """Two convolutions."""
    return nn.Sequential(ConvNorm(inputs, outputs, 3), ConvNorm(outputs, outputs, 3))


class UNet(nn.Module):
    """Images [b, 3, h, w], sides multiples of 16 → logits [b, classes, h, w]; ``width`` 64 is the paper's."""

    def __init__(self, width: int = 64, classes: int = 21) -> None:
        super().__init__()
        channels = [width * 2**i for i in range(5)]
        self.down = nn.ModuleList(double(a, b) for a, b in zip([3, *channels], channels, strict=False))
        self.pool = nn.MaxPool2d(2)
        self.up = nn.ModuleList(nn.ConvTranspose2d(2 * c, c, 2, 2) for c in reversed(channels[:-1]))
        self.merge = nn.ModuleList(double(2 * c, c) for c in reversed(channels[:-1]))
        self.classes = nn.Conv2d(width, classes, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x, skipped = images, []
        for i, block in enumerate(self.down):
            x = block(self.pool(x) if i else x)
            skipped.append(x)
        for up, merge, skip in zip(self.up, self.merge, skipped[-2::-1], strict=True):
            x = merge(torch.cat([skip, up(x)], 1))
        logits: torch.Tensor = self.classes(x)
        return logits
