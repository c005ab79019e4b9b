"""Trees of any library as plain arrays: read, checked and walked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from moola.models.controls.stored import F64, I64, LARGEST, Layout, check_within, require

_LEAF = -1
_MOST_DEPTH = 512  # a tree is walked level by level: a chain of a million nodes would take hours
LARGEST_LOGIT = 1e6
TREE_SIZES = {"num_nodes": 4 << 20, "num_trees": 1 << 16}


@dataclass(frozen=True, kw_only=True)
class TreeArrays:
    """The trees of a forest in one row of nodes.

    Attributes
    ----------
    feature, threshold
        A node sends a window left if the feature is at most the threshold; feature -1 is a leaf.
    left, right
        Rows of the children, both after their parent; -1 of a leaf.
    value
        Class shares of each node's training windows, shape (nodes, K); of boosted trees what a leaf
        adds to each class's logit.
    roots
        Rows of the trees' roots.
    """

    feature: NDArray[np.int64]
    threshold: NDArray[np.float64]
    left: NDArray[np.int64]
    right: NDArray[np.int64]
    value: NDArray[np.float64]
    roots: NDArray[np.int64]

    @classmethod
    def of_forest(cls, forest: Any) -> Self:
        """Read scikit-learn's fitted trees."""
        trees = [estimator.tree_ for estimator in forest.estimators_]
        roots = np.cumsum([0, *(tree.node_count for tree in trees)])[:-1]
        value = np.concatenate([tree.value[:, 0, :] for tree in trees])
        feature = np.concatenate([tree.feature for tree in trees])
        return cls(
            feature=np.where(feature < 0, _LEAF, feature).astype(np.int64),
            threshold=np.concatenate([tree.threshold for tree in trees]),
            left=_rows([tree.children_left for tree in trees], roots, feature < 0),
            right=_rows([tree.children_right for tree in trees], roots, feature < 0),
            value=value / value.sum(axis=1, keepdims=True),
            roots=roots,
        )

    @classmethod
    def of_boosting(cls, boosting: Any, num_classes: int) -> Self:
        """Read the trees of scikit-learn's fitted HistGradientBoostingClassifier, in order.

        Of two classes the trees speak of the second alone.
        """
        rounds = boosting._predictors
        trees = [(k, tree.nodes) for round_ in rounds for k, tree in enumerate(round_)]
        roots = np.cumsum([0, *(len(nodes) for _, nodes in trees)])[:-1]
        value = np.zeros((int(sum(len(nodes) for _, nodes in trees)), num_classes))
        for root, (k, nodes) in zip(roots, trees, strict=True):
            column = k if num_classes > 2 else 1
            value[root : root + len(nodes), column] = nodes["value"]
        every = [nodes for _, nodes in trees]
        nodes = np.concatenate(every)
        is_leaf = nodes["is_leaf"].astype(bool)
        return cls(
            feature=np.where(is_leaf, _LEAF, nodes["feature_idx"]).astype(np.int64),
            threshold=nodes["num_threshold"].astype(np.float64),
            left=_rows([tree["left"] for tree in every], roots, is_leaf),
            right=_rows([tree["right"] for tree in every], roots, is_leaf),
            value=value,
            roots=roots,
        )

    @classmethod
    def of_xgboost(cls, learner: Mapping[str, Any], num_classes: int) -> Self:
        """Read the trees of xgboost's model in JSON, each of one class's logit."""
        booster = learner["gradient_booster"]["model"]
        feature: list[int] = []
        threshold: list[float] = []
        children: tuple[list[int], list[int]] = ([], [])
        leaves: list[tuple[int, int, float]] = []
        roots = []
        for tree, of_class in zip(booster["trees"], booster["tree_info"], strict=True):
            roots.append(len(feature))
            waiting = [(0, -1, 0)]  # node, row of its parent, which child it is
            while waiting:
                node, parent, side = waiting.pop()
                row, number = len(feature), np.float32(tree["split_conditions"][node])
                if parent >= 0:
                    children[side][parent] = row
                for child in children:
                    child.append(_LEAF)
                if tree["left_children"][node] < 0:
                    feature.append(_LEAF)
                    threshold.append(0.0)
                    leaves.append((row, of_class, float(number)))
                    continue
                feature.append(tree["split_indices"][node])
                # xgboost goes left below its threshold, these trees up to theirs.
                threshold.append(float(np.nextafter(number, np.float32(-np.inf))))
                waiting.append((tree["right_children"][node], row, 1))
                waiting.append((tree["left_children"][node], row, 0))
        value = np.zeros((len(feature), num_classes))
        for row, of_class, leaf in leaves:
            value[row, of_class] = leaf
        return cls(
            feature=np.asarray(feature, np.int64),
            threshold=np.asarray(threshold, np.float64),
            left=np.asarray(children[0], np.int64),
            right=np.asarray(children[1], np.int64),
            value=value,
            roots=np.asarray(roots, np.int64),
        )

    @staticmethod
    def layout(num_classes: int, state: Mapping[str, Any]) -> Layout:
        """Return type and shape of each array, of as many nodes and trees as `state` says."""
        nodes = (int(state["num_nodes"]),)
        return {
            "feature": (I64, nodes),
            "threshold": (F64, nodes),
            "left": (I64, nodes),
            "right": (I64, nodes),
            "value": (F64, (*nodes, num_classes)),
            "roots": (I64, (int(state["num_trees"]),)),
        }

    @property
    def sizes(self) -> dict[str, int]:
        """How many nodes and trees there are."""
        return {"num_nodes": len(self.feature), "num_trees": len(self.roots)}

    @classmethod
    def of_stored(cls, arrays: Mapping[str, NDArray], *, num_columns: int, shares: bool) -> Self:
        """Return trees that can be walked, of arrays laid out as `layout` says.

        Parameters
        ----------
        arrays
            The six, of any origin.
        num_columns
            d: what a node may ask for are columns 0 to d - 1.
        shares
            Whether values are class shares, which add up to 1, or parts of logits.

        Raises
        ------
        CheckpointError
            If a number is out of range, or the rows are not whole trees of at most 512 levels: each
            node but a root has one parent, before it in its own tree.
        """
        trees = cls(**arrays)
        check_within("feature", trees.feature, _LEAF, num_columns - 1)
        check_within("threshold", trees.threshold, -LARGEST, LARGEST)
        lowest, highest = (0.0, 1.0) if shares else (-LARGEST_LOGIT, LARGEST_LOGIT)
        check_within("value", trees.value, lowest, highest)
        if shares:
            check_within("value's sums over classes", trees.value.sum(axis=1), 1 - 1e-6, 1 + 1e-6)
        num_nodes, roots = len(trees.feature), trees.roots
        ascending = bool(len(roots) and roots[0] == 0 and (np.diff(roots) > 0).all())
        require(
            ascending and roots[-1] < num_nodes,
            "array roots does not begin the trees one after the other",
            f"0 and ascending rows below {num_nodes}",
        )
        trees._require_whole()
        return trees

    def _require_whole(self) -> None:
        num_nodes, roots = len(self.feature), self.roots
        is_leaf = self.feature == _LEAF
        rows = np.flatnonzero(~is_leaf)
        ends = np.repeat([*roots[1:], num_nodes], np.diff([*roots, num_nodes]))[rows]
        parents = np.zeros(num_nodes, np.int64)
        for name, child in (("left", self.left), ("right", self.right)):
            require((child[is_leaf] == _LEAF).all(), f"array {name} gives a leaf a child", "-1")
            inside = (child[rows] > rows) & (child[rows] < ends)
            require(
                inside.all(),
                f"array {name} leads out of its tree or back",
                "rows after the node's own, in its tree",
            )
            parents += np.bincount(child[rows], minlength=num_nodes)
        parents[roots] += 1  # a root has no parent
        require((parents == 1).all(), "a node of a tree has two parents or none", "one parent each")
        level, depth = roots, 0
        while len(level := level[~is_leaf[level]]):
            depth += 1
            require(depth < _MOST_DEPTH, "a tree is too deep", f"at most {_MOST_DEPTH} levels")
            level = np.concatenate([self.left[level], self.right[level]])

    def proba(self, matrix: NDArray) -> NDArray[np.float64]:
        """Return the mean over trees of the class shares in each window's leaf, shape (n, K)."""
        shares = self.leaf_values(np.asarray(matrix, dtype=np.float32))  # as scikit-learn compares
        return np.asarray(shares.mean(axis=1))

    def leaf_values(self, X: NDArray) -> NDArray[np.float64]:
        """Return the value of each window's leaf in each tree, shape (n, trees, K)."""
        node = np.repeat(self.roots[None], len(X), axis=0)
        rows = np.arange(len(X))[:, None]
        while (inside := self.feature[node] != _LEAF).any():
            goes_left = X[rows, self.feature[node]] <= self.threshold[node]
            node = np.where(inside, np.where(goes_left, self.left[node], self.right[node]), node)
        return np.asarray(self.value[node])

    @property
    def num_parameters(self) -> int:
        """Two numbers a split, K - 1 a leaf."""
        leaves = int((self.feature == _LEAF).sum())
        return 2 * (len(self.feature) - leaves) + leaves * (self.value.shape[1] - 1)


def _rows(children: Sequence[NDArray], roots: NDArray[np.int64], is_leaf: NDArray) -> NDArray:
    """Return each node's child as a row of the whole forest, -1 of a leaf."""
    rows = [tree.astype(np.int64) + root for tree, root in zip(children, roots, strict=True)]
    return np.where(is_leaf, _LEAF, np.concatenate(rows))
