"""The small models computed by each x86-64 level that this machine has: by generated code and by the level's own kernels."""

from __future__ import annotations

from typing import Any

import pytest

import ingot
from tests.levels.artifacts import NAMES, compiled, here
from tests.levels.models import MODELS, V4

#: The levels, and the best instruction set of kernels that a machine of the level has.
LEVELS = {"cpu:x86-64-v2": "scalar", "cpu:x86-64-v3": "avx2", V4: "avx512_bf16"}


def each() -> list[Any]:
    """Each model, for the levels that its file has."""
    return [pytest.param(name, target, marks=pytest.mark.skipif(not here(target), reason=f"this machine cannot run {target}"))
            for name in NAMES for target in LEVELS if target != V4 or (name in MODELS and V4 in MODELS[name]().extended)]


@pytest.mark.parametrize(("name", "target"), each())
def test_a_level_computes_what_the_reference_does(name: str, target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = compiled(name)
    kinds = [step.get("kernel") or step.get("name") or step["op"] for step in case.steps[target]]
    for kernel in case.model.kernels:
        assert any(kernel in kind for kind in kinds), f"no {kernel} among {kinds}"
    monkeypatch.setenv("INGOT_ISA", LEVELS[target])
    loaded = ingot.load(case.path, target=target, threads=2)
    for run, feeds in enumerate(case.model.feeds):
        case.check(run, loaded.run(dict(feeds)))
