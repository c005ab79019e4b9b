"""The surrogate null: what the label's own arithmetic gives away, learned where nothing else is.

A forecaster is fitted to surrogates (`moola.data.surrogate`): bars in no order, so that all it can
learn is how the label's threshold errs. Then it answers the very windows that are judged. A model
knows something of the market only if its log-loss is lower than what the best use of that forecast
would give: its logits times a slope of at least 0, plus the class frequencies of each stretch, all
fitted in hindsight. So the rival is the best slowly varying constant and the arithmetic in one; it
is compared window by window, which a mean gain on other series could not be. It costs one logistic
regression, whatever the candidate: to train a deep candidate on many surrogate series would be
dear, and a rival with as many windows as it likes learns the arithmetic better than a candidate of
a few hundred can.
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

_LEAST = 1e-6
_FARTHEST = 30.0


@dataclass(frozen=True, kw_only=True)
class LabelArithmetic:
    """A forecast of the windows judged by one who knows the label's arithmetic and nothing else.

    Attributes
    ----------
    proba
        Shape (n, K).
    surrogate_auc
        ROC-AUC of the forecaster on surrogates it was not fitted to: 0.5 where the label gives
        nothing away; None where it is undefined.
    num_surrogates
        Surrogate windows it was fitted to.
    """

    proba: NDArray[np.float64]
    surrogate_auc: float | None
    num_surrogates: int

    def figures(self) -> Mapping[str, Any]:
        """Return what a gate report holds of it."""
        return {"surrogate_auc": self.surrogate_auc, "num_surrogates": self.num_surrogates}


def forecast_by_arithmetic(
    surrogates: Surrogates,
    windows: NDArray[np.floating],
    *,
    horizon_bars: int,
    num_classes: int,
    seed: int,
) -> LabelArithmetic:
    """Fit a logistic regression to surrogates and let it answer real windows.

    It sees the 20 features and how the window's measures of volatility relate to each other
    (`moola.data.surrogate.scale_ratios`), in which a threshold's error shows best.

    Parameters
    ----------
    surrogates
        A fifth of them, at most 2,000, is kept to score the forecaster.
    windows
        In price units, shape (n, T, 4).
    horizon_bars
        H of the label.
    num_classes
        K.
    seed
        Of the solver.

    Returns
    -------
    LabelArithmetic
        Classes that never occur among the surrogates have the probability 1e-6.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    def matrix(X: NDArray[np.floating]) -> NDArray[np.float64]:
        return np.column_stack([features20(X), scale_ratios(X, horizon_bars)])

    kept = max(1, min(2000, len(surrogates.y) // 5))
    train, test = surrogates.y[kept:], surrogates.y[:kept]
    if len(np.unique(train)) < 2:
        proba = np.full((len(windows), num_classes), 1.0 / num_classes)
        return LabelArithmetic(proba=proba, surrogate_auc=None, num_surrogates=len(train))
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000, random_state=seed))
    seen = matrix(surrogates.X_ohlc)
    model.fit(seen[kept:], train)
    spread = np.full((num_classes, len(windows)), _LEAST)
    check = np.full((num_classes, kept), _LEAST)
    spread[model.classes_] = model.predict_proba(matrix(windows)).T
    check[model.classes_] = model.predict_proba(seen[:kept]).T
    metrics = compute_metrics(test, (check / check.sum(axis=0)).T)
    return LabelArithmetic(
        proba=np.clip(spread, _LEAST, None).T / np.clip(spread, _LEAST, None).sum(axis=0)[:, None],
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

    The forecast's logits are multiplied by one slope of at least 0, and every stretch adds its own
    constants; both are the best in hindsight, and what that flatters is given back as in
    `moola.evaluation.gates.slow_constant.slow_constant_loss`, of which this is the case of slope 0.
    How windows lie around a stretch's mean is taken from the fit to all windows, likewise.

    Parameters
    ----------
    labels
        Class indices, shape (n,).
    stretch
        Stretch of each window, shape (n,).
    proba
        The forecast, shape (n, K).
    repeats
        As `moola.evaluation.gates.slow_constant.label_repeats`.

    Returns
    -------
    tuple
        Nats, shape (n,), and the slope.
    """
    logits = np.log(np.clip(np.asarray(proba, dtype=np.float64), _LEAST, None))
    logits -= logits.mean(axis=1, keepdims=True)
    slope = _fit(labels, logits, stretch)
    everywhere = np.zeros_like(stretch)
    loss = _loss(labels, slope * logits, everywhere)
    of_stretch = _loss(labels, slope * logits, stretch)
    for index in np.unique(stretch):
        rows = stretch == index
        num, known = int(rows.sum()), len(np.unique(labels[rows]))
        optimism = repeats * (known - 1.0) / (2.0 * num)
        loss[rows] += of_stretch[rows].mean() + optimism - loss[rows].mean()
    return loss + (repeats / (2.0 * labels.size) if slope > 0 else 0.0), slope


def _fit(labels: NDArray[np.intp], logits: NDArray[np.float64], stretch: NDArray[np.intp]) -> float:
    """Return the slope of at least 0 that is best when each stretch has its own constants."""
    K, S = logits.shape[1], int(stretch.max()) + 1
    target = np.eye(K)[labels]
    member = np.eye(S)[stretch]

    def objective(theta: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        scores = theta[0] * logits + theta[1:].reshape(S, K)[stretch]
        logs = log_softmax(scores, axis=1)
        wrong = (np.exp(logs) - target) / len(labels)
        gradient = np.r_[(wrong * logits).sum(), (member.T @ wrong).ravel()]
        return -float((logs * target).sum()) / len(labels), gradient

    bounds = [(0.0, None)] + [(-_FARTHEST, _FARTHEST)] * (S * K)
    start = np.zeros(1 + S * K)
    return float(minimize(objective, start, jac=True, method="L-BFGS-B", bounds=bounds).x[0])


def _loss(
    labels: NDArray[np.intp], scores: NDArray[np.float64], stretch: NDArray[np.intp]
) -> NDArray[np.float64]:
    """Log-loss of scores with the constants that are best for each stretch, shape (n,)."""
    loss = np.empty(len(labels))
    for index in np.unique(stretch):
        rows = np.flatnonzero(stretch == index)
        share = np.bincount(labels[rows], minlength=scores.shape[1]) / len(rows)
        own = scores[rows].copy()
        with np.errstate(divide="ignore"):
            own[:, share == 0] = -np.inf  # a class that does not occur is best never named
            constant = np.where(share > 0, np.log(share), 0.0)
        for _ in range(200):  # matching the shares is the condition of the best constants
            mean = np.exp(log_softmax(own + constant, axis=1)).mean(axis=0)
            step = np.where(share > 0, np.log(np.where(share > 0, share, 1.0) / np.where(
                mean > 0, mean, 1.0)), 0.0)  # fmt: skip
            constant = constant + step
            if np.abs(step).max() < 1e-9:
                break
        loss[rows] = -log_softmax(own + constant, axis=1)[np.arange(len(rows)), labels[rows]]
    return loss
