"""scikit-learn's pipelines, exported by skl2onnx: labels exactly and probabilities within 1e-4, one row and many from one artifact."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from sklearn.cluster import KMeans
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris, load_wine
from sklearn.ensemble import GradientBoostingClassifier, GradientBoostingRegressor, RandomForestClassifier
from sklearn.feature_extraction import DictVectorizer
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import LabelEncoder, OneHotEncoder, OrdinalEncoder, StandardScaler
from sklearn.svm import SVC

import ingot
from ingot.backend import prepare

skl2onnx = pytest.importorskip("skl2onnx", reason="skl2onnx is not installed: pip install '.[dev]'")
from skl2onnx.common.data_types import DictionaryType, FloatTensorType, StringTensorType  # noqa: E402

OPSETS = {"": 18, "ai.onnx.ml": 3}
TEXTS = ["the cat sat on the mat", "a dog barks at the cat", "Stocks fell on Monday", "the market rose", "dogs and cats are friends",
         "shares of banks fell again", "Ein Hund bellt", "nothing known: xyzzy", ""]
TOPICS = np.array(["pets", "pets", "money", "money", "pets", "money", "pets", "money", "money"])


@dataclass
class Case:
    """A fitted pipeline, its inputs (name and type, then arrays of all rows), and whether it gives probabilities."""

    pipeline: Any
    types: list[tuple[str, Any]]
    rows: dict[str, np.ndarray]
    reference: Any
    probabilities: bool = True
    options: dict[int, dict[str, Any]] = field(default_factory=dict)  # of the exporter, for a step of the pipeline


def export(case: Case, **options: Any) -> onnx.ModelProto:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of versions newer than the exporter was tested with
        given = {**case.options, **({id(case.pipeline): {"zipmap": False, **options}} if case.probabilities else {})}
        model: onnx.ModelProto = skl2onnx.to_onnx(case.pipeline, initial_types=case.types, options=given, target_opset=OPSETS)
    for declared in model.graph.input:  # the exporter gives it no name: inputs would each have a number of rows of their own
        declared.type.tensor_type.shape.dim[0].dim_param = "rows"
    return model


def numbers(pipeline: Any, data: Any, rename: Callable[[np.ndarray], np.ndarray] = lambda y: y, **options: Any) -> Case:
    x, y = data(return_X_y=True)
    x = x.astype(np.float32)
    return Case(pipeline.fit(x, rename(y)), [("x", FloatTensorType([None, x.shape[1]]))], {"x": x}, x, **options)


def names(y: np.ndarray) -> np.ndarray:
    return np.array(["première", "zweite", "third"])[y]


def texts(vectorizer: Any, words: str | None = None) -> Case:
    pipeline = make_pipeline(vectorizer, LogisticRegression(C=10)).fit(TEXTS, TOPICS)
    return Case(pipeline, [("text", StringTensorType([None, 1]))], {"text": np.array(TEXTS, object)[:, None]}, np.array(TEXTS, object),
                options={id(vectorizer): {"tokenexp": words}} if words else {})


def columns() -> Case:
    """Strings and numbers, of which some are seen in no training."""
    generator = np.random.default_rng(0)
    rows = 60
    color = generator.choice(["red", "grün", "blue"], rows).astype(object)
    size = generator.choice(["S", "M", "L"], rows).astype(object)
    numeric = generator.standard_normal((rows, 2)).astype(np.float32)
    label = np.where((color == "red") ^ (numeric[:, 0] > 0), "yes", "no")
    table = np.column_stack([color, size, numeric.astype(object)])
    transform = ColumnTransformer([("words", OneHotEncoder(handle_unknown="ignore"), [0]), ("order", OrdinalEncoder(), [1]),
                                   ("numbers", StandardScaler(), [2, 3])])
    pipeline = make_pipeline(transform, LogisticRegression(C=10)).fit(table, label)
    table[-1, 0] = "unseen"
    types = [("words", StringTensorType([None, 2])), ("numbers", FloatTensorType([None, 2]))]
    return Case(pipeline, types, {"words": table[:, :2], "numbers": numeric}, table)


CASES: dict[str, Callable[[], Case]] = {
    "tfidf and logistic regression": lambda: texts(TfidfVectorizer()),
    "tfidf of words and pairs": lambda: texts(TfidfVectorizer(ngram_range=(1, 2)), r"[\pL\pN_]{2,}"),  # what scikit-learn's \b\w\w+\b finds
    "counts of words, case kept": lambda: texts(CountVectorizer(lowercase=False, min_df=1)),
    "gradient boosting": lambda: numbers(GradientBoostingClassifier(n_estimators=20, random_state=0), load_iris),
    "gradient boosting of two classes": lambda: numbers(GradientBoostingClassifier(n_estimators=20, random_state=0), load_breast_cancer,
                                                        lambda y: np.array(["benign", "malignant"])[y]),
    "random forest with names": lambda: numbers(RandomForestClassifier(n_estimators=20, random_state=0), load_wine, names),
    "support vectors with probabilities": lambda: numbers(make_pipeline(StandardScaler(), SVC(probability=True, random_state=0)), load_wine),
    "support vectors with names": lambda: numbers(make_pipeline(StandardScaler(), SVC(probability=True, random_state=0)), load_iris, names),
    "columns of strings and numbers": columns,
}


def compiled(model: onnx.ModelProto, folder: Path) -> ingot.Model:
    ingot.compile(model, folder / "model.ingot", samples=0)
    return ingot.load(folder / "model.ingot")


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("name", CASES)
def test_a_classifier_gives_scikit_learns_labels_and_probabilities(name: str, tmp_path: Path) -> None:
    case = CASES[name]()
    model = compiled(export(case), tmp_path)
    total = len(case.reference)
    for start, count in ((0, 1), (0, total), (total - 2, 2)):
        some = case.reference[start:start + count]
        outputs = model.run({n: np.ascontiguousarray(a[start:start + count]) for n, a in case.rows.items()})
        assert outputs["label"].tolist() == case.pipeline.predict(some).tolist()
        np.testing.assert_allclose(outputs["probabilities"], case.pipeline.predict_proba(some), rtol=0, atol=1e-4)


@pytest.mark.parametrize("count", [1, 442])
def test_gradient_boosting_predicts_numbers(count: int, tmp_path: Path) -> None:
    case = numbers(GradientBoostingRegressor(n_estimators=20, random_state=0), load_diabetes, probabilities=False)
    found = compiled(export(case), tmp_path).run(x=case.rows["x"][:count])
    np.testing.assert_allclose(found["variable"].ravel(), case.pipeline.predict(case.reference[:count]), rtol=1e-4)


def test_k_means_gives_clusters_and_distances(tmp_path: Path) -> None:
    case = numbers(make_pipeline(StandardScaler(), KMeans(n_clusters=4, n_init=3, random_state=0)), load_wine, probabilities=False)
    model = compiled(export(case), tmp_path)
    for count in (1, len(case.reference)):
        outputs = model.run(x=case.rows["x"][:count])
        assert outputs["label"].tolist() == case.pipeline.predict(case.reference[:count]).tolist()
        np.testing.assert_allclose(outputs["scores"], case.pipeline.transform(case.reference[:count]), rtol=1e-3, atol=1e-3)


def test_labels_are_encoded(tmp_path: Path) -> None:
    encoder = LabelEncoder().fit(["b", "a", "ü"])
    model = compiled(skl2onnx.to_onnx(encoder, initial_types=[("x", StringTensorType([None]))], target_opset=OPSETS), tmp_path)
    assert next(iter(model.run(x=np.array(["ü", "a"], object)).values())).tolist() == encoder.transform(["ü", "a"]).tolist()


def test_a_map_is_a_tensor_whose_columns_the_manifest_names(tmp_path: Path) -> None:
    case = numbers(LogisticRegression(max_iter=1000), load_iris, names)
    exported = export(case, zipmap=True)
    model = compiled(exported, tmp_path)
    assert model.manifest["model"]["maps"] == {"output_probability": ["première", "third", "zweite"]}
    expected = case.pipeline.predict_proba(case.reference[:5])
    np.testing.assert_allclose(model.run(x=case.rows["x"][:5])["output_probability"], expected, atol=1e-4)
    maps = prepare(exported).run([case.rows["x"][:5]])[1]
    assert [list(row) for row in maps] == [case.pipeline.classes_.tolist()] * 5
    np.testing.assert_allclose([list(row.values()) for row in maps], expected, atol=1e-4)


def test_a_pipeline_with_strings_verifies_itself(tmp_path: Path) -> None:
    from ingot.cli.main import main

    ingot.compile(export(columns(), zipmap=True), tmp_path / "columns.ingot")  # against onnxruntime, with strings on both sides
    assert main(["verify", str(tmp_path / "columns.ingot")]) == 0
    sample = ingot.load(tmp_path / "columns.ingot").manifest["samples"]["cases"][0]
    assert [t["dtype"] for t in (*sample["inputs"], *sample["outputs"])] == ["string", "float32", "string", "float32"]


def test_rows_of_dictionaries_are_classified_one_by_one(tmp_path: Path) -> None:
    rows: list[dict[str, float]] = [{"legs": 4.0, "weight": 30.0}, {"legs": 2.0, "wings": 2.0, "weight": 1.0}, {"wings": 2.0},
                                    {"weight": 60.0, "legs": 4.0}]
    kinds = np.array(["dog", "bird", "bird", "dog"])
    pipeline = make_pipeline(DictVectorizer(sparse=False), LogisticRegression()).fit(rows, kinds)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exported = skl2onnx.to_onnx(pipeline, initial_types=[("x", DictionaryType(StringTensorType([1]), FloatTensorType([1])))],
                                    options={id(pipeline): {"zipmap": False}}, target_opset=OPSETS)
    model = compiled(exported, tmp_path)
    for row in [*rows, {"legs": 3.0, "never seen": 9.0}]:
        outputs = model.run(x=row)
        assert outputs["label"].tolist() == pipeline.predict([row]).tolist()
        np.testing.assert_allclose(outputs["probabilities"], pipeline.predict_proba([row]), rtol=0, atol=1e-4)
