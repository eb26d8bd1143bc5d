"""What makes trees fast: one comparison in all nodes, leaves that give one score, and shallow trees whose leaves are all at one depth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from ingot.importer.ops.ml.forest import Forest

LEQ, LT, GTE, GT = range(4)  # of forest.MODES
#: Deeper trees are not given in full: kMostLevels of kernels/cpu/packed_trees/full.h.
MOST_LEVELS = 7
#: Bits of a node's word: kChildBits and kFeatureBits of kernels/cpu/packed_trees/packed_trees.h.
CHILD_BITS, FEATURE_BITS = 19, 12
#: Places of nodes, and of what they may lead to, are int32.
MOST_NODES = 2**31 - 2**CHILD_BITS
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


def packed_trees(forest: Forest, sums: bool) -> tuple[np.ndarray, np.ndarray] | None:
    """A forest of BRANCH_LEQ alone as the kernel ``packed_trees`` reads it, or None if it does not fit.

    Args:
        forest: The forest.
        sums: Whether scores are added up, so that a leaf's zeros can be left out.

    Returns:
        Nodes, int32 [n, 2]: float32 limit or score, word; roots, int32 [trees].
    """
    scores = [_score(pairs, sums) for pairs in forest.leaves]
    most = 1 << FEATURE_BITS
    if None in scores or max(forest.features, default=0) >= most or max((s[0] for s in scores if s), default=0) >= most:
        return None
    nodes: list[tuple[float, int]] = []
    roots: list[int] = []
    for root in forest.roots:
        roots.append(len(nodes))
        nodes.append((0.0, 0))
        waiting = [(root, len(nodes) - 1)]
        while waiting:  # a node's children lie side by side, and what is below the first before what is below the second
            node, place = waiting.pop()
            if node < 0:
                target, score = scores[-1 - node] or (0, 0.0)
                nodes[place] = score, target << 1
                continue
            children = len(nodes)
            if children - place >= 1 << CHILD_BITS or children >= MOST_NODES:
                return None
            nodes[place] = forest.values[node], (children - place) << FEATURE_BITS + 1 | forest.features[node] << 1 | int(forest.missing_yes[node])
            nodes += [(0.0, 0), (0.0, 0)]
            waiting += [(forest.no[node], children + 1), (forest.yes[node], children)]
    packed = np.array(nodes, np.dtype([("limit", "f4"), ("word", "u4")]))
    return packed.view(np.int32).reshape(-1, 2), np.array(roots, np.int32)


def _score(pairs: Sequence[tuple[int, float]], sums: bool) -> tuple[int, float] | None:
    """The target that a leaf gives something to, and what; None if there is none, or several."""
    if sums:
        pairs = [pair for pair in pairs if pair[1] != 0.0] or [*pairs[:1]] or [(0, 0.0)]
    return pairs[0] if len(pairs) == 1 else None


def full_trees(forest: Forest, sums: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Those trees that are worth giving in full (kernels/cpu/packed_trees/full.h) of a forest that :func:`packed_trees` takes; None: there are none.

    Returns:
        The trees, int32 [trees, 3]: levels (0: not in full), the place of its nodes and leaves, target; nodes, int32 [s, 2]: float32 limit, feature;
        leaves, float32 [s].
    """
    trees = np.zeros((len(forest.roots), 3), np.int32)
    nodes: list[np.ndarray] = []
    leaves: list[np.ndarray] = []
    offset = 0
    scores = [_score(pairs, sums) or (0, 0.0) for pairs in forest.leaves]
    for tree, root in enumerate(forest.roots):
        found = _levels(forest, scores, root)
        if found is None:
            continue
        levels, target = found
        nodes_of, leaves_of = _filled(forest, scores, root, levels)
        nodes.append(nodes_of)
        leaves.append(leaves_of)
        trees[tree] = levels, offset, target
        offset += 1 << levels
    if not nodes:
        return None
    return trees, np.concatenate(nodes).view(np.int32).reshape(-1, 2), np.concatenate(leaves)


def _levels(forest: Forest, scores: Sequence[tuple[int, float]], root: int) -> tuple[int, int] | None:
    """The levels of a tree and the target of all its leaves, if it is one to give in full."""
    level = [root]
    leaves = 0
    targets: set[int] = set()
    for depth in range(MOST_LEVELS + 1):
        for child in level:
            if child < 0:
                leaves += 1
                targets.add(scores[-1 - child][0])
        level = [c for node in level if node >= 0 for c in (forest.yes[node], forest.no[node])]
        if not level:
            return (depth, targets.pop()) if depth and len(targets) == 1 and 1 << depth <= MOST_COPIES * leaves else None
    return None


def _filled(forest: Forest, scores: Sequence[tuple[int, float]], root: int, levels: int) -> tuple[np.ndarray, np.ndarray]:
    """The nodes of a tree level by level from place 1 on, and its leaves; below a leaf all nodes lead to copies of it."""
    nodes = np.zeros(1 << levels, np.dtype([("limit", "f4"), ("feature", "i4")]))
    level = [root]
    for depth in range(levels):
        for i, node in enumerate(level):
            if node >= 0:
                nodes[(1 << depth) + i] = forest.values[node], forest.features[node]
        level = [c for node in level for c in ((forest.yes[node], forest.no[node]) if node >= 0 else (node, node))]
    return nodes, np.array([scores[-1 - leaf][1] for leaf in level], np.float32)
