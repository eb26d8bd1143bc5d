"""Convolutional networks in int8: what is rounded, by which data, and what it loses."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

import ingot
from ingot.cli.main import main
from ingot.errors import CompileError
from tests.lower.build import model, relative_error

Arrays = Mapping[str, np.ndarray]


def normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return (rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)


def cases(shape: Sequence[int], count: int = 4, seed: int = 1) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    return [{"x": rng.standard_normal(shape).astype(np.float32)} for _ in range(count)]


def compiled(built: onnx.ModelProto, folder: Path, data: Any, **options: Any) -> tuple[ingot.Model, dict[str, Any]]:
    """The model in int8, and its report."""
    report = ingot.compile(built, folder / "q.ingot", **{"quantize": "int8", "calibration": data, "samples": 0, **options})
    assert report.quantization is not None
    return ingot.load(folder / "q.ingot"), report.quantization


def lost(built: onnx.ModelProto, loaded: ingot.Model, data: Sequence[Arrays]) -> float:
    """The largest relative error of an output against onnxruntime in float32."""
    session = onnxruntime.InferenceSession(built.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [o.name for o in session.get_outputs()]
    return max(relative_error(np.asarray(loaded.run(dict(case))[name]), expected)
               for case in data for name, expected in zip(names, session.run(names, dict(case)), strict=True))


def expected_loss(report: Mapping[str, Any]) -> float:
    """Errors of layers that know nothing of one another add up as the root of the sum of their squares; half as much again for what they amplify."""
    return 1.5 * float(np.sqrt(sum(layer[key] ** 2 for layer in report["layers"] for key in ("input_error", "relative_error"))))


def steps(loaded: ingot.Model) -> list[str]:
    return [str(s.get("kernel", s["op"])) for s in loaded.manifest["targets"][0]["program"]["functions"][0]["steps"]]


def residual_network(opset: int = 21) -> onnx.ModelProto:
    """Two blocks: one adds what it read, the other what a second convolution makes of it; pooling, normalization and a classifier."""
    rng = np.random.default_rng(0)
    weights = {"w0": normal(rng, 32, 3, 3, 3), "w1": normal(rng, 32, 32, 3, 3), "w2": normal(rng, 32, 32, 1, 1), "w3": normal(rng, 64, 32, 3, 3),
               "w4": normal(rng, 64, 32, 1, 1), "w5": normal(rng, 16, 64, 1, 1), "b0": normal(rng, 32), "b3": normal(rng, 64),
               "scale": rng.uniform(0.5, 2, 32).astype(np.float32), "shift": normal(rng, 32), "mean": normal(rng, 32),
               "variance": rng.uniform(0.5, 2, 32).astype(np.float32)}

    def conv(x: str, w: str, y: str, *bias: str, stride: int = 1) -> onnx.NodeProto:
        pad = weights[w].shape[2] // 2
        return helper.make_node("Conv", [x, w, *bias], [y], name=f"conv_{w}", pads=[pad] * 4, strides=[stride, stride])

    nodes = [conv("x", "w0", "a", "b0", stride=2), helper.make_node("Relu", ["a"], ["b"]),
             helper.make_node("MaxPool", ["b"], ["c"], kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4),
             conv("c", "w1", "d"), helper.make_node("BatchNormalization", ["d", "scale", "shift", "mean", "variance"], ["e"]),
             helper.make_node("Relu", ["e"], ["f"]), conv("f", "w2", "g"), helper.make_node("Add", ["g", "c"], ["h"]),
             helper.make_node("Relu", ["h"], ["i"]), conv("i", "w3", "j", "b3"), conv("i", "w4", "k"), helper.make_node("Add", ["j", "k"], ["l"]),
             helper.make_node("Relu", ["l"], ["m"]), conv("m", "w5", "n"), helper.make_node("GlobalAveragePool", ["n"], ["y"])]
    return model(nodes, {"x": ("float32", ["n", 3, "h", "w"])}, ["y"], weights, opset)


@pytest.mark.parametrize("opset", [9, 11, 21])
def test_a_residual_network_multiplies_integers_and_loses_little(tmp_path: Path, opset: int) -> None:
    built = residual_network(opset)
    loaded, report = compiled(built, tmp_path, cases([2, 3, 33, 47]))
    other = cases([3, 3, 40, 31], seed=2)
    assert lost(built, loaded, other) < expected_loss(report) < 0.05
    assert [layer["node"] for layer in report["layers"]] == [f"conv_w{i}" for i in range(6)]
    assert not report["kept"]
    assert all(0 < layer["relative_error"] < 0.01 and 0 < layer["input_error"] < 0.02 for layer in report["layers"])
    assert report["bytes_after"] < 0.27 * report["bytes_before"]
    convolutions = [s for s in steps(loaded) if "convolution" in s and "winograd" not in s]
    assert len(convolutions) == 6
    assert all("int8" in s or "int16" in s for s in convolutions), convolutions
    assert report["loss"]["calibration"]["outputs"][0]["relative_error"] < 0.02


def test_what_passes_between_two_convolutions_has_8_bits(tmp_path: Path) -> None:
    loaded, _ = compiled(residual_network(), tmp_path, cases([2, 3, 33, 47]))
    function = loaded.manifest["targets"][0]["program"]["functions"][0]
    made = [function["values"][v] for step in function["steps"] for v in step.get("outputs", ())]
    images = [v["dtype"] for v in made if len(v["shape"]) == 4]
    assert sum(dtype == "uint8" for dtype in images) >= 7
    assert sum(dtype == "float32" for dtype in images) <= 3, made  # one of two results that are added, what the mean is of, and it


def detector(seed: int = 0) -> onnx.ModelProto:
    """What YOLO is made of: SiLU, halves of the channels that pass by, pads, concatenation, pooling and upsampling, and heads of two sizes."""
    rng = np.random.default_rng(seed)
    weights = {"w0": normal(rng, 32, 3, 3, 3), "w1": normal(rng, 16, 16, 3, 3), "w2": normal(rng, 32, 48, 1, 1), "w3": normal(rng, 24, 64, 1, 1),
               "w4": normal(rng, 8, 24, 1, 1), "halves": np.array([16, 16], np.int64), "ends": np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64),
               "sizes": np.array([1, 1, 2, 2], np.float32)}

    def silu(x: str, y: str) -> list[onnx.NodeProto]:
        return [helper.make_node("Sigmoid", [x], [f"{x}_s"]), helper.make_node("Mul", [x, f"{x}_s"], [y])]

    nodes = [helper.make_node("Conv", ["x", "w0"], ["a"], pads=[1] * 4), *silu("a", "b"),
             helper.make_node("Split", ["b", "halves"], ["c", "d"], axis=1),
             helper.make_node("Pad", ["d", "ends"], ["p"]), helper.make_node("Conv", ["p", "w1"], ["e"]), *silu("e", "f"),
             helper.make_node("Add", ["f", "d"], ["g"]),
             helper.make_node("Concat", ["c", "d", "g"], ["h"], axis=1), helper.make_node("Conv", ["h", "w2"], ["i"]), *silu("i", "j"),
             helper.make_node("MaxPool", ["j"], ["k"], kernel_shape=[2, 2], strides=[2, 2]),
             helper.make_node("Resize", ["k", "", "sizes"], ["l"], mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor"),
             helper.make_node("Concat", ["l", "j"], ["m"], axis=1), helper.make_node("Conv", ["m", "w3"], ["n"]), *silu("n", "o"),
             helper.make_node("Conv", ["o", "w4"], ["y"])]
    return model(nodes, {"x": ("float32", ["n", 3, 24, 36])}, ["y", "j"], weights)


def test_a_detector_multiplies_integers_and_loses_little(tmp_path: Path) -> None:
    built = detector()
    loaded, report = compiled(built, tmp_path, cases([2, 3, 24, 36]))
    assert lost(built, loaded, cases([1, 3, 24, 36], seed=2)) < expected_loss(report) < 0.05
    assert len(report["layers"]) == 5
    assert sum("transpose" in s and "convolution" not in s for s in steps(loaded)) == 0


@settings(max_examples=12, deadline=None)
@given(rank=st.integers(1, 3), channels=st.integers(1, 5), columns=st.integers(1, 9), groups=st.integers(1, 3), window=st.integers(1, 3),
       stride=st.integers(1, 2), dilation=st.integers(1, 2), pad=st.integers(0, 2), shift=st.sampled_from([0.0, 1.0, -3.0]), seed=st.integers(0, 99))
def test_convolutions_of_any_kind(tmp_path_factory: pytest.TempPathFactory, rank: int, channels: int, columns: int, groups: int, window: int,
                                  stride: int, dilation: int, pad: int, shift: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    weights = {"w": normal(rng, columns * groups, channels, *[window] * rank), "b": normal(rng, columns * groups)}
    nodes = [helper.make_node("Conv", ["x", "w", "b"], ["y"], group=groups, strides=[stride] * rank, dilations=[dilation] * rank,
                              pads=[pad] * 2 * rank)]
    size = [9, 8, 7][:rank]
    built = model(nodes, {"x": ("float32", ["n", channels * groups, *size])}, ["y"], weights)
    data = [{"x": (case["x"] + shift).astype(np.float32)} for case in cases([2, channels * groups, *size], seed=seed)]
    loaded, report = compiled(built, tmp_path_factory.mktemp("any"), data)
    assert len(report["layers"]) == 1
    assert lost(built, loaded, data) < 0.03


@pytest.mark.parametrize(("options", "reason"), [
    ({"quantize": "int4"}, "convolutions are quantized by int8 alone"), ({"quantize": "int8:float"}, "convolutions are quantized by int8 alone"),
    ({"calibration": None}, "convolutions take calibration data"), ({"quantize_exclude": ["conv_w1"]}, "excluded"),
    ({"quantize_include": ["w0"]}, "not included")])
def test_convolutions_that_stay_as_they_were_have_a_reason(tmp_path: Path, options: dict[str, Any], reason: str) -> None:
    built = residual_network()
    built.graph.initializer.append(numpy_helper.from_array(normal(np.random.default_rng(3), 64, 64), "v"))
    built.graph.node.extend([helper.make_node("MatMul", ["u", "v"], ["z"], name="product")])
    built.graph.input.append(helper.make_tensor_value_info("u", TensorProto.FLOAT, ["n", 64]))
    built.graph.output.append(helper.make_value_info("z", onnx.TypeProto()))
    data = [{**case, "u": case["x"][:, 0, :1, :1].reshape(2, 1) * np.ones((1, 64), np.float32)} for case in cases([2, 3, 33, 47])]
    loaded, report = compiled(built, tmp_path, **{"data": data, **options})
    kept = {entry["node"]: entry["reason"] for entry in report["kept"]}
    assert kept["conv_w1"] == reason
    assert len(report["layers"]) + len(report["kept"]) == 7
    assert lost(built, loaded, data) < 0.1


def test_a_network_without_products_says_what_it_takes(tmp_path: Path) -> None:
    with pytest.raises(CompileError, match=r"nothing to quantize: none of 6 layers qualifies \(convolutions take calibration data\)"):
        compiled(residual_network(), tmp_path, None)
    with pytest.raises(CompileError, match=r"include pattern 'conv_x' fits no matrix product or convolution .*'conv_w0' \(weight 'w0'\)"):
        compiled(residual_network(), tmp_path, cases([1, 3, 9, 9]), quantize_include=["conv_x"])


def test_weights_that_cannot_be_rounded_stay(tmp_path: Path) -> None:
    built = residual_network()
    for initializer in built.graph.initializer:
        if initializer.name == "w1":
            numbers = numpy_helper.to_array(initializer).copy()
            numbers[0, 0, 0, 0] = np.nan
            initializer.CopyFrom(numpy_helper.from_array(numbers, "w1"))
    _, report = compiled(built, tmp_path, cases([2, 3, 9, 9]))
    assert {e["node"]: e["reason"] for e in report["kept"]}["conv_w1"] == "it holds numbers that are not finite"


def test_values_that_data_does_not_reach_leave_their_convolutions_as_they_were(tmp_path: Path) -> None:
    built = residual_network()
    data = [{"x": np.zeros((1, 3, 9, 9), np.float32)}]
    loaded, report = compiled(built, tmp_path, data)
    assert {e["node"]: e["reason"] for e in report["kept"]} == {"conv_w0": "no data reached it"}
    assert lost(built, loaded, data) < 0.05


def test_two_layers_may_share_a_weight_and_it_may_be_a_constant_node(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    w = normal(rng, 16, 16, 3, 3)
    nodes = [helper.make_node("Constant", [], ["w"], value=numpy_helper.from_array(w)),
             helper.make_node("Conv", ["x", "w"], ["a"], name="one", pads=[1] * 4), helper.make_node("Relu", ["a"], ["b"]),
             helper.make_node("Conv", ["b", "w"], ["y"], name="two", pads=[1] * 4)]
    built = model(nodes, {"x": ("float32", ["n", 16, 9, 11])}, ["y"])
    data = cases([2, 16, 9, 11])
    loaded, report = compiled(built, tmp_path, data)
    assert [layer["node"] for layer in report["layers"]] == ["one", "two"]
    assert report["bytes_before"] == w.nbytes
    assert lost(built, loaded, data) < 0.02


def test_layers_may_share_weights_with_others_that_stay(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)

    def branch(name: str, x: str) -> onnx.GraphProto:
        conv = helper.make_node("Conv", [x, "w"], ["z"], name=f"conv_{name}", pads=[1] * 4)
        return helper.make_graph([conv], name, [], [helper.make_value_info("z", onnx.TypeProto())])

    nodes = [helper.make_node("Conv", ["x", "w"], ["a"], name="one", pads=[1] * 4),
             helper.make_node("Mul", ["x", "nothing"], ["n"]), helper.make_node("Conv", ["n", "w"], ["b"], name="two", pads=[1] * 4),
             helper.make_node("If", ["c"], ["d"], then_branch=branch("then", "x"), else_branch=branch("else", "a")),
             helper.make_node("Sum", ["a", "b", "d"], ["y"])]
    built = model(nodes, {"x": ("float32", ["n", 16, 9, 11]), "c": ("bool", [])}, ["y"],
                  {"w": normal(rng, 16, 16, 3, 3), "nothing": np.zeros(1, np.float32)})
    data = [{**case, "c": np.array(index % 2 == 0)} for index, case in enumerate(cases([2, 16, 9, 11]))]
    loaded, report = compiled(built, tmp_path, data)
    assert [(e["node"], e["reason"]) for e in report["kept"]] == [("two", "no data reached it")]
    assert [layer["node"] for layer in report["layers"]] == ["one"]
    assert lost(built, loaded, data) < 0.02


def test_results_of_the_model_are_not_rounded(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    nodes = [helper.make_node("Relu", ["x"], ["r"]), helper.make_node("Conv", ["r", "w"], ["y"])]
    built = model(nodes, {"x": ("float32", ["n", 16, 9, 11])}, ["r", "y"], {"w": normal(rng, 16, 16, 1, 1)})
    data = cases([2, 16, 9, 11])
    loaded, _ = compiled(built, tmp_path, data)
    np.testing.assert_array_equal(loaded.run(data[0])["r"], np.maximum(data[0]["x"], 0))


def test_half_precision_stays(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    nodes = [helper.make_node("Conv", ["x", "w"], ["a"], name="half"), helper.make_node("Cast", ["a"], ["b"], to=TensorProto.FLOAT),
             helper.make_node("Conv", ["b", "v"], ["y"])]
    built = model(nodes, {"x": ("float16", [1, 16, 9, 11])}, ["y"],
                  {"w": normal(rng, 16, 16, 1, 1).astype(np.float16), "v": normal(rng, 16, 16, 1, 1)})
    _, report = compiled(built, tmp_path, [{"x": case["x"].astype(np.float16)} for case in cases([1, 16, 9, 11])])
    assert [(e["node"], e["reason"]) for e in report["kept"]] == [("half", "not of float32")]


def test_a_trained_network_recognizes_digits_as_before(tmp_path: Path) -> None:
    import torch
    from sklearn.datasets import load_digits
    from torch import nn

    torch.manual_seed(0)
    found = load_digits()
    images, labels = (found.images[:, None] / 16).astype(np.float32), found.target
    module = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
                           nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.SiLU(), nn.MaxPool2d(2),
                           nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))
    optimizer = torch.optim.Adam(module.parameters(), 1e-2)
    x, y = torch.from_numpy(images[:1400]), torch.from_numpy(labels[:1400])
    for _ in range(12):
        for batch in torch.randperm(len(x)).split(100):
            optimizer.zero_grad()
            nn.functional.cross_entropy(module(x[batch]), y[batch]).backward()
            optimizer.step()
    module.eval()
    ingot.compile(module, tmp_path / "digits.ingot", inputs={"input": images[:2]}, dynamic_shapes={"input": {0: "batch"}}, quantize="int8",
                  calibration=[{"input": images[i : i + 20]} for i in range(0, 100, 20)])
    loaded = ingot.load(tmp_path / "digits.ingot")
    report = loaded.manifest["quantization"]
    assert len(report["layers"]) == 3
    with torch.no_grad():
        before = np.asarray(module(torch.from_numpy(images[1400:])))
    after = np.asarray(next(iter(loaded.run({"input": images[1400:]}).values())))
    accuracy = [float(np.mean(scores.argmax(1) == labels[1400:])) for scores in (before, after)]
    assert accuracy[0] > 0.9
    assert accuracy[1] > accuracy[0] - 0.01
    assert relative_error(after, before) < expected_loss(report) < 0.05


def test_the_command_line_tells_of_convolutions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnx.save(residual_network(), tmp_path / "net.onnx")
    for index, case in enumerate(cases([2, 3, 33, 47])):
        np.savez(tmp_path / f"{index}.npz", **case)
    files = [part for index in range(4) for part in ("--calibration", str(tmp_path / f"{index}.npz"))]
    assert main(["compile", str(tmp_path / "net.onnx"), "-o", str(tmp_path / "net.ingot"), "--quantize", "int8", *files]) == 0
    assert main(["inspect", str(tmp_path / "net.ingot")]) == 0
    shown = capsys.readouterr().out
    assert "6 layers quantized" in shown
    assert "input error" in shown
    assert main(["verify", str(tmp_path / "net.ingot")]) == 0
    report = json.loads((tmp_path / "net.quantization.json").read_text())
    assert report["layers"][0]["shape"] == [32, 3, 3, 3]
