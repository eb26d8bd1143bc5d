"""The benchmark harness measures what it says; nothing here depends on how fast the machine is."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from ingot.artifact.samples import read_samples
from ingot.bench import bench_inputs, compare, summarize, time_runs
from ingot.bench.process import Process, cpus
from ingot.errors import ExecutionError
from ingot.runtime import Artifact
from tests.cache import Case


def test_a_summary_holds_the_percentiles() -> None:
    found = summarize([i / 1000 for i in range(1, 102)])
    assert (found.runs, found.minimum, found.per_second) == (101, 0.001, pytest.approx(1 / 0.051))
    assert (found.p5, found.median, found.p95, found.p99) == pytest.approx((0.006, 0.051, 0.096, 0.1))


def test_warm_up_runs_are_not_counted() -> None:
    calls = []
    assert len(time_runs(lambda: calls.append(0), warmup=4, runs=7)) == 7
    assert len(calls) == 11


def test_without_a_number_of_runs_time_decides_but_5_are_run_at_the_least() -> None:
    assert len(time_runs(lambda: None, warmup=0, seconds=0)) == 5
    assert len(time_runs(lambda: None, warmup=0, seconds=60, most=9)) == 9


def test_inputs_are_the_sample_s_where_they_fit_and_synthesized_elsewhere(small: Case) -> None:
    artifact = Artifact.open(small.artifact)
    sample = read_samples(artifact.manifest, artifact.segment(artifact.manifest["samples"]["segment"]))[0]
    np.testing.assert_array_equal(bench_inputs(artifact, {})["x"], sample.inputs["x"])
    np.testing.assert_array_equal(bench_inputs(artifact, {"batch": len(sample.inputs["x"])})["x"], sample.inputs["x"])
    other = bench_inputs(artifact, {"batch": 6})["x"]
    assert other.shape == (6, 8) and other.dtype == np.float32 and other.std() > 0


def test_contestants_compute_the_same_on_the_same_inputs(small: Case) -> None:
    pytest.importorskip("onnxruntime")
    found = compare({"ingot": small.artifact, "onnxruntime": small.onnx}, small.inputs(3), threads=1, rounds=2, seconds=0.01)
    assert found.errors["onnxruntime"] < 1e-5
    assert found.ratio("ingot") == 1
    report = found.as_dict()["contestants"]
    assert set(report) == {"ingot", "onnxruntime"} and report["onnxruntime"]["runs"] >= 2
    assert report["ingot"]["precision"] == report["onnxruntime"]["precision"] == "f32"


def test_a_contestant_says_what_it_really_computes_in(small: Case) -> None:
    found = compare({"ingot": small.artifact}, small.inputs(1), threads=1, precision="bf16", rounds=1, seconds=0.01)
    features = {f for t in Artifact.open(small.artifact).manifest["targets"] for f in t["features"]}
    assert found.precisions["ingot"] == ("bf16" if features & {"avx512_bf16", "amx_bf16", "bf16"} else "f32 with bf16 weights")


def test_a_contestant_that_fails_is_an_error_with_what_it_wrote(small: Case, tmp_path: Path) -> None:
    with pytest.raises(ExecutionError, match=r"ingot stopped with exit code 1(.|\n)*nowhere\.ingot"):
        compare({"ingot": tmp_path / "nowhere.ingot"}, small.inputs(1), threads=1)


def test_contestants_share_as_many_cores_as_they_have_threads() -> None:
    allowed = os.sched_getaffinity(0)
    assert len(cpus(1)) == 1 and cpus(1) <= allowed
    assert cpus(len(allowed) + 1) == allowed == cpus(0)
    with Process("sleeper", ["-c", "import time; time.sleep(60)"], 1) as sleeper:
        assert os.sched_getaffinity(sleeper._process.pid) == cpus(1)
        sleeper._process.kill()
