"""Ensembles of trees: scikit-learn's models of 3,000 random rows of 20 numbers, exported by skl2onnx."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest import mock

import numpy as np
import onnx

FEATURES, ROWS = 20, 3000


def _gradient_boosting() -> Any:
    from sklearn.ensemble import GradientBoostingRegressor

    return GradientBoostingRegressor(n_estimators=500, max_depth=6, max_features=6, random_state=0)


def _histogram_boosting() -> Any:
    from sklearn.ensemble import HistGradientBoostingRegressor

    return HistGradientBoostingRegressor(max_iter=500, max_depth=6, random_state=0)


def _random_forest() -> Any:
    from sklearn.ensemble import RandomForestClassifier

    return RandomForestClassifier(200, random_state=0)


#: An estimator, and whether it tells classes from one another. Boosted trees are 500 of depth 6; a forest's go down to single rows.
TREES: dict[str, tuple[Callable[[], Any], bool]] = {
    "gradient_boosting": (_gradient_boosting, False),
    "histogram_boosting": (_histogram_boosting, False),
    "random_forest": (_random_forest, True),
}


def data() -> tuple[np.ndarray, np.ndarray]:
    """Rows, and a number for each that depends on several features."""
    generator = np.random.default_rng(0)
    x = generator.standard_normal((ROWS, FEATURES)).astype(np.float32)
    return x, x[:, 0] * x[:, 1] + np.sin(2 * x[:, 2]) + 0.3 * x[:, 3:8].sum(1) + 0.3 * generator.standard_normal(ROWS)


def export(name: str) -> onnx.ModelProto:
    """A fitted model as ONNX: ``x`` [rows, FEATURES], of any number of rows."""
    import skl2onnx
    from skl2onnx.common.data_types import FloatTensorType

    build, classes = TREES[name]
    x, y = data()
    fitted = build().fit(x, (y > np.median(y)).astype(np.int64) if classes else y)
    plain = onnx.helper.make_attribute

    def make_attribute(key: str, value: Any, *rest: Any, **options: Any) -> onnx.AttributeProto:
        """skl2onnx 1.20 hands over NumPy's booleans and integers, which onnx 1.23 refuses."""
        numbers = isinstance(value, list) and any(isinstance(v, (bool, np.bool_, np.integer)) for v in value)
        return plain(key, [int(v) for v in value] if numbers else value, *rest, **options)

    with mock.patch("onnx.helper.make_attribute", make_attribute):
        options = {id(fitted): {"zipmap": False}} if classes else None
        model: onnx.ModelProto = skl2onnx.to_onnx(fitted, initial_types=[("x", FloatTensorType([None, FEATURES]))], options=options,
                                                  target_opset={"": 18, "ai.onnx.ml": 3})
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "rows"
    return model
