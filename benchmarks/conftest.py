"""Benchmarks share the models of the tests: exported and compiled once, kept under build/."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))


def pytest_benchmark_update_json(output_json: dict[str, Any]) -> None:
    """Adds the machine to the JSON report: read when it was measured, not when a page is written of it."""
    from benchmarks.results import surroundings

    output_json["ingot"] = surroundings()
