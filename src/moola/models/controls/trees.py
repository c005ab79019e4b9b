"""Forest and boosted trees on the features; all are kept as plain arrays, never as pickles."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp, softmax
from threadpoolctl import threadpool_limits

from moola.errors import ConfigError
from moola.models.base import estimator
from moola.models.controls.classical import FlatClassifier, Tensors
from moola.models.folds import forward_chaining_folds

_LEAF = -1


@dataclass(frozen=True, kw_only=True)
class TreeArrays:
    """The trees of a forest in one row of nodes.

    Attributes
    ----------
    feature, threshold
        A node sends a window left if the feature is at most the threshold; feature -1 is a leaf.
    left, right
        Rows of the children.
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
            left=np.concatenate([t.children_left + r for t, r in zip(trees, roots, strict=True)]),
            right=np.concatenate([t.children_right + r for t, r in zip(trees, roots, strict=True)]),
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
        nodes = np.concatenate([nodes for _, nodes in trees])
        offset = np.repeat(roots, [len(nodes) for _, nodes in trees])
        return cls(
            feature=np.where(nodes["is_leaf"], _LEAF, nodes["feature_idx"]).astype(np.int64),
            threshold=nodes["num_threshold"].astype(np.float64),
            left=nodes["left"].astype(np.int64) + offset,
            right=nodes["right"].astype(np.int64) + offset,
            value=value,
            roots=roots,
        )

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


@estimator
class RandomForestModel(FlatClassifier):
    """Random forest (Breiman, 2001) on the features, by scikit-learn.

    Parameters
    ----------
    seed
        Of the bootstrap samples and the features tried.
    num_trees, min_leaf_windows
        Trees, and the fewest training windows of a leaf: small leaves give probabilities of 0 and
        1 that few labels do not justify.
    """

    model_name = "rf"

    seed: int = 17
    num_trees: int = 300
    min_leaf_windows: int = 10

    @property
    def num_parameters(self) -> int | None:
        """Numbers in all trees; None before the fit."""
        return self.trees_.num_parameters if hasattr(self, "trees_") else None

    def _fit_matrix(self, matrix: NDArray, target: NDArray[np.int64]) -> None:
        from sklearn.ensemble import RandomForestClassifier

        forest = RandomForestClassifier(
            self.num_trees, min_samples_leaf=self.min_leaf_windows, random_state=self.seed
        )
        self.trees_ = TreeArrays.of_forest(forest.fit(matrix, target))

    def _proba(self, matrix: NDArray) -> NDArray[np.float64]:
        return self.trees_.proba(matrix)

    def _state(self) -> tuple[Tensors, dict[str, Any]]:
        return dict(self.trees_.__dict__), self._shape_state()

    def _restore(self, tensors: Mapping[str, NDArray], values: Mapping[str, Any]) -> None:
        self._restore_shape(values)
        self.trees_ = TreeArrays(**tensors)


