"""Kernels alone against the other runtimes' kernels that are installed: some of the presets of `ingot kernels bench`, which measures them all.

make bench BENCH="-k kernels"
"""

from __future__ import annotations

import functools
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.groups import THREADS
from benchmarks.test_models import replay
from ingot.bench.kernels import Options, measure, problem
from ingot.bench.kernels.registry import contestants

#: A token and a prompt of products, with each kind of weights; the attention of BERT-base, and a token with a cache.
CASES = [*(("quantized_matmul", f"{m}x4096x4096", dtype) for dtype in ("int4:g32", "int8") for m in (1, 128)),
         ("attention", "1,128,128,12,12,64", "f32"), ("attention", "1,1,4096,32,8,128", "f32")]


@functools.cache
def measured(kernel: str, shape: str, dtype: str, threads: int) -> dict[str, Any]:
    """All contestants of a case, measured together."""
    case: dict[str, Any] = measure([problem(kernel, shape, dtype)], Options(threads=(threads,), rounds=4))["cases"][0]
    return case


@pytest.mark.parametrize(("kernel", "shape", "dtype", "threads", "contestant"), [
    pytest.param(*case, threads, row.name, id=f"{'-'.join(case)}-{threads}t-{row.name}")
    for case in CASES for threads in THREADS for row in contestants(case[0])])
def test_kernel(benchmark: BenchmarkFixture, kernel: str, shape: str, dtype: str, threads: int, contestant: str) -> None:
    case = measured(kernel, shape, dtype, threads)
    row = next(r for r in case["contestants"] if r["name"] == contestant)
    if row["status"] == "left out":
        pytest.skip(row["reason"])
    assert row["status"] == "ok", row["reason"]
    benchmark.group = f"{kernel}-{shape}-{dtype}-{threads}t"
    benchmark.extra_info.update(row, kernel={name: value for name, value in case.items() if name != "contestants"})
    replay(benchmark, row["seconds"]["median"])
