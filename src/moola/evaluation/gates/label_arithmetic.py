"""The surrogate null: what the label's own arithmetic reveals, without any market information.

A forecaster is fitted to surrogates (`moola.data.surrogate`), bars in random order, from which only
the bias of the label's threshold can be learned. It then predicts the windows under test. A model
knows something about the market only if its log-loss is lower than the best use of that forecast:
its logits times a slope of at least 0, plus the class frequencies of each stretch, all fitted in
hindsight. So the rival combines the best slowly varying constant with the arithmetic. It is
compared window by window, which a mean gain on other series would not allow, and costs one logistic
regression. Training a deep candidate on many surrogate series would be expensive, and a rival with
any number of windows learns the arithmetic better than a candidate can from a few hundred.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize
from scipy.special import log_softmax

from moola.data.features import features20
from moola.data.surrogate import Surrogates, scale_ratios
from moola.evaluation.metrics import compute_metrics

_MIN_PROBABILITY = 1e-6
_MAX_CONSTANT = 30.0


@dataclass(frozen=True, kw_only=True)
class LabelArithmetic:
    """A forecast of the windows under test from the label's arithmetic alone.

    Attributes
    ----------
    proba
        Shape (n, K).
    surrogate_auc
        ROC-AUC of the forecaster on held-out surrogates: 0.5 if the label reveals nothing; None if
        undefined.
    num_surrogates
        Number of surrogate windows it was fitted to.
    """

    proba: NDArray[np.float64]
    surrogate_auc: float | None
    num_surrogates: int

    def figures(self) -> Mapping[str, Any]:
        """Return the figures for a gate report."""
        return {"surrogate_auc": self.surrogate_auc, "num_surrogates": self.num_surrogates}


def forecast_by_arithmetic(
    surrogates: Surrogates,
    windows: NDArray[np.floating],
    *,
    horizon_bars: int,
    num_classes: int,
    seed: int,
) -> LabelArithmetic:
    """Fit a logistic regression to surrogates and predict real windows.

    Its inputs are the 20 features and the ratios of the window's volatility measures
    (`moola.data.surrogate.scale_ratios`), which show a threshold's bias best.

    Parameters
    ----------
    surrogates
        A fifth of them, at most 2,000, is held out to score the forecaster.
    windows
        In price units, shape (n, T, 4).
    horizon_bars
        Horizon of the label, H.
    num_classes
        K.
    seed
        Seed of the solver.

    Returns
    -------
    LabelArithmetic
        Classes that do not occur among the surrogates have a probability of 1e-6.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    def matrix(X: NDArray[np.floating]) -> NDArray[np.float64]:
        return np.column_stack([features20(X), scale_ratios(X, horizon_bars)])

    num_test = max(1, min(2000, len(surrogates.y) // 5))
    train, test = surrogates.y[num_test:], surrogates.y[:num_test]
    if len(np.unique(train)) < 2:
        proba = np.full((len(windows), num_classes), 1.0 / num_classes)
        return LabelArithmetic(proba=proba, surrogate_auc=None, num_surrogates=len(train))
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000, random_state=seed))
    features = matrix(surrogates.X_ohlc)
    model.fit(features[num_test:], train)
    answer = np.full((num_classes, len(windows)), _MIN_PROBABILITY)
    check = np.full((num_classes, num_test), _MIN_PROBABILITY)
    answer[model.classes_] = model.predict_proba(matrix(windows)).T
    answer = np.clip(answer, _MIN_PROBABILITY, None)
    check[model.classes_] = model.predict_proba(features[:num_test]).T
    metrics = compute_metrics(test, (check / check.sum(axis=0)).T)
    return LabelArithmetic(
        proba=(answer / answer.sum(axis=0)).T,
        surrogate_auc=metrics["roc_auc"],
        num_surrogates=len(train),
    )


def best_use_loss(
    labels: NDArray[np.intp],
    stretch: NDArray[np.intp],
    proba: ArrayLike,
    repeats: float = 1.0,
) -> tuple[NDArray[np.float64], float]:
    """Return the log-loss of the best use of a forecast in hindsight, and its slope.

    The logits are multiplied by one slope of at least 0, and every stretch adds its own constants,
    all fitted in hindsight. The optimism is corrected, and the deviations from a stretch's mean are
    taken from the fit to all windows, as in
    `moola.evaluation.gates.slow_constant.slow_constant_loss`, which is the case of slope 0.

    Parameters
    ----------
    labels
        Class indices, shape (n,).
    stretch
        Stretch of each window, shape (n,).
    proba
        The forecast, shape (n, K).
    repeats
        From `moola.evaluation.gates.slow_constant.label_repeats`.

    Returns
    -------
    tuple
        Nats, shape (n,), and the slope.
    """
    logits = np.log(np.clip(np.asarray(proba, dtype=np.float64), _MIN_PROBABILITY, None))
    logits -= logits.mean(axis=1, keepdims=True)
    slope = _fit(labels, logits, stretch)
    everywhere = np.zeros_like(stretch)
    loss = _loss(labels, slope * logits, everywhere)
    of_stretch = _loss(labels, slope * logits, stretch)
    for index in np.unique(stretch):
        rows = stretch == index
        num, num_known = int(rows.sum()), len(np.unique(labels[rows]))
        optimism = repeats * (num_known - 1.0) / (2.0 * num)
        loss[rows] += of_stretch[rows].mean() + optimism - loss[rows].mean()
    return loss + (repeats / (2.0 * labels.size) if slope > 0 else 0.0), slope


def _fit(labels: NDArray[np.intp], logits: NDArray[np.float64], stretch: NDArray[np.intp]) -> float:
    """Return the best slope of at least 0, with constants for each stretch."""
    K, S = logits.shape[1], int(stretch.max()) + 1
    target = np.eye(K)[labels]
    member = np.eye(S)[stretch]

    def objective(theta: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        scores = theta[0] * logits + theta[1:].reshape(S, K)[stretch]
        logs = log_softmax(scores, axis=1)
        wrong = (np.exp(logs) - target) / len(labels)
        gradient = np.r_[(wrong * logits).sum(), (member.T @ wrong).ravel()]
        return -float((logs * target).sum()) / len(labels), gradient

    bounds = [(0.0, None)] + [(-_MAX_CONSTANT, _MAX_CONSTANT)] * (S * K)
    start = np.zeros(1 + S * K)
    return float(minimize(objective, start, jac=True, method="L-BFGS-B", bounds=bounds).x[0])


def _loss(
    labels: NDArray[np.intp], scores: NDArray[np.float64], stretch: NDArray[np.intp]
) -> NDArray[np.float64]:
    """Return the log-loss of scores with the best constants for each stretch, shape (n,)."""
    loss = np.empty(len(labels))
    for index in np.unique(stretch):
        rows = np.flatnonzero(stretch == index)
        share = np.bincount(labels[rows], minlength=scores.shape[1]) / len(rows)
        logits = scores[rows].copy()
        with np.errstate(divide="ignore"):
            logits[:, share == 0] = -np.inf  # the best constant of a class that does not occur
            constant = np.where(share > 0, np.log(share), 0.0)
        for _ in range(200):  # the best constants reproduce the shares
            mean = np.exp(log_softmax(logits + constant, axis=1)).mean(axis=0)
            step = np.where(share > 0, np.log(np.where(share > 0, share, 1.0) / np.where(
                mean > 0, mean, 1.0)), 0.0)  # fmt: skip
            constant = constant + step
            if np.abs(step).max() < 1e-9:
                break
        loss[rows] = -log_softmax(logits + constant, axis=1)[np.arange(len(rows)), labels[rows]]
    return loss
