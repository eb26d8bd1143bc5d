"""DeepLabV3+ (Chen et al., 2018): a dilated ResNet, pyramid pooling with atrous convolutions, and a decoder."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import interpolate

from tests.models.vision.layers import ConvNorm, ResNet


class Pyramid(nn.Module):
    """Atrous spatial pyramid pooling: 1x1, three rates of dilation, and the mean of the image."""

    def __init__(self, inputs: int, outputs: int, rates: tuple[int, ...] = (6, 12, 18)) -> None:
        super().__init__()
        self.branches = nn.ModuleList([ConvNorm(inputs, outputs), *(ConvNorm(inputs, outputs, 3, dilation=rate) for rate in rates)])
        self.mean = nn.Sequential(nn.AdaptiveAvgPool2d(1), ConvNorm(inputs, outputs))
        self.last = ConvNorm(outputs * (len(rates) + 2), outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean = interpolate(self.mean(x), size=x.shape[2:], mode="bilinear", align_corners=False)
        return self.last(torch.cat([*(branch(x) for branch in self.branches), mean], 1))


class DeepLab(nn.Module):
    """Images [b, 3, h, w] → logits [b, classes, h, w]; ``width`` 64 is ResNet-50's."""

    def __init__(self, width: int = 64, channels: int = 256, classes: int = 21, blocks: tuple[int, ...] = (3, 4, 6, 3)) -> None:
        super().__init__()
        self.backbone = ResNet(blocks, width, dilated=True)
        self.pyramid = Pyramid(self.backbone.channels[3], channels)
        self.fine = ConvNorm(self.backbone.channels[0], 48)
        self.decoder = nn.Sequential(ConvNorm(channels + 48, channels, 3), ConvNorm(channels, channels, 3), nn.Conv2d(channels, classes, 1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        fine, _, _, coarse = self.backbone(images)
        fine = self.fine(fine)
        coarse = interpolate(self.pyramid(coarse), size=fine.shape[2:], mode="bilinear", align_corners=False)
        logits = self.decoder(torch.cat([fine, coarse], 1))
        return interpolate(logits, size=images.shape[2:], mode="bilinear", align_corners=False)
