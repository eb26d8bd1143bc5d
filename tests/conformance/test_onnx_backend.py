"""Ingot passes ONNX's backend test suite, but for the cases in ``expected_failures.txt``, a list that may only shrink.

A case that is listed and passes fails this test, so that the list stays true. A process that crashes fails it in any case. Cases whose operator is
written out as its function body consist of operators that have cases of their own: these are left to `make test-all`.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from ingot.backend import prepare
from tests.conformance.cases import cases, compare, model_and_data

LIST = Path(__file__).with_name("expected_failures.txt")
EXPECTED_FAILURES = {line.split("#")[0].strip() for line in LIST.read_text().splitlines() if line.split("#")[0].strip()}


def parameters() -> list[object]:
    """Every case, marked if it is expected to fail. Random draws may agree by chance."""

    def marks(name: str) -> list[pytest.MarkDecorator]:
        expected = pytest.mark.xfail(strict="bernoulli" not in name, reason="listed in expected_failures.txt")
        return [expected] * (name in EXPECTED_FAILURES) + [pytest.mark.extended] * ("_expanded" in name)

    return [pytest.param(name, marks=marks(name)) for name in cases()]


def test_the_list_names_only_existing_cases() -> None:
    assert set(cases()) >= EXPECTED_FAILURES


@pytest.mark.parametrize("name", parameters())
def test_case(name: str) -> None:
    case = cases()[name]
    model, data_sets = model_and_data(case)
    prepared = prepare(model)
    for inputs, expected in data_sets:
        outputs = prepared.run(inputs)
        assert len(outputs) == len(expected)
        for want, got in zip(expected, outputs, strict=True):
            compare(case, want, got)
