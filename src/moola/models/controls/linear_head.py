"""A logistic regression on standardised columns, its penalty chosen on folds, as plain arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from moola.models.controls.stored import F64, LARGEST, Layout, check_within
from moola.models.folds import Fold

_SMALLEST_SCALE = 1e-30
_MOST_FOLDS = 1000


@dataclass(frozen=True, kw_only=True)
class LinearHead:
    """Logits ``((x - mean) / scale) @ weight + bias``.

    Attributes
    ----------
    mean, scale
        Of the training columns, shape (d,).
    weight, bias
        Shapes (d, K) and (K,); with two classes the first column is 0.
    penalty, num_folds
        scikit-learn's C, the inverse strength of the ridge penalty, and the folds it was chosen on;
        0: it is the middle one.
    """

    mean: NDArray[np.float64]
    scale: NDArray[np.float64]
    weight: NDArray[np.float64]
    bias: NDArray[np.float64]
    penalty: float
    num_folds: int

    @classmethod
    def fit(
        cls,
        matrix: NDArray,
        target: NDArray[np.int64],
        *,
        penalties: Sequence[float],
        folds: Sequence[Fold],
    ) -> Self:
        """Fit with the penalty of the least log-loss on `folds`; without folds, the middle one."""
        pipeline = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
        name = "logisticregression__C"
        if folds:
            search = GridSearchCV(
                pipeline, {name: list(penalties)}, scoring="neg_log_loss", cv=list(folds)
            )
            pipeline = search.fit(matrix, target).best_estimator_
        else:
            middle = sorted(penalties)[len(penalties) // 2]
            pipeline = pipeline.set_params(**{name: middle}).fit(matrix, target)
        scaler, logistic = pipeline[0], pipeline[1]
        weight, bias = logistic.coef_.T, logistic.intercept_
        if weight.shape[1] == 1:
            weight, bias = np.c_[np.zeros(len(weight)), weight], np.r_[0.0, bias]
        return cls(
            mean=scaler.mean_,
            scale=scaler.scale_,
            weight=weight,
            bias=bias,
            penalty=float(logistic.C),
            num_folds=len(folds),
        )

    @classmethod
    def fit_wide(
        cls,
        matrix: NDArray,
        target: NDArray[np.int64],
        *,
        penalties: Sequence[float],
        folds: Sequence[Fold],
    ) -> Self:
        """Fit many more columns than rows, which are scaled already; penalties are for their mean.

        A ridge penalty leaves weights in the span of the rows, so that the rows' principal axes are
        as good as the columns, and as few as the rows.
        """
        rows = np.asarray(matrix, dtype=np.float64) / np.sqrt(matrix.shape[1])
        spread, axes = np.linalg.eigh(rows @ rows.T)
        informative = spread > spread[-1] * 1e-12
        root = np.sqrt(spread[informative])
        regression = LogisticRegression(max_iter=1000)
        scores = axes[:, informative] * root
        if folds:
            search = GridSearchCV(
                regression, {"C": list(penalties)}, scoring="neg_log_loss", cv=list(folds)
            )
            regression = search.fit(scores, target).best_estimator_
        else:
            regression = regression.set_params(C=sorted(penalties)[len(penalties) // 2]).fit(
                scores, target
            )
        weight = (
            rows.T @ ((axes[:, informative] / root) @ regression.coef_.T) / np.sqrt(matrix.shape[1])
        )
        bias = regression.intercept_
        if weight.shape[1] == 1:
            weight, bias = np.c_[np.zeros(len(weight)), weight], np.r_[0.0, bias]
        return cls(
            mean=np.zeros(len(weight)),
            scale=np.ones(len(weight)),
            weight=weight,
            bias=bias,
            penalty=float(regression.C),
            num_folds=len(folds),
        )

    def proba(self, matrix: NDArray) -> NDArray[np.float64]:
        """Return class probabilities, shape (n, K)."""
        scaled = (np.asarray(matrix, dtype=np.float64) - self.mean) / self.scale
        return np.asarray(softmax(scaled @ self.weight + self.bias, axis=1))

    @property
    def num_parameters(self) -> int:
        """Numbers that are fitted: one weight a column and a bias, for all classes but one."""
        free = 1 if self.weight.shape[1] == 2 else self.weight.shape[1]
        return free * (len(self.weight) + 1)

    def tensors(self) -> dict[str, NDArray]:
        """Return the arrays of a checkpoint."""
        names = ("mean", "scale", "weight", "bias")
        arrays = {k: np.asarray(getattr(self, k), np.float64) for k in names}
        return {**arrays, "penalty": np.asarray([self.penalty, self.num_folds], np.float64)}

    @staticmethod
    def layout(num_columns: int, num_classes: int) -> Layout:
        """Return type and shape of each array of `tensors`."""
        return {
            "mean": (F64, (num_columns,)),
            "scale": (F64, (num_columns,)),
            "weight": (F64, (num_columns, num_classes)),
            "bias": (F64, (num_classes,)),
            "penalty": (F64, (2,)),
        }

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, NDArray]) -> Self:
        """Read what `tensors` returned, laid out as `layout` says.

        Raises CheckpointError for numbers by which a logit could overflow.
        """
        arrays = {k: tensors[k] for k in ("mean", "scale", "weight", "bias")}
        for name in ("mean", "weight", "bias"):
            check_within(name, arrays[name], -LARGEST, LARGEST)
        check_within("scale", arrays["scale"], _SMALLEST_SCALE, LARGEST)
        check_within("penalty", tensors["penalty"][:1], 0, LARGEST)
        check_within("penalty", tensors["penalty"][1:], 0, _MOST_FOLDS)
        penalty, num_folds = tensors["penalty"]
        return cls(**arrays, penalty=float(penalty), num_folds=int(num_folds))
