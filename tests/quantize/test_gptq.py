"""GPTQ: on the data that it is given, products change less than by rounding each weight to the nearest."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import ingot
from ingot.cli.main import main
from ingot.errors import CompileError, FileError
from ingot.quantize.gptq import Columns, gptq_rows
from ingot.quantize.rounding import round_rows
from ingot.quantize.scheme import parse_scheme
from tests.quantize.test_rounding import numbers, weights


def correlated(rows: int, depth: int, seed: int) -> np.ndarray:
    """Data whose columns depend on one another, as activations do."""
    rng = np.random.default_rng(seed)
    causes, mixed = rng.standard_normal((rows, depth // 4)), rng.standard_normal((depth // 4, depth))
    return (causes @ mixed + 0.3 * rng.standard_normal((rows, depth))).astype(np.float32)


@pytest.mark.parametrize("text", ["int4", "int4:row", "int4:g128", "int4:g256", "uint4:g64", "nf4", "mxfp4", "int8:row"])
@pytest.mark.parametrize("depth", [16, 100, 333])
@pytest.mark.parametrize("ordered", [False, True])
def test_products_with_the_data_change_less_than_by_rounding(text: str, depth: int, ordered: bool) -> None:
    scheme = parse_scheme(text)
    w, x = weights(40, depth, 0), correlated(600, depth, 1)
    plain, calibrated = (
        float(np.linalg.norm(x.astype(np.float64) @ (numbers(scheme, found) - w).T))
        for found in (round_rows(scheme, w), gptq_rows(scheme, w, Columns.of(x.T @ x, ordered))))
    assert calibrated < 0.85 * plain


@pytest.mark.parametrize("ordered", [False, True])
def test_columns_that_the_data_never_uses_are_no_error(ordered: bool) -> None:
    scheme = parse_scheme("int4")
    x = correlated(200, 64, 2)
    x[:, 7] = 0
    found = gptq_rows(scheme, weights(5, 64, 3), Columns.of(x.T @ x, ordered))
    assert np.isfinite(numbers(scheme, found)).all()
    assert np.isfinite(numbers(scheme, gptq_rows(scheme, weights(5, 64, 3), Columns.of(np.zeros((64, 64), np.float32), ordered)))).all()


def network() -> onnx.ModelProto:
    made = onnx.parser.parse_model('<ir_version: 10, opset_import: ["" : 21]> g (float[m,160] x) => (float[m,64] y) '
                                   "{ h = MatMul(x, w) r = Relu(h) y = Gemm<transB=1>(r, v) }")
    made.graph.initializer.extend([numpy_helper.from_array(weights(160, 96, 4), "w"), numpy_helper.from_array(weights(64, 96, 5), "v")])
    return made


def test_a_calibrated_artifact_loses_less_on_such_data(tmp_path: Path) -> None:
    data = [{"x": correlated(64, 160, 6)[i : i + 16]} for i in range(0, 64, 16)]
    x = data[0]["x"].astype(np.float64)
    w, v = weights(160, 96, 4).astype(np.float64), weights(64, 96, 5).astype(np.float64)
    exact = np.maximum(x @ w, 0) @ v.T
    lost = []
    for calibration in (None, data):
        report = ingot.compile(network(), tmp_path / "m.ingot", quantize="int4:float", calibration=calibration)
        lost.append(np.linalg.norm(np.asarray(ingot.load(tmp_path / "m.ingot").run(data[0])["y"]) - exact))
    assert report.quantization is not None and report.quantization["method"] == "GPTQ, 4 cases"
    assert all(0 < layer["output_error"] < layer["relative_error"] for layer in report.quantization["layers"])
    assert lost[1] < 0.7 * lost[0]


def test_the_command_takes_calibration_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnx.save(network(), tmp_path / "m.onnx")
    np.savez(tmp_path / "data.npz", x=correlated(32, 160, 7))
    assert main(["compile", str(tmp_path / "m.onnx"), "-o", str(tmp_path / "m.ingot"), "--quantize", "uint4", "--calibration",
                 str(tmp_path / "data.npz")]) == 0
    assert "GPTQ, 1 case" in capsys.readouterr().out


def test_calibration_data_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    from ingot.cli.quantization import cases

    with pytest.raises(CompileError, match="cannot run the model on case 0, whose inputs are z"):
        ingot.compile(network(), tmp_path / "m.ingot", quantize="int4", calibration=[{"z": np.zeros(3)}])
    with pytest.raises(CompileError, match="holds no case"):
        ingot.compile(network(), tmp_path / "m.ingot", quantize="int4", calibration=[])
    (tmp_path / "bad.npz").write_text("nothing")
    for name in ("bad.npz", "missing.npz"):
        with pytest.raises(FileError, match="calibration data"):
            cases([str(tmp_path / name)])
