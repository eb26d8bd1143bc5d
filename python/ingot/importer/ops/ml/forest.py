"""Decision trees, packed for the kernels ``packed_trees`` and ``tree_ensemble``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ingot.importer import dims
from ingot.importer.context import Context
from ingot.importer.ops.ml.packed_trees import full_trees, less_equal, packed_trees
from ingot.importer.values import Value

MODES = {"BRANCH_LEQ": 0, "BRANCH_LT": 1, "BRANCH_GTE": 2, "BRANCH_GT": 3, "BRANCH_EQ": 4, "BRANCH_NEQ": 5}
MEMBER = 6
AGGREGATES = {"AVERAGE": 0, "SUM": 1, "MIN": 2, "MAX": 3}
#: What the kernel is told about all tests (enum Tests).
ANY_TEST, LESS_EQUAL, LESS_EQUAL_OR_MISSING = 0, 1, 2


@dataclass
class Forest:
    """Nodes as parallel lists; a child is a node's index, or -1 - the index of a leaf. ``leaves`` holds (target, weight) pairs."""

    features: list[int] = field(default_factory=list)
    modes: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    missing_yes: list[bool] = field(default_factory=list)
    yes: list[int] = field(default_factory=list)
    no: list[int] = field(default_factory=list)
    roots: list[int] = field(default_factory=list)
    leaves: list[list[tuple[int, float]]] = field(default_factory=list)

    def expand_sets(self, sets: Sequence[Sequence[float]]) -> None:
        """Turns each test for membership into tests for equality, one after another."""
        members = [i for i, mode in enumerate(self.modes) if mode == MEMBER]
        if len(members) != len(sets):
            raise ValueError(f"{len(members)} nodes test for membership, but there are {len(sets)} sets")
        for node, values in zip(members, sets, strict=True):
            at, last = node, self.no[node]
            for i, value in enumerate(values):
                self.modes[at], self.values[at] = MODES["BRANCH_EQ"], value
                if i + 1 < len(values):
                    self.no[at] = len(self.modes)
                    self._append_like(node)
                    at = self.no[at]
            self.no[at] = last
            if not len(values):  # in an empty set is nothing: always no
                self.yes[node], self.modes[node] = last, MODES["BRANCH_EQ"]

    def _append_like(self, node: int) -> None:
        columns: list[list[Any]] = [self.features, self.modes, self.values, self.missing_yes, self.yes, self.no]
        for column in columns:
            column.append(column[node])

    def order(self) -> list[int]:
        """The nodes that can be reached, parents before children, those of a tree together."""
        state: dict[int, int] = {}  # 1: on the path from the root, 2: done
        found: list[int] = []
        for root in reversed(self.roots):
            stack = [root] if root >= 0 and state.get(root) != 2 else []
            while stack:
                node = stack[-1]
                if state.get(node) is None:
                    state[node] = 1
                    for child in (self.yes[node], self.no[node]):
                        if child >= 0 and state.get(child) == 1:
                            raise ValueError(f"the trees have a cycle through node {child}")
                        if child >= 0 and child not in state:
                            stack.append(child)
                    continue
                stack.pop()
                if state[node] == 1:
                    state[node] = 2
                    found.append(node)
        return found[::-1]


def scores(cx: Context, forest: Forest, x: Value, aggregate: int, targets: int, dtype: str) -> Value:
    """What the forest says about the rows of ``x``: [rows, targets], of ``dtype`` (float32 or float64)."""
    if x.ndim == 1:
        x = cx.reshape(x, [1, x.shape[0]])
    if x.ndim != 2:
        raise cx.error(f"an input of shape {dims.text(x.shape)} is not supported; it is [rows, features]")
    try:
        order = forest.order()
    except (ValueError, IndexError) as error:
        raise cx.error(f"the trees are malformed: {error}") from None
    used = max((forest.features[i] for i in order), default=-1)
    if isinstance(x.shape[1], int) and used >= x.shape[1]:
        raise cx.error(f"the trees use feature {used}, but the input has {x.shape[1]}")
    if MODES["BRANCH_EQ"] not in forest.modes and MODES["BRANCH_NEQ"] not in forest.modes:
        forest = less_equal(forest, dtype)
    nodes, tests = _packed(forest, order, dtype)
    place = {node: i for i, node in enumerate(order)}
    roots = [place[r] if r >= 0 else r for r in forest.roots]
    starts = np.cumsum([0, *(len(leaf) for leaf in forest.leaves)])
    pairs = [pair for leaf in forest.leaves for pair in leaf]
    wrong = next((t for t, _ in pairs if not 0 <= t < targets), None)
    if wrong is not None:
        raise cx.error(f"a leaf has a weight for target {wrong}, but there are {targets}")
    x = cx.cast(x, dtype)
    inputs = [nodes, np.array(roots, np.int32), starts.astype(np.int32),
              np.array([t for t, _ in pairs], np.int32), np.array([w for _, w in pairs], dtype)]
    kernel, ints = "tree_ensemble", [aggregate, tests]
    sums = aggregate in (AGGREGATES["AVERAGE"], AGGREGATES["SUM"])
    packed = packed_trees(forest, sums) if dtype == "float32" and tests != ANY_TEST else None
    if packed is not None:
        inputs = [*packed, *(full_trees(forest, sums) or ())]
        kernel, ints = "packed_trees", [aggregate, int(tests == LESS_EQUAL_OR_MISSING)]
    result: Value = cx.kernel(kernel, [x, *(cx.constant(array) for array in inputs)], [([x.shape[0], targets], dtype)], ints=ints)
    return result


def _packed(forest: Forest, order: list[int], dtype: str) -> tuple[np.ndarray, int]:
    """The kernel's nodes, and what is known of all their tests."""
    place = np.zeros(len(forest.features) + 1, np.int32)
    place[order] = np.arange(len(order), dtype=np.int32)

    def column(values: Sequence[Any], kind: Any) -> np.ndarray:
        return np.asarray(values, dtype=kind)[order] if order else np.zeros(0, kind)

    tests = column(forest.features, np.int32) * 16 + column(forest.missing_yes, np.int32) * 8 + column(forest.modes, np.int32)
    children = [np.where(c >= 0, place[np.maximum(c, 0)], c) for c in (column(forest.yes, np.int32), column(forest.no, np.int32))]
    record = np.dtype([("test", "i4"), ("yes", "i4"), ("no", "i4"), ("value", "f4" if dtype == "float32" else "f8")], align=True)  # TreeNode
    packed = np.zeros(len(order), record)
    packed["test"], packed["yes"], packed["no"], packed["value"] = tests, *children, column(forest.values, np.float64)
    known = ANY_TEST if (tests & 7).any() else LESS_EQUAL_OR_MISSING if (tests & 8).any() else LESS_EQUAL
    return packed.view(np.int32).reshape(len(order), record.itemsize // 4), known
