"""Faster R-CNN (Ren et al., 2015) on a feature pyramid (Lin et al., 2017) and Mask R-CNN (He et al., 2017), every step in the graph."""

from __future__ import annotations

import torch
from torch import nn

from tests.models.vision.boxes import anchors, clipped, decoded, with_center
from tests.models.vision.layers import ResNet
from tests.models.vision.masks import pasted
from tests.models.vision.operators import non_max_suppression, roi_align

_STRIDES = (4, 8, 16, 32)


class Pyramid(nn.Module):
    """Features of four scales [b, channels, h, w], each with what the coarser ones know."""

    def __init__(self, inputs: list[int], channels: int) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(nn.Conv2d(c, channels, 1) for c in inputs)
        self.smooth = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in inputs)

    def forward(self, features: list[torch.Tensor]) -> list[torch.Tensor]:
        merged = [self.lateral[-1](features[-1])]
        for x, layer in zip(reversed(features[:-1]), list(self.lateral)[-2::-1], strict=True):
            merged.insert(0, layer(x) + nn.functional.interpolate(merged[0], size=x.shape[2:], mode="nearest"))
        return [layer(x) for layer, x in zip(self.smooth, merged, strict=True)]


class Proposals(nn.Module):
    """The region proposal network: features → boxes [r, 4] and their images [r]."""

    def __init__(self, channels: int, before: int, after: int) -> None:
        super().__init__()
        self.conv, self.score, self.box = nn.Conv2d(channels, channels, 3, padding=1), nn.Conv2d(channels, 3, 1), nn.Conv2d(channels, 12, 1)
        sizes = torch.tensor([(r**-0.5, r**0.5) for r in (0.5, 1.0, 2.0)]) * 8
        for stride in _STRIDES:
            self.register_buffer(f"sizes{stride}", sizes * stride)
        self.before, self.after = before, after

    def forward(self, features: list[torch.Tensor], height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
        boxes, images = [], []
        for stride, x in zip(_STRIDES, features, strict=True):
            hidden = torch.relu(self.conv(x))
            scores = self.score(hidden).permute(0, 2, 3, 1).flatten(1)
            deltas = self.box(hidden).permute(0, 2, 3, 1).reshape(x.shape[0], -1, 4)
            best, places = scores.topk(torch.sym_min(self.before, scores.shape[1]), dim=1)
            prior = anchors(x.shape[2], x.shape[3], stride, getattr(self, f"sizes{stride}"))
            own = decoded(deltas.gather(1, places[..., None].expand(-1, -1, 4)), prior[places], (1.0, 1.0))
            own = clipped(own, height, width)
            image, _, box = non_max_suppression(own, best[:, None].sigmoid(), self.after, 0.7, 0.0).unbind(1)
            boxes.append(own[image, box])
            images.append(image)
        return torch.cat(boxes), torch.cat(images)


class FasterRcnn(nn.Module):
    """Images [b, 3, h, w] → boxes [m, 4], scores [m], labels [m], images [m]; with ``masks`` also masks [m, h, w]."""

    def __init__(self, masks: bool = False, blocks: tuple[int, ...] = (3, 4, 6, 3), width: int = 32, channels: int = 128, classes: int = 20,
                 before: int = 150, after: int = 40, most: int = 30, threshold: float = 0.3) -> None:
        super().__init__()
        self.backbone = ResNet(blocks, width)
        self.pyramid = Pyramid(self.backbone.channels, channels)
        self.proposals = Proposals(channels, before, after)
        self.hidden = nn.Sequential(nn.Flatten(), nn.Linear(channels * 49, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU())
        self.label, self.box = nn.Linear(512, classes + 1), nn.Linear(512, 4 * (classes + 1))
        self.mask: nn.Sequential | None = None
        if masks:
            convs = [layer for _ in range(4) for layer in (nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU())]
            self.mask = nn.Sequential(*convs, nn.ConvTranspose2d(channels, channels, 2, 2), nn.ReLU(), nn.Conv2d(channels, classes, 1))
        self.classes, self.most, self.threshold = classes, most, threshold

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        height, width = images.shape[2:]
        features = self.pyramid(self.backbone(images))
        regions, owner = self.proposals(features, height, width)
        hidden = self.hidden(pooled(features, regions, owner, 7))
        scores = self.label(hidden).softmax(1)[:, 1:]
        deltas = self.box(hidden).reshape(-1, self.classes + 1, 4)[:, 1:]
        boxes = clipped(decoded(deltas, with_center(regions)[:, None]), height, width)
        # One list for each class; images lie apart from one another, so that their boxes do not meet.
        apart = (boxes + (owner * (height + width)).to(boxes.dtype)[:, None, None]).transpose(0, 1)
        label, _, region = non_max_suppression(apart, scores.t()[:, None], self.most, 0.5, self.threshold).unbind(1)
        found = {"boxes": boxes[region, label], "scores": scores[region, label], "labels": label, "images": owner[region]}
        if self.mask is not None:
            masks = self.mask(pooled(features, found["boxes"], found["images"], 14))
            found["masks"] = pasted(masks[torch.arange(label.shape[0]), label].sigmoid(), found["boxes"], height, width)
        return found


def pooled(features: list[torch.Tensor], boxes: torch.Tensor, images: torch.Tensor, size: int) -> torch.Tensor:
    """Each box out of the scale that suits its size: [r, channels, size, size]."""
    side = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).clamp(min=1e-6).sqrt()
    level = torch.floor(2 + torch.log2(side / 56)).clamp(0, 3).to(torch.int64)
    result = boxes.new_zeros((boxes.shape[0], features[0].shape[1], size, size))
    for i, (stride, x) in enumerate(zip(_STRIDES, features, strict=True)):
        own = torch.nonzero(level == i).squeeze(1)
        result = result.index_put((own,), roi_align(x, boxes[own], images[own], size, 1 / stride, 2))
    return result
