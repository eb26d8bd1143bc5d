"""The commands on a small compiled model, through the same entry point as the shell."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ingot
from ingot.cli.doctor import cublaslt
from ingot.cli.main import main
from tests.cache import Case
from tests.export.test_huggingface import SENTENCE, sentence_directory


def run(*arguments: object) -> int:
    return main([str(a) for a in arguments])


def read(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().out)


def test_run_reads_and_writes_arrays(small: Case, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez(tmp_path / "in.npz", **small.inputs(3))
    assert run("run", small.artifact, "--input", tmp_path / "in.npz", "--output", tmp_path / "out.npz", "--threads", 1) == 0
    with np.load(tmp_path / "out.npz") as outputs:
        np.testing.assert_allclose(outputs["y"], small.expected(3)["y"], rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(outputs["count"], small.expected(3)["count"])
    printed = capsys.readouterr().out
    assert "[3, 4]" in printed and "int64" in printed


def test_inspect_shows_the_interface_the_targets_and_every_step(small: Case, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("inspect", small.artifact, "--json", "--dims", "batch=8") == 0
    found = read(capsys)
    assert found["inputs"] == [{"name": "x", "dtype": "float32", "shape": ["batch", 8]}]
    assert [o["name"] for o in found["outputs"]] == ["y", "count"]
    assert found["dims"] == [{"name": "batch", "max": None}]
    assert found["best_target"] == found["targets"][0]["name"]
    assert found["samples"]["cases"] == 1
    assert found["memory"]["dims"] == {"batch": 8} and found["memory"]["bytes"] >= 0
    assert found["steps"] and all(step["node"] for step in found["steps"] if step["op"] == "call")
    assert run("inspect", small.artifact) == 0
    text = capsys.readouterr().out
    assert "--dims batch=8" in text and "float32" in text and found["best_target"] in text


def test_verify_agrees_with_the_framework(small: Case, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("verify", small.artifact, "--json") == 0
    found = read(capsys)
    assert found["agrees"] and found["checksums"] == "ok"
    assert {o["output"] for o in found["outputs"]} == {"y", "count"}
    assert max(o["rel_norm"] for o in found["outputs"]) < 1e-5
    assert run("verify", small.artifact) == 0
    assert "agrees" in capsys.readouterr().out


def test_verify_ends_with_3_where_outputs_differ(small: Case, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("verify", small.artifact, "--tolerance", "-1") == 3
    assert "DISAGREES" in capsys.readouterr().out


def test_verify_finds_a_flipped_bit_in_the_last_byte(small: Case, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = bytearray(small.artifact.read_bytes())
    data[-1] ^= 1
    (tmp_path / "bad.ingot").write_bytes(data)
    assert run("verify", tmp_path / "bad.ingot") == 1
    assert "checksum" in capsys.readouterr().err


def test_bench_reports_percentiles_and_steps(small: Case, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("bench", small.artifact, "--dims", "batch=5", "--runs", 20, "--warmup", 1, "--threads", 1, "--per-op", "--json") == 0
    found = read(capsys)
    assert found["inputs"]["x"]["shape"] == [5, 8]
    seconds = found["seconds"]
    assert seconds["runs"] == 20 and 0 < seconds["minimum"] <= seconds["p5"] <= seconds["median"] <= seconds["p95"] <= seconds["p99"]
    assert found["threads"] == 1 and len(found["steps"]) > 0
    assert sum(step["share"] for step in found["steps"]) == pytest.approx(1)
    assert run("bench", small.artifact, "--runs", 5, "--per-op") == 0
    assert "median" in capsys.readouterr().out

def test_bench_compares_steps_with_what_the_machine_can_do(small: Case, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("bench", small.artifact, "--runs", 5, "--per-op", "--json", "--dims", "batch=3") == 0
    steps = read(capsys)["steps"]
    product = next(s for s in steps if s["runs"].partition(": ")[2].startswith("matmul"))
    assert product["flops"] == 2 * 3 * 8 * 4
    assert product["bytes"] >= 4 * (3 * 8 + 8 * 4 + 3 * 4)
    assert 0 < product["roofline"] < 1
    assert run("bench", small.artifact, "--runs", 5, "--per-op") == 0
    assert "of roofline" in capsys.readouterr().out


def test_doctor_knows_the_machine_and_imports_nothing_to_find_versions(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("doctor", "--json") == 0
    found = read(capsys)
    assert found["machine"]["features"] and found["versions"]["numpy"] == np.__version__
    assert all(m["bandwidth_gb_s"] > 0 and m["fma_gflop_s"] > 0 for m in found["measured"])
    assert set(found["cuda"]) == {"nvcc", "nvcc_version", "can_compile", "driver", "can_run", "cublaslt"}


def test_doctor_names_the_cublaslt_that_would_be_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, library = tmp_path / "lt.c", tmp_path / "libcublasLt.so.13"
    source.write_text("unsigned long cublasLtGetVersion(void) { return 130203; }\n")
    subprocess.run(["cc", "-shared", "-fPIC", source, "-o", library], check=True)
    monkeypatch.setenv("INGOT_CUBLASLT", str(library))
    assert cublaslt() == f"{library} (13.2.3)"
    for value in ("0", "libm.so.6", str(tmp_path / "nothing.so")):
        monkeypatch.setenv("INGOT_CUBLASLT", value)
        assert cublaslt() is None


def test_compile_writes_an_artifact_that_verifies(small: Case, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "fixed.ingot"
    assert run("compile", small.onnx, "-o", out, "--shape", "x=2,8", "--name", "fixed", "--verbose") == 0
    captured = capsys.readouterr()
    assert str(out) in captured.out and "total" in captured.out
    assert "import" in captured.err
    assert run("inspect", out, "--json") == 0
    found = read(capsys)
    assert found["inputs"][0]["shape"] == [2, 8] and found["model"]["name"] == "fixed" and found["dims"] == []
    assert run("verify", out) == 0


def test_a_callable_is_compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_model.py").write_text("import torch\ndef build():\n    return torch.nn.Linear(4, 2), torch.ones(2, 4)\n")
    monkeypatch.chdir(tmp_path)
    assert run("compile", "own_model:build", "-o", "own.ingot") == 0
    assert run("verify", "own.ingot") == 0


def test_a_sentence_encoder_s_directory_is_compiled_with_its_pooling(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = sentence_directory(tmp_path / "encoder", SENTENCE, pooling_mode_mean_tokens=True)
    assert run("compile", folder, "-o", tmp_path / "encoder.ingot", "--bound", "batch=4,sequence=32") == 0
    capsys.readouterr()
    assert run("verify", tmp_path / "encoder.ingot", "--json") == 0
    found = read(capsys)
    assert found["reference"].startswith("torch ")
    assert [o["output"] for o in found["outputs"]] == ["sentence_embedding"]
    assert run("inspect", tmp_path / "encoder.ingot", "--json") == 0
    found = read(capsys)
    assert found["dims"] == [{"name": "batch", "max": 4}, {"name": "sequence", "max": 32}]
    assert found["memory"]["dims"] == {"batch": 4, "sequence": 32} and found["memory"]["bytes"] > 0


@pytest.mark.parametrize("command", [
    ["inspect", "no.ingot"], ["verify", "no.ingot"], ["bench", "no.ingot"], ["run", "no.ingot"], ["compile", "no.onnx", "-o", "out.ingot"]])
def test_a_missing_file_is_one_line_on_stderr(
        command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(*command) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and "no." in error
    assert not (tmp_path / "out.ingot").exists()


def test_a_wrong_dimension_is_an_error(small: Case, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("bench", small.artifact, "--dims", "rows=3") == 1
    assert "no symbolic dimension 'rows'" in capsys.readouterr().err


def test_ingot_debug_shows_where_an_error_came_from(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "ingot", "inspect", str(tmp_path / "no.ingot")]
    plain = subprocess.run(command, capture_output=True, text=True, check=False)
    assert plain.returncode == 1 and "Traceback" not in plain.stderr
    debug = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "INGOT_DEBUG": "1"})
    assert debug.returncode == 1 and "Traceback" in debug.stderr


def test_version_is_that_of_the_package() -> None:
    shown = subprocess.run([sys.executable, "-m", "ingot", "--version"], capture_output=True, text=True, check=True).stdout
    assert shown == f"ingot {ingot.__version__}\n"