@estimator
class BoostedTreesModel(FlatClassifier):
    """Gradient-boosted trees on the features, by scikit-learn's HistGradientBoosting.

    How many trees are kept is chosen by log-loss on forward-chaining folds of the training
    windows, `gap_windows` left out between train and validation: as many as they like overfit a few
    hundred windows. Where there are too few for a fold, it is a quarter.

    Parameters
    ----------
    seed
        Of what is drawn at random.
    gap_windows
        Windows left out between the train and the validation part of a fold.
    max_trees, learning_rate, max_leaves, min_leaf_windows, l2
        Most trees, the share of each that is added, and what holds one back.
    """

    model_name = "hgb"

    seed: int = 17
    gap_windows: int = 19
    max_trees: int = 200
    learning_rate: float = 0.05
    max_leaves: int = 4
    min_leaf_windows: int = 10
    l2: float = 1.0

    @property
    def num_parameters(self) -> int | None:
        """Numbers in all trees; None before the fit."""
        return self.trees_.num_parameters if hasattr(self, "trees_") else None

    def _fit_matrix(self, matrix: NDArray, target: NDArray[np.int64]) -> None:
        folds = forward_chaining_folds(target, gap_windows=self.gap_windows)
        num_trees = max(1, self.max_trees // 4)
        if folds:
            loss = sum(self._loss_by_trees(matrix, target, *fold) for fold in folds)
            num_trees = 1 + int(np.argmin(loss))
        self.trees_, self.start_ = self._boosted(matrix, target, num_trees)

    def _loss_by_trees(
        self, matrix: NDArray, target: NDArray[np.int64], train: NDArray, val: NDArray
    ) -> NDArray[np.float64]:
        """Return the log-loss of the validation windows, summed, after each tree."""
        trees, start = self._boosted(matrix[train], target[train], self.max_trees)
        by_tree = self._rounds(trees, matrix[val]).cumsum(axis=1)
        logits = start + by_tree
        true_logits = np.take_along_axis(logits, target[val][:, None, None], axis=2)[..., 0]
        return np.asarray((logsumexp(logits, axis=2) - true_logits).sum(axis=0))

    def _boosted(
        self, matrix: NDArray, target: NDArray[np.int64], num_trees: int
    ) -> tuple[TreeArrays, NDArray[np.float64]]:
        """Return trees and the logits they start from, shape (K,)."""
        from sklearn.ensemble import HistGradientBoostingClassifier

        boosting = HistGradientBoostingClassifier(
            max_iter=num_trees,
            learning_rate=self.learning_rate,
            max_leaf_nodes=self.max_leaves,
            min_samples_leaf=self.min_leaf_windows,
            l2_regularization=self.l2,
            early_stopping=False,
            random_state=self.seed,
        )
        with threadpool_limits(limits=1, user_api="openmp"):  # so few windows only wait for others
            boosting.fit(matrix, target)
        num_classes = len(self.classes_)
        start = np.zeros(num_classes)
        start[-boosting._baseline_prediction.size :] = boosting._baseline_prediction.ravel()
        return TreeArrays.of_boosting(boosting, num_classes), start

    def _rounds(self, trees: TreeArrays, matrix: NDArray) -> NDArray[np.float64]:
        """Return what each round of trees adds to the logits, shape (n, rounds, K)."""
        values = trees.leaf_values(np.asarray(matrix, dtype=np.float64))
        num_classes = values.shape[2]
        a_round = num_classes if num_classes > 2 else 1
        return values.reshape(len(values), -1, a_round, num_classes).sum(axis=2)

    def _proba(self, matrix: NDArray) -> NDArray[np.float64]:
        logits = self.start_ + self._rounds(self.trees_, matrix).sum(axis=1)
        return np.asarray(softmax(logits, axis=1))

    def _state(self) -> tuple[Tensors, dict[str, Any]]:
        return {**self.trees_.__dict__, "start": self.start_}, self._shape_state()

    def _restore(self, tensors: Mapping[str, NDArray], values: Mapping[str, Any]) -> None:
        self._restore_shape(values)
        self.start_ = tensors["start"]
        self.trees_ = TreeArrays(**{k: v for k, v in tensors.items() if k != "start"})


@estimator
class XGBoostModel(FlatClassifier):
    """Gradient-boosted trees (Chen and Guestrin, 2016) on the features, by the package xgboost.

    Parameters
    ----------
    seed
        Of the rows drawn for each tree.
    num_trees, max_depth, learning_rate, subsample, min_child_weight
        As xgboost's own, with defaults for a thousand windows: shallow trees, slow steps.
    """

    model_name = "xgb"

    seed: int = 17
    num_trees: int = 150
    max_depth: int = 2
    learning_rate: float = 0.05
    subsample: float = 0.8
    min_child_weight: float = 5.0

    @property
    def num_parameters(self) -> int | None:
        """Two numbers a split, one a leaf, in all trees; None before the fit."""
        if not hasattr(self, "booster_"):
            return None
        nodes = self.booster_.trees_to_dataframe()["Feature"]
        leaves = int((nodes == "Leaf").sum())
        return 2 * (len(nodes) - leaves) + leaves

    def _fit_matrix(self, matrix: NDArray, target: NDArray[np.int64]) -> None:
        xgboost = _xgboost()
        options = {
            "objective": "multi:softprob",
            "num_class": len(self.classes_),
            "max_depth": self.max_depth,
            "eta": self.learning_rate,
            "subsample": self.subsample,
            "min_child_weight": self.min_child_weight,
            "seed": self.seed,
            "nthread": 1,
            "verbosity": 0,
        }
        data = xgboost.DMatrix(matrix, target)
        self.booster_ = xgboost.train(options, data, num_boost_round=self.num_trees)

    def _proba(self, matrix: NDArray) -> NDArray[np.float64]:
        proba = np.asarray(self.booster_.predict(_xgboost().DMatrix(matrix)), dtype=np.float64)
        return proba / proba.sum(axis=1, keepdims=True)

    def _state(self) -> tuple[Tensors, dict[str, Any]]:
        raw = np.frombuffer(self.booster_.save_raw("ubj"), dtype=np.uint8).copy()
        return {"booster_ubj": raw}, self._shape_state()

    def _restore(self, tensors: Mapping[str, NDArray], values: Mapping[str, Any]) -> None:
        self._restore_shape(values)
        self.booster_ = _xgboost().Booster()
        self.booster_.load_model(bytearray(tensors["booster_ubj"].tobytes()))


def _xgboost() -> Any:
    try:
        import xgboost
    except ImportError:
        raise ConfigError(
            "model xgb needs the package xgboost, which is not installed",
            limit="the extra 'xgb'",
            remedy="Run pip install 'moola[xgb]'",
        ) from None
    return xgboost
