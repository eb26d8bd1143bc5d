"""Ensembles of trees against onnxruntime: ``python -m benchmarks.trees [MODEL...]`` prints a table of medians.

scikit-learn's models of 3,000 random rows of 20 numbers, exported by skl2onnx: boosted trees and a random forest, at batch 1 and 1,000, each
program in a process of its own, taking turns. With two or more cores also on all of them.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import onnx
import skl2onnx
from skl2onnx.common.data_types import FloatTensorType
from sklearn.ensemble import GradientBoostingRegressor, HistGradientBoostingRegressor, RandomForestClassifier

import ingot
from ingot.bench import compare

FEATURES, ROWS = 20, 3000
BATCHES = (1, 1000)
#: An estimator, and whether it tells classes from one another.
MODELS: dict[str, tuple[Callable[[], Any], bool]] = {
    "gradient boosting, 500 trees of depth 6": (
        lambda: GradientBoostingRegressor(n_estimators=500, max_depth=6, max_features=6, random_state=0), False),
    "histogram boosting, 500 trees of depth 6": (lambda: HistGradientBoostingRegressor(max_iter=500, max_depth=6, random_state=0), False),
    "random forest, 200 trees": (lambda: RandomForestClassifier(200, random_state=0), True),
}


def data() -> tuple[np.ndarray, np.ndarray]:
    """Rows, and a number for each that depends on several features."""
    generator = np.random.default_rng(0)
    x = generator.standard_normal((ROWS, FEATURES)).astype(np.float32)
    return x, x[:, 0] * x[:, 1] + np.sin(2 * x[:, 2]) + 0.3 * x[:, 3:8].sum(1) + 0.3 * generator.standard_normal(ROWS)


def export(name: str) -> onnx.ModelProto:
    """A fitted model as ONNX, of any number of rows."""
    build, classes = MODELS[name]
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


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", help=f"words of the models' names; all by default: {', '.join(MODELS)}")
    chosen = parser.parse_args().models
    x, _ = data()
    print(f"| {'model':42} | rows | threads | ingot µs | onnxruntime µs | ratio | difference |\n|---|---|---|---|---|---|---|")
    for name in MODELS:
        if chosen and not any(word in name for word in chosen):
            continue
        with tempfile.TemporaryDirectory() as folder:
            model, artifact = Path(folder) / "model.onnx", Path(folder) / "model.ingot"
            onnx.save(export(name), model)
            ingot.compile(model, artifact, samples=0)
            for batch in BATCHES:
                for threads in dict.fromkeys((1, os.cpu_count() or 1)):
                    found = compare({"ingot": artifact, "onnxruntime": model}, {"x": x[:batch]}, threads=threads)
                    ours, theirs = (1e6 * found.times[n].median for n in ("ingot", "onnxruntime"))
                    print(f"| {name:42} | {batch} | {threads} | {ours:.1f} | {theirs:.1f} | {theirs / ours:.2f} | "
                          f"{found.errors['onnxruntime']:.1e} |", flush=True)


if __name__ == "__main__":
    main()
