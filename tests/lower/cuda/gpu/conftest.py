"""test_gpu_models.py runs where Ingot's Python package is not, too: without the conftests of the other folders, which need it."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = str(Path(__file__).resolve().parents[4])
if ROOT not in sys.path:  # tests import one another as tests.<folder>.<module>
    sys.path.insert(0, ROOT)
