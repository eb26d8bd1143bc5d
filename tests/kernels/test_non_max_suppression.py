"""Boxes are picked as the definition says: ties, NaN, thresholds, boxes that touch; lists longer than what is sorted at once."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

import ingot
from ingot.backend import IngotBackendRep, prepare


def model(center: int, threshold: bool) -> onnx.ModelProto:
    """NonMaxSuppression of any numbers of images, classes and boxes; the limits are inputs."""
    kinds: dict[str, list[str | int | None]] = {"boxes": ["b", "n", 4], "scores": ["b", "c", "n"], "most": [1], "overlap": [1], "threshold": [1]}
    inputs = [helper.make_tensor_value_info(name, TensorProto.INT64 if name == "most" else TensorProto.FLOAT, shape)
              for name, shape in kinds.items() if threshold or name != "threshold"]
    node = helper.make_node("NonMaxSuppression", [i.name for i in inputs], ["picked"], center_point_box=center)
    graph = helper.make_graph([node], "g", inputs, [helper.make_tensor_value_info("picked", TensorProto.INT64, None)])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=10)


@functools.cache
def compiled(center: int, threshold: bool) -> IngotBackendRep:
    return prepare(model(center, threshold))


def corners(boxes: np.ndarray, center: int) -> np.ndarray:
    """[n, 4] as (low, low, high, high), in float32 as the operator has it."""
    if center:
        half = boxes[:, 2:] / np.float32(2)
        return np.concatenate([boxes[:, :2] - half, boxes[:, :2] + half], 1)
    return np.concatenate([np.minimum(boxes[:, :2], boxes[:, 2:]), np.maximum(boxes[:, :2], boxes[:, 2:])], 1)


def expected(boxes: np.ndarray, scores: np.ndarray, most: int, overlap: float, threshold: float | None, center: int = 0) -> list[list[int]]:
    """By the definition, box by box."""
    picked: list[list[int]] = []
    for image, label in np.ndindex(*scores.shape[:2]):
        own, box = scores[image, label], corners(boxes[image], center)
        area = (box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1])
        order = np.argsort(-own, kind="stable")
        kept: list[int] = []
        for i in order[~np.isnan(own[order]) if threshold is None else own[order] > np.float32(threshold)]:
            if len(kept) == most:
                break
            sides = np.minimum(box[kept, 2:], box[i, 2:]) - np.maximum(box[kept, :2], box[i, :2])
            shared = sides[:, 0] * sides[:, 1]
            together = area[i] + area[kept] - shared
            with np.errstate(divide="ignore", invalid="ignore"):
                if not np.any((sides > 0).all(1) & (together > 0) & (shared / together > np.float32(overlap))):
                    kept.append(int(i))
        picked += [[image, label, i] for i in kept]
    return picked


def drawn(seed: int, images: int, labels: int, count: int, most: int, overlap: float, threshold: float | None) -> dict[str, np.ndarray]:
    """Inputs. Corners and scores are multiples of small powers of 2, so that many boxes touch, many scores are equal and no product is rounded."""
    rng = np.random.default_rng(seed)
    boxes = (rng.integers(-2, 30, (images, count, 4)) / 2).astype(np.float32)
    scores = (rng.integers(-8, 9, (images, labels, count)) / 8).astype(np.float32)
    scores = np.where(rng.random(scores.shape) < 0.1, rng.choice(np.array([np.nan, np.inf, -np.inf, -0.0], np.float32), scores.shape), scores)
    given_ = {"boxes": boxes, "scores": scores, "most": np.array([most]), "overlap": np.array([overlap], np.float32)}
    return given_ if threshold is None else given_ | {"threshold": np.array([threshold], np.float32)}


@settings(max_examples=100, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1), images=st.integers(1, 3), labels=st.integers(1, 4), count=st.integers(0, 120), most=st.integers(0, 130),
       overlap=st.sampled_from([0.0, 0.25, 0.5, 1.0]), threshold=st.sampled_from([None, -1.0, 0.0, 0.5]), center=st.integers(0, 1))
def test_the_boxes_picked_are_those_of_the_definition(seed: int, images: int, labels: int, count: int, most: int, overlap: float,
                                                      threshold: float | None, center: int) -> None:
    inputs = drawn(seed, images, labels, count, most, overlap, threshold)
    found = compiled(center, threshold is not None).run(inputs)[0]
    assert found.tolist() == expected(inputs["boxes"], inputs["scores"], most, overlap, threshold, center)


@pytest.mark.parametrize("threshold", [None, 0.25])
def test_long_lists_are_picked_alike_on_any_number_of_threads(tmp_path: Path, threshold: float | None) -> None:
    ingot.compile(model(0, threshold is not None), tmp_path / "nms.ingot", samples=0)
    for case in ((1, 2, 3, 1201, 150, 0.6), (2, 1, 1, 2000, 9000, 0.8)):
        inputs = drawn(*case, threshold)
        wanted = expected(inputs["boxes"], inputs["scores"], *case[4:], threshold)
        assert len(wanted) > 300  # more than are sorted at once
        for threads in (1, 2, 5):
            assert ingot.load(tmp_path / "nms.ingot", threads=threads).run(inputs)["picked"].tolist() == wanted
