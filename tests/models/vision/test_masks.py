"""Masks pasted into an image, mask by mask as torchvision does it, and all together as the model here does it."""

from __future__ import annotations

from pathlib import Path

import torch

import ingot
from ingot.export import export_module
from tests.models.vision.masks import pasted


def one_by_one(masks: torch.Tensor, boxes: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """The definition: torchvision.models.detection.roi_heads.paste_masks_in_image, of padding 1."""
    side = masks.shape[-1] + 2
    result = torch.zeros(len(masks), height, width, dtype=masks.dtype)
    for mask, box, image in zip(masks, boxes, result, strict=True):
        middle, half = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]) / 2 * (side / (side - 2))
        (left, top), (right, bottom) = (middle - half).long().tolist(), (middle + half).long().tolist()
        size = max(bottom - top + 1, 1), max(right - left + 1, 1)
        resized = torch.nn.functional.interpolate(torch.nn.functional.pad(mask, (1, 1, 1, 1))[None, None], size=size, mode="bilinear")[0, 0]
        rows, columns = slice(max(top, 0), min(bottom + 1, height)), slice(max(left, 0), min(right + 1, width))
        image[rows, columns] = resized[rows.start - top:rows.stop - top, columns.start - left:columns.stop - left]
    return result


def test_masks_are_pasted_as_torchvision_pastes_them() -> None:
    torch.manual_seed(0)
    height, width = 61, 83
    corners = torch.rand(60, 2, dtype=torch.float64) * torch.tensor([width, height])
    sizes = torch.rand(60, 2, dtype=torch.float64) ** 3 * 90  # from less than a pixel to more than the image, some across its edges
    boxes = torch.cat([corners - sizes / 2, corners + sizes / 2], 1)
    masks = torch.rand(60, 28, 28, dtype=torch.float64)
    expected = one_by_one(masks, boxes, height, width)
    assert 0 < (expected == 0).sum() < expected.numel()
    # Places among 30 cells are float32: a few roundings of 30 * 2^-24 in each of two axes, times masks of at most 1.
    torch.testing.assert_close(pasted(masks, boxes, height, width), expected, rtol=0, atol=1e-5)


class Pasting(torch.nn.Module):
    """Masks and boxes, and an image of which only the size matters."""

    def forward(self, masks: torch.Tensor, boxes: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        return pasted(masks, boxes, *image.shape[2:])


def test_pasting_compiles_for_any_number_of_masks_and_any_size(tmp_path: Path) -> None:
    def inputs(count: int, height: int, width: int) -> dict[str, torch.Tensor]:
        torch.manual_seed(count)
        corners = torch.rand(count, 2) * torch.tensor([width, height])
        return {"masks": torch.rand(count, 28, 28), "boxes": torch.cat([corners - 7.3, corners + 11.9], 1), "image": torch.ones(1, 1, height, width)}

    axes = {"masks": {0: "count"}, "boxes": {0: "count"}, "image": {2: "height", 3: "width"}}
    exported = export_module(Pasting(), inputs(3, 40, 50), tmp_path, dynamic_shapes=axes)
    ingot.compile(exported.path, tmp_path / "pasting.ingot", samples=0)
    model = ingot.load(tmp_path / "pasting.ingot")
    for case in ((3, 40, 50), (1, 31, 64), (9, 64, 33), (0, 8, 9)):
        given = inputs(*case)
        found = model.run({i.name: given[i.name].numpy() for i in model.inputs})["output"]
        torch.testing.assert_close(torch.from_numpy(found), Pasting()(**given), rtol=0, atol=1e-5)
