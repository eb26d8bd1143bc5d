"""What several architectures are made of, and weights under which their outputs mean something."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import numpy as np
import torch
from torch import nn

#: The standard deviation and mean of the outputs of layers, by the layers' names.
Heads: TypeAlias = Mapping[str, tuple[float, float]]


class ConvNorm(nn.Sequential):
    """Convolution, batch normalization, activation."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1, dilation: int = 1,
                 activation: Callable[[], nn.Module] = nn.ReLU) -> None:
        padding = dilation * (kernel // 2)
        super().__init__(nn.Conv2d(inputs, outputs, kernel, stride, padding, dilation, groups, bias=False), nn.BatchNorm2d(outputs), activation())


class Bottleneck(nn.Module):
    """The block of ResNet-50 and deeper (He et al., 2016, "Deep residual learning for image recognition", figure 5)."""

    def __init__(self, inputs: int, width: int, stride: int, dilation: int) -> None:
        super().__init__()
        outputs = 4 * width
        self.body = nn.Sequential(ConvNorm(inputs, width), ConvNorm(width, width, 3, stride, dilation=dilation),
                                  ConvNorm(width, outputs, activation=nn.Identity))
        plain = inputs == outputs and stride == 1
        self.shortcut = nn.Identity() if plain else ConvNorm(inputs, outputs, 1, stride, activation=nn.Identity)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.body(x) + self.shortcut(x))


class ResNet(nn.Module):
    """Images [b, 3, h, w] → features of strides 4, 8, 16 and 32. ``dilated`` keeps the last at 16, as DeepLab has it."""

    def __init__(self, blocks: Sequence[int] = (3, 4, 6, 3), width: int = 64, dilated: bool = False) -> None:
        super().__init__()
        self.stem = nn.Sequential(ConvNorm(3, width, 7, 2), nn.MaxPool2d(3, 2, 1))
        self.stages = nn.ModuleList()
        channels = width
        for stage, count in enumerate(blocks):
            last = stage == 3 and dilated
            stride, dilation = (1 if stage == 0 or last else 2), (2 if last else 1)
            own = width * 2**stage
            self.stages.append(nn.Sequential(*[Bottleneck(channels if i == 0 else 4 * own, own, stride if i == 0 else 1, dilation)
                                               for i in range(count)]))
            channels = 4 * own
        self.channels = [4 * width * 2**stage for stage in range(4)]

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        x = self.stem(images)
        features = []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return features


def images(batch: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    """Images of large and small structure, float32 [batch, 3, height, width]: detections are not the same everywhere."""
    rng = np.random.default_rng((seed, batch, height, width))
    total = rng.standard_normal((batch, 3, height, width)).astype(np.float32) * 0.3
    for cell in (64, 16):
        coarse = rng.standard_normal((batch, 3, -(-height // cell), -(-width // cell))).astype(np.float32)
        total += coarse.repeat(cell, 2).repeat(cell, 3)[:, :, :height, :width]
    return total


def settled(build: Callable[[], nn.Module], size: tuple[int, int], heads: Heads | Sequence[Heads] = (),
            run: Callable[[nn.Module, torch.Tensor], object] = lambda module, x: module(x)) -> nn.Module:
    """A module with seeded weights, in evaluation mode, whose activations neither vanish nor explode, as after training.

    Batch normalization has the statistics of two images. ``heads`` gives the output of layers a standard deviation and a mean for each
    channel: scores of untrained heads would all be alike, and then nothing is decided by them. Several mappings are done one after another, where
    what one layer is given depends on another one.
    """
    torch.manual_seed(1234)
    module = build()
    for child in module.modules():
        if isinstance(child, (nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.kaiming_normal_(child.weight)
    pixels = torch.from_numpy(images(2, *size, seed=99))
    norms = [child for child in module.modules() if isinstance(child, nn.modules.batchnorm._BatchNorm)]
    module.eval()
    with torch.no_grad():
        for norm in norms:
            norm.momentum = None  # plain averages
            norm.train()
        run(module, pixels)
        for norm in norms:
            norm.eval()
            nn.init.uniform_(norm.weight, 0.7, 1.0)
            nn.init.normal_(norm.bias, 0.0, 0.1)
        for layers in [heads] if isinstance(heads, Mapping) else heads:
            _standardize([(module.get_submodule(name), *wanted) for name, wanted in layers.items()], lambda: run(module, pixels))
    return module


def _standardize(layers: Sequence[tuple[nn.Module, float, float]], run: Callable[[], object]) -> None:
    seen: list[list[torch.Tensor]] = [[] for _ in layers]

    def recorder(outputs: list[torch.Tensor]) -> Callable[[nn.Module, object, torch.Tensor], None]:
        return lambda _, __, output: outputs.append(output.movedim(1, -1).flatten(0, 2) if output.ndim == 4 else output.flatten(0, -2))

    hooks = [layer.register_forward_hook(recorder(outputs)) for (layer, _, _), outputs in zip(layers, seen, strict=True)]
    run()
    for hook, outputs, (layer, deviation, mean) in zip(hooks, seen, layers, strict=True):
        hook.remove()
        together = torch.cat(outputs)
        factor = deviation / together.std(0)
        layer.weight.mul_(factor.reshape(-1, *[1] * (layer.weight.ndim - 1)))
        layer.bias.copy_((layer.bias - together.mean(0)) * factor + mean)
