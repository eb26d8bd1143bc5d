"""Tests of CUDA kernels need a GPU with build/cuda/libingot_cuda.so (`make cuda`), or CUDA's headers to build the emulator with."""

from __future__ import annotations

import functools
import sys
from pathlib import Path

import pytest

# `import harness` works in every way in which these tests are started: beside the whole suite, and alone on a GPU machine.
sys.path.insert(0, str(Path(__file__).resolve().parent))

import harness


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "gpu: too large for the emulator, or about a GPU alone")
    config.addinivalue_line("markers", "emulated: about the emulator alone")
    config.addinivalue_line("markers", "slow: takes minutes, all cases together; left out by `make test-fast`")


@functools.cache
def _missing() -> str | None:
    """Why no kernel can run here, or None. A build that fails is an error of the test that asks."""
    try:
        harness.library("checks")
    except harness.Unavailable as error:
        return str(error)
    except RuntimeError:
        return None
    return None


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and not harness.on_gpu():
        pytest.skip("runs on a GPU alone")
    if item.get_closest_marker("emulated") and harness.on_gpu():
        pytest.skip("runs on the emulator alone")
    if not harness.on_gpu() and (missing := _missing()):
        pytest.skip(missing)
