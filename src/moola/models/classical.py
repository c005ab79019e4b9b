"""The controls: what a run must be compared with before a deep model may be called needed."""

from __future__ import annotations

from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, TimeSeriesSplit
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.validation import check_is_fitted

from moola.data.features import features20
from moola.data.windows import check_windows, normalise
from moola.errors import BadInput


class WindowPipelineClassifier(ClassifierMixin, BaseEstimator):
    """Base of the classical models: windows to a flat matrix, then a scikit-learn pipeline.

    The strength of the ridge penalty is chosen by log-loss on forward-chaining folds of the
    training windows, with `gap_windows` left out between train and validation.
    """

    model_name: ClassVar[str]
    penalties: ClassVar[tuple[float, ...]]
    seed: int
    gap_windows: int

    def transform_windows(self, X: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return one row of numbers a window, shape (n, d)."""
        raise NotImplementedError

    def fit(self, X: NDArray, y: NDArray) -> Self:
        """Train on windows in price units, shape (n, T, 4), with labels of shape (n,)."""
        X, y = check_windows(X), np.asarray(y)
        self.classes_ = np.unique(y)
        if y.shape != (len(X),) or len(self.classes_) < 2:
            raise BadInput(
                f"y has shape {y.shape} and {len(self.classes_)} classes",
                limit=f"({len(X)},) and at least 2 classes",
            )
        self.window_bars_ = int(X.shape[1])
        self.n_features_in_ = 4
        self._fit_transform_state(X)
        matrix = self.transform_windows(X)
        search = GridSearchCV(
            make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)),
            {"logisticregression__C": list(self.penalties)},
            scoring="neg_log_loss",
            cv=self._usable_folds(y),
        )
        self.pipeline_: Pipeline = search.fit(matrix, y).best_estimator_
        return self

    def predict_proba(self, X: NDArray) -> NDArray[np.float64]:
        """Return class probabilities, shape (n, K), columns as ``classes_``."""
        check_is_fitted(self, "pipeline_")
        windows = check_windows(X, window_bars=self.window_bars_)
        return np.asarray(self.pipeline_.predict_proba(self.transform_windows(windows)))

    def predict(self, X: NDArray) -> NDArray:
        """Return the most probable label of each window, shape (n,)."""
        return np.asarray(self.classes_[self.predict_proba(X).argmax(axis=1)])

    def _fit_transform_state(self, X: NDArray[np.float32]) -> None:
        """Learn what the transform needs; nothing by default."""

    def _usable_folds(self, y: NDArray) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Forward-chaining folds in whose train and validation parts every class stands."""
        gap = min(self.gap_windows, len(y) // 8)
        folds = TimeSeriesSplit(n_splits=3, gap=gap).split(y)
        usable = [
            (train, val)
            for train, val in folds
            if set(y[train]) == set(y[val]) == set(self.classes_.tolist())
        ]
        if not usable:
            raise BadInput(
                f"{len(y)} windows leave no forward-chaining fold that holds every class",
                limit="more windows of each class",
            )
        return usable


class LogisticFeaturesModel(WindowPipelineClassifier):
    """Logistic regression on the 20 features."""

    model_name = "logreg"
    penalties = (0.001, 0.003, 0.01, 0.03, 0.1, 1.0)

    def __init__(self, *, seed: int = 17, gap_windows: int = 19):
        self.seed = seed
        self.gap_windows = gap_windows

    def transform_windows(self, X: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the 20 features, shape (n, 20)."""
        return features20(X)


class MiniRocketModel(WindowPipelineClassifier):
    """MiniRocket (Dempster, Schmidt and Webb, 2021) on normalised OHLC, with a logistic head.

    The transform is sktime's ``MiniRocketMultivariate``.
    """

    model_name = "minirocket"
    penalties = (1e-5, 1e-4, 1e-3)

    def __init__(self, *, seed: int = 17, gap_windows: int = 19, num_kernels: int = 2000):
        self.seed = seed
        self.gap_windows = gap_windows
        self.num_kernels = num_kernels

    def transform_windows(self, X: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the share of positive outputs a kernel, shape (n, about num_kernels)."""
        return np.asarray(self.rocket_.transform(_channels_first(X)), dtype=np.float32)

    def _fit_transform_state(self, X: NDArray[np.float32]) -> None:
        from sktime.transformations.panel.rocket import MiniRocketMultivariate

        self.rocket_ = MiniRocketMultivariate(num_kernels=self.num_kernels, random_state=self.seed)
        self.rocket_.fit(_channels_first(X))


def _channels_first(X: NDArray[np.float32]) -> NDArray[np.float64]:
    return np.ascontiguousarray(normalise(X).transpose(0, 2, 1), dtype=np.float64)
