"""Forest and boosted trees on the features; all are kept as plain arrays, never as pickles."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp, softmax
from threadpoolctl import threadpool_limits

from moola.errors import ConfigError
from moola.models.base import estimator
from moola.models.controls.classical import FlatClassifier
from moola.models.controls.stored import F64, Layout, Tensors, check_within, require, require_count
from moola.models.controls.tree_arrays import LARGEST_LOGIT, TREE_SIZES, TreeArrays
from moola.models.folds import forward_chaining_folds


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
    most: ClassVar[Mapping[str, int]] = TREE_SIZES

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

    def _proba(self, rows: NDArray) -> NDArray[np.float64]:
        return self.trees_.proba(rows)

    def _arrays(self) -> Tensors:
        return dict(self.trees_.__dict__)

    def _sizes(self) -> dict[str, int]:
        return self.trees_.sizes

    def layout(self, num_classes: int, state: Mapping[str, Any]) -> Layout:
        """Return type and shape of the trees' arrays."""
        return TreeArrays.layout(num_classes, state)

    def _take(self, arrays: Mapping[str, NDArray]) -> None:
        require_count("roots", len(arrays["roots"]), self.num_trees, self.num_trees)
        self.trees_ = TreeArrays.of_stored(arrays, num_columns=self.n_features_in_, shares=True)


class BoostedClassifier(FlatClassifier):
    """Base of boosted trees on the features: logits start somewhere, and each round adds to them.

    A round has a tree a class, of two classes one tree in all or two.
    """

    most: ClassVar[Mapping[str, int]] = TREE_SIZES
    trees_: TreeArrays
    start_: NDArray[np.float64]

    @property
    def num_parameters(self) -> int | None:
        """Numbers in all trees; None before the fit."""
        return self.trees_.num_parameters if hasattr(self, "trees_") else None

    @property
    def _most_rounds(self) -> int:
        raise NotImplementedError

    def _trees_a_round(self) -> int:
        return len(self.classes_) if len(self.classes_) > 2 else 1

    def _rounds(self, trees: TreeArrays, matrix: NDArray) -> NDArray[np.float64]:
        """Return what each round of trees adds to the logits, shape (n, rounds, K)."""
        values = trees.leaf_values(np.asarray(matrix, dtype=np.float64))
        shape = (len(values), -1, self._trees_a_round(), values.shape[2])
        return np.asarray(values.reshape(shape).sum(axis=2))

    def _proba(self, rows: NDArray) -> NDArray[np.float64]:
        logits = self.start_ + self._rounds(self.trees_, rows).sum(axis=1)
        return np.asarray(softmax(logits, axis=1))

    def _arrays(self) -> Tensors:
        return {**self.trees_.__dict__, "start": self.start_}

    def _sizes(self) -> dict[str, int]:
        return self.trees_.sizes

    def layout(self, num_classes: int, state: Mapping[str, Any]) -> Layout:
        """Return type and shape of the trees' arrays and of the logits that they start from."""
        return {**TreeArrays.layout(num_classes, state), "start": (F64, (num_classes,))}

    def _take(self, arrays: Mapping[str, NDArray]) -> None:
        a_round = self._trees_a_round()
        num_trees = len(arrays["roots"])
        require_count("roots", num_trees, a_round, self._most_rounds * a_round)
        require(
            num_trees % a_round == 0,
            f"array roots has {num_trees} rows",
            f"{a_round} trees a round",
        )
        check_within("start", arrays["start"], -LARGEST_LOGIT, LARGEST_LOGIT)
        trees = {name: array for name, array in arrays.items() if name != "start"}
        columns = self.n_features_in_
        self.trees_ = TreeArrays.of_stored(trees, num_columns=columns, shares=False)
        self.start_ = arrays["start"]


@estimator
class BoostedTreesModel(BoostedClassifier):
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
    def _most_rounds(self) -> int:
        return self.max_trees

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


@estimator
class XGBoostModel(BoostedClassifier):
    """Gradient-boosted trees (Chen and Guestrin, 2016) on the features, by the package xgboost.

    Once fitted, the trees are plain arrays; only the fit needs the package.

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
    def _most_rounds(self) -> int:
        return self.num_trees

    def _trees_a_round(self) -> int:
        return len(self.classes_)

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
        booster = xgboost.train(options, data, num_boost_round=self.num_trees)
        learner = json.loads(bytes(booster.save_raw("json")))["learner"]
        self.trees_ = TreeArrays.of_xgboost(learner, len(self.classes_))
        # One number for all classes changes no probability; newer releases have one a class.
        start = json.loads(learner["learner_model_param"]["base_score"])
        self.start_ = np.broadcast_to(np.asarray(start, np.float64), len(self.classes_)).copy()

    def _rounds(self, trees: TreeArrays, matrix: NDArray) -> NDArray[np.float64]:
        return super()._rounds(trees, np.asarray(matrix, dtype=np.float32))  # as xgboost compares


def _xgboost() -> Any:
    try:
        import xgboost
    except ImportError:
        raise ConfigError(
            "model xgb needs the package xgboost, which is not installed",
            limit="the extra 'xgb'",
            remedy="Run pip install 'moola-ml[xgb]'",
        ) from None
    return xgboost
