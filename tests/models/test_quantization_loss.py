"""What quantization loses on a trained sentence encoder and sentences that it was not calibrated with; benchmarks/quantization_loss.py has more."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.quantization_loss import Encoder, Row, cosines, table
from benchmarks.sentences import sentences
from tests.cache import Case
from tests.models.zoo import minilm_directory

pytestmark = [pytest.mark.slow, pytest.mark.extended, pytest.mark.xdist_group("minilm")]


def test_embeddings_point_where_those_in_floats_do(zoo: Callable[[str], Case], tmp_path: Path) -> None:
    encoder = Encoder(zoo("minilm").onnx, minilm_directory())
    texts = sentences(128 + 64)
    calibration, batches = encoder.batches(texts[:128]), encoder.batches(texts[128:])
    expected = encoder.embeddings(batches)
    least = {Row("int8"): 0.999, Row("int4", "awq+gptq-ordered"): 0.99}
    found = {row: cosines(encoder, row, calibration, batches, expected, tmp_path) for row in least}
    assert all(len(each) == 64 for each in found.values())
    for row, each in found.items():
        assert each.mean() >= least[row], row
    assert "| `int8` | `nearest` |" in table(list(found.items()), 64)
