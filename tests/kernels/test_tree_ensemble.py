"""Forests of random trees against the definition of ONNX's operator, bit by bit: weights are eighths, so that no sum is rounded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

import ingot
from ingot.backend import prepare
from ingot.importer.ops.ml.forest import MODES, Forest
from ingot.importer.ops.ml.packed_trees import packed_trees

FEATURES = {"scalar": (), "avx2": ("avx2", "fma", "f16c"), "avx512": ("avx512f", "avx512bw", "avx512dq", "avx512vl"), "neon": ("asimd",)}
INSTRUCTION_SETS = [name for name, needed in FEATURES.items() if set(needed) <= set(ingot.machine()["features"])]
NAMES = {code: name for name, code in MODES.items()}
COMPARE = {0: np.less_equal, 1: np.less, 2: np.greater_equal, 3: np.greater, 4: np.equal, 5: np.not_equal}
SPECIAL = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-45, 3.4e38], np.float32)


@dataclass(frozen=True)
class Case:
    """Sizes and kinds of a forest: ``deepest`` levels, of which ``filled`` is the chance that a node is no leaf."""

    trees: int = 5
    deepest: int = 6
    filled: float = 0.9
    features: int = 7
    targets: int = 1
    several: bool = False
    modes: tuple[int, ...] = (0,)
    missing: bool = False
    specials: bool = False
    aggregate: str = "SUM"
    dtype: str = "float32"
    rows: int = 70
    seed: int = 0


class Tree:
    """A node: a test and two nodes, or weights of targets."""

    def __init__(self, case: Case, generator: np.random.Generator, level: int = 0) -> None:
        self.leaf = level == case.deepest or generator.random() > case.filled
        if self.leaf:
            count = generator.integers(0, case.targets + 1) if case.several else 1
            self.weights = [(int(t), int(generator.integers(-99, 99)) / 8) for t in generator.permutation(case.targets)[:count]]
            return
        self.feature = int(generator.integers(case.features))
        self.mode = int(generator.choice(case.modes))
        self.value = values(case, generator, ()).item()
        self.missing = case.missing and bool(generator.integers(2))
        self.yes, self.no = Tree(case, generator, level + 1), Tree(case, generator, level + 1)

    def walk(self, row: np.ndarray) -> list[tuple[int, float]]:
        if self.leaf:
            return self.weights
        x = row[self.feature]
        passes = (np.isnan(x) and self.missing) or COMPARE[self.mode](x, row.dtype.type(self.value))
        return (self.yes if passes else self.no).walk(row)


def values(case: Case, generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Numbers that are often equal to one another."""
    plain = (generator.integers(-6, 7, shape) / 2).astype(case.dtype)
    return np.where(generator.random(shape) < 0.15, generator.choice(SPECIAL, shape), plain).astype(case.dtype) if case.specials else plain


def model(case: Case, trees: list[Tree]) -> onnx.ModelProto:
    columns: dict[str, list] = {f"nodes_{n}": [] for n in ("treeids", "nodeids", "featureids", "modes", "values", "truenodeids", "falsenodeids",
                                                           "missing_value_tracks_true")}
    columns |= {f"target_{n}": [] for n in ("treeids", "nodeids", "ids", "weights")}

    def add(tree: int, node: Tree, number: int) -> int:
        """Adds a node and those below it; the next free number."""
        row = len(columns["nodes_modes"])
        for name, value in {"treeids": tree, "nodeids": number, "featureids": 0 if node.leaf else node.feature, "truenodeids": 0, "falsenodeids": 0,
                            "modes": "LEAF" if node.leaf else NAMES[node.mode], "values": 0.0 if node.leaf else node.value,
                            "missing_value_tracks_true": 0 if node.leaf else int(node.missing)}.items():
            columns[f"nodes_{name}"].append(value)
        if node.leaf:
            for target, weight in node.weights:
                for name, value in {"treeids": tree, "nodeids": number, "ids": target, "weights": weight}.items():
                    columns[f"target_{name}"].append(value)
            return number + 1
        columns["nodes_truenodeids"][row] = number + 1
        columns["nodes_falsenodeids"][row] = middle = add(tree, node.yes, number + 1)
        return add(tree, node.no, middle)

    for i, tree in enumerate(trees):
        add(i, tree, 0)
    if case.dtype == "float64":
        for name in ("nodes_values", "target_weights"):
            numbers = columns.pop(name)
            columns[f"{name}_as_tensor"] = helper.make_tensor(name, TensorProto.DOUBLE, [len(numbers)], numbers)
    node = helper.make_node("TreeEnsembleRegressor", ["x"], ["y"], domain="ai.onnx.ml", n_targets=case.targets, aggregate_function=case.aggregate,
                            **{name: column for name, column in columns.items() if not isinstance(column, list) or column})
    kind = TensorProto.DOUBLE if case.dtype == "float64" else TensorProto.FLOAT
    graph = helper.make_graph([node], "forest", [helper.make_tensor_value_info("x", kind, ["rows", case.features])],
                              [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", case.targets])])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx.ml", 3)], ir_version=10)


def expected(case: Case, trees: list[Tree], x: np.ndarray) -> np.ndarray:
    combine = {"SUM": np.sum, "AVERAGE": np.sum, "MIN": np.min, "MAX": np.max}[case.aggregate]
    result = np.zeros((len(x), case.targets), np.float32)
    for i, row in enumerate(x):
        given_: list[list[float]] = [[] for _ in range(case.targets)]
        for tree in trees:
            for target, weight in tree.walk(row):
                given_[target].append(weight)
        for target, weights in enumerate(given_):
            if weights:
                result[i, target] = combine(np.array(weights)) / (case.trees if case.aggregate == "AVERAGE" else 1)
    return result


