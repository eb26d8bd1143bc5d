"""Two operators that torch lacks, as torchvision and ONNX define them, and how they are exported."""

from __future__ import annotations

import torch
from onnxscript import opset20 as op

import ingot


@torch.library.custom_op("vision::non_max_suppression", mutates_args=())
def non_max_suppression(boxes: torch.Tensor, scores: torch.Tensor, most: int, overlap: float, threshold: float) -> torch.Tensor:
    """Boxes [b, n, 4] as (x1, y1, x2, y2) and scores [b, c, n] → int64 [m, 3]: image, class, box, best score first within each class."""
    picked = []
    for image in range(scores.shape[0]):
        for label in range(scores.shape[1]):
            own = scores[image, label]
            order = torch.argsort(own, descending=True, stable=True)
            order = order[own[order] > threshold]
            suppressed = _overlaps(boxes[image][order]) > overlap
            alive = torch.ones(len(order), dtype=torch.bool)
            kept = 0
            for i in range(len(order)):
                if alive[i] and kept < most:
                    picked.append((image, label, int(order[i])))
                    alive &= ~suppressed[i]
                    kept += 1
    return torch.tensor(picked, dtype=torch.int64).reshape(-1, 3)


@non_max_suppression.register_fake
def _(boxes: torch.Tensor, scores: torch.Tensor, most: int, overlap: float, threshold: float) -> torch.Tensor:
    return boxes.new_empty((torch.library.get_ctx().new_dynamic_size(), 3), dtype=torch.int64)


def _overlaps(boxes: torch.Tensor) -> torch.Tensor:
    """Intersection over union of each two boxes: [n, 4] → [n, n]."""
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    low = torch.maximum(boxes[:, None, :2], boxes[None, :, :2])
    high = torch.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    shared = (high - low).clamp(min=0).prod(2)
    return shared / (area[:, None] + area[None, :] - shared)


@ingot.torch_op("vision::non_max_suppression")
def _export_non_max_suppression(boxes, scores, most: int, overlap: float, threshold: float):  # type: ignore[no-untyped-def]
    # ONNX's corners may be (x, y) as well as (y, x): areas are the same.
    return op.NonMaxSuppression(boxes, scores, op.Constant(value_ints=[most]), op.Constant(value_floats=[overlap]),
                                op.Constant(value_floats=[threshold]))


@torch.library.custom_op("vision::roi_align", mutates_args=())
def roi_align(features: torch.Tensor, boxes: torch.Tensor, images: torch.Tensor, size: int, scale: float, samples: int) -> torch.Tensor:
    """Features [b, c, h, w] within boxes [r, 4] of the images [r] → [r, c, size, size]: torchvision's roi_align with ``aligned=True``."""
    height, width = features.shape[2:]
    start = boxes * scale - 0.5
    steps = (torch.arange(size * samples, dtype=features.dtype) + 0.5) / (size * samples)
    x = start[:, 0, None] + steps * (start[:, 2] - start[:, 0])[:, None]  # [r, size * samples]
    y = start[:, 1, None] + steps * (start[:, 3] - start[:, 1])[:, None]
    pooled = []
    for r in range(boxes.shape[0]):
        rows, columns = _interpolation(y[r], height), _interpolation(x[r], width)
        sampled = torch.einsum("yh,chw,xw->cyx", rows, features[images[r]], columns)
        pooled.append(torch.nn.functional.avg_pool2d(sampled, samples))
    return torch.stack(pooled) if pooled else features.new_zeros((0, features.shape[1], size, size))


@roi_align.register_fake
def _(features: torch.Tensor, boxes: torch.Tensor, images: torch.Tensor, size: int, scale: float, samples: int) -> torch.Tensor:
    return features.new_empty((boxes.shape[0], features.shape[1], size, size))


def _interpolation(at: torch.Tensor, extent: int) -> torch.Tensor:
    """The weight of each of ``extent`` elements in each of the sampled coordinates: [n] → [n, extent]."""
    inside = (at >= -1) & (at <= extent)
    clamped = at.clamp(0, extent - 1)
    weights = (1 - (clamped[:, None] - torch.arange(extent, dtype=at.dtype)).abs()).clamp(min=0)
    return weights * inside[:, None]


@ingot.torch_op("vision::roi_align")
def _export_roi_align(features, boxes, images, size: int, scale: float, samples: int):  # type: ignore[no-untyped-def]
    return op.RoiAlign(features, boxes, images, coordinate_transformation_mode="half_pixel", output_height=size, output_width=size,
                       sampling_ratio=samples, spatial_scale=scale)
