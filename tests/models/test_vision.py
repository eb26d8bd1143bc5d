"""Classification, detection and segmentation: one artifact agrees with PyTorch at two image sizes and two batch sizes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import ingot
from tests.cache import made
from tests.models.vision.layers import images
from tests.models.vision.table import VISION, VisionModel

#: float32 with sums in another order: as in test_zoo.py.
TOLERANCE = 1e-4
BATCHES = (1, 3)
_SOURCES = ("python/ingot/export", "tests/models/vision", "tests/models/densenet.py", "tests/models/test_vision.py")

pytestmark = pytest.mark.slow


def cases(model: VisionModel) -> list[tuple[int, int, int]]:
    """Batch, height and width of each run: both batch sizes and every image size."""
    first, *others = model.sizes
    return [(1, *first), (3, *(others or [first])[0])]


def compiled(name: str) -> Path:
    """The folder with a model's artifact, and PyTorch's and onnxruntime's outputs for each case."""

    def make(folder: Path) -> None:
        import onnxruntime
        import torch

        from ingot.export import export_module

        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            model = VISION[name]
            found = export_module(model.build(), {"images": images(2, *model.sizes[0])}, folder, dynamic_shapes=model.dynamic_shapes)
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = 1
            session = onnxruntime.InferenceSession(str(found.path), options)
            for index, case in enumerate(cases(model)):
                pixels = {"images": images(*case)}
                np.savez(folder / f"torch-{index}.npz", **found.reference(pixels))
                np.savez(folder / f"onnxruntime-{index}.npz", **dict(zip(found.output_names, session.run(None, pixels), strict=True)))
        finally:
            torch.set_num_threads(threads)
        ingot.compile(found.path, folder / f"{name}.ingot", samples=0)
        (folder / "messages.json").write_text(json.dumps(found.messages))

    return made("vision", name, _SOURCES, make)


def check_detections(actual: dict[str, np.ndarray], expected: dict[str, np.ndarray], what: str) -> None:
    """The same labels in each image, and the same boxes, scores and masks for them, in whatever order near-equal scores come."""
    assert len(actual["labels"]) == len(expected["labels"]), what
    size = float(np.abs(expected["boxes"]).max())
    for image, label in sorted(set(zip(expected["images_out"].tolist(), expected["labels"].tolist(), strict=True))):
        ours, theirs = (np.flatnonzero((found["images_out"] == image) & (found["labels"] == label)) for found in (actual, expected))
        assert len(ours) == len(theirs), f"{what}: label {label} in image {image}"
        apart = np.abs(actual["boxes"][ours][:, None] - expected["boxes"][theirs][None]).max(2)
        nearest = apart.argmin(1)
        assert sorted(nearest) == list(range(len(theirs))), f"{what}: boxes of label {label} in image {image} do not match one to one"
        assert apart.min(1).max() < TOLERANCE * size, f"{what}: a box of label {label} in image {image} is {apart.min(1).max():.1e} pixels off"
        for name in actual.keys() - {"boxes", "labels", "images_out"}:
            check_norm(actual[name][ours], expected[name][theirs][nearest], f"{what}: {name} of label {label} in image {image}")


def check_norm(actual: np.ndarray, expected: np.ndarray, what: str) -> None:
    assert actual.shape == expected.shape, what
    wide = expected.astype(np.float64)
    error, whole = np.linalg.norm(actual.astype(np.float64) - wide), np.linalg.norm(wide)  # a box of less than a pixel has an empty mask
    assert error <= TOLERANCE * whole, f"{what}: norm error {error:.2e} of {whole:.2e}"


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.extended] * model.extended) for name, model in VISION.items()])
def test_one_artifact_agrees_with_pytorch_at_two_image_sizes_and_two_batch_sizes(name: str) -> None:
    model, folder = VISION[name], compiled(name)
    loaded = ingot.load(folder / f"{name}.ingot")
    assert loaded.inputs[0].shape[0] == "batch" and (len(model.sizes) == 1 or isinstance(loaded.inputs[0].shape[2], str))
    for index, case in enumerate(cases(model)):
        actual = loaded.run({"images": images(*case)})
        for reference in ("torch", "onnxruntime"):
            with np.load(folder / f"{reference}-{index}.npz") as stored:
                expected = {key: stored[key] for key in stored.files}
            if not model.candidates:
                for output, array in expected.items():
                    check_norm(actual[output], array, f"{output} of {reference} at {case}")
                continue
            assert 0 < len(expected["labels"]) < model.candidates * case[0] and len(set(expected["labels"].tolist())) > 1
            assert set(expected["images_out"].tolist()) == set(range(case[0])), "an image without detections shows nothing"
            check_detections(actual, expected, f"{reference} at {case}")
