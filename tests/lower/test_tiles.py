"""The cost model of register tiles."""

from __future__ import annotations

import pytest

from ingot.lower import targets
from ingot.lower.cpu.choices import CostModel, Problem


def product(depth: int, rows: int | None = None, dtype: str = "float32") -> Problem:
    return Problem((), (), (), (), 1, depth, 512, (rows,), ("float32", dtype))


@pytest.mark.parametrize("name", ["cpu:x86-64-v4", "cpu:x86-64-v3", "cpu:aarch64"])
def test_blocks_of_weights_that_no_cache_holds_have_fewer_and_taller_columns(name: str) -> None:
    model = CostModel(targets.find(name))
    usual = model.tile(product(768))
    for depth in (768, 12544, 100_000):
        tile = model.tile(product(depth))
        if usual.columns * depth * 4 <= 2 << 20:
            assert tile == usual
        else:
            assert tile.rows > usual.rows and tile.columns < usual.columns
    assert model.tile(product(12544, dtype="bfloat16")) == usual or usual.columns * 12544 * 2 > 2 << 20


def test_a_convolution_s_window_counts_as_depth() -> None:
    model = CostModel(targets.find("cpu:x86-64-v4"))
    plain, wide = (Problem((3, 3), (2, 2), (1, 1), (1,) * 4, 1, depth, 512, (None, 20, 20), ("float32", "float32")) for depth in (512, 2048))
    assert wide.column_bytes == 9 * 2048 * 4
    assert model.tile(wide).rows > model.tile(plain).rows
