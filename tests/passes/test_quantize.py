"""``ingot compile --quantize``: products read quantized weights, and the artifact says what that lost."""

from __future__ import annotations

import json
import platform
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import ingot
from ingot.cli.main import main
from ingot.errors import CompileError
from ingot.runtime.artifact import Artifact

DEPTH, MIDDLE, COLUMNS = 201, 130, 72  # K that no group divides
BODY = "h = MatMul(x, w) r = Relu(h) [last] y = Gemm<transB=1>(r, v, b)"


def array(shape: tuple[int, ...], seed: int) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(shape) / shape[0] ** 0.5).astype(np.float32)


WEIGHTS = {"w": array((DEPTH, MIDDLE), 1), "v": array((COLUMNS, MIDDLE), 2), "b": array((COLUMNS,), 3)}


def model(body: str = BODY, weights: dict[str, np.ndarray] = WEIGHTS, dtype: str = "float") -> onnx.ModelProto:
    named, _, rest = body.partition("[last] ")
    made = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 21]> g ({dtype}[m,{DEPTH}] x) => ({dtype}[m,n] y) {{ {named} {rest} }}')
    made.graph.node[0].name = "/first/MatMul"
    made.graph.initializer.extend(numpy_helper.from_array(a, name) for name, a in weights.items())
    return made


def manifest(path: Path) -> dict[str, Any]:
    return dict(Artifact(path).manifest)


def kernels(path: Path) -> list[str]:
    return [s.get("name", s["op"]) for s in manifest(path)["targets"][0]["program"]["functions"][0]["steps"]]


def exact(x: np.ndarray) -> np.ndarray:
    w, v, b = (WEIGHTS[name].astype(np.float64) for name in "wvb")
    return np.maximum(x.astype(np.float64) @ w, 0) @ v.T + b


#: The largest relative error of each weight: rounding of normal numbers to 8 or 4 bits, within the literature's values for these groups.
LARGEST = {"int8": 0.01, "int8:row": 0.01, "int8:float": 0.01, "int4": 0.1, "int4:g128": 0.11, "int4:row": 0.12, "uint4:g64": 0.1, "nf4": 0.1,
           "mxfp4": 0.13, "nf4:int8": 0.1, "mxfp4:float": 0.13}


@pytest.mark.parametrize("scheme", LARGEST)
def test_products_read_quantized_weights_and_the_loss_is_that_of_the_definition(scheme: str, tmp_path: Path) -> None:
    path = tmp_path / "model.ingot"
    report = ingot.compile(model(), path, quantize=scheme, samples=2)
    assert kernels(path) == ["quantized_matmul", "quantized_matmul"]
    found = manifest(path)["quantization"]
    assert found == report.quantization
    assert [(layer["node"], layer["weight"], layer["shape"]) for layer in found["layers"]] == [
        ("/first/MatMul", "w", [DEPTH, MIDDLE]), ("y", "v", [MIDDLE, COLUMNS])]
    assert all(0 < layer["relative_error"] < LARGEST[scheme] for layer in found["layers"])
    assert found["bytes_before"] == WEIGHTS["w"].nbytes + WEIGHTS["v"].nbytes
    biases = sum(t["nbytes"] for t in manifest(path)["weights"]["tensors"] if t["name"].endswith(":bias"))
    assert found["bytes_after"] == sum(t["nbytes"] for t in manifest(path)["weights"]["tensors"]) - biases
    x = array((9, DEPTH), 4) * DEPTH**0.5
    y = np.asarray(ingot.load(path).run({"x": x})["y"])
    lost = np.linalg.norm(y - exact(x)) / np.linalg.norm(exact(x))
    assert lost < 2 * LARGEST[scheme] + (0.02 if found["compute"] == "int8" else 0)


def test_reported_errors_are_those_of_the_weights_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "model.ingot"
    body = "y = MatMul(x, w)"
    ingot.compile(model(body, {"w": WEIGHTS["w"]}), path, quantize="int4:float")
    layer = manifest(path)["quantization"]["layers"][0]
    # Rows of the identity bring the weight out again, exactly: a product with one term.
    stored = np.asarray(ingot.load(path).run({"x": np.eye(DEPTH, dtype=np.float32)})["y"]).astype(np.float64)
    w = WEIGHTS["w"].astype(np.float64)
    assert layer["relative_error"] == pytest.approx(np.linalg.norm(stored - w) / np.linalg.norm(w), rel=1e-4)
    assert layer["cosine"] == pytest.approx((stored * w).sum() / np.linalg.norm(stored) / np.linalg.norm(w), abs=1e-6)
    assert layer["snr_db"] == pytest.approx(10 * np.log10((w**2).sum() / ((stored - w) ** 2).sum()), abs=0.01)


