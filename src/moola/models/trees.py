"""Forest and boosted trees on the features; both are kept as plain arrays, never as pickles."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from moola.errors import ConfigError
from moola.models.classical import FlatClassifier, Tensors

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
        Class shares of each node's training windows, shape (nodes, K).
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

    def proba(self, matrix: NDArray) -> NDArray[np.float64]:
        """Return the mean over trees of the class shares in each window's leaf, shape (n, K)."""
        X = np.asarray(matrix, dtype=np.float32)  # as scikit-learn compares
        node = np.repeat(self.roots[None], len(X), axis=0)
        rows = np.arange(len(X))[:, None]
        while (inside := self.feature[node] != _LEAF).any():
            goes_left = X[rows, self.feature[node]] <= self.threshold[node]
            node = np.where(inside, np.where(goes_left, self.left[node], self.right[node]), node)
        return np.asarray(self.value[node].mean(axis=1))

    @property
    def num_parameters(self) -> int:
        """Two numbers a split, K - 1 a leaf."""
        leaves = int((self.feature == _LEAF).sum())
        return 2 * (len(self.feature) - leaves) + leaves * (self.value.shape[1] - 1)


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

    def __init__(self, *, seed: int = 17, num_trees: int = 300, min_leaf_windows: int = 10):
        self.seed = seed
        self.num_trees = num_trees
        self.min_leaf_windows = min_leaf_windows

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

    def __init__(
        self,
        *,
        seed: int = 17,
        num_trees: int = 150,
        max_depth: int = 2,
        learning_rate: float = 0.05,
        subsample: float = 0.8,
        min_child_weight: float = 5.0,
    ):
        self.seed = seed
        self.num_trees = num_trees
        self.max_depth = max_depth
        self.learning_rate = learning_rate
        self.subsample = subsample
        self.min_child_weight = min_child_weight

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
        found = np.asarray(self.booster_.predict(_xgboost().DMatrix(matrix)), dtype=np.float64)
        return found / found.sum(axis=1, keepdims=True)

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
