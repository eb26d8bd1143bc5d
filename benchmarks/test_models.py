"""Whole models against the other runtimes that are installed: the groups of benchmarks/groups.py.

Each runtime has a process of its own; they take turns within one run, and what is reported of each is the median. `extra_info` of the
JSON report holds percentiles, load times, ratios, what floats were really computed in, and the error against the first contestant.

    make bench                                  # everything
    make bench BENCH="-k 'bert and 2t'"         # some models
    make bench BENCH="-k 'int8 or batches'"     # some groups
    make bench BENCH="-k 'tasks or trees or operators'"
"""

from __future__ import annotations

import dataclasses
import functools

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks import models
from benchmarks.groups import GROUPS, Setting, settings
from benchmarks.results import refuse, refused
from ingot.bench import Comparison, compare


@functools.cache
def comparison(setting: Setting) -> Comparison:
    """All contestants, measured together; without Ingot where it refuses to compile the model."""
    group = GROUPS[setting.group]
    files = {name: models.onnx_file(setting.group, setting.model, name) for name in group.contestants}
    try:
        files["ingot"] = models.artifact(setting.group, setting.model)
    except models.RefusedError as refusal:
        refuse(setting.group, setting.model, str(refusal))
        del files["ingot"]
    return compare(files, models.inputs(setting), threads=setting.threads, precision=group.precision, rounds=64)


@pytest.mark.parametrize(("group", "model", "batch", "threads", "contestant"),
                         [pytest.param(*dataclasses.astuple(s), c, id=f"{s}-{c}") for s, c in settings()])
def test_model(benchmark: BenchmarkFixture, group: str, model: str, batch: int, threads: int, contestant: str) -> None:
    setting = Setting(group, model, batch, threads)
    found = comparison(setting)
    if contestant not in found.times:
        pytest.skip(refused(group, model))
    benchmark.group = str(setting)
    benchmark.extra_info.update(found.as_dict()["contestants"][contestant], contestant=contestant, setting=dataclasses.asdict(setting))
    replay(benchmark, found.times[contestant].median)
    assert found.errors[contestant] < GROUPS[group].largest_error


def replay(benchmark: BenchmarkFixture, seconds: float) -> None:
    """Reports a median that was measured elsewhere: pytest-benchmark times a clock that advances by it."""
    now = 0.0

    def advance() -> None:
        nonlocal now
        now += seconds

    benchmark._timer = lambda: now
    benchmark.pedantic(advance, rounds=1, iterations=1)
