"""Fixtures of the runtime's tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import ingot
from tests.runtime.assemble import Artifact


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., ingot.Model]:
    """Writes an artifact under construction to a file and loads it."""

    def load_(artifact: Artifact, **options: Any) -> ingot.Model:
        return artifact.load(tmp_path, **options)

    return load_
