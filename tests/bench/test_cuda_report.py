"""The page of what was measured on a GPU (benchmarks/cuda/report.py)."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.cuda import report

MEASURED: dict[str, dict[str, Any]] = {
    "matmul": {"peaks": {"bytes_per_second": 4e12, "flops_per_second": 8e14}, "records": [
        {"case": "bf16 2^3", "contestant": "Ingot", "ms": 0.2, "bytes": 1e8, "flops": 1e11},
        {"case": "bf16 2^3", "contestant": "Ingot wgmma 128", "ms": 0.1, "bytes": 1e8, "flops": 1e11},
        {"case": "bf16 2^3", "contestant": "cuBLAS", "ms": 0.19, "bytes": 1e8, "flops": 1e11}]},
    "models": {"records": [
        {"model": "resnet50", "dtype": "bf16", "case": "batch 1", "contestant": "Ingot", "ms": 0.6, "replayed": 108, "reason": ""},
        {"model": "llama_1b", "dtype": "int4", "case": "a token", "contestant": "Ingot", "ms": 2.0, "tokens_per_second": 500.0, "replayed": 0,
         "reason": "it reads a value"},
        {"model": "bert_base", "dtype": "bf16", "case": "", "contestant": "Ingot", "error": "no memory"},
        {"model": "resnet50", "dtype": "bf16", "case": "batch 1", "contestant": "PyTorch bf16", "ms": 1.2},
        {"model": "resnet50", "dtype": "bf16", "case": "batch 1", "contestant": "PyTorch bf16, inductor", "ms": 0.9}]}}


def test_a_page_has_a_table_for_each_kernel_and_one_of_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = []
    for name, content in MEASURED.items():
        files.append(tmp_path / f"{name}.json")
        files[-1].write_text(json.dumps({"benchmark": name, "device": "a GPU", "torch": "2", **content}))
    monkeypatch.setattr(sys, "argv", ["report", str(tmp_path / "page.md"), *map(str, files), "--date", "2026-01-31"])
    report.main()
    rows = [line for line in (tmp_path / "page.md").read_text().splitlines() if line.startswith(("##", "|")) and not line.startswith("|--")]
    assert rows == [
        "## matmul", "| case | Ingot | TFLOP/s | GB/s | fastest other | ratio |", "| bf16 2^3 | 200.0 us | 500 | 500 | 190.0 us, cuBLAS | 0.95 |",
        "## models", "| model | type | case | Ingot | tokens/s | in a graph | fastest PyTorch | ratio |",
        "| resnet50 | bf16 | batch 1 | 0.600 ms |  | yes | 0.900 ms, PyTorch bf16, inductor | 1.50 |",
        "| llama_1b | int4 | a token | 2.000 ms | 500 | no: it reads a value |  |  |"]
