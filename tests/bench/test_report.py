"""The page of measurements says what was measured; the models that are measured are what their group says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import ingot
from benchmarks.groups import GROUPS, Setting, settings
from benchmarks.report import page
from benchmarks.results import read


def bench(setting: Setting, contestant: str, milliseconds: float, precision: str = "f32") -> dict[str, Any]:
    return {"extra_info": {"setting": vars(setting), "contestant": contestant, "median": milliseconds / 1e3, "precision": precision}}


def report(path: Path, *benchmarks: dict[str, Any], refused: tuple[dict[str, str], ...] = ()) -> Path:
    around = {"machine": {"model": "A CPU", "logical_cpus": 2, "features": ["sse4_1", "avx2", "fma"], "targets": ["cpu:x86-64-v3"]},
              "measured": [{"threads": 1, "fma_gflop_s": 113.0, "bandwidth_gb_s": 18.5}],
              "versions": {"ingot": "0.1.0", "onnxruntime": "1.32.0", "openvino": "2026.4.1", "python": "3.11.7"}, "refused": list(refused)}
    path.write_text(json.dumps({"datetime": "2026-11-24T12:08:59", "benchmarks": benchmarks, "ingot": around}))
    return path


F32 = Setting("f32", "resnet50", 1, 1)
BF16 = Setting("bf16", "bert_base", 1, 1)
LARGE = Setting("batches", "bert_base", 32, 2)


def test_a_table_has_medians_and_the_ratio_of_the_faster_peer(tmp_path: Path) -> None:
    results = read([report(tmp_path / "a.json", bench(F32, "ingot", 10), bench(F32, "onnxruntime", 15), bench(F32, "openvino", 12.5))])
    text = page(results, "p.svg")
    assert "| resnet50 | 1 | 10.00 | 15.00 (1.50) | 12.50 (1.25) | 1.25 |" in text
    assert "1.250 on 1 thread (least 1.25)" in text and "](p.svg)" in text
    assert "A CPU, 2 logical CPUs, avx2, fma; best target `cpu:x86-64-v3`" in text and "sse4_1" not in text
    assert "113 GFLOP/s" in text and "18.5 GB/s" in text and "OpenVINO 2026.4.1" in text
    assert "bfloat16" not in text  # a group that was not measured has no table


def test_the_geometric_mean_is_that_of_the_models_for_each_number_of_threads(tmp_path: Path) -> None:
    other = Setting("f32", "bert_base", 1, 1)
    results = read([report(tmp_path / "a.json", bench(F32, "ingot", 1), bench(F32, "onnxruntime", 4), bench(other, "ingot", 1),
                           bench(other, "onnxruntime", 1), bench(Setting("f32", "bert_base", 1, 2), "ingot", 1))])
    assert "Geometric mean of the last column: 2.000 on 1 thread (least 1.00)." in page(results, "p.svg")


def test_a_model_that_ingot_refuses_stands_in_the_table_with_the_reason(tmp_path: Path) -> None:
    refusal = {"group": "bf16", "model": "bert_base", "reason": "precision 'bf16' is not available; it is f32"}
    text = page(read([report(tmp_path / "a.json", bench(BF16, "openvino", 12.5, "bf16"), refused=(refusal,))]), "p.svg")
    assert "| bert_base | 1 | refused | 12.50 |  |" in text
    assert "Ingot refuses bert_base: precision 'bf16' is not available; it is f32." in text


def test_the_page_says_who_computes_in_something_else(tmp_path: Path) -> None:
    both = bench(BF16, "ingot", 10, "bf16"), bench(BF16, "openvino", 12.5, "f32")
    text = page(read([report(tmp_path / "a.json", *both)]), "p.svg")
    assert "OpenVINO was asked for bf16, but computes in f32" in text and "Ingot was asked" not in text


def test_of_several_reports_the_last_counts(tmp_path: Path) -> None:
    refusal = {"group": "f32", "model": "resnet50", "reason": "no"}
    first = report(tmp_path / "a.json", bench(F32, "openvino", 1), bench(LARGE, "ingot", 80), bench(LARGE, "openvino", 100), refused=(refusal,))
    second = report(tmp_path / "b.json", bench(F32, "ingot", 10), bench(F32, "openvino", 20))
    text = page(read([first, second]), "p.svg")
    assert "| resnet50 | 1 | 10.00 | 20.00 (2.00) | 2.00 |" in text and "refuse" not in text
    assert "| bert_base | 32 | 2 | 80.00 | 100.00 (1.25) | 1.25 |" in text


def test_the_picture_is_an_svg_with_every_model_and_the_same_each_time(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from benchmarks.plot import draw

    results = read([report(tmp_path / "a.json", bench(F32, "ingot", 10), bench(F32, "openvino", 20), bench(LARGE, "ingot", 80),
                           bench(LARGE, "onnxruntime", 100))])
    for name in ("1.svg", "2.svg"):
        draw(results, tmp_path / name)
    text = "".join(ET.parse(tmp_path / "1.svg").getroot().itertext())
    assert all(expected in text for expected in ("resnet50", "bert_base, batch 32", "2.00", "1.25", "OpenVINO / Ingot", GROUPS["batches"].title))
    assert (tmp_path / "1.svg").read_bytes() == (tmp_path / "2.svg").read_bytes()


def test_nothing_to_draw_is_said(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from benchmarks.plot import draw

    with pytest.raises(SystemExit, match="nothing to draw"):
        draw(read([report(tmp_path / "a.json", bench(F32, "openvino", 20))]), tmp_path / "p.svg")


def test_every_comparison_has_a_name_of_its_own_that_selects_its_group() -> None:
    pairs = list(settings())
    names = [f"{setting}-{contestant}" for setting, contestant in pairs]
    assert len(set(names)) == len(names)
    assert all(name.startswith(f"{setting.group}-") for name, (setting, _) in zip(names, pairs, strict=True))
    assert not any(c == "onnxruntime" for s, c in pairs if s.group == "bf16")  # it cannot be asked for it


def test_a_quantized_model_has_int8_weights_by_channel_and_ingot_runs_it_as_onnx_says(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    from benchmarks.quantize import quantize

    rng = np.random.default_rng(0)
    weight = rng.standard_normal((16, 8), np.float32)
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", extent]) for name, extent in (("x", 16), ("y", 8)))
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "product", [x], [y], [numpy_helper.from_array(weight, "w")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), tmp_path / "m.onnx")
    batches = [{"x": rng.uniform(-1, 1, (n, 16)).astype(np.float32)} for n in (2, 3, 64)]
    quantize(tmp_path / "m.onnx", tmp_path / "q.onnx", batches)
    model = onnx.load(tmp_path / "q.onnx")
    stored = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
    dequantized = [n.input for n in model.graph.node if n.op_type == "DequantizeLinear" and n.input[0] in stored]
    assert [(stored[q].dtype, stored[scale].shape) for q, scale, *_ in dequantized] == [(np.int8, (8,))]
    activations = next(n for n in model.graph.node if n.op_type == "QuantizeLinear" and n.input[0] == "x").input
    results = next(n for n in model.graph.node if n.op_type == "QuantizeLinear" and n.input[0] != "x").input
    assert stored[activations[2]].dtype == stored[results[2]].dtype == np.uint8
    ingot.compile(tmp_path / "q.onnx", tmp_path / "q.ingot")
    inputs = batches[-1]
    found = ingot.load(tmp_path / "q.ingot").run(inputs)["y"]
    # Sums in another order may end on the other side of a step between two bytes.
    np.testing.assert_allclose(found, ReferenceEvaluator(model).run(None, inputs)[0], atol=1.001 * stored[results[1]], rtol=0)
    # Half a step of each operand times the other, and half a step of the result.
    exact = inputs["x"].astype(np.float64) @ weight
    steps = stored[activations[1]] * np.abs(weight).sum(0) + np.abs(inputs["x"]).sum(1, keepdims=True) * np.abs(weight).max(0) / 127
    assert np.all(np.abs(found - exact) <= 1.01 * (steps + stored[results[1]]) / 2)
