"""TreeEnsemble and its older forms, TreeEnsembleClassifier and TreeEnsembleRegressor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from tvm import te, tirx

from ingot.importer.context import Context
from ingot.importer.ops.ml.classes import choose, class_labels, named
from ingot.importer.ops.ml.forest import AGGREGATES, MEMBER, MODES, Forest, scores
from ingot.importer.ops.ml.post_transform import NAMES, logistic, post_transform
from ingot.importer.registry import onnx_op
from ingot.importer.values import Value

_DOMAIN = "ai.onnx.ml"


@onnx_op("TreeEnsemble", since=5, domain=_DOMAIN)
def tree_ensemble(cx: Context, x: Value, *, nodes_featureids: list[int], nodes_splits: np.ndarray, nodes_modes: np.ndarray,
                  nodes_truenodeids: list[int], nodes_falsenodeids: list[int], nodes_trueleafs: list[int], nodes_falseleafs: list[int],
                  leaf_targetids: list[int], leaf_weights: np.ndarray, tree_roots: list[int], n_targets: int = 1, aggregate_function: int = 1,
                  post_transform: int = 0, membership_values: np.ndarray | None = None, nodes_hitrates: np.ndarray | None = None,
                  nodes_missing_value_tracks_true: list[int] | None = None) -> Value:
    def child(nodes: Sequence[int], leaf: Sequence[int]) -> list[int]:
        return [-1 - n if is_leaf else n for n, is_leaf in zip(nodes, leaf, strict=True)]

    count = len(nodes_featureids)
    leaves = len(leaf_targetids)
    yes, no = child(nodes_truenodeids, nodes_trueleafs), child(nodes_falsenodeids, nodes_falseleafs)
    if not all(-leaves <= c < count for c in (*yes, *no)) or not all(0 <= r < count for r in tree_roots):
        raise cx.error("a child of a node, or a root, does not exist")
    modes = [int(m) for m in np.asarray(nodes_modes).ravel()]
    if not all(0 <= m <= MEMBER for m in modes) or not 0 <= aggregate_function <= 3 or not 0 <= post_transform < len(NAMES):
        raise cx.error("a mode, the aggregate function or the post transform is out of range")
    forest = Forest(list(nodes_featureids), modes, [float(v) for v in np.asarray(nodes_splits).ravel()],
                    [bool(m) for m in nodes_missing_value_tracks_true or [0] * count], yes, no, list(tree_roots),
                    [[(t, float(w))] for t, w in zip(leaf_targetids, np.asarray(leaf_weights).ravel(), strict=True)])
    try:
        forest.expand_sets(_sets(membership_values))
    except ValueError as error:
        raise cx.error(str(error)) from None
    dtype = "float64" if x.dtype == "float64" else "float32"
    result = scores(cx, forest, x, aggregate_function, n_targets, dtype)
    return cx.cast(_transformed(cx, result, NAMES[post_transform]), x.dtype)


def _transformed(cx: Context, values: Value, name: str) -> Value:
    return post_transform(cx, values, name)


def _sets(values: np.ndarray | None) -> list[list[float]]:
    """The sets of membership_values, which NaN separates."""
    found: list[list[float]] = []
    current: list[float] = []
    for value in np.asarray([] if values is None else values, np.float64).ravel():
        if np.isnan(value):
            found.append(current)
            current = []
        else:
            current.append(float(value))
    return [*found, current] if current else found


def _numbers(plain: Sequence[float] | None, tensor: np.ndarray | None) -> np.ndarray:
    """An attribute that is given as floats, or as a tensor."""
    return np.asarray(tensor if tensor is not None else plain or [], np.float64).ravel()


def _older(cx: Context, trees: list[int], nodes: list[int], features: list[int], modes: list[str], values: np.ndarray, yes: list[int],
           no: list[int], missing: list[int] | None, weight_trees: list[int], weight_nodes: list[int], targets: list[int],
           weights: np.ndarray) -> Forest:
    """The forest of the older operators, whose nodes are named by tree and node, leaves among them."""
    place = {key: i for i, key in enumerate(zip(trees, nodes, strict=True))}
    if len(place) != len(trees):
        raise cx.error("two nodes have the same tree and number")
    unknown = next((m for m in modes if m not in MODES and m != "LEAF"), None)
    if unknown is not None:
        raise cx.error(f"mode '{unknown}' of a node does not exist; it can be LEAF, {', '.join(MODES)}")
    leaves = {i: n for n, i in enumerate(i for i, mode in enumerate(modes) if mode == "LEAF")}
    given: list[list[tuple[int, float]]] = [[] for _ in leaves]
    for tree, node, target, weight in zip(weight_trees, weight_nodes, targets, weights, strict=True):
        leaf = leaves.get(place.get((tree, node), -1))
        if leaf is None:
            raise cx.error(f"there is a weight for node {node} of tree {tree}, which is not a leaf")
        given[leaf].append((target, float(weight)))

    def reference(i: int) -> int:
        return -1 - leaves[i] if i in leaves else i

    forest = Forest(list(features), [MODES.get(m, 0) for m in modes], [float(v) for v in values], [bool(m) for m in missing or [0] * len(trees)],
                    leaves=given)
    children: set[int] = set()
    for i, (tree, a, b) in enumerate(zip(trees, yes, no, strict=True)):
        if i in leaves:
            forest.yes.append(-1)  # never reached
            forest.no.append(-1)
            continue
        pair = [place.get((tree, c)) for c in (a, b)]
        if pair[0] is None or pair[1] is None:
            raise cx.error(f"a child of node {nodes[i]} of tree {tree} does not exist")
        children.update((pair[0], pair[1]))
        forest.yes.append(reference(pair[0]))
        forest.no.append(reference(pair[1]))
    roots: dict[int, int] = {}
    for i, tree in enumerate(trees):
        if i not in children:
            if tree in roots:
                raise cx.error(f"tree {tree} has two roots, nodes {nodes[roots[tree]]} and {nodes[i]}")
            roots[tree] = i
    missing_roots = set(trees) - set(roots)
    if missing_roots:
        raise cx.error(f"tree {min(missing_roots)} has no root")
    forest.roots = [reference(i) for i in roots.values()]
    return forest


def _plus(cx: Context, values: Value, base: np.ndarray) -> Value:
    """Scores plus base values, one for each target."""
    if not base.size:
        return values
    if base.size != values.shape[1]:
        raise cx.error(f"there are {base.size} base values for {values.shape[1]} targets or classes; what that means is not defined")
    return cx.elementwise(lambda a, b: a + b, values, cx.constant(base, values.dtype))


def _precision(x: Value, *tensors: np.ndarray | None) -> str:
    return "float64" if x.dtype == "float64" or any(t is not None and t.dtype == np.float64 for t in tensors) else "float32"


@onnx_op("TreeEnsembleRegressor", domain=_DOMAIN)
def tree_ensemble_regressor(cx: Context, x: Value, *, n_targets: int = 1, aggregate_function: str = "SUM", post_transform: str = "NONE",
                            base_values: list[float] | None = None, base_values_as_tensor: np.ndarray | None = None,
                            nodes_treeids: list[int], nodes_nodeids: list[int], nodes_featureids: list[int], nodes_modes: list[str],
                            nodes_values: list[float] | None = None, nodes_values_as_tensor: np.ndarray | None = None,
                            nodes_truenodeids: list[int], nodes_falsenodeids: list[int],
                            nodes_missing_value_tracks_true: list[int] | None = None, nodes_hitrates: list[float] | None = None,
                            nodes_hitrates_as_tensor: np.ndarray | None = None, target_treeids: list[int] | None = None,
                            target_nodeids: list[int] | None = None, target_ids: list[int] | None = None,
                            target_weights: list[float] | None = None, target_weights_as_tensor: np.ndarray | None = None) -> Value:
    if aggregate_function not in AGGREGATES:
        raise cx.error(f"aggregate_function '{aggregate_function}' does not exist; it can be {', '.join(AGGREGATES)}")
    forest = _older(cx, nodes_treeids, nodes_nodeids, nodes_featureids, nodes_modes, _numbers(nodes_values, nodes_values_as_tensor),
                    nodes_truenodeids, nodes_falsenodeids, nodes_missing_value_tracks_true, target_treeids or [], target_nodeids or [],
                    target_ids or [], _numbers(target_weights, target_weights_as_tensor))
    dtype = _precision(x, nodes_values_as_tensor, target_weights_as_tensor)
    result = scores(cx, forest, x, AGGREGATES[aggregate_function], n_targets, dtype)
    result = _plus(cx, result, _numbers(base_values, base_values_as_tensor))
    return cx.cast(_transformed(cx, result, post_transform), "float32")


@onnx_op("TreeEnsembleClassifier", domain=_DOMAIN)
def tree_ensemble_classifier(cx: Context, x: Value, *, classlabels_int64s: list[int] | None = None, classlabels_strings: list[str] | None = None,
                             post_transform: str = "NONE", base_values: list[float] | None = None,
                             base_values_as_tensor: np.ndarray | None = None, nodes_treeids: list[int], nodes_nodeids: list[int],
                             nodes_featureids: list[int], nodes_modes: list[str], nodes_values: list[float] | None = None,
                             nodes_values_as_tensor: np.ndarray | None = None, nodes_truenodeids: list[int], nodes_falsenodeids: list[int],
                             nodes_missing_value_tracks_true: list[int] | None = None, nodes_hitrates: list[float] | None = None,
                             nodes_hitrates_as_tensor: np.ndarray | None = None, class_treeids: list[int], class_nodeids: list[int],
                             class_ids: list[int], class_weights: list[float] | None = None,
                             class_weights_as_tensor: np.ndarray | None = None) -> tuple[Value, Value]:
    labels = class_labels(cx, classlabels_int64s, classlabels_strings)
    weights = _numbers(class_weights, class_weights_as_tensor)
    forest = _older(cx, nodes_treeids, nodes_nodeids, nodes_featureids, nodes_modes, _numbers(nodes_values, nodes_values_as_tensor),
                    nodes_truenodeids, nodes_falsenodeids, nodes_missing_value_tracks_true, class_treeids, class_nodeids, class_ids, weights)
    dtype = _precision(x, nodes_values_as_tensor, class_weights_as_tensor)
    base = _numbers(base_values, base_values_as_tensor)
    if len(labels) == 2 and len(set(class_ids)) == 1:
        return _binary(cx, forest, x, labels, class_ids[0], base, post_transform, bool((weights >= 0).all()), dtype)
    result = _plus(cx, scores(cx, forest, x, AGGREGATES["SUM"], len(labels), dtype), base)
    return choose(cx, result, labels), cx.cast(_transformed(cx, result, post_transform), "float32")


def _binary(cx: Context, forest: Forest, x: Value, labels: list[int] | list[str], only: int, base: np.ndarray, transform: str, positive: bool,
            dtype: str) -> tuple[Value, Value]:
    """Two classes of which one has weights. ONNX does not say what its score means: this is what ONNX Runtime makes of it."""
    if base.size > 1 or transform == "PROBIT" or (only == 1 and base.size):
        raise cx.error(f"a classifier of two classes with weights for one of them, {base.size} base values and post_transform '{transform}' "
                       "is not supported: what its scores mean is not defined")
    result = scores(cx, forest, x, AGGREGATES["SUM"], 2, dtype)
    shift = float(base[0]) if base.size else 0.0
    threshold = 0.5 if positive else 0.0

    def decide(t: te.Tensor) -> te.Tensor:
        def body(i: Any) -> Any:
            return (t(i, only) + shift > tirx.const(threshold, dtype)).astype("int64")

        return te.compute(t.shape[:1], body, name="class")

    def both(t: te.Tensor) -> te.Tensor:
        def body(i: Any, j: Any) -> Any:
            score = t(i, 0) + shift
            if transform == "LOGISTIC":
                return tirx.Select(j.equal(0), logistic(-score), logistic(score))
            return tirx.Select(j.equal(0), 1.0 - score if positive else -score, score)

        return te.compute(t.shape, body, name="scores")

    chosen = named(cx, cx.wrap(cx.te(decide, result, name="class")), labels)
    final = cx.te(both, result, name="scores") if only == 0 else _transformed(cx, result, transform)
    return chosen, cx.cast(final, "float32")
