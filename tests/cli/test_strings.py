"""The command line on a model of strings: files in, files out, what is printed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

import ingot
from ingot.cli.main import main


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of words string [n] → y string [n] and number int64 [n]."""
    path = tmp_path_factory.mktemp("strings") / "model.ingot"
    ingot.compile(onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 21, "ai.onnx.ml": 4]>\n'
        'g (string[n] words) => (string[n] y, int64[n] number) { e = Constant<value_string = "!">() y = StringConcat(words, e) '
        'number = ai.onnx.ml.LabelEncoder<keys_strings = ["one", "zwei"], values_int64s = [1, 2]>(words) }'), path)
    return path


def test_arrays_of_strings_come_from_and_go_to_files(artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "words.npy", np.array(["zwei", "größer", ""]))
    assert main(["run", str(artifact), "--input", f"words={tmp_path / 'words.npy'}", "--output", str(tmp_path / "out.npz")]) == 0
    printed = capsys.readouterr().out
    assert "'zwei!' 'größer!' '!'" in printed and "string" in printed
    with np.load(tmp_path / "out.npz", allow_pickle=False) as outputs:
        assert outputs["y"].tolist() == ["zwei!", "größer!", "!"]
        assert outputs["number"].tolist() == [2, -1, -1]


def test_inspect_verify_and_bench_take_a_model_of_strings(artifact: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in (["inspect", str(artifact)], ["verify", str(artifact)], ["bench", str(artifact), "--runs", "2", "--warmup", "1"]):
        assert main(command) == 0, command
    assert "the model agrees" in capsys.readouterr().out


def test_strings_that_differ_are_counted() -> None:
    from ingot.cli.verify import difference

    same, other = np.array(["a", "b"], object), np.array(["a", "c"], object)
    assert difference(0, "y", same, same).rel_norm == 0
    assert difference(0, "y", same, other).rel_norm == 0.5