def test_the_loss_of_the_model_is_that_of_its_samples_and_verify_is_held_to_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "model.ingot"
    ingot.compile(model(), path, quantize="int4", samples=2)
    found = manifest(path)
    losses = [o["relative_error"] for o in found["quantization"]["loss"]["outputs"]]
    assert len(losses) == 2 and found["samples"]["tolerance_source"] == "measured"
    assert found["samples"]["tolerance"] == pytest.approx(1.5 * max(losses), rel=0.01)
    assert main(["verify", str(path)]) == 0
    assert "1.5 times the loss that was measured" in capsys.readouterr().out
    assert main(["verify", str(path), "--tolerance", "1e-3"]) == 3
    capsys.readouterr()
    assert main(["verify", "--json", str(path)]) == 0
    verified = json.loads(capsys.readouterr().out)
    assert [o["rel_norm"] for o in verified["outputs"]] == pytest.approx(losses, rel=1e-4)


def test_an_artifact_for_another_architecture_has_an_estimated_tolerance(tmp_path: Path) -> None:
    path = tmp_path / "model.ingot"
    other = "cpu:aarch64" if platform.machine() != "aarch64" else "cpu:x86-64-v3"
    report = ingot.compile(model(), path, quantize="int8", target=other)
    assert report.quantization is not None and report.quantization["loss"]["problem"] and not report.quantization["loss"]["outputs"]
    assert manifest(path)["samples"]["tolerance_source"] == "estimated"
    assert 1e-3 < manifest(path)["samples"]["tolerance"] < 0.1


def test_several_targets_share_the_weights(tmp_path: Path) -> None:
    one, two = tmp_path / "one.ingot", tmp_path / "two.ingot"
    ingot.compile(model(), one, quantize="int4", samples=0, target="cpu:x86-64-v3")
    ingot.compile(model(), two, quantize="int4", samples=0, target=["cpu:x86-64-v3", "cpu:aarch64"])
    codes = [[t for t in manifest(path)["weights"]["tensors"] if t["dtype"] == "uint8"] for path in (one, two)]
    assert len(codes[0]) == len(codes[1]) == 2


@pytest.mark.parametrize(("include", "exclude", "quantized"), [
    (["/first/*"], [], ["w"]), (["v"], [], ["v"]), ([], ["w"], ["v"]), (["*"], ["y"], ["w"]), (["[wv]"], [], ["w", "v"])])
def test_patterns_pick_layers_by_node_or_weight(include: list[str], exclude: list[str], quantized: list[str], tmp_path: Path) -> None:
    path = tmp_path / "model.ingot"
    report = ingot.compile(model(), path, quantize="int8", quantize_include=include, quantize_exclude=exclude, samples=0)
    assert report.quantization is not None
    assert [layer["weight"] for layer in report.quantization["layers"]] == quantized
    assert {k["reason"] for k in report.quantization["kept"]} <= {"excluded", "not included"}
    assert kernels(path).count("quantized_matmul") == len(quantized)
    assert report.quantization["loss"] is None


def test_a_pattern_that_fits_nothing_is_refused_with_the_names(tmp_path: Path) -> None:
    with pytest.raises(CompileError, match=r"include pattern 'mlp\*' fits no .* '/first/MatMul' \(weight 'w'\), 'y' \(weight 'v'\)"):
        ingot.compile(model(), tmp_path / "m.ingot", quantize="int8", quantize_include=["mlp*"])
    with pytest.raises(CompileError, match="exclude pattern"):
        ingot.compile(model(), tmp_path / "m.ingot", quantize="int8", quantize_exclude=["mlp*"])


def test_an_unknown_scheme_and_patterns_without_one_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CompileError, match="there is no quantization 'int3'; they are int8, int4, uint4, nf4, mxfp4"):
        ingot.compile(model(), tmp_path / "m.ingot", quantize="int3")
    with pytest.raises(CompileError, match="was not given"):
        ingot.compile(model(), tmp_path / "m.ingot", quantize_exclude=["w"])


