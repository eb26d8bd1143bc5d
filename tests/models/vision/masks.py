"""Masks of boxes as masks of the image, in tensor operations that take any number of them."""

from __future__ import annotations

import torch


def pasted(masks: torch.Tensor, boxes: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Masks [m, s, s] of the boxes [m, 4] (left, top, right, bottom) as [m, height, width], zeros outside: torchvision's ``paste_masks_in_image``.

    That one gives each mask a border of zeros, widens the box by as much, cuts it to whole pixels, resizes the mask to it (bilinear) and copies what
    lies in the image. Resizing is linear in rows and in columns: here it is a product with a matrix for each.
    """
    side = masks.shape[-1] + 2
    middle, half = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2 * (side / (side - 2))
    left, top = (middle - half).to(torch.int64).unbind(1)
    right, bottom = (middle + half).to(torch.int64).unbind(1)
    bordered = torch.nn.functional.pad(masks, (1, 1, 1, 1))
    rows, columns = (_resizing(*ends, side).to(masks.dtype) for ends in ((top, bottom, height), (left, right, width)))
    return rows @ bordered @ columns.transpose(1, 2)


def _resizing(first: torch.Tensor, last: torch.Tensor, extent: int, side: int) -> torch.Tensor:
    """How much each of ``side`` cells is in each pixel of an axis [m, extent, side], where the cells fill the pixels first to last."""
    pixels = torch.arange(extent)
    first, last = first[:, None], last[:, None]
    at = (pixels - first + 0.5) * (side / (last - first + 1).clamp(min=1)) - 0.5
    weights = (1 - (at.clamp(0, side - 1)[..., None] - torch.arange(side)).abs()).clamp(min=0)
    return weights * ((pixels >= first) & (pixels <= last))[..., None]
