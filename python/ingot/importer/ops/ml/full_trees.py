"""What makes trees fast: one comparison in all nodes, and shallow trees whose leaves are all at one depth."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from ingot.importer.ops.ml.forest import Forest

LEQ, LT, GTE, GT = range(4)  # of forest.MODES
#: Deeper trees are not given in full: kMostLevels of kernels/cpu/tree_ensemble/full.h.
MOST_LEVELS = 7
#: Up to how many times as many leaves a tree may get. Testing all nodes of 8 rows at once takes a third of the time of 8 walks of as many levels.
MOST_COPIES = 4


def less_equal(forest: Forest, dtype: str) -> Forest:
    """The same forest with BRANCH_LEQ alone, if its tests are orders: x < t is x <= the number before t, and x > t is the opposite of x <= t."""
    kind = np.dtype(dtype).type
    limits = np.asarray(forest.values, kind)
    below = np.nextafter(limits, kind(-np.inf))
    values, missing, yes, no = list(forest.values), list(forest.missing_yes), list(forest.yes), list(forest.no)
    for i, mode in enumerate(forest.modes):
        if np.isnan(limits[i]):  # no comparison with NaN holds
            continue
        if mode in (LT, GTE):
            values[i] = float(below[i]) if limits[i] != -np.inf else np.nan  # nothing is below -inf
        if mode in (GTE, GT):
            yes[i], no[i], missing[i] = no[i], yes[i], not missing[i]
    return replace(forest, values=values, missing_yes=missing, yes=yes, no=no, modes=[LEQ] * len(forest.modes))


def full_trees(forest: Forest) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Those trees of a forest of BRANCH_LEQ alone that are worth giving in full (kernels/cpu/tree_ensemble/full.h), or None if there are none.

    Returns:
        The trees, int32 [trees, 3]: levels (0: not in full), the place of its nodes and leaves, target; nodes, int32 [s, 2]: float32 limit, feature;
        leaves, float32 [s].
    """
    trees = np.zeros((len(forest.roots), 3), np.int32)
    nodes: list[np.ndarray] = []
    leaves: list[np.ndarray] = []
    offset = 0
    for tree, root in enumerate(forest.roots):
        found = _levels(forest, root)
        if found is None:
            continue
        levels, target = found
        nodes_of, leaves_of = _filled(forest, root, levels)
        nodes.append(nodes_of)
        leaves.append(leaves_of)
        trees[tree] = levels, offset, target
        offset += 1 << levels
    if not nodes:
        return None
    return trees, np.concatenate(nodes).view(np.int32).reshape(-1, 2), np.concatenate(leaves)


def _levels(forest: Forest, root: int) -> tuple[int, int] | None:
    """The levels of a tree and the target of all its leaves, if it is one to give in full."""
    level = [root]
    leaves = 0
    targets: set[int] = set()
    for depth in range(MOST_LEVELS + 1):
        for child in level:
            if child < 0:
                leaves += 1
                pairs = forest.leaves[-1 - child]
                if len(pairs) != 1:
                    return None
                targets.add(pairs[0][0])
        level = [c for node in level if node >= 0 for c in (forest.yes[node], forest.no[node])]
        if not level:
            return (depth, targets.pop()) if depth and len(targets) == 1 and 1 << depth <= MOST_COPIES * leaves else None
    return None


def _filled(forest: Forest, root: int, levels: int) -> tuple[np.ndarray, np.ndarray]:
    """The nodes of a tree level by level from place 1 on, and its leaves; below a leaf all nodes lead to copies of it."""
    nodes = np.zeros(1 << levels, np.dtype([("limit", "f4"), ("feature", "i4")]))
    level = [root]
    for depth in range(levels):
        for i, node in enumerate(level):
            if node >= 0:
                nodes[(1 << depth) + i] = forest.values[node], forest.features[node]
        level = [c for node in level for c in ((forest.yes[node], forest.no[node]) if node >= 0 else (node, node))]
    return nodes, np.array([forest.leaves[-1 - leaf][0][1] for leaf in level], np.float32)
