"""YOLOv8 (Ultralytics, 2023): CSP backbone, PAN neck, decoupled heads with distribution focal loss, and non-maximum suppression in the graph."""

from __future__ import annotations

import torch
from torch import nn

from tests.models.vision.layers import ConvNorm
from tests.models.vision.operators import non_max_suppression

BINS = 16  # of the distribution over distances


def conv(inputs: int, outputs: int, kernel: int = 1, stride: int = 1) -> ConvNorm:
    """The convolution of all of YOLO."""
    return ConvNorm(inputs, outputs, kernel, stride, activation=nn.SiLU)


class Residual(nn.Module):
    """Two convolutions, and what went in."""

    def __init__(self, channels: int, shortcut: bool) -> None:
        super().__init__()
        self.body = nn.Sequential(conv(channels, channels, 3), conv(channels, channels, 3))
        self.shortcut = shortcut

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.body(x) if self.shortcut else self.body(x)


class C2f(nn.Module):
    """A cross-stage partial block: half of the channels pass by, and what every residual block gives is concatenated."""

    def __init__(self, inputs: int, outputs: int, blocks: int, shortcut: bool = False) -> None:
        super().__init__()
        self.first = conv(inputs, outputs)
        self.blocks = nn.ModuleList(Residual(outputs // 2, shortcut) for _ in range(blocks))
        self.last = conv((2 + blocks) * outputs // 2, outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = list(self.first(x).chunk(2, 1))
        for block in self.blocks:
            parts.append(block(parts[-1]))
        return self.last(torch.cat(parts, 1))


class Pyramid(nn.Module):
    """Pooling over 5, 9 and 13 pixels, as three poolings in a row (SPPF)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.last = conv(channels, channels // 2), conv(2 * channels, channels)
        self.pool = nn.MaxPool2d(5, 1, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = [self.first(x)]
        for _ in range(3):
            parts.append(self.pool(parts[-1]))
        return self.last(torch.cat(parts, 1))


class Head(nn.Module):
    """Of one scale: the distribution of the distances to a box's four sides, and the logit of each class."""

    def __init__(self, inputs: int, box: int, label: int, classes: int) -> None:
        super().__init__()
        self.box = nn.Sequential(conv(inputs, box, 3), conv(box, box, 3), nn.Conv2d(box, 4 * BINS, 1))
        self.label = nn.Sequential(conv(inputs, label, 3), conv(label, label, 3), nn.Conv2d(label, classes, 1))


class Yolo(nn.Module):
    """Images [b, 3, h, w], sides multiples of 32 → boxes [m, 4] as (x1, y1, x2, y2), scores [m], labels [m], images [m].

    ``width`` 16 and ``depth`` 1 are YOLOv8n.
    """

    def __init__(self, width: int = 16, depth: int = 1, classes: int = 80, most: int = 100, overlap: float = 0.7, threshold: float = 0.25) -> None:
        super().__init__()
        w = [width * 2**i for i in range(5)]
        self.stem = nn.Sequential(conv(3, w[0], 3, 2), conv(w[0], w[1], 3, 2), C2f(w[1], w[1], depth, True))
        self.stage3 = nn.Sequential(conv(w[1], w[2], 3, 2), C2f(w[2], w[2], 2 * depth, True))
        self.stage4 = nn.Sequential(conv(w[2], w[3], 3, 2), C2f(w[3], w[3], 2 * depth, True))
        self.stage5 = nn.Sequential(conv(w[3], w[4], 3, 2), C2f(w[4], w[4], depth, True), Pyramid(w[4]))
        self.up = nn.Upsample(scale_factor=2.0, mode="nearest")
        self.down4, self.down3 = C2f(w[4] + w[3], w[3], depth), C2f(w[3] + w[2], w[2], depth)
        self.stride4, self.up4 = conv(w[2], w[2], 3, 2), C2f(w[2] + w[3], w[3], depth)
        self.stride5, self.up5 = conv(w[3], w[3], 3, 2), C2f(w[3] + w[4], w[4], depth)
        self.heads = nn.ModuleList(Head(channels, max(16, w[2] // 4, 4 * BINS), max(w[2], min(classes, 100)), classes) for channels in w[2:])
        self.classes, self.most, self.overlap, self.threshold = classes, most, overlap, threshold

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        boxes, scores = self.candidates(images)
        picked = non_max_suppression(boxes, scores, self.most, self.overlap, self.threshold)
        image, label, box = picked.unbind(1)
        return {"boxes": boxes[image, box], "scores": scores[image, label, box], "labels": label, "images": image}

    def candidates(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Boxes [b, n, 4] and scores [b, classes, n] of every cell of the three scales."""
        p3 = self.stage3(self.stem(images))
        p4 = self.stage4(p3)
        p5 = self.stage5(p4)
        n4 = self.down4(torch.cat([self.up(p5), p4], 1))
        n3 = self.down3(torch.cat([self.up(n4), p3], 1))
        n4 = self.up4(torch.cat([self.stride4(n3), n4], 1))
        n5 = self.up5(torch.cat([self.stride5(n4), p5], 1))
        boxes, logits = [], []
        for stride, head, x in zip((8, 16, 32), self.heads, (n3, n4, n5), strict=True):
            bins = head.box(x).flatten(2).unflatten(1, (4, BINS)).softmax(2)  # [b, 4, bins, n]
            distances = torch.einsum("bskn,k->bns", bins, torch.arange(BINS, dtype=x.dtype))
            rows, columns = (torch.arange(extent, dtype=x.dtype) + 0.5 for extent in x.shape[2:])
            y, x_ = torch.meshgrid(rows, columns, indexing="ij")
            centers = torch.stack([x_.flatten(), y.flatten()], 1)
            boxes.append(torch.cat([centers - distances[..., :2], centers + distances[..., 2:]], 2) * stride)
            logits.append(head.label(x).flatten(2))
        return torch.cat(boxes, 1), torch.cat(logits, 2).sigmoid()
