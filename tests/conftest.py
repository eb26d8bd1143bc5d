"""Fixtures that all tests share: models that are exported and compiled once, and kept between runs of the suite."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:  # processes for all cores: threads of NumPy and PyTorch in them would wait for one another
    os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:  # tests import one another as tests.<folder>.<module>
    sys.path.insert(0, str(ROOT))

from tests.cache import Case, small_model, zoo_case  # noqa: E402


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "slow: compiles a large model; left out by `make test-fast`")
    config.addinivalue_line("markers", "extended: a model of real size, or more cases of what another test shows; `make test-all` runs it too")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """pytest-xdist 3.8 appends a test's group to an attribute that pytest 9.2 no longer reads: without this, no group would keep to one process."""
    for item in items:
        grouped = getattr(item, "_nodeid", item.nodeid)
        if grouped != item.nodeid:
            item._id = item.id.parse(grouped)


@pytest.fixture(scope="session")
def zoo() -> Callable[[str], Case]:
    """A model of tests/models/zoo.py by name: exported, compiled, with PyTorch's outputs."""
    return zoo_case


@pytest.fixture(scope="session")
def small() -> Case:
    """A small compiled model, x float32 [batch, 8] → y float32 [batch, 4] and count int64 [batch], for tests of everything around models."""
    return small_model()


@pytest.fixture(scope="session")
def root() -> Path:
    """The root of the repository."""
    return ROOT
