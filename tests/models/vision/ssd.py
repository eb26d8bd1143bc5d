"""SSD (Liu et al., 2016): VGG-16 with a dilated fc6, six scales of anchors, decoding and non-maximum suppression in the graph."""

from __future__ import annotations

import torch
from torch import nn

from tests.models.vision.boxes import anchors, clipped, decoded
from tests.models.vision.operators import non_max_suppression

_RATIOS = ((2.0,), (2.0, 3.0), (2.0, 3.0), (2.0, 3.0), (2.0,), (2.0,))
_STRIDES = (8, 16, 32, 64, 128, 256)
_SCALES = (21.0, 45.0, 99.0, 153.0, 207.0, 261.0, 315.0)  # pixels, as SSD300


class Rescale(nn.Module):
    """Features of length 20 at each position, by a weight for each channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((channels,), 20.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.weight[:, None, None] * torch.nn.functional.normalize(x, dim=1)


def vgg(inputs: int, outputs: int, count: int) -> list[nn.Module]:
    """``count`` convolutions of VGG."""
    return [layer for i in range(count) for layer in (nn.Conv2d(inputs if i == 0 else outputs, outputs, 3, padding=1), nn.ReLU())]


def extra(inputs: int, middle: int, outputs: int) -> nn.Sequential:
    """Another scale, of half the size."""
    return nn.Sequential(nn.Conv2d(inputs, middle, 1), nn.ReLU(), nn.Conv2d(middle, outputs, 3, 2, 1), nn.ReLU())


class Ssd(nn.Module):
    """Images [b, 3, h, w] → boxes [m, 4], scores [m], labels [m] and images [m]; ``width`` and ``depths`` are VGG-16's."""

    def __init__(self, width: int = 64, depths: tuple[int, ...] = (2, 2, 3, 3, 3), classes: int = 20, most: int = 50, overlap: float = 0.45,
                 threshold: float = 0.65) -> None:
        super().__init__()
        w = width
        self.early = nn.Sequential(*vgg(3, w, depths[0]), nn.MaxPool2d(2), *vgg(w, 2 * w, depths[1]), nn.MaxPool2d(2), *vgg(2 * w, 4 * w, depths[2]),
                                   nn.MaxPool2d(2, ceil_mode=True), *vgg(4 * w, 8 * w, depths[3]))
        self.rescale = Rescale(8 * w)
        self.late = nn.Sequential(nn.MaxPool2d(2), *vgg(8 * w, 8 * w, depths[4]), nn.MaxPool2d(3, 1, 1),
                                  nn.Conv2d(8 * w, 16 * w, 3, padding=6, dilation=6), nn.ReLU(), nn.Conv2d(16 * w, 16 * w, 1), nn.ReLU())
        self.extras = nn.ModuleList([extra(16 * w, 4 * w, 8 * w), extra(8 * w, 2 * w, 4 * w), extra(4 * w, 2 * w, 4 * w), extra(4 * w, 2 * w, 4 * w)])
        channels = (8 * w, 16 * w, 8 * w, 4 * w, 4 * w, 4 * w)
        counts = [2 + 2 * len(ratios) for ratios in _RATIOS]
        self.boxes = nn.ModuleList(nn.Conv2d(c, 4 * n, 3, padding=1) for c, n in zip(channels, counts, strict=True))
        self.labels = nn.ModuleList(nn.Conv2d(c, (classes + 1) * n, 3, padding=1) for c, n in zip(channels, counts, strict=True))
        for i, ratios in enumerate(_RATIOS):
            self.register_buffer(f"sizes{i}", _sizes(_SCALES[i], _SCALES[i + 1], ratios))
        self.classes, self.most, self.overlap, self.threshold = classes, most, overlap, threshold

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        boxes, scores = self.candidates(images)
        image, label, box = non_max_suppression(boxes, scores, self.most, self.overlap, self.threshold).unbind(1)
        return {"boxes": boxes[image, box], "scores": scores[image, label, box], "labels": label, "images": image}

    def candidates(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Boxes [b, n, 4] of all anchors and scores [b, classes, n], without that of the background."""
        x = self.early(images)
        features = [self.rescale(x), self.late(x)]
        for layer in self.extras:
            features.append(layer(features[-1]))
        deltas, logits, priors = [], [], []
        for i, (x, box, label) in enumerate(zip(features, self.boxes, self.labels, strict=True)):
            deltas.append(box(x).permute(0, 2, 3, 1).reshape(x.shape[0], -1, 4))
            logits.append(label(x).permute(0, 2, 3, 1).reshape(x.shape[0], -1, self.classes + 1))
            priors.append(anchors(x.shape[2], x.shape[3], _STRIDES[i], getattr(self, f"sizes{i}")))
        boxes = clipped(decoded(torch.cat(deltas, 1), torch.cat(priors)), images.shape[2], images.shape[3])
        return boxes, torch.cat(logits, 1).softmax(2)[:, :, 1:].transpose(1, 2)


def _sizes(small: float, large: float, ratios: tuple[float, ...]) -> torch.Tensor:
    sizes = [(small, small), ((small * large) ** 0.5,) * 2]
    for ratio in ratios:
        sizes += [(small * ratio**0.5, small / ratio**0.5), (small / ratio**0.5, small * ratio**0.5)]
    return torch.tensor(sizes)
