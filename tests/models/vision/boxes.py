"""What detectors share: anchors, and boxes from what a head predicts relative to them."""

from __future__ import annotations

import torch


def centers(height: int, width: int, stride: int) -> torch.Tensor:
    """The middle of each cell of a feature map, in pixels: [height * width, 2] as (x, y)."""
    y = (torch.arange(height, dtype=torch.float32) + 0.5) * stride
    x = (torch.arange(width, dtype=torch.float32) + 0.5) * stride
    rows, columns = torch.meshgrid(y, x, indexing="ij")
    return torch.stack([columns.flatten(), rows.flatten()], 1)


def anchors(height: int, width: int, stride: int, sizes: torch.Tensor) -> torch.Tensor:
    """Anchors of ``sizes`` [a, 2] (width, height) in each cell: [height * width * a, 4] as (x, y, width, height)."""
    at = centers(height, width, stride)[:, None, :].expand(-1, sizes.shape[0], -1)
    return torch.cat([at, sizes[None].expand(at.shape[0], -1, -1)], 2).reshape(-1, 4)


def decoded(deltas: torch.Tensor, reference: torch.Tensor, variances: tuple[float, float] = (0.1, 0.2)) -> torch.Tensor:
    """Boxes (x1, y1, x2, y2) from deltas [..., 4] relative to references (x, y, width, height), as SSD and R-CNN have them."""
    middle = reference[..., :2] + deltas[..., :2] * variances[0] * reference[..., 2:]
    half = reference[..., 2:] * torch.exp((deltas[..., 2:] * variances[1]).clamp(max=4.135)) / 2
    return torch.cat([middle - half, middle + half], -1)


def with_center(boxes: torch.Tensor) -> torch.Tensor:
    """Boxes (x1, y1, x2, y2) as (x, y, width, height)."""
    return torch.cat([(boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]], -1)


def clipped(boxes: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Boxes within the image."""
    x, y = boxes[..., 0::2].clamp(0, width), boxes[..., 1::2].clamp(0, height)
    return torch.stack([x[..., 0], y[..., 0], x[..., 1], y[..., 1]], -1)
