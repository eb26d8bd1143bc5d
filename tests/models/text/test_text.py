"""Models of text agree with PyTorch at two lengths and two batch sizes from one artifact, whichever of its exporters wrote them."""

from __future__ import annotations

import pytest

from tests.models.agreement import cases, compare, compiled
from tests.models.text.tasks import TASKS


@pytest.mark.parametrize(("name", "exporter"), cases(TASKS))
def test_a_model_of_text_agrees_with_pytorch(name: str, exporter: str) -> None:
    compare(TASKS[name], compiled(TASKS[name], name, exporter, "tests/models/text"))