def test_small_weights_stay_and_a_model_of_them_alone_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CompileError, match=r"none of 1 layers qualifies \(smaller than 64"):
        ingot.compile(model("y = MatMul(x, w)", {"w": array((DEPTH, 63), 5)}), tmp_path / "m.ingot", quantize="int8")
    with pytest.raises(CompileError, match="no matrix product or convolution has a constant weight"):
        ingot.compile(model("y = Relu(x)", {}), tmp_path / "m.ingot", quantize="int8")


def test_a_weight_that_is_not_finite_stays_as_it_was(tmp_path: Path) -> None:
    bad = WEIGHTS["w"].copy()
    bad[3, 4] = np.nan
    report = ingot.compile(model(weights={**WEIGHTS, "w": bad}), tmp_path / "m.ingot", quantize="int8")
    assert report.quantization is not None
    assert [k["reason"] for k in report.quantization["kept"]] == ["it holds numbers that are not finite"]


def test_a_weight_that_two_layers_share_is_stored_once(tmp_path: Path) -> None:
    w = array((DEPTH, DEPTH), 6)
    report = ingot.compile(model("h = MatMul(x, w) y = MatMul(h, w)", {"w": w}), tmp_path / "m.ingot", quantize="int4:row")
    assert report.quantization is not None and len(report.quantization["layers"]) == 2
    assert report.quantization["bytes_before"] == w.nbytes
    assert sum(t["nbytes"] for t in manifest(tmp_path / "m.ingot")["weights"]["tensors"]) == report.quantization["bytes_after"]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_models_in_16_bits_are_quantized_too(dtype: str, tmp_path: Path) -> None:
    import ml_dtypes

    kind = np.dtype(np.float16) if dtype == "float16" else np.dtype(ml_dtypes.bfloat16)
    made = model("y = MatMul(x, w)", {"w": WEIGHTS["w"].astype(kind)}, dtype)
    path = tmp_path / "m.ingot"
    ingot.compile(made, path, quantize="int8", samples=0)
    assert kernels(path) == ["quantized_matmul"]
    x = array((5, DEPTH), 7).astype(kind)
    expected = x.astype(np.float64) @ WEIGHTS["w"].astype(kind).astype(np.float64)
    y = np.asarray(ingot.load(path).run({"x": x})["y"]).astype(np.float64)
    assert np.linalg.norm(y - expected) < 0.02 * np.linalg.norm(expected)


def test_the_command_writes_a_report_and_inspect_shows_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnx.save(model(), tmp_path / "model.onnx")
    out, report = tmp_path / "model.ingot", tmp_path / "report.json"
    assert main(["compile", str(tmp_path / "model.onnx"), "-o", str(out), "--quantize", "int4:g64", "--quantize-exclude", "v",
                 "--quantize-report", str(report)]) == 0
    assert "int4:g64:int8" in capsys.readouterr().out
    assert json.loads(report.read_text()) == manifest(out)["quantization"]
    assert main(["inspect", str(out)]) == 0
    shown = capsys.readouterr().out
    assert "/first/MatMul" in shown and "SNR (dB)" in shown and "y stays as it was: excluded" in shown
    assert main(["inspect", "--json", str(out)]) == 0
    assert json.loads(capsys.readouterr().out)["quantization"]["format"] == "int4"


def test_the_report_lies_beside_the_artifact_with_the_loss_on_given_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnx.save(model(), tmp_path / "model.onnx")
    out, given = tmp_path / "out.ingot", []
    data = [{"x": array((4, DEPTH), seed)} for seed in (20, 21)]
    for index, case in enumerate(data):
        np.savez(tmp_path / f"{index}.npz", allow_pickle=False, **case)
        given += ["--calibration", str(tmp_path / f"{index}.npz")]
    assert main(["compile", str(tmp_path / "model.onnx"), "-o", str(out), "--quantize", "int4", "--samples", "0", *given]) == 0
    beside = tmp_path / "out.quantization.json"
    assert f"{beside}: what each layer and the model lost" in capsys.readouterr().out
    found = json.loads(beside.read_text())
    assert found == manifest(out)["quantization"] and all(layer["output_error"] > 0 for layer in found["layers"])
    loaded, expected = ingot.load(out), np.concatenate([exact(case["x"]) for case in data])
    y = np.concatenate([np.asarray(loaded.run(case)["y"]) for case in data])
    lost = found["loss"]["calibration"]
    assert lost["cases"] == 2
    assert lost["outputs"][0]["relative_error"] == pytest.approx(np.linalg.norm(y - expected) / np.linalg.norm(expected), rel=1e-3)
    assert main(["inspect", str(out)]) == 0
    assert "2 calibration cases, y: relative error" in capsys.readouterr().out