def check(case: Case) -> None:
    generator = np.random.default_rng(case.seed)
    trees = [Tree(case, generator) for _ in range(case.trees)]
    prepared = prepare(model(case, trees))
    x = values(case, generator, (case.rows, case.features))
    for rows in sorted({0, 1, min(5, case.rows), case.rows}):
        np.testing.assert_array_equal(prepared.run([x[:rows]])[0], expected(case, trees, x[:rows]), err_msg=str((case, rows)))


@pytest.fixture(params=INSTRUCTION_SETS, autouse=True)
def instructions(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forces one instruction set: kernels are picked when a model is loaded."""
    monkeypatch.setenv("INGOT_ISA", request.param)


CASES = st.builds(
    Case, trees=st.integers(1, 70), deepest=st.integers(0, 9), filled=st.sampled_from([0.5, 0.8, 1.0]), features=st.integers(1, 20),
    targets=st.integers(1, 3), several=st.booleans(), modes=st.sampled_from([(0,), (1,), (0, 1, 2, 3), (0, 1, 2, 3, 4, 5)]), missing=st.booleans(),
    specials=st.booleans(), aggregate=st.sampled_from(["SUM", "AVERAGE", "MIN", "MAX"]), dtype=st.sampled_from(["float32", "float32", "float64"]),
    rows=st.sampled_from([1, 3, 9, 64, 65, 130]), seed=st.integers(0, 2**32 - 1),
).filter(lambda c: c.trees * (2 * c.filled)**c.deepest < 5000)


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(case=CASES)
def test_a_forest_is_its_definition(case: Case) -> None:
    check(case)


@pytest.mark.parametrize("case", [
    Case(trees=40, missing=True, specials=True, rows=130),
    Case(trees=40, modes=(1, 2, 3), specials=True, missing=True, rows=130),
    Case(trees=3, modes=tuple(COMPARE), specials=True, missing=True, targets=3, several=True, rows=300),
    Case(trees=33, deepest=7, filled=1.0, targets=4, rows=300),
    Case(trees=2, deepest=12, filled=0.97, targets=2, several=True, rows=300),
    Case(trees=64, deepest=1, filled=1.0, aggregate="MIN", rows=300),
], ids=["missing", "orders", "modes", "boosted", "deep", "stumps"])
def test_forests_as_libraries_write_them(case: Case) -> None:
    check(case)


def test_scores_do_not_depend_on_how_many_threads_add_them(tmp_path: Path) -> None:
    case = Case(trees=100, rows=200, seed=3)
    generator = np.random.default_rng(0)
    trees = [Tree(case, generator) for _ in range(case.trees)]
    built = model(case, trees)
    weights = next(a for a in built.graph.node[0].attribute if a.name == "target_weights")
    weights.floats[:] = generator.standard_normal(len(weights.floats))
    x = values(case, generator, (case.rows, case.features))
    ingot.compile(built, tmp_path / "forest.ingot", samples=0)
    results = [ingot.load(tmp_path / "forest.ingot", threads=threads).run(x=x)["y"] for threads in (1, 2, 3)]
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])


def test_leaves_without_weights_add_nothing() -> None:
    node = helper.make_node("TreeEnsembleRegressor", ["x"], ["y"], domain="ai.onnx.ml", n_targets=2, nodes_treeids=[0], nodes_nodeids=[0],
                            nodes_featureids=[0], nodes_modes=["LEAF"], nodes_values=[0.0], nodes_truenodeids=[0], nodes_falsenodeids=[0])
    graph = helper.make_graph([node], "forest", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", 3])],
                              [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", 2])])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx.ml", 3)], ir_version=10)
    (y,) = prepare(model).run([np.ones((4, 3), np.float32)])
    np.testing.assert_array_equal(y, np.zeros((4, 2), np.float32))


@pytest.mark.parametrize(("case", "kernel"), [
    (Case(trees=70, targets=3, rows=3), "packed_trees"),
    (Case(trees=3, deepest=12, filled=0.97, missing=True, specials=True), "packed_trees"),
    (Case(features=33, targets=5, rows=9), "packed_trees"),
    (Case(features=4096, rows=3), "packed_trees"),
    (Case(trees=40, features=5000, rows=3), "tree_ensemble"),
    (Case(targets=3, several=True), "tree_ensemble"),
    (Case(modes=(4,)), "tree_ensemble"),
    (Case(dtype="float64"), "tree_ensemble"),
])
def test_forests_of_one_test_and_one_score_a_leaf_are_packed(tmp_path: Path, case: Case, kernel: str) -> None:
    check(case)
    generator = np.random.default_rng(case.seed)
    ingot.compile(model(case, [Tree(case, generator) for _ in range(case.trees)]), tmp_path / "forest.ingot", samples=0)
    (function,) = ingot.load(tmp_path / "forest.ingot").manifest["targets"][0]["program"]["functions"]
    assert [s["name"] for s in function["steps"] if s["op"] == "kernel"] == [kernel]


def test_weights_of_zero_do_not_keep_a_forest_from_being_packed() -> None:
    forest = Forest(features=[0], modes=[0], values=[0.5], missing_yes=[False], yes=[-1], no=[-2], roots=[0], leaves=[[(0, 0.0), (1, 2.0)], []])
    packed = packed_trees(forest, sums=True)
    assert packed is not None
    nodes, roots = packed
    assert roots.tolist() == [0]
    assert nodes.view(np.float32)[:, 0].tolist() == [0.5, 2.0, 0.0]
    assert nodes[:, 1].tolist() == [1 << 13, 1 << 1, 0]
    assert packed_trees(forest, sums=False) is None  # the least score may be the zero
