"""MatMul of stacks of matrices whose extents are symbols of different names: they agree while running, or the run says which do not."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import ingot
from ingot.backend import IngotBackendRep, prepare


def product(a: str, b: str) -> IngotBackendRep:
    graph = f"g (float{a} x, float{b} w) => (float y) {{ y = MatMul(x, w) }}"
    return prepare(onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 18]>\n{graph}'))


def stacks(*shapes: tuple[int, ...]) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.standard_normal(s).astype(np.float32) for s in shapes]


@pytest.mark.parametrize(("a", "b", "shapes", "wrong"), [
    ("[a, n, k]", "[b, k, m]", ((3, 5, 7), (3, 7, 9)), (2, 7, 9)),
    ("[a, n, 7]", "[b, 7, m]", ((4, 1, 7), (4, 7, 33)), (5, 7, 33)),
    ("[3, n, 7]", "[b, 7, 9]", ((3, 5, 7), (3, 7, 9)), (4, 7, 9)),
    ("[a, 2, c, n, 7]", "[b, 2, d, 7, 9]", ((3, 2, 2, 5, 7), (3, 2, 2, 7, 9)), (3, 2, 3, 7, 9)),
    ("[a, 1, n, 7]", "[b, h, 7, 9]", ((2, 1, 5, 7), (2, 3, 7, 9)), (3, 3, 7, 9)),
    ("[s, a, n, 7]", "[b, 7, 9]", ((2, 3, 5, 7), (3, 7, 9)), (2, 7, 9)),
])
def test_stacks_whose_extents_have_other_names(a: str, b: str, shapes: tuple[tuple[int, ...], ...], wrong: tuple[int, ...]) -> None:
    compiled = product(a, b)
    x, w = stacks(*shapes)
    [y] = compiled.run([x, w])
    expected = np.matmul(x.astype(np.float64), w)
    assert y.shape == expected.shape
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)
    with pytest.raises(ingot.IngotError, match="differ"):
        compiled.run([x, *stacks(wrong)])


def test_products_whose_inner_extents_have_other_names() -> None:
    compiled = product("[n, j]", "[k, m]")
    x, w = stacks((5, 7), (7, 9))
    np.testing.assert_allclose(compiled.run([x, w])[0], x.astype(np.float64) @ w, rtol=1e-5, atol=1e-5)
    with pytest.raises(ingot.IngotError, match="differ"):
        compiled.run([x, *stacks((8, 9))])


def test_stacks_of_extents_that_can_not_be_equal_are_refused() -> None:
    with pytest.raises(ingot.IngotError, match="MatMul"):
        product("[2, n, 7]", "[3, 7, 9]")
