"""Calibration of language models' directories: Ingot itself runs them, on texts or on token ids."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ingot
from ingot.cli.main import main
from ingot.cli.quantization import cases
from ingot.errors import CompileError, FileError
from ingot.quantize.cases import cases_of
from ingot.sources import load_source
from tests.generate import seq2seq_families
from tests.generate.conftest import _with_tokenizer
from tests.generate.families import CONTEXT, save
from tests.quantize.test_gptq import network

TEXT = "the cat sat on the mat. " * 60


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small Llama with a tokenizer."""
    folder = tmp_path_factory.mktemp("llama")
    _with_tokenizer(folder)
    return folder / "model"


def lost(directory: Path, output: Path, **options: Any) -> tuple[dict[str, Any], float]:
    """What the report says, and the relative error of logits on the calibration data."""
    report = ingot.compile(directory, output, quantize="int4", **options).quantization
    found = report["loss"]["calibration"]
    assert found["problem"] is None and [o["output"] for o in found["outputs"]] == ["logits"]
    return report, float(found["outputs"][0]["relative_error"])


def test_a_decoder_loses_less_on_texts_that_it_was_calibrated_with(directory: Path, tmp_path: Path) -> None:
    report, calibrated = lost(directory, tmp_path / "model.ingot", calibration=[TEXT])
    plain = lost(directory, tmp_path / "plain.ingot", calibration=[TEXT], quantize_method="nearest")[1]
    assert report["method"].startswith("GPTQ") and report["loss"]["calibration"]["cases"] > 1  # pieces of the text
    assert all("output_error" in layer for layer in report["layers"])
    assert calibrated < 0.7 * plain


def test_a_decoder_takes_token_ids_alone(directory: Path, tmp_path: Path) -> None:
    ids = np.random.default_rng(0).integers(1, 200, (2, CONTEXT))
    (case,) = cases_of(load_source(directory, tmp_path, None, None, None, None), [{"input_ids": ids}])
    assert {name: np.asarray(value).tolist() for name, value in case.items()} == {
        "input_ids": ids.tolist(), "token_counts": [CONTEXT] * 2, "logits_at": [list(range(CONTEXT))] * 2}
    (case,) = cases_of(load_source(directory, tmp_path, None, None, None, None, chooses=True), [{"input_ids": ids}])
    assert np.shape(case["sampling"]) == (2, CONTEXT, 4) and np.shape(case["random"]) == (2, CONTEXT)  # of a GPU's model, which chooses tokens
    report, _ = lost(directory, tmp_path / "model.ingot", calibration=[{"input_ids": ids}], quantize_method="awq")
    assert report["method"] == "AWQ, 1 case"


def test_the_command_takes_a_text_file(directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text.txt").write_text(TEXT, encoding="utf-8")
    assert main(["compile", str(directory), "-o", str(tmp_path / "model.ingot"), "--quantize", "int8", "--calibration", str(tmp_path / "text.txt"),
                 "--quantize-method", "smoothquant"]) == 0
    assert "calibration cases, logits: relative error" in capsys.readouterr().out


def test_an_encoder_and_decoder_takes_its_inputs(tmp_path: Path) -> None:
    saved = seq2seq_families.save("t5", tmp_path / "model")
    case = load_source(saved, tmp_path, None, None, None, None).examples
    assert case is not None
    report = ingot.compile(saved, tmp_path / "model.ingot", quantize="int4", calibration=[case]).quantization
    assert report["method"].startswith("GPTQ") and all("output_error" in layer for layer in report["layers"])


def test_cases_that_cannot_be_run_are_refused(directory: Path, tmp_path: Path) -> None:
    bare = save("llama", tmp_path / "bare")
    output = tmp_path / "model.ingot"
    for model, case, message in (
        (directory, {"input_ids": np.ones((1, CONTEXT + 1), np.int64)}, f"has {CONTEXT + 1} tokens in a row; a run of this model has at most"),
        (directory, {"input_ids": np.ones(3, np.int64)}, r"has shape \[3\], expected \[batch, sequence\]"),
        (directory, {"input_ids": np.ones((1, 3), np.int64), "token_counts": np.ones(2, np.int64)}, "Ingot cannot run the model on case 0"),
        (bare, TEXT, "has no tokenizer.json; give token ids"),
        (network(), TEXT, "is a text, which only the directory of a decoder takes"),
    ):
        with pytest.raises(CompileError, match=message):
            ingot.compile(model, output, quantize="int4", calibration=[case])  # type: ignore[list-item]
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(FileError, match=r"bytes\.txt.*or for a language model's directory a \.txt file"):
        cases([str(tmp_path / "bytes.txt")])
