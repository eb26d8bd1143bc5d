"""Whole models at batch 1, against the other runtimes that are installed.

Each runtime has a process of its own; they take turns within one run, and what is reported of each is the median. `extra_info` of the
JSON report holds percentiles, load times, ratios and the error against the first contestant.

    make bench                          # everything
    make bench BENCH="-k 'bert and 2t'" # some
"""

from __future__ import annotations

import functools
import os

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from ingot.bench import Comparison, compare
from ingot.bench.contestants import installed
from tests.cache import zoo_case
from tests.models.zoo import ZOO

THREADS = tuple(dict.fromkeys((1, os.cpu_count() or 1)))
#: float32 sums in another order: two orders of magnitude above what differs between any two of these runtimes.
LARGEST_ERROR = 1e-3


@functools.cache
def comparison(model: str, threads: int) -> Comparison:
    """All contestants on one model, measured together."""
    case = zoo_case(model)
    return compare({name: case.artifact if name == "ingot" else case.onnx for name in installed()}, case.inputs(1), threads=threads)


@pytest.mark.parametrize("contestant", installed())
@pytest.mark.parametrize("threads", THREADS, ids=lambda n: f"{n}t")
@pytest.mark.parametrize("model", list(ZOO))
def test_model(benchmark: BenchmarkFixture, model: str, threads: int, contestant: str) -> None:
    found = comparison(model, threads)
    summary = found.times[contestant]
    benchmark.group = f"{model}, {threads} thread{'s' if threads > 1 else ''}"
    benchmark.extra_info.update(found.as_dict()["contestants"][contestant], threads=threads)
    replay(benchmark, summary.median)
    assert found.errors[contestant] < LARGEST_ERROR


def replay(benchmark: BenchmarkFixture, seconds: float) -> None:
    """Reports a median that was measured elsewhere: pytest-benchmark times a clock that advances by it."""
    now = 0.0

    def advance() -> None:
        nonlocal now
        now += seconds

    benchmark._timer = lambda: now
    benchmark.pedantic(advance, rounds=1, iterations=1)
