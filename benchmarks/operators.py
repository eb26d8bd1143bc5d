"""Models of one operator each, at the sizes that detectors, samplers and retrieval have: what a kernel takes by itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Arrays: TypeAlias = dict[str, np.ndarray]
#: A model, and inputs for it.
Operator: TypeAlias = tuple[onnx.ModelProto, Arrays]

_OPSET = 18


def _model(nodes: Sequence[onnx.NodeProto], inputs: Arrays, outputs: Mapping[str, int], constants: Arrays) -> Operator:
    """A graph of float32 inputs with these shapes; ``outputs`` are names and element types."""
    declared = [helper.make_tensor_value_info(name, TensorProto.FLOAT if array.dtype == np.float32 else TensorProto.INT64, array.shape)
                for name, array in inputs.items()]
    graph = helper.make_graph(list(nodes), "operator", declared, [helper.make_tensor_value_info(name, kind, None) for name, kind in outputs.items()],
                              [numpy_helper.from_array(array, name) for name, array in constants.items()])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=10), inputs


def _boxes(rng: np.random.Generator, count: int, image: float, side: float) -> np.ndarray:
    """Corners [1, count, 4] of boxes around places in a square image; sides are spread around ``side`` by a factor of 2."""
    middle = rng.uniform(0, image, (1, count, 2))
    half = side / 2 * np.exp(rng.normal(0, np.log(2), (1, count, 2)))
    return np.concatenate([middle - half, middle + half], 2).astype(np.float32)


def _nms(classes: int, count: int, most: int, overlap: float, threshold: float, rarity: int) -> Operator:
    """``rarity``: scores are uniform numbers to this power."""
    rng = np.random.default_rng(0)
    scores = (rng.random((1, classes, count)) ** rarity).astype(np.float32)
    constants = {"most": np.array([most]), "overlap": np.array([overlap], np.float32), "threshold": np.array([threshold], np.float32)}
    node = helper.make_node("NonMaxSuppression", ["boxes", "scores", "most", "overlap", "threshold"], ["picked"])
    return _model([node], {"boxes": _boxes(rng, count, 640, 80), "scores": scores}, {"picked": TensorProto.INT64}, constants)


def _topk(shape: tuple[int, ...], k: int, axis: int = -1, is_sorted: bool = True) -> Operator:
    """The order of what is not sorted is nobody's: such a model ends with sums along the axis, short beside what they follow."""
    node = helper.make_node("TopK", ["x", "k"], ["values", "indices"], axis=axis, sorted=int(is_sorted))
    kinds = {"values": TensorProto.FLOAT, "indices": TensorProto.INT64}
    constants = {"k": np.array([k])}
    nodes = [node]
    if not is_sorted:
        nodes += [helper.make_node("ReduceSum", [name, "axis"], [f"{name}_sum"]) for name in kinds]
        kinds = {f"{name}_sum": kind for name, kind in kinds.items()}
        constants["axis"] = np.array([axis])
    return _model(nodes, {"x": np.random.default_rng(0).standard_normal(shape, np.float32)}, kinds, constants)


def _roi_align(height: int, width: int) -> Operator:
    """1,000 regions of 7 to 28 elements a side, as a pyramid gives each of its scales."""
    rng = np.random.default_rng(0)
    sides = rng.uniform(7, 28, (1000, 2)).clip(max=[width - 1, height - 1])
    corner = rng.uniform(0, 1, (1000, 2)) * ([width, height] - sides)
    inputs: Arrays = {"features": rng.standard_normal((1, 256, height, width), np.float32),
                      "regions": np.concatenate([corner, corner + sides], 1).astype(np.float32), "images": np.zeros(1000, np.int64)}
    node = helper.make_node("RoiAlign", list(inputs), ["pooled"], output_height=7, output_width=7, sampling_ratio=2,
                            coordinate_transformation_mode="half_pixel")
    return _model([node], inputs, {"pooled": TensorProto.FLOAT}, {})


def _row(build: Callable[..., Operator], *arguments: Any, **options: Any) -> Callable[[], Operator]:
    return lambda: build(*arguments, **options)


#: The post-processing of a YOLO at 640 pixels and of a region proposal network; the best of a million, of the rows of an index, of each class of
#: a detector; the four scales of a feature pyramid of 800 x 1,088 pixels.
OPERATORS: dict[str, Callable[[], Operator]] = {
    "nms_80x8400": _row(_nms, 80, 8400, 100, 0.45, 0.25, 16),
    "nms_1x6000": _row(_nms, 1, 6000, 1000, 0.7, 0.0, 1),
    "topk_1x1000000": _row(_topk, (1, 1000000), 100),
    "topk_100x8400": _row(_topk, (100, 8400), 300),
    "topk_100x8400_unsorted": _row(_topk, (100, 8400), 300, is_sorted=False),
    "topk_8400x80_axis0": _row(_topk, (8400, 80), 300, axis=0),
    "roi_align_200x272": _row(_roi_align, 200, 272),
    "roi_align_100x136": _row(_roi_align, 100, 136),
    "roi_align_50x68": _row(_roi_align, 50, 68),
    "roi_align_25x34": _row(_roi_align, 25, 34),
}
