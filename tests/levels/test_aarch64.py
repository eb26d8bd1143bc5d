"""The small models computed for aarch64 under qemu: by the least processor there is, by one with every extension, and by scalar kernels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import ingot
from tests.levels import qemu
from tests.levels.artifacts import NAMES, compiled
from tests.levels.models import ARM, MODELS

pytestmark = pytest.mark.skipif(bool(qemu.missing()), reason=qemu.missing())

LEAST = "cortex-a53"  # Armv8.0 without extensions
MOST = "max"  # all that qemu emulates
EXTENDED = [name for name in MODELS if ARM in MODELS[name]().extended]


@pytest.mark.parametrize("name", NAMES)
def test_the_least_processor_computes_what_the_reference_does(name: str, tmp_path: Path) -> None:
    case = compiled(name)
    for run, feeds in enumerate(case.model.feeds):
        case.check(run, qemu.run(case.path, feeds, case.shapes(run), tmp_path, cpu=LEAST))


@pytest.mark.parametrize("name", EXTENDED)
def test_a_processor_with_every_extension_computes_what_the_reference_does(name: str, tmp_path: Path) -> None:
    case = compiled(name)
    for run, feeds in enumerate(case.model.feeds):
        case.check(run, qemu.run(case.path, feeds, case.shapes(run), tmp_path, cpu=MOST))


@pytest.mark.parametrize("name", ["attention", "bert", "lstm", "quantized"])
def test_scalar_kernels_compute_what_the_reference_does(name: str, tmp_path: Path) -> None:
    case = compiled(name)
    for run, feeds in enumerate(case.model.feeds):
        case.check(run, qemu.run(case.path, feeds, case.shapes(run), tmp_path, cpu=MOST, instructions="scalar"))


def test_code_with_extensions_is_refused_by_a_processor_without_them(tmp_path: Path) -> None:
    case = compiled("matmul")
    alone = tmp_path / "extended.ingot"
    ingot.compile(case.model.build(), alone, samples=0, target=ARM)
    with pytest.raises(AssertionError, match=r"INGOT_ERROR_TARGET.*asimddp"):
        qemu.run(alone, case.model.feeds[0], case.shapes(0), tmp_path, cpu=LEAST)
    case.check(0, qemu.run(alone, case.model.feeds[0], case.shapes(0), tmp_path, cpu=MOST))


def test_an_artifact_without_code_for_aarch64_is_refused(tmp_path: Path) -> None:
    case = compiled("matmul")
    foreign = tmp_path / "foreign.ingot"
    ingot.compile(case.model.build(), foreign, samples=0, target="cpu:x86-64-v2")
    with pytest.raises(AssertionError, match="INGOT_ERROR_TARGET"):
        qemu.run(foreign, {"x": np.zeros((1, 1, 37), np.float32)}, {}, tmp_path)
